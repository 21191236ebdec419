/* Speculation on the default model: whatever is guessed, by a good guesser, a bad one or a hostile
 * one, the text, its tokens, how it stopped and what the session holds are those without it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/random.h"
#include "bitloom/bitloom.h"
#include "generate/drafts.h"

enum { MAX_TOKENS = 4096 };

static const char model_path[] = BITLOOM_MODELS "/novels-6m.gguf";
static bl_model *model;
static bl_tokenizer *tokenizer;

/* A generation and what came of it. */
typedef struct written {
    bl_token tokens[MAX_TOKENS];
    size_t n_tokens, text_limit;
    bl__buffer text;
    bl_generate_result result;
    bl_token held[MAX_TOKENS]; /* by the session, at the end */
    size_t n_held;
    float *logits; /* float[vocab]: what would come next */
} written;

typedef struct task {
    const char *prompt;
    uint32_t n_ctx, n_threads;
    bl_sampler_params sampling;
    bl_generate_params params;
    size_t text_limit; /* bytes after which the caller wants no more; 0 = none */
} task;

static void hear_token(void *user, bl_token token) {
    written *w = user;
    assert_true(w->n_tokens < MAX_TOKENS);
    w->tokens[w->n_tokens++] = token;
}

static bool hear_text(void *user, const char *text, size_t len) {
    written *w = user;
    assert_true(bl__buffer_append(&w->text, text, len));
    return !w->text_limit || w->text.len < w->text_limit;
}

static void *check(bl_status status, const bl_error *err) {
    if (status)
        fail_msg("%s", err->message);
    return NULL;
}

/* Does the task, twice over: the second time from where the first one stopped, without a prompt. */
static written *write_text(const task *t, bl_speculator *speculator) {
    bl_error err = {0};
    size_t vocab = bl_model_get_info(model)->vocab, n_prompt = 0;
    bl_token *prompt = NULL;
    bl_session *session = NULL;
    bl_sampler *sampler = NULL;
    written *w = calloc(1, sizeof *w);
    w->text = bl__buffer_make((size_t)1 << 24);
    w->text_limit = t->text_limit;
    const bl_session_params session_params = {.n_ctx = t->n_ctx, .n_threads = t->n_threads};
    check(bl_session_create(model, &session_params, &session, &err), &err);
    check(bl_sampler_create(&t->sampling, vocab, &sampler, &err), &err);
    check(bl_tokenizer_encode(tokenizer, t->prompt, strlen(t->prompt), BL_TOKENIZE_EXTRA, &prompt,
                              &n_prompt, &err),
          &err);
    bl_generate_params params = t->params;
    params.on_token = hear_token;
    params.speculator = speculator;
    check(bl_generate(session, tokenizer, sampler, prompt, n_prompt, &params, hear_text, w,
                      &w->result, &err),
          &err);
    w->text_limit = 0;
    params.max_tokens = 5;
    if (bl_session_n_past(session) + 5 < bl_session_n_ctx(session))
        check(bl_generate(session, tokenizer, sampler, NULL, 0, &params, hear_text, w, NULL, &err),
              &err);
    w->n_held = bl_session_n_past(session);
    memcpy(w->held, bl_sequence_tokens(session, 0), w->n_held * sizeof *w->held);
    w->logits = malloc(vocab * sizeof *w->logits);
    memcpy(w->logits, bl_session_logits(session), vocab * sizeof *w->logits);
    bl_free(prompt);
    bl_sampler_free(sampler);
    bl_session_free(session);
    return w;
}

static void free_written(written *w) {
    bl__buffer_free(&w->text);
    free(w->logits);
    free(w);
}

static void expect_same(const written *want, const written *got) {
    assert_int_equal(got->n_tokens, want->n_tokens);
    assert_memory_equal(got->tokens, want->tokens, want->n_tokens * sizeof *want->tokens);
    assert_int_equal(got->text.len, want->text.len);
    assert_memory_equal(got->text.data, want->text.data, want->text.len);
    assert_int_equal(got->result.reason, want->result.reason);
    assert_int_equal(got->result.n_generated, want->result.n_generated);
    assert_int_equal(got->n_held, want->n_held);
    assert_memory_equal(got->held, want->held, want->n_held * sizeof *want->held);
    assert_memory_equal(got->logits, want->logits,
                        bl_model_get_info(model)->vocab * sizeof *want->logits);
}

/* ---- guessers ---- */

typedef struct guesser {
    bl__random random;
    const written *truth; /* what will be written */
    size_t n_prompt, n_calls;
} guesser;

/* Anything, tokens that do not exist among it. */
static size_t guess_wildly(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                           size_t n_most) {
    guesser *g = user;
    (void)tokens, (void)n_tokens;
    g->n_calls++;
    for (size_t i = 0; i < n_most; i++) {
        uint64_t kind = bl__random_below(&g->random, 20);
        out[i] = kind == 0   ? -1
                 : kind == 1 ? INT32_MAX
                             : (bl_token)bl__random_below(&g->random, 4096);
    }
    return bl__random_below(&g->random, 9) == 0 ? n_most + 7 : n_most;
}

/* What will come, with a token in eight that will not. */
static size_t guess_well(void *user, const bl_token *tokens, size_t n_tokens, bl_token *out,
                         size_t n_most) {
    guesser *g = user;
    size_t n = 0;
    (void)tokens;
    g->n_calls++;
    for (size_t at = n_tokens; n < n_most && at < g->truth->n_held; at++, n++)
        out[n] = bl__random_below(&g->random, 8) ? g->truth->held[at] : 7;
    return n;
}

/* Does the task with speculators of all kinds; returns how many guesses became text. */
static uint64_t expect_no_change(const task *t) {
    static const uint32_t sizes[] = {1, 5, BL_MAX_DRAFT};
    bl_error err = {0};
    written *want = write_text(t, NULL);
    uint64_t n_accepted = 0;
    for (size_t i = 0; i < 12; i++) {
        guesser g = {.truth = want};
        bl__random_seed(&g.random, i);
        bl_speculator_params p = {.n_draft = sizes[i % 3], .always = i != 6, .user = &g};
        p.draft = i / 3 == 1 ? guess_wildly : i / 3 == 2 ? guess_well : NULL;
        p.draft_model = i / 3 == 3 ? model : NULL;
        p.n_threads = 1;
        bl_speculator *speculator = NULL;
        check(bl_speculator_create(model, t->n_ctx, &p, &speculator, &err), &err);
        written *got = write_text(t, speculator);
        expect_same(want, got);
        bl_speculation figures = bl_speculator_figures(speculator);
        assert_true(figures.n_accepted <= figures.n_drafted);
        assert_true(figures.n_drafted <= figures.n_batches * p.n_draft);
        n_accepted += figures.n_accepted;
        free_written(got);
        bl_speculator_free(speculator);
    }
    free_written(want);
    return n_accepted;
}

static const char *const prompts[] = {
    "It was a dark night, and",
    "one two three four one two three four one two three four one two",
    "\"Yes,\" said he. \"No,\" said she. \"Yes,\" said he. \"No,\" said she. \"Yes,\"",
};

static bl_sampler_params greedy(void) {
    bl_sampler_params p = bl_sampler_default_params();
    p.temperature = 0;
    return p;
}

static void test_greedy(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        task t = {.prompt = prompts[i], .n_ctx = 512, .n_threads = 1 + i % 2};
        t.sampling = greedy();
        t.params = (bl_generate_params){.max_tokens = 250, .ignore_end = true};
        assert_true(expect_no_change(&t) > 100);
    }
}

static void test_drawn(void **state) {
    (void)state;
    bl_sampler_params kinds[3] = {bl_sampler_default_params(), bl_sampler_default_params(),
                                  bl_sampler_default_params()};
    kinds[1] = (bl_sampler_params){.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    kinds[2].repeat_penalty = 1.1f;
    kinds[2].frequency_penalty = 0.2f;
    for (uint32_t i = 0; i < 3; i++) {
        task t = {.prompt = prompts[i], .n_ctx = 400, .n_threads = 1};
        t.sampling = kinds[i];
        t.sampling.seed = 40 + i;
        t.params = (bl_generate_params){.max_tokens = 150};
        expect_no_change(&t);
    }
}

static void test_stops(void **state) {
    (void)state;
    static const char *const stops[] = {"she", "the m"};
    task t = {.prompt = prompts[2], .n_ctx = 300, .n_threads = 1, .sampling = greedy()};
    t.params = (bl_generate_params){.stops = stops, .n_stops = 2, .max_tokens = 100};
    expect_no_change(&t); /* a stop string */
    t.params.n_stops = 0;
    t.text_limit = 33;
    expect_no_change(&t); /* the caller */
    t.text_limit = 0;
    for (size_t n = 1; n < 9; n += 2) {
        t.params.max_tokens = n;
        expect_no_change(&t); /* length */
    }
    t.n_ctx = 96;
    t.params.max_tokens = 0;
    t.params.ignore_end = true;
    expect_no_change(&t); /* the context is full */
    t.params.context_shift = true;
    t.params.n_keep = 3;
    t.params.max_tokens = 300;
    expect_no_change(&t); /* room is made */
}

/* Thousands of tokens, without guesses and with those of prompt lookup. */
static void test_long(void **state) {
    (void)state;
    bl_error err = {0};
    bl_speculator *speculator = NULL;
    for (uint32_t i = 0; i < 3; i++) {
        task t = {.prompt = prompts[i], .n_ctx = 512, .n_threads = 2, .sampling = greedy()};
        t.params =
            (bl_generate_params){.max_tokens = 1500, .ignore_end = true, .context_shift = true};
        const bl_speculator_params p = {.always = i < 2};
        check(bl_speculator_create(model, t.n_ctx, &p, &speculator, &err), &err);
        written *want = write_text(&t, NULL), *got = write_text(&t, speculator);
        expect_same(want, got);
        bl_speculation f = bl_speculator_figures(speculator);
        print_message("%zu tokens: %llu batches, %llu of %llu guesses right, gain %.2f\n",
                      got->n_tokens, (unsigned long long)f.n_batches,
                      (unsigned long long)f.n_accepted, (unsigned long long)f.n_drafted, f.gain);
        free_written(want);
        free_written(got);
        bl_speculator_free(speculator);
    }
}

/* Guesses that are never right are soon given up. */
static void test_pauses(void **state) {
    (void)state;
    bl_error err = {0};
    bl_speculator *speculator = NULL;
    guesser g = {.n_calls = 0};
    bl__random_seed(&g.random, 3);
    task t = {.prompt = prompts[0], .n_ctx = 512, .n_threads = 1, .sampling = greedy()};
    t.params = (bl_generate_params){.max_tokens = 450, .ignore_end = true};
    const bl_speculator_params p = {.draft = guess_wildly, .user = &g};
    check(bl_speculator_create(model, t.n_ctx, &p, &speculator, &err), &err);
    free_written(write_text(&t, speculator));
    bl_speculation f = bl_speculator_figures(speculator);
    assert_true(f.n_batches < 200);
    assert_true(f.n_plain > 200);
    assert_true(g.n_calls < 200);
    bl_speculator_free(speculator);
}

static void expect_lookup(const bl_token *tokens, size_t n, size_t n_most, const bl_token *want,
                          size_t n_want) {
    bl_token got[8];
    assert_int_equal(bl__draft_by_lookup(NULL, tokens, n, got, n_most), n_want);
    assert_memory_equal(got, want, n_want * sizeof *want);
}

static void test_lookup(void **state) {
    (void)state;
    const bl_token text[] = {5, 1, 2, 3, 9, 1, 2, 4, 1, 2, 7, 8, 1, 2};
    expect_lookup(text, 1, 4, NULL, 0);
    expect_lookup(text, 5, 4, NULL, 0);
    expect_lookup(text, 6, 4, NULL, 0);                        /* one token is too little */
    expect_lookup(text, 7, 3, (const bl_token[]){3, 9, 1}, 3); /* 1 2 came before */
    expect_lookup(text, 14, 2, (const bl_token[]){7, 8}, 2);   /* the last time */
    const bl_token longer[] = {9, 1, 2, 4, 6, 1, 2, 3, 9, 1, 2};
    expect_lookup(longer, 11, 3, (const bl_token[]){4, 6, 1}, 3); /* the longest match */
    const bl_token again[] = {3, 4, 5, 4, 5};
    expect_lookup(again, 5, 7, (const bl_token[]){4, 5, 4, 5}, 4);
}

static void test_no_allocation(void **state) {
    (void)state;
    long counts[2];
    for (int i = 0; i < 2; i++) {
        bl_error err = {0};
        bl_speculator *speculator = NULL;
        const bl_speculator_params p = {.always = true, .draft_model = model, .n_threads = 1};
        task t = {.prompt = prompts[1], .n_ctx = 300, .n_threads = 1, .sampling = greedy()};
        t.params = (bl_generate_params){.max_tokens = i ? 200 : 20, .ignore_end = true};
        check(bl_speculator_create(model, t.n_ctx, &p, &speculator, &err), &err);
        long before = bl__alloc_count();
        written *w = write_text(&t, speculator);
        counts[i] = bl__alloc_count() - before;
        free_written(w);
        bl_speculator_free(speculator);
    }
    /* The text's own buffer doubles a few times. */
    assert_true(counts[1] - counts[0] < 8);
}

static void test_refusals(void **state) {
    (void)state;
    bl_speculator *speculator = NULL;
    bl_error err;
    bl_speculator_params p = {.n_draft = BL_MAX_DRAFT + 1};
    assert_int_equal(bl_speculator_create(model, 64, &p, &speculator, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl_speculator_create(model, 0, NULL, &speculator, &err), BL_ERR_ARGUMENT);
    p = (bl_speculator_params){.draft_model = model, .n_threads = 1};
    for (long n = 1;; n++) {
        bl__alloc_fail_at(n);
        bl_status status = bl_speculator_create(model, 64, &p, &speculator, &err);
        bl__alloc_fail_at(0);
        if (status == BL_OK) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_null(speculator);
    }
    bl_speculator_free(speculator);
    bl_speculator_free(NULL);
}

static int set_up(void **state) {
    (void)state;
    bl_error err = {0};
    if (bl_model_open(model_path, NULL, &model, &err) ||
        bl_tokenizer_open(model_path, &tokenizer, &err)) {
        print_error("%s\n", err.message);
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    bl_tokenizer_close(tokenizer);
    bl_model_close(model);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_drawn),
        cmocka_unit_test(test_stops),  cmocka_unit_test(test_long),
        cmocka_unit_test(test_pauses), cmocka_unit_test(test_no_allocation),
    };
    return cmocka_run_group_tests_name("speculation", tests, set_up, tear_down);
}
