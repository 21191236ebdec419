/* Writes on from a prompt: open a model, make a session and a sampler, stream the text.
 *
 *     cc generate.c $(pkg-config --cflags --libs --static bitloom) -o generate
 *     ./generate model.gguf "Once upon a time" */
#include <bitloom/bitloom.h>
#include <stdio.h>

static bool print_text(void *user, const char *text, size_t len) {
    return fwrite(text, 1, len, user) == len;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return fprintf(stderr, "usage: %s MODEL.gguf PROMPT\n", argv[0]), 2;
    const char *path = argv[1], *prompt = argv[2];
    size_t prompt_len = 0;
    while (prompt[prompt_len])
        prompt_len++;

    bl_error error = {BL_OK, ""};
    bl_model *model = NULL;
    bl_tokenizer *tokenizer = NULL;
    bl_session *session = NULL;
    bl_sampler *sampler = NULL;
    bl_token *ids = NULL; /* ids: bl_token[n_ids] */
    size_t n_ids = 0;
    bl_sampler_params how = bl_sampler_default_params();
    bl_generate_params limits = {.max_tokens = 64};

    bl_status status = bl_model_open(path, NULL, &model, &error);
    if (!status)
        status = bl_tokenizer_open(path, &tokenizer, &error);
    if (!status)
        status = bl_session_create(model, NULL, &session, &error);
    if (!status)
        status = bl_sampler_create(&how, bl_model_get_info(model)->vocab, &sampler, &error);
    if (!status)
        status = bl_tokenizer_encode(tokenizer, prompt, prompt_len, BL_TOKENIZE_EXTRA, &ids, &n_ids,
                                     &error);
    if (!status)
        status = bl_generate(session, tokenizer, sampler, ids, n_ids, &limits, print_text, stdout,
                             NULL, &error);
    if (status)
        fprintf(stderr, "%s\n", error.message);
    else
        putchar('\n');

    bl_free(ids);
    bl_sampler_free(sampler);
    bl_session_free(session);
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    return status ? 1 : 0;
}
