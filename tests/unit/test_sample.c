/* Texts that a run writes: prompt first, the likeliest tokens at temperature 0, the same ones for
 * the same step, nothing of the network changed; failing memory, prompts that do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/bitloom.h"
#include "train/sample.h"

enum { VOCAB = 451, ROW = 40 };

typedef struct fixture {
    bl_tokenizer *tokenizer;
    bl__recipe recipe;
    bl__network *net;
} fixture;

static void make(fixture *f, const char *prompt, const char *tokens, const char *temperature) {
    const char *settings[] = {"layers=1",   "dim=32", "ffn_dim=48", "heads=2",
                              "tokens=40",  "seed=5", "vocab=451",  "rows=1",
                              "init_std=1", prompt,   tokens,       temperature};
    bl_error err = {0};
    if (bl__recipe_parse("", 0, settings, sizeof settings / sizeof *settings, &f->recipe, &err) ||
        bl_tokenizer_open(BITLOOM_TEST_DATA "/tokenizers/bpe/tokenizer.json", &f->tokenizer, &err))
        fail_msg("%s", err.message);
    bl__network_config config = bl__recipe_network(&f->recipe);
    assert_int_equal(bl__network_create(&config, 1, ROW, NULL, &f->net, NULL), BL_OK);
    bl__network_initialize(f->net, 1.0f, 3);
    bl__network_quantize(f->net);
}

static void clear(fixture *f) {
    bl__recipe_free(&f->recipe);
    bl_tokenizer_close(f->tokenizer);
    bl__network_free(f->net);
}

static char *write_text(const fixture *f, uint64_t step) {
    bl__writer *w = NULL;
    const char *text = NULL;
    assert_int_equal(bl__writer_create(&f->recipe, f->tokenizer, &w, NULL), BL_OK);
    assert_non_null(w);
    assert_int_equal(bl__writer_run(w, f->net, step, &text, NULL), BL_OK);
    char *copy = bl__strndup(text, strlen(text));
    bl__writer_free(w);
    return copy;
}

static void greedy_texts_are_the_likeliest(void **state) {
    (void)state;
    fixture f;
    make(&f, "prompt=The queen", "sample_tokens=12", "temperature=0");
    char *text = write_text(&f, 1), *decoded = NULL;
    bl_token *prompt = NULL, ids[ROW];
    int32_t targets[ROW];
    static float logits[ROW * VOCAB];
    size_t n_prompt, n = 0, len;
    assert_int_equal(bl_tokenizer_encode(f.tokenizer, "The queen", 9, 0, &prompt, &n_prompt, NULL),
                     BL_OK);
    bl_token start = bl_tokenizer_bos(f.tokenizer);
    ids[n++] = start >= 0 ? start : bl_tokenizer_eos(f.tokenizer);
    for (size_t i = 0; i < n_prompt; i++)
        ids[n++] = prompt[i];
    memset(targets, 0xff, sizeof targets);
    for (size_t k = 0; k < 12; k++) {
        bl__network_step(f.net, ids, targets, 1, n, false, 1.0f, logits);
        const float *last = logits + (n - 1) * VOCAB;
        size_t best = 0;
        for (size_t i = 1; i < VOCAB; i++)
            best = last[i] > last[best] ? i : best;
        if (bl_tokenizer_is_end(f.tokenizer, (bl_token)best))
            break;
        ids[n++] = (bl_token)best;
    }
    assert_int_equal(bl_tokenizer_decode(f.tokenizer, ids, n, 0, &decoded, &len, NULL), BL_OK);
    assert_memory_equal(text, "The queen", 9);
    assert_true(strlen(text) > 9);
    assert_memory_equal(text, decoded, 9);
    if (strstr(text, "\xEF\xBF\xBD") == NULL) /* else the decoder replaced half a character */
        assert_string_equal(text, decoded);
    bl__free(text);
    bl_free(prompt);
    bl_free(decoded);
    clear(&f);
}

static void steps_draw_their_own_texts(void **state) {
    (void)state;
    fixture f;
    make(&f, "prompt=a", "sample_tokens=30", "temperature=1");
    size_t n;
    const bl__param *params = bl__network_params(f.net, &n);
    double flips = bl__network_flips(f.net);
    char *first = write_text(&f, 1), *again = write_text(&f, 1), *other = write_text(&f, 2);
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
    assert_true(bl__network_flips(f.net) == flips);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < params[i].rows * params[i].cols; k++)
            assert_true(params[i].grad[k] == 0.0f);
    bl__free(first);
    bl__free(again);
    bl__free(other);
    clear(&f);
}

static void what_cannot_be_written_is_said(void **state) {
    (void)state;
    fixture f;
    bl__writer *w = NULL;
    bl_error err = {0};
    make(&f, "prompt=none", "sample_tokens=0", "temperature=1");
    assert_int_equal(bl__writer_create(&f.recipe, f.tokenizer, &w, NULL), BL_OK);
    assert_null(w);
    clear(&f);
    make(&f, "prompt=x", "sample_tokens=9", "temperature=1");
    assert_int_equal(bl__writer_create(&f.recipe, NULL, &w, NULL), BL_OK);
    assert_null(w);
    clear(&f);
    make(&f, "prompt=0123456789012345678901234567890123456789", "sample_tokens=1", "temperature=1");
    assert_int_equal(bl__writer_create(&f.recipe, f.tokenizer, &w, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "prompt is "));
    assert_null(w);
    clear(&f);
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    fixture f;
    make(&f, "prompt=The queen", "sample_tokens=5", "temperature=1");
    bl_status status = BL_ERR_MEMORY;
    long nth = 1;
    for (; status; nth++) {
        bl__writer *w = NULL;
        const char *text;
        bl__alloc_fail_at(nth);
        status = bl__writer_create(&f.recipe, f.tokenizer, &w, NULL);
        if (!status)
            status = bl__writer_run(w, f.net, 1, &text, NULL);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        bl__writer_free(w);
    }
    assert_true(nth > 6);
    clear(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_texts_are_the_likeliest),
        cmocka_unit_test(steps_draw_their_own_texts),
        cmocka_unit_test(what_cannot_be_written_is_said),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
