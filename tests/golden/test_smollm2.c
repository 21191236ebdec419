/* SmolLM2-135M-Instruct, a real instruction-tuned model of the LLaMA family in somebody else's GGUF
 * (Q4_1 linears, Q8_0 embedding): its perplexity on WikiText-2 and an answer in its chat format.
 * The file is $BITLOOM_ASSETS/SmolLM2-135M-Instruct.Q4_1.gguf or what $BITLOOM_SMOLLM2 names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "golden.h"

typedef struct smollm2 {
    bl_model *model;
    bl_tokenizer *tokenizer;
} smollm2;

static const char *model_path(void) {
    static const char name[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
    static char path[4096];
    const char *folder = getenv("BITLOOM_ASSETS"), *elsewhere = getenv("BITLOOM_SMOLLM2");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "", name);
    if (folder && bl__file_exists(path))
        return path;
    if (elsewhere && bl__file_exists(elsewhere))
        return elsewhere;
    return require_asset(name);
}

/* Sanitizers make a window take a minute, so they look at one. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { N_WINDOWS = 1 };
#elif defined(__has_feature)
enum {
    N_WINDOWS = __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) ||
                        __has_feature(thread_sanitizer)
                    ? 1
                    : 4
};
#else
enum { N_WINDOWS = 4 };
#endif

/* Windows of 512 tokens without BOS; all but the first token of each are scored. EXPECTED is what
 * transformers computes on the same file, window by window: 29.98 over all four. */
static void test_perplexity(void **state) {
    static const double EXPECTED[4] = {20.9756, 33.9449, 32.9824, 34.4112};
    enum { N_TOKENS = 512 };
    const smollm2 *s = *state;
    size_t vocab = bl_model_get_info(s->model)->vocab, len = 0, n_ids = 0;
    char *text = golden_text(require_asset("corpus/wikitext-2-raw-test.txt"), &len);
    bl_token *ids = NULL;
    bl_error err = {0};
    if (bl_tokenizer_encode(s->tokenizer, text, len, 0, &ids, &n_ids, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n_ids, 303415); /* as the tokenizer of transformers */

    bl_session *session = golden_session(s->model, 2, 0);
    double total = 0;
    for (size_t i = 0; i < N_WINDOWS; i++) {
        bl_session_truncate(session, 0);
        double nll = golden_nll(session, vocab, ids + i * N_TOKENS, N_TOKENS) / (N_TOKENS - 1);
        print_message("window %zu: perplexity %.4f\n", i, exp(nll));
        assert_true(fabs(exp(nll) / EXPECTED[i] - 1) < 0.001);
        total += nll;
    }
    double perplexity = exp(total / N_WINDOWS);
    print_message("perplexity %.4f\n", perplexity);
    assert_true(N_WINDOWS < 4 || fabs(perplexity / 29.98 - 1) < 0.005);
    bl_session_free(session);
    bl_free(ids);
    bl__free(text);
}

/* An answer, gathered as it streams. */
typedef struct answer {
    char text[512];
    size_t len;
} answer;

static bool gather(void *user, const char *text, size_t len) {
    answer *a = user;
    size_t room = sizeof a->text - 1 - a->len, n = len < room ? len : room;
    memcpy(a->text + a->len, text, n);
    a->len += n;
    return true;
}

static void test_chat(void **state) {
    const smollm2 *s = *state;
    const char *source = bl_tokenizer_chat_template(s->tokenizer);
    bl_chat_template *chat = NULL;
    bl_sampler *sampler = NULL;
    bl_sampler_params greedy = bl_sampler_default_params();
    bl_chat_message question = {"user", "What is the capital of France?"};
    bl_generate_result result;
    answer a = {.len = 0};
    char *prompt = NULL;
    bl_token *ids = NULL;
    size_t len = 0, n_ids = 0;
    bl_error err = {0};
    assert_non_null(source);
    greedy.temperature = 0;
    bl_session *session = golden_session(s->model, 2, 0);
    bl_chat_options options = {.add_generation_prompt = true};
    if (bl_chat_template_compile(source, strlen(source), &chat, &err) ||
        bl_chat_template_render(chat, &options, &question, 1, &prompt, &len, &err) ||
        bl_tokenizer_encode(s->tokenizer, prompt, len, BL_TOKENIZE_SPECIAL, &ids, &n_ids, &err) ||
        bl_sampler_create(&greedy, bl_model_get_info(s->model)->vocab, &sampler, &err) ||
        bl_generate(session, s->tokenizer, sampler, ids, n_ids,
                    &(bl_generate_params){.max_tokens = 24}, gather, &a, &result, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n_ids, 37); /* as transformers renders and tokenizes it */
    assert_string_equal(a.text, "The capital of France is Paris.");
    assert_int_equal(result.reason, BL_STOP_END);
    bl_sampler_free(sampler);
    bl_session_free(session);
    bl_free(ids);
    bl_free(prompt);
    bl_chat_template_free(chat);
}

static int open_model(void **state) {
    static smollm2 s;
    bl_error err = {0};
    const char *path = model_path();
    if (bl_model_open(path, NULL, &s.model, &err) || bl_tokenizer_open(path, &s.tokenizer, &err)) {
        print_error("%s\n", err.message);
        return -1;
    }
    *state = &s;
    return 0;
}

static int close_model(void **state) {
    smollm2 *s = *state;
    bl_model_close(s->model);
    bl_tokenizer_close(s->tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_chat),
    };
    return cmocka_run_group_tests_name("smollm2", tests, open_model, close_model);
}
