/* The generation loop over a scripted session and tokenizer: the names that generate.c calls are
 * redirected to fakes here, so that every stop rule can be made to happen at a chosen token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bitloom/generate.h"

enum { VOCAB = 128, END = 3, N_CTX = 16 };

/* A session whose next token is always the next byte of `script`; token = byte of text. */
typedef struct fake_session {
    bl_token held[64];
    size_t n_past, n_ctx, largest_eval, n_shifts;
    const char *script; /* NUL: the end token */
    size_t at;
    int fail_in; /* the n-th eval fails */
    float logits[VOCAB];
} fake_session;

static bl_status fake_eval(bl_session *session, const bl_token *tokens, size_t n, float *all,
                           bl_error *err) {
    fake_session *s = (void *)session;
    assert_null(all);
    if (s->fail_in > 0 && --s->fail_in == 0)
        return bl__fail(err, BL_ERR_ARGUMENT, "made to fail");
    assert_true(n <= s->n_ctx - s->n_past);
    memcpy(s->held + s->n_past, tokens, n * sizeof *tokens);
    s->n_past += n;
    s->largest_eval = n > s->largest_eval ? n : s->largest_eval;
    return BL_OK;
}

static const float *fake_logits(const bl_session *session) {
    fake_session *s = (void *)(uintptr_t)session;
    if (s->script == NULL) {
        for (int i = 0; i < VOCAB; i++)
            s->logits[i] = NAN;
        return s->logits;
    }
    int next = s->script[s->at] ? s->script[s->at++] : END;
    for (int i = 0; i < VOCAB; i++)
        s->logits[i] = i == next ? 1.0f : 0.0f;
    return s->logits;
}

static const float *fake_best_logits(bl_session *session, const bl_reach *reach) {
    assert_int_equal(reach->n_best, 1); /* these samplers are greedy */
    return fake_logits(session);
}

static size_t fake_n_past(const bl_session *session) {
    return ((const fake_session *)(const void *)session)->n_past;
}

static size_t fake_n_ctx(const bl_session *session) {
    return ((const fake_session *)(const void *)session)->n_ctx;
}

static void fake_truncate(bl_session *session, size_t n_past) {
    fake_session *s = (void *)session;
    assert_true(n_past <= s->n_past);
    s->n_past = n_past;
}

static bl_status fake_shift(bl_session *session, size_t n_keep, size_t n_drop, bl_error *err) {
    fake_session *s = (void *)session;
    (void)err;
    assert_true(n_drop > 0 && n_keep + n_drop < s->n_past);
    memmove(s->held + n_keep, s->held + n_keep + n_drop,
            (s->n_past - n_keep - n_drop) * sizeof *s->held);
    s->n_past -= n_drop;
    s->n_shifts++;
    return BL_OK;
}

static bool fake_is_end(const bl_tokenizer *tokenizer, bl_token token) {
    (void)tokenizer;
    return token == END;
}

static const char *fake_piece(const bl_tokenizer *tokenizer, bl_token token, unsigned flags,
                              size_t *len) {
    (void)tokenizer, (void)flags;
    *len = token >= ' ' ? 1 : 0;
    return "x";
}

/* The decoder holds back '(' until the next token, as it would the start of a character. */
static struct {
    char text[8];
    bool held, continues;
    unsigned flags;
} fake_state;

static bl_status fake_decoder_create(const bl_tokenizer *tokenizer, unsigned flags,
                                     bool continues_text, bl_decoder **out, bl_error *err) {
    (void)tokenizer;
    void *memory = bl__malloc(1);
    if (!memory)
        return bl__fail(err, BL_ERR_MEMORY, "no memory");
    fake_state.held = false;
    fake_state.continues = continues_text;
    fake_state.flags = flags;
    *out = memory;
    return BL_OK;
}

static void fake_decoder_free(bl_decoder *decoder) {
    bl__free(decoder);
}

static const char *fake_push(bl_decoder *decoder, bl_token token, size_t *len) {
    (void)decoder;
    size_t n = 0;
    if (fake_state.held)
        fake_state.text[n++] = '(';
    fake_state.held = token == '(';
    if (token == END && fake_state.flags)
        fake_state.text[n++] = '$';
    else if (!fake_state.held && token != END)
        fake_state.text[n++] = (char)token;
    *len = n;
    return fake_state.text;
}

static const char *fake_finish(bl_decoder *decoder, size_t *len) {
    (void)decoder;
    *len = fake_state.held ? 1 : 0;
    return "?";
}

#define bl_session_eval        fake_eval
#define bl_session_best_logits fake_best_logits
#define bl_session_n_past      fake_n_past
#define bl_session_n_ctx       fake_n_ctx
#define bl_session_truncate    fake_truncate
#define bl_session_shift       fake_shift
#define bl_tokenizer_is_end    fake_is_end
#define bl_tokenizer_piece     fake_piece
#define bl_decoder_create      fake_decoder_create
#define bl_decoder_free        fake_decoder_free
#define bl_decoder_push        fake_push
#define bl_decoder_finish      fake_finish
#define bl_generate            generate_over_fakes
bl_status generate_over_fakes(bl_session *, const bl_tokenizer *, bl_sampler *, const bl_token *,
                              size_t, const bl_generate_params *, bl_text_fn, void *,
                              bl_generate_result *, bl_error *);
#include "generate/generate.c"

typedef struct listener {
    char text[256], tokens[256];
    size_t len, n_tokens, text_limit, n_parts, part_limit;
} listener;

static bool hear_text(void *user, const char *text, size_t len) {
    listener *l = user;
    memcpy(l->text + l->len, text, len);
    l->len += len;
    l->text[l->len] = '\0';
    return l->len < l->text_limit;
}

static void hear_token(void *user, bl_token token) {
    listener *l = user;
    l->tokens[l->n_tokens++] = (char)token;
    l->tokens[l->n_tokens] = '\0';
}

static bool hear_part(void *user, size_t n_done, size_t n_prompt) {
    listener *l = user;
    assert_true(n_done <= n_prompt);
    return ++l->n_parts < l->part_limit;
}

static bl_sampler *greedy;

static bl_status generate(fake_session *s, const bl_token *prompt, size_t n_prompt,
                          bl_generate_params params, listener *l, bl_generate_result *result,
                          bl_error *err) {
    if (l->text_limit == 0)
        l->text_limit = SIZE_MAX;
    if (s->n_ctx == 0)
        s->n_ctx = N_CTX;
    params.on_token = hear_token;
    return generate_over_fakes((void *)s, NULL, greedy, prompt, n_prompt, &params, hear_text, l,
                               result, err);
}

static const bl_token PROMPT[] = {1, 'a', 'b'};

static void test_ends(void **state) {
    (void)state;
    fake_session s = {.script = "hello"};
    listener l = {0};
    bl_generate_result r;
    assert_int_equal(generate(&s, PROMPT, 3, (bl_generate_params){0}, &l, &r, NULL), BL_OK);
    assert_string_equal(l.text, "hello");
    assert_string_equal(l.tokens, "hello");
    assert_int_equal(r.reason, BL_STOP_END);
    assert_int_equal(r.n_prompt, 3);
    assert_int_equal(r.n_generated, 5);
    assert_int_equal(s.n_past, 8);
    assert_true(fake_state.continues);
    /* Goes on without a prompt; the end token's text when asked for. */
    s.script = "!", s.at = 0;
    bl_generate_params params = {.show_special = true};
    assert_int_equal(generate(&s, NULL, 0, params, &l, &r, NULL), BL_OK);
    assert_string_equal(l.text, "hello!$");
    assert_int_equal(r.n_generated, 1);
    /* A prompt without text does not make the answer continue one. */
    fake_session fresh = {.script = "x"};
    assert_int_equal(generate(&fresh, PROMPT, 1, params, &l, &r, NULL), BL_OK);
    assert_false(fake_state.continues);
}

static void test_length_and_ignored_end(void **state) {
    (void)state;
    fake_session s = {.script = "ab"};
    listener l = {0};
    bl_generate_result r;
    bl_generate_params params = {.max_tokens = 4, .ignore_end = true};
    assert_int_equal(generate(&s, PROMPT, 3, params, &l, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_LENGTH);
    assert_int_equal(r.n_generated, 4);
    assert_string_equal(l.text, "ab");
    assert_int_equal(s.n_past, 7);
}

static void test_stop_strings(void **state) {
    (void)state;
    const char *stops[] = {"cd", "zz"};
    bl_generate_params params = {.stops = stops, .n_stops = 2, .max_tokens = 6};
    fake_session s = {.script = "abcdef"};
    listener l = {0};
    bl_generate_result r;
    assert_int_equal(generate(&s, PROMPT, 3, params, &l, &r, NULL), BL_OK);
    assert_string_equal(l.text, "ab");
    assert_int_equal(r.reason, BL_STOP_STRING);
    assert_int_equal(r.n_generated, 4);
    assert_int_equal(s.n_past, 7);
    /* Held-back text and an unfinished character come out at the end. */
    fake_session other = {.script = "abc("};
    params.max_tokens = 4;
    l = (listener){0};
    assert_int_equal(generate(&other, PROMPT, 3, params, &l, &r, NULL), BL_OK);
    assert_string_equal(l.text, "abc?");
    assert_int_equal(r.reason, BL_STOP_LENGTH);
    const char *bad[] = {""};
    bl_generate_params wrong = {.stops = bad, .n_stops = 1};
    assert_int_equal(generate(&other, PROMPT, 3, wrong, &l, &r, NULL), BL_ERR_ARGUMENT);
}

static void test_caller_stops(void **state) {
    (void)state;
    fake_session s = {.script = "abcdef"};
    listener l = {.text_limit = 2};
    bl_generate_result r;
    assert_int_equal(generate(&s, PROMPT, 3, (bl_generate_params){0}, &l, &r, NULL), BL_OK);
    assert_string_equal(l.text, "ab");
    assert_int_equal(r.reason, BL_STOP_CALLER);
    assert_int_equal(s.n_past, 3 + r.n_generated);
    /* In the prompt, between parts. */
    fake_session t = {.script = "abc"};
    listener m = {.part_limit = 1};
    bl_generate_params params = {.on_prompt = hear_part};
    assert_int_equal(generate(&t, PROMPT, 3, params, &m, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_CALLER);
    assert_int_equal(r.n_generated, 0);
    assert_int_equal(m.len, 0);
}

static void test_context_full(void **state) {
    (void)state;
    fake_session s = {.script = "0123456789012345678901234567890123456789"};
    listener l = {0};
    bl_generate_result r;
    bl_error err;
    assert_int_equal(generate(&s, PROMPT, 3, (bl_generate_params){0}, &l, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_CONTEXT);
    assert_int_equal(r.n_generated, N_CTX - 3);
    assert_int_equal(s.n_past, N_CTX);
    /* No room for a prompt: nothing happens. */
    assert_int_equal(generate(&s, PROMPT, 1, (bl_generate_params){0}, &l, &r, &err),
                     BL_ERR_CONTEXT_FULL);
    assert_int_equal(s.n_past, N_CTX);
    /* Shifting keeps the first tokens and goes on. */
    bl_generate_params params = {.context_shift = true, .n_keep = 3, .max_tokens = 20};
    s.at = 0, l = (listener){0};
    assert_int_equal(generate(&s, NULL, 0, params, &l, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_LENGTH);
    assert_string_equal(l.text, "01234567890123456789");
    assert_true(s.n_shifts > 0);
    assert_memory_equal(s.held, PROMPT, sizeof PROMPT);
    /* Nothing may go, or everything would. */
    fake_session full = {.script = "abc", .n_past = N_CTX};
    params.n_keep = N_CTX;
    assert_int_equal(generate(&full, NULL, 0, params, &l, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_CONTEXT);
    fake_session tiny = {.script = "abc", .n_past = 1, .n_ctx = 1};
    params.n_keep = 0;
    assert_int_equal(generate(&tiny, NULL, 0, params, &l, &r, NULL), BL_OK);
    assert_int_equal(r.reason, BL_STOP_CONTEXT);
}

static void test_errors(void **state) {
    (void)state;
    listener l = {0};
    bl_generate_result r = {.n_prompt = 77};
    bl_error err;
    fake_session empty = {.script = "abc"};
    assert_int_equal(generate(&empty, NULL, 0, (bl_generate_params){0}, &l, &r, &err),
                     BL_ERR_ARGUMENT);
    fake_session prompt_fails = {.script = "abc", .n_past = 2, .fail_in = 1};
    assert_int_equal(generate(&prompt_fails, PROMPT, 3, (bl_generate_params){0}, &l, &r, &err),
                     BL_ERR_ARGUMENT);
    assert_int_equal(prompt_fails.n_past, 2);
    fake_session later = {.script = "abc", .fail_in = 3};
    assert_int_equal(generate(&later, PROMPT, 3, (bl_generate_params){0}, &l, &r, &err),
                     BL_ERR_ARGUMENT);
    assert_int_equal(later.n_past, 4);
    fake_session broken = {.script = NULL};
    assert_int_equal(generate(&broken, PROMPT, 3, (bl_generate_params){0}, &l, &r, &err),
                     BL_ERR_FORMAT);
    assert_int_equal(r.n_prompt, 77); /* written on success only */
}

static void test_memory(void **state) {
    (void)state;
    const char *stops[] = {"cd"};
    bl_generate_params params = {.stops = stops, .n_stops = 1};
    for (long n = 1;; n++) {
        fake_session s = {.script = "abcdef"};
        listener l = {0};
        bl_generate_result r;
        bl__alloc_fail_at(n);
        bl_status status = generate(&s, PROMPT, 3, params, &l, &r, NULL);
        bl__alloc_fail_at(0);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_int_equal(s.n_past, 0);
    }
    /* As many allocations for a short answer as for a long one. */
    long counts[2];
    for (int i = 0; i < 2; i++) {
        fake_session s = {.script = i ? "abababab" : "a"};
        listener l = {0};
        long before = bl__alloc_count();
        generate(&s, PROMPT, 3, params, &l, NULL, NULL);
        counts[i] = bl__alloc_count() - before;
    }
    assert_int_equal(counts[0], counts[1]);
}

static int set_up(void **state) {
    (void)state;
    bl_sampler_params params = bl_sampler_default_params();
    params.temperature = 0;
    return (int)bl_sampler_create(&params, VOCAB, &greedy, NULL);
}

static int tear_down(void **state) {
    (void)state;
    bl_sampler_free(greedy);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ends),         cmocka_unit_test(test_length_and_ignored_end),
        cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_caller_stops),
        cmocka_unit_test(test_context_full), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
