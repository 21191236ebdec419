/* Owns the way from options to a model that is ready to write. */
#include "engine.h"

#include <dirent.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "terminal.h"

#define MODEL(field)       offsetof(model_settings, field)
#define SAMPLING(field)    offsetof(sampling_settings, field)
#define SPECULATION(field) offsetof(speculation_settings, field)

const option MODEL_OPTIONS[N_MODEL_OPTIONS] = {
    {'m', "model", NULL, OPTION_TEXT, "FILE", MODEL(model), 0, 0, NULL,
     "GGUF model (default: $BITLOOM_MODEL, else the model that came with bitloom)"},
    {'t', "threads", NULL, OPTION_INTEGER, "N", MODEL(threads), 0, 1024, NULL,
     "threads; 0 = one for each physical core (default)"},
    {'c', "ctx-size", NULL, OPTION_INTEGER, "N", MODEL(ctx), 0, 1 << 24, NULL,
     "context in tokens; 0 = as the model was trained, at most 4096 (default)"},
    {'b', "batch-size", NULL, OPTION_INTEGER, "N", MODEL(batch), 0, 65536, NULL,
     "prompt tokens evaluated together; 0 = 256 (default)"},
    {0, "numa", NULL, OPTION_CHOICE, "HOW", MODEL(numa), 0, 0, NUMA_CHOICES, NUMA_HELP},
    {0, "cache-type", NULL, OPTION_CHOICE, "TYPE", MODEL(cache_type), 0, 0, CACHE_CHOICES,
     CACHE_HELP},
    {0, "head", NULL, OPTION_CHOICE, "HOW", MODEL(head), 0, 0, HEAD_CHOICES, HEAD_HELP},
    {0, "sparsity", NULL, OPTION_CHOICE, "WHEN", MODEL(sparsity), 0, 0, SPARSITY_CHOICES,
     SPARSITY_HELP},
};

const option SAMPLING_OPTIONS[N_SAMPLING_OPTIONS] = {
    {'n', "n-predict", "--predict", OPTION_INTEGER, "N", SAMPLING(n_predict), -1, INT32_MAX, NULL,
     "tokens to generate at most; -1 or 0 = until the model ends its text or the context is full "
     "(default 128 for run, -1 for chat)"},
    {'s', "seed", NULL, OPTION_INTEGER, "N", SAMPLING(seed), -1, 9007199254740992.0, NULL,
     "seed of the draws; -1 = a new one every time (default)"},
    {0, "temp", "-temp", OPTION_NUMBER, "T", SAMPLING(temp), 0, 1000, NULL,
     "temperature; 0 = always the likeliest token (default 0.8)"},
    {0, "top-k", NULL, OPTION_INTEGER, "K", SAMPLING(top_k), 0, INT32_MAX, NULL,
     "draw from the K likeliest tokens; 0 = all (default 40)"},
    {0, "top-p", NULL, OPTION_NUMBER, "P", SAMPLING(top_p), DBL_MIN, 1, NULL,
     "draw from the fewest tokens of probability P together; 1 = all (default 0.95)"},
    {0, "min-p", NULL, OPTION_NUMBER, "P", SAMPLING(min_p), 0, 1, NULL,
     "draw from tokens at least P times as likely as the likeliest; 0 = all (default 0.05)"},
    {0, "repeat-penalty", NULL, OPTION_NUMBER, "X", SAMPLING(repeat_penalty), DBL_MIN, 100, NULL,
     "make repeated tokens X times less likely in logits; 1 = off (default)"},
    {0, "frequency-penalty", NULL, OPTION_NUMBER, "X", SAMPLING(frequency_penalty), -100, 100, NULL,
     "lower a token's logit by X for each time it occurred; 0 = off (default)"},
    {0, "presence-penalty", NULL, OPTION_NUMBER, "X", SAMPLING(presence_penalty), -100, 100, NULL,
     "lower a token's logit by X once it occurred; 0 = off (default)"},
    {0, "repeat-last-n", NULL, OPTION_INTEGER, "N", SAMPLING(repeat_last_n), -1, 65536, NULL,
     "how many last tokens the penalties look at; -1 = the context (default 64)"},
    {'r', "stop", "--reverse-prompt", OPTION_LIST, "TEXT", SAMPLING(stops), 0, 0, NULL,
     "stop before this text; may be repeated"},
    {0, "ignore-eos", NULL, OPTION_FLAG, NULL, SAMPLING(ignore_eos), 0, 0, NULL,
     "go on when the model ends its text"},
    {0, "special", NULL, OPTION_FLAG, NULL, SAMPLING(special), 0, 0, NULL,
     "write special tokens out in the text"},
    {0, "context-shift", NULL, OPTION_FLAG, NULL, SAMPLING(context_shift), 0, 0, NULL,
     "forget old tokens when the context is full instead of stopping"},
    {0, "keep", NULL, OPTION_INTEGER, "N", SAMPLING(keep), 0, INT32_MAX, NULL,
     "with --context-shift: how many tokens at the start are kept besides BOS (default 0)"},
};

const option SPECULATION_OPTIONS[N_SPECULATION_OPTIONS] = {
    {0, "speculate", NULL, OPTION_CHOICE, "HOW", SPECULATION(how), 0, 0, "off lookup draft",
     "guess tokens and check them together, for the same text in less time: from what came before "
     "(lookup) or by a smaller model (draft); pauses where it does not pay (default off)"},
    {0, "draft-model", "-md", OPTION_TEXT, "FILE", SPECULATION(draft_model), 0, 0, NULL,
     "the smaller model, which has the same tokens; means --speculate draft"},
    {0, "draft-max", "--draft", OPTION_INTEGER, "N", SPECULATION(draft_max), 1, BL_MAX_DRAFT, NULL,
     "tokens guessed at once at most (default 16)"},
};

model_settings default_model_settings(void) {
    return (model_settings){0};
}

sampling_settings default_sampling_settings(int64_t n_predict) {
    bl_sampler_params p = bl_sampler_default_params();
    return (sampling_settings){.n_predict = n_predict,
                               .seed = -1,
                               .top_k = p.top_k,
                               .repeat_last_n = p.penalty_last_n,
                               .temp = (double)p.temperature,
                               .top_p = (double)p.top_p,
                               .min_p = (double)p.min_p,
                               .repeat_penalty = (double)p.repeat_penalty};
}

/* The alphabetically first *.gguf of a directory, allocated; NULL when there is none. */
static char *first_model_in(const char *directory) {
    DIR *dir = opendir(directory);
    if (!dir)
        return NULL;
    char *first = NULL;
    for (struct dirent *entry; (entry = readdir(dir));) {
        size_t len = strlen(entry->d_name);
        if (len <= 5 || strcmp(entry->d_name + len - 5, ".gguf") != 0)
            continue;
        if (first && strcmp(entry->d_name, first) >= 0)
            continue;
        bl__free(first);
        first = bl__strndup(entry->d_name, len);
    }
    closedir(dir);
    char *path = first ? bl__path_join(directory, first) : NULL;
    bl__free(first);
    return path;
}

/* The default model: installed, beside an install that was moved, or in a source tree. */
static char *find_default_model(void) {
    char *path = first_model_in(BITLOOM_DATADIR);
    static const char *const from_program[] = {"../share/bitloom", "../models", "models"};
    char program[4096];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len <= 0)
        return path;
    program[len] = '\0';
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = '\0';
    for (size_t i = 0; !path && i < sizeof from_program / sizeof *from_program; i++) {
        char *directory = bl__path_join(program, from_program[i]);
        if (directory)
            path = first_model_in(directory);
        bl__free(directory);
    }
    return path;
}

char *find_model(const command *cmd, const char *option_value) {
    const char *given = option_value;
    if (!given) {
        const char *variable = getenv("BITLOOM_MODEL");
        given = variable && *variable ? variable : NULL;
    }
    if (!given) {
        char *path = find_default_model();
        if (!path)
            options_complain(cmd,
                             "no model: give one with -m FILE or in BITLOOM_MODEL (no *.gguf "
                             "was found in %s)",
                             BITLOOM_DATADIR);
        return path;
    }
    if (bl__directory_exists(given)) {
        fail_with(cmd->name,
                  "%s: is a directory, expected a GGUF file; a Hugging Face checkpoint must be "
                  "converted first:\n  bitloom convert %s -o model.gguf",
                  given, given);
        return NULL;
    }
    char *path = bl__strndup(given, strlen(given));
    if (!path)
        fail_with(cmd->name, "out of memory");
    return path;
}

static uint64_t fresh_seed(void) {
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = (uint32_t)(seconds_now() * 1e6);
    return seed;
}

/* Tells of the model on stderr. */
static void announce(const engine *e) {
    const bl_model_info *info = bl_model_get_info(e->model);
    note("%s: %s%s%s, %.1f M parameters, %s weights, context %zu of %u, %u thread%s, kernel %s",
         e->path, info->name, *info->name ? ", " : "", info->architecture,
         (double)info->n_params * 1e-6, info->weights, bl_session_n_ctx(e->session),
         info->context_length, e->n_threads, e->n_threads == 1 ? "" : "s", bl_kernel_level());
    if (bl_session_n_ctx(e->session) > info->context_length && info->context_length > 0)
        note("the context is longer than the %u tokens that the model was trained with",
             info->context_length);
}

static bl_status create_sampler(engine *e, const sampling_settings *s, bl_error *err) {
    int64_t last_n = s->repeat_last_n;
    if (last_n < 0) {
        size_t n_ctx = bl_session_n_ctx(e->session);
        last_n = n_ctx < 65536 ? (int64_t)n_ctx : 65536;
    }
    bl_sampler_params params = {.temperature = (float)s->temp,
                                .top_k = (int32_t)s->top_k,
                                .top_p = (float)s->top_p,
                                .min_p = (float)s->min_p,
                                .repeat_penalty = (float)s->repeat_penalty,
                                .frequency_penalty = (float)s->frequency_penalty,
                                .presence_penalty = (float)s->presence_penalty,
                                .penalty_last_n = (int32_t)last_n,
                                .seed = e->seed};
    return bl_sampler_create(&params, bl_model_get_info(e->model)->vocab, &e->sampler, err);
}

bl_head head_of(const char *choice) {
    if (!choice || strcmp(choice, "auto") == 0)
        return BL_HEAD_AUTO;
    return strcmp(choice, "full") == 0 ? BL_HEAD_FULL : BL_HEAD_SCREENED;
}

bool place_memory(const command *cmd, const char *numa) {
    bl_error err;
    if (!numa || strcmp(numa, "interleave") != 0 || bl_numa_interleave(NULL, &err) == BL_OK)
        return true;
    fail_with(cmd->name, "--numa: %s", err.message);
    return false;
}

const char *cache_type_name(bl_cache_type type) {
    static const char *const names[] = {
        [BL_CACHE_F16] = "f16", [BL_CACHE_F32] = "f32", [BL_CACHE_I8] = "i8", [BL_CACHE_I4] = "i4"};
    return names[type];
}

bl_cache_type cache_type_of(const char *name) {
    bl_cache_type type = BL_CACHE_I4;
    while (type != BL_CACHE_F16 && !(name && strcmp(name, cache_type_name(type)) == 0))
        type--;
    return type;
}

bl_sparsity parse_sparsity(const char *text) {
    if (!text || strcmp(text, "auto") == 0)
        return BL_SPARSITY_AUTO;
    return strcmp(text, "on") == 0 ? BL_SPARSITY_ON : BL_SPARSITY_OFF;
}

bl_perplexity_params windows_params(int64_t n_ctx, int64_t max_windows, const char *protocol,
                                    const char *bos, int64_t n_threads) {
    bl_perplexity_params params = {.n_ctx = (uint32_t)n_ctx,
                                   .max_windows = (uint32_t)max_windows,
                                   .session = {.n_threads = (uint32_t)n_threads}};
    if (strcmp(protocol, "whole") == 0)
        params.protocol = BL_PERPLEXITY_WHOLE;
    if (strcmp(bos, "auto") != 0)
        params.bos = strcmp(bos, "on") == 0 ? BL_PERPLEXITY_BOS_ON : BL_PERPLEXITY_BOS_OFF;
    return params;
}

int engine_open(engine *e, const command *cmd, const model_settings *model,
                const sampling_settings *sampling, bool quiet) {
    *e = (engine){0};
    e->path = find_model(cmd, model->model);
    if (!e->path)
        return model->model ? EXIT_FAILURE : EXIT_USAGE;
    if (!place_memory(cmd, model->numa)) {
        engine_close(e);
        return EXIT_FAILURE;
    }
    e->n_threads = model->threads ? (uint32_t)model->threads : bl_cpu_physical_cores();
    e->seed = sampling->seed < 0 ? fresh_seed() : (uint64_t)sampling->seed;
    e->params = (bl_generate_params){.max_tokens =
                                         sampling->n_predict > 0 ? (size_t)sampling->n_predict : 0,
                                     .stops = sampling->stops.items,
                                     .n_stops = sampling->stops.n,
                                     .ignore_end = sampling->ignore_eos,
                                     .context_shift = sampling->context_shift,
                                     .n_keep = (size_t)sampling->keep,
                                     .show_special = sampling->special};
    e->n_keep = (size_t)sampling->keep;
    bl_error err;
    bl_session_params session = {.n_ctx = (uint32_t)model->ctx,
                                 .n_batch = (uint32_t)model->batch,
                                 .n_threads = e->n_threads,
                                 .cache_type = cache_type_of(model->cache_type),
                                 .head = head_of(model->head)};
    const bl_model_params params = {.n_threads = e->n_threads,
                                    .sparsity = parse_sparsity(model->sparsity)};
    if (bl_model_open(e->path, &params, &e->model, &err) != BL_OK ||
        bl_tokenizer_open(e->path, &e->tokenizer, &err) != BL_OK ||
        bl_session_create(e->model, &session, &e->session, &err) != BL_OK ||
        create_sampler(e, sampling, &err) != BL_OK) {
        engine_close(e);
        return fail_error(cmd->name, &err);
    }
    if (!quiet)
        announce(e);
    return EXIT_SUCCESS;
}

/* Whether every token has the same text in both. */
static bool same_tokens(const bl_tokenizer *a, const bl_tokenizer *b, size_t vocab) {
    for (size_t id = 0; id < vocab; id++) {
        size_t a_len, b_len;
        const char *a_text = bl_tokenizer_piece(a, (bl_token)id, BL_DETOKENIZE_SPECIAL, &a_len);
        const char *b_text = bl_tokenizer_piece(b, (bl_token)id, BL_DETOKENIZE_SPECIAL, &b_len);
        if (a_len != b_len || (a_len > 0 && memcmp(a_text, b_text, a_len) != 0))
            return false;
    }
    return true;
}

/* Opens the draft model; one of other tokens would guess nothing but noise. */
static bl_status open_draft_model(engine *e, const char *path, bl_error *err) {
    bl_tokenizer *tokenizer = NULL;
    bl_status status =
        bl_model_open(path, &(bl_model_params){.n_threads = e->n_threads}, &e->draft_model, err);
    if (status == BL_OK)
        status = bl_tokenizer_open(path, &tokenizer, err);
    uint32_t vocab = bl_model_get_info(e->model)->vocab;
    if (status == BL_OK && (bl_model_get_info(e->draft_model)->vocab != vocab ||
                            !same_tokens(e->tokenizer, tokenizer, vocab))) {
        *err = (bl_error){.code = BL_ERR_ARGUMENT};
        snprintf(err->message, sizeof err->message,
                 "%s: its tokens are not those of %s, which a draft model needs", path, e->path);
        status = BL_ERR_ARGUMENT;
    }
    bl_tokenizer_close(tokenizer);
    return status;
}

int engine_speculate(engine *e, const command *cmd, const speculation_settings *s) {
    const char *how = s->how ? s->how : s->draft_model ? "draft" : "off";
    bl_error err;
    bool by_model = strcmp(how, "draft") == 0;
    if (strcmp(how, "off") == 0)
        return EXIT_SUCCESS;
    if (by_model && !s->draft_model)
        return options_complain(cmd, "--speculate draft: the model is missing, --draft-model FILE");
    bl_speculator_params params = {.n_threads = e->n_threads, .n_draft = (uint32_t)s->draft_max};
    if (by_model && open_draft_model(e, s->draft_model, &err) != BL_OK)
        return fail_error(cmd->name, &err);
    params.draft_model = e->draft_model;
    if (bl_speculator_create(e->model, bl_session_n_ctx(e->session), &params, &e->speculator,
                             &err) != BL_OK)
        return fail_error(cmd->name, &err);
    e->params.speculator = e->speculator;
    return EXIT_SUCCESS;
}

void engine_close(engine *e) {
    bl_matcher_free(e->matcher);
    bl_token_trie_free(e->trie);
    bl_grammar_free(e->grammar);
    bl_speculator_free(e->speculator);
    bl_model_close(e->draft_model);
    bl_sampler_free(e->sampler);
    bl_session_free(e->session);
    bl_tokenizer_close(e->tokenizer);
    bl_model_close(e->model);
    bl__free(e->path);
    *e = (engine){0};
}

bl_status encode_prompt(const bl_tokenizer *tokenizer, const char *text, size_t len, bool add_bos,
                        bl_token **ids, size_t *n_ids, bl_error *err) {
    bl_token *plain = NULL, *list = NULL;
    size_t n_plain = 0, n = 0;
    bl_token bos = bl_tokenizer_bos(tokenizer), eos = bl_tokenizer_eos(tokenizer);
    unsigned flags = BL_TOKENIZE_SPECIAL | (add_bos ? BL_TOKENIZE_EXTRA : 0u);
    bl_status status = bl_tokenizer_encode(tokenizer, text, len, flags, &list, &n, err);
    if (status != BL_OK)
        return status;
    if (add_bos && n > 1 && bos >= 0 && list[0] == bos && list[1] == bos) {
        memmove(list, list + 1, (n - 1) * sizeof *list);
        n--;
    }
    if (add_bos && n > 0 && eos >= 0 && list[n - 1] == eos) {
        /* Either the model appends it or the text itself ends with it. */
        status =
            bl_tokenizer_encode(tokenizer, text, len, BL_TOKENIZE_SPECIAL, &plain, &n_plain, err);
        if (status != BL_OK) {
            bl_free(list);
            return status;
        }
        if (n_plain == 0 || plain[n_plain - 1] != eos)
            n--;
        bl_free(plain);
    }
    *ids = list;
    *n_ids = n;
    return BL_OK;
}

void keep_start(engine *e, const bl_token *ids, size_t n_ids) {
    bl_token bos = bl_tokenizer_bos(e->tokenizer);
    e->params.n_keep = e->n_keep + (n_ids > 0 && bos >= 0 && ids[0] == bos);
}

const char *stop_reason_text(bl_stop_reason reason) {
    switch (reason) {
    case BL_STOP_LENGTH:
        return "length";
    case BL_STOP_END:
        return "end of text";
    case BL_STOP_STRING:
        return "stop string";
    case BL_STOP_CONTEXT:
        return "context full";
    case BL_STOP_CALLER:
        return "interrupted";
    }
    return "unknown";
}

void note_memory(const engine *e) {
    bl_memory m = bl_session_memory(e->session);
    note("memory: %s of weights mapped, %s repacked, %s for a copy of the head, %s for keys and "
         "values of %zu tokens, %s of scratch",
         format_bytes((double)m.mapped), format_bytes((double)m.repacked),
         format_bytes((double)m.head_copy), format_bytes((double)m.cache),
         bl_session_n_ctx(e->session), format_bytes((double)m.scratch));
}

static double rate(size_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

void print_speed(const engine *e, const bl_generate_result *r) {
    note("%zu prompt token%s at %.1f tok/s, %zu generated at %.1f tok/s; kernel %s, %u thread%s, "
         "seed %llu; stopped: %s",
         r->n_prompt, r->n_prompt == 1 ? "" : "s", rate(r->n_prompt, r->prompt_seconds),
         r->n_generated, rate(r->n_generated, r->generate_seconds), bl_kernel_level(), e->n_threads,
         e->n_threads == 1 ? "" : "s", (unsigned long long)e->seed, stop_reason_text(r->reason));
    if (!e->speculator)
        return;
    bl_speculation f = bl_speculator_figures(e->speculator);
    note("speculation: %llu of %llu guessed tokens right, %.2f tokens from each of %llu batches, "
         "%.2f times as fast as one by one; %llu tokens without guesses",
         (unsigned long long)f.n_accepted, (unsigned long long)f.n_drafted,
         f.n_batches ? 1 + (double)f.n_accepted / (double)f.n_batches : 0,
         (unsigned long long)f.n_batches, f.gain, (unsigned long long)f.n_plain);
}
