/* Token files and windows: the header field by field, every window once an epoch, any place of the
 * sequence on its own, masks, partial windows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "train/data.h"

enum { MAX_TOKENS = 1000, MAX_DOCS = 16 };

/* A token file in memory whose ids count up from 0. */
typedef struct fixture {
    uint64_t words[(BL_TOKENS_HEADER + 4 * MAX_TOKENS) / 8 + MAX_DOCS];
    size_t len;
} fixture;

static void put(fixture *f, size_t offset, uint64_t value, size_t n) {
    memcpy((uint8_t *)f->words + offset, &value, n);
}

static void make(fixture *f, size_t width, size_t n_tokens, size_t n_train, const uint64_t *docs,
                 size_t n_docs) {
    memset(f, 0, sizeof *f);
    memcpy(f->words, "BLTOKENS", 8);
    put(f, 8, 1, 4);
    put(f, 12, width, 4);
    put(f, 16, MAX_TOKENS, 8);
    put(f, 24, n_tokens, 8);
    put(f, 32, n_docs, 8);
    put(f, 40, n_train, 8);
    for (size_t i = 0; i < n_tokens; i++)
        put(f, BL_TOKENS_HEADER + i * width, i, width);
    size_t end = (BL_TOKENS_HEADER + n_tokens * width + 7) / 8 * 8;
    memcpy((uint8_t *)f->words + end, docs, n_docs * 8);
    f->len = end + n_docs * 8;
}

static bl_status parse(const fixture *f, bl__tokens *out, bl_error *err) {
    return bl__tokens_parse((const uint8_t *)f->words, f->len, out, err);
}

static const uint64_t DOCS[] = {0, 7, 8, 20, 95};
enum { N_DOCS = sizeof DOCS / sizeof *DOCS };

static void reads_both_widths(void **state) {
    (void)state;
    for (size_t width = 2; width <= 4; width += 2) {
        fixture f;
        make(&f, width, 101, 90, DOCS, N_DOCS);
        bl__tokens t;
        assert_int_equal(parse(&f, &t, NULL), BL_OK);
        assert_int_equal(t.n_tokens, 101);
        assert_int_equal(t.n_train, 90);
        assert_int_equal(t.vocab, MAX_TOKENS);
        for (size_t i = 0; i < 101; i++)
            assert_int_equal(bl__tokens_id(&t, i), i);
        assert_int_equal(bl__tokens_check(&t, NULL), BL_OK);
        assert_int_equal(bl__tokens_doc(&t, 0), 0);
        assert_int_equal(bl__tokens_doc(&t, 7), 1);
        assert_int_equal(bl__tokens_doc(&t, 19), 2);
        assert_int_equal(bl__tokens_doc(&t, 100), 4);
    }
}

static void refuses_each_field(void **state) {
    (void)state;
    static const struct {
        size_t offset, n;
        uint64_t value;
        const char *words;
    } bad[] = {
        {0, 1, 'X', "not a token file"},
        {8, 4, 2, "version 2, expected 1"},
        {12, 4, 3, "found 3, expected 2 or 4"},
        {12, 4, 4, "tokens: found 101"}, /* twice the bytes that there are */
        {16, 8, 0, "vocabulary: found 0"},
        {16, 8, 1u << 31, "vocabulary: found 2147483648"},
        {24, 8, UINT64_MAX, "tokens: found 18446744073709551615"},
        {24, 8, 100, "size: found"},
        {24, 8, 0, "tokens for training: found 90"},
        {32, 8, UINT64_MAX, "documents: found 18446744073709551615"},
        {32, 8, 0, "documents: found 0"},
        {32, 8, 4, "size: found"},
        {40, 8, 102, "tokens for training: found 102, expected at most 101"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fixture f;
        make(&f, 2, 101, 90, DOCS, N_DOCS);
        put(&f, bad[i].offset, bad[i].value, bad[i].n);
        bl__tokens t;
        bl_error err = {0};
        assert_int_not_equal(parse(&f, &t, &err), BL_OK);
        if (!strstr(err.message, bad[i].words))
            fail_msg("case %zu: %s", i, err.message);
    }
}

static void refuses_documents_and_cuts(void **state) {
    (void)state;
    static const uint64_t bad[][2] = {{1, 5}, {0, 0}, {0, 101}, {0, UINT64_MAX}};
    fixture f;
    bl__tokens t;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        make(&f, 2, 101, 90, bad[i], 2);
        assert_int_equal(parse(&f, &t, NULL), BL_ERR_FORMAT);
    }
    make(&f, 4, 101, 90, DOCS, N_DOCS);
    size_t whole = f.len;
    for (f.len = 0; f.len < whole; f.len++)
        assert_int_equal(parse(&f, &t, NULL), BL_ERR_FORMAT);
    f.len = whole + 8;
    assert_int_equal(parse(&f, &t, NULL), BL_ERR_FORMAT);
}

static void ids_out_of_range_are_found(void **state) {
    (void)state;
    fixture f;
    make(&f, 4, 101, 90, DOCS, N_DOCS);
    put(&f, BL_TOKENS_HEADER + 4 * 50, UINT32_MAX, 4);
    bl__tokens t;
    bl_error err;
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__tokens_check(&t, &err), BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "token 50: id 4294967295, expected below 1000"));
    bl__windows w;
    int32_t inputs[80], targets[80];
    assert_int_equal(bl__windows_init(&t, 80, 1, false, &w, NULL), BL_OK);
    assert_int_equal(bl__windows_train(&w, 0, 1, inputs, targets, NULL, &err), BL_ERR_FORMAT);
}

static void every_window_once_an_epoch(void **state) {
    (void)state;
    static const uint64_t one = 0;
    int order_changes = 0;
    for (size_t n_windows = 1; n_windows <= 40; n_windows++) {
        size_t row = 3, slack = n_windows % 3;
        fixture f;
        bl__tokens t;
        bl__windows w;
        make(&f, 2, n_windows * row + 1 + slack, n_windows * row + 1 + slack, &one, 1);
        assert_int_equal(parse(&f, &t, NULL), BL_OK);
        assert_int_equal(bl__windows_init(&t, row, 42, false, &w, NULL), BL_OK);
        assert_int_equal(w.n_train_windows, n_windows);
        assert_int_equal(w.n_valid_windows, 0);
        int32_t before[40] = {0}, now[40];
        for (uint64_t epoch = 0; epoch < 5; epoch++) {
            int seen[40] = {0};
            int32_t skipped = -1;
            for (size_t i = 0; i < n_windows; i++) {
                int32_t x[3], y[3];
                assert_int_equal(bl__windows_train(&w, epoch * n_windows + i, 1, x, y, NULL, NULL),
                                 BL_OK);
                skipped = skipped < 0 ? x[0] % 3 : skipped;
                assert_int_equal(x[0] % 3, skipped); /* one offset for the whole epoch */
                assert_in_range(skipped, 0, slack);
                for (int k = 0; k < 3; k++) {
                    assert_int_equal(x[k], x[0] + k);
                    assert_int_equal(y[k], x[k] + 1);
                }
                now[i] = x[0] / 3;
                seen[now[i]]++;
            }
            for (size_t i = 0; i < n_windows; i++)
                assert_int_equal(seen[i], 1);
            order_changes += epoch && memcmp(before, now, sizeof now) != 0;
            memcpy(before, now, sizeof now);
        }
    }
    assert_true(order_changes > 120); /* of 4 * 40; those of few windows may stay */
}

/* Any place on its own, in batches of any size, gives what the whole sequence gives. */
static void resumes_at_any_place(void **state) {
    (void)state;
    enum { N = 100, ROW = 7 };
    fixture f;
    bl__tokens t;
    bl__windows w, other;
    static int32_t x[N][ROW], y[N][ROW], a[N][ROW], b[N][ROW];
    make(&f, 4, 300, 250, DOCS, N_DOCS);
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&t, ROW, 7, true, &w, NULL), BL_OK);
    assert_int_equal(bl__windows_train(&w, 0, N, x[0], y[0], NULL, NULL), BL_OK);
    for (size_t at = 0; at < N; at += 13) {
        assert_int_equal(bl__windows_init(&t, ROW, 7, true, &other, NULL), BL_OK);
        assert_int_equal(bl__windows_train(&other, at, N - at, a[at], b[at], NULL, NULL), BL_OK);
        assert_memory_equal(a[at], x[at], (N - at) * sizeof *x);
        assert_memory_equal(b[at], y[at], (N - at) * sizeof *y);
    }
    assert_int_equal(bl__windows_init(&t, ROW, 8, true, &other, NULL), BL_OK);
    assert_int_equal(bl__windows_train(&other, 0, N, a[0], b[0], NULL, NULL), BL_OK);
    assert_memory_not_equal(a, x, sizeof x);
}

static void masks_targets_that_begin_documents(void **state) {
    (void)state;
    enum { ROW = 5 };
    fixture f;
    bl__tokens t;
    bl__windows w;
    make(&f, 2, 101, 90, DOCS, N_DOCS);
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&t, ROW, 3, true, &w, NULL), BL_OK);
    int masked = 0;
    for (size_t i = 0; i < 3 * w.n_train_windows; i++) {
        int32_t x[ROW], y[ROW];
        assert_int_equal(bl__windows_train(&w, i, 1, x, y, NULL, NULL), BL_OK);
        for (int k = 0; k < ROW; k++) {
            bool begins = false;
            for (int d = 1; d < N_DOCS; d++)
                begins = begins || (uint64_t)x[k] + 1 == DOCS[d];
            assert_int_equal(y[k], begins ? -1 : x[k] + 1);
            masked += begins;
        }
    }
    assert_int_equal(masked, 3 * 3);
    int32_t x[3 * ROW], y[3 * ROW];
    assert_int_equal(bl__windows_valid(&w, 0, 3, x, y, NULL, NULL), BL_OK);
    assert_int_equal(y[4], -1); /* token 95 */
    assert_int_equal(x[5], 95);
}

static void says_where_documents_begin(void **state) {
    (void)state;
    enum { ROW = 6 };
    fixture f;
    bl__tokens t;
    bl__windows w;
    int32_t x[3 * ROW], y[3 * ROW], firsts[3 * ROW];
    make(&f, 2, 101, 90, DOCS, N_DOCS);
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    for (int apart = 0; apart < 2; apart++) {
        assert_int_equal(bl__windows_init(&t, ROW, 3, apart, &w, NULL), BL_OK);
        for (size_t i = 0; i < 3 * w.n_train_windows; i++) {
            assert_int_equal(bl__windows_train(&w, i, 1, x, y, firsts, NULL), BL_OK);
            for (int k = 0, begin = 0; k < ROW; k++) {
                for (int d = 0; d < N_DOCS; d++)
                    begin = apart && (uint64_t)x[k] == DOCS[d] ? k : begin;
                assert_int_equal(firsts[k], begin);
            }
        }
        /* Inputs 90 ... 99: the document at 95, then padding. */
        static const int32_t expected[3 * ROW] = {0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 4, 4};
        assert_int_equal(bl__windows_valid(&w, 0, 3, x, y, firsts, NULL), BL_OK);
        for (size_t i = 0; i < 3 * ROW; i++)
            assert_int_equal(firsts[i], apart ? expected[i] : 0);
    }
}

static void held_out_windows_in_order(void **state) {
    (void)state;
    enum { ROW = 4 };
    fixture f;
    bl__tokens t;
    bl__windows w;
    /* 10 to 14 tokens held out: 9 to 13 targets in 3 or 4 windows. */
    for (size_t n_valid = 10; n_valid <= 14; n_valid++) {
        make(&f, 2, 90 + n_valid, 90, DOCS, 4);
        assert_int_equal(parse(&f, &t, NULL), BL_OK);
        assert_int_equal(bl__windows_init(&t, ROW, 3, false, &w, NULL), BL_OK);
        assert_int_equal(w.n_valid_windows, (n_valid - 1 + ROW - 1) / ROW);
        int32_t x[6 * ROW], y[6 * ROW];
        assert_int_equal(bl__windows_valid(&w, 0, 6, x, y, NULL, NULL), BL_OK);
        for (size_t i = 0; i < 6 * ROW; i++) {
            assert_int_equal(x[i], i < n_valid - 1 ? 90 + i : 0);
            assert_int_equal(y[i], i < n_valid - 1 ? (int)(91 + i) : -1);
        }
        assert_int_equal(bl__windows_valid(&w, 2, 1, x, y, NULL, NULL), BL_OK);
        assert_int_equal(x[0], 98);
        assert_int_equal(bl__windows_valid(&w, SIZE_MAX, 1, x, y, NULL, NULL), BL_OK);
        assert_int_equal(y[0], -1);
    }
    make(&f, 2, 91, 90, DOCS, 4); /* one token has nothing to predict */
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&t, ROW, 3, false, &w, NULL), BL_OK);
    assert_int_equal(w.n_valid_windows, 0);
}

static void too_few_tokens(void **state) {
    (void)state;
    fixture f;
    bl__tokens t;
    bl__windows w;
    bl_error err;
    make(&f, 2, 0, 0, DOCS, 0);
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&t, 4, 0, false, &w, &err), BL_ERR_ARGUMENT);
    make(&f, 2, 10, 4, DOCS, 1);
    assert_int_equal(parse(&f, &t, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&t, 4, 0, false, &w, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "4 tokens for training"));
    assert_int_equal(bl__windows_init(&t, 0, 0, false, &w, &err), BL_ERR_ARGUMENT);
    assert_int_equal(bl__windows_init(&t, 3, 0, false, &w, &err), BL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_widths),
        cmocka_unit_test(refuses_each_field),
        cmocka_unit_test(refuses_documents_and_cuts),
        cmocka_unit_test(ids_out_of_range_are_found),
        cmocka_unit_test(every_window_once_an_epoch),
        cmocka_unit_test(resumes_at_any_place),
        cmocka_unit_test(masks_targets_that_begin_documents),
        cmocka_unit_test(says_where_documents_begin),
        cmocka_unit_test(held_out_windows_in_order),
        cmocka_unit_test(too_few_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
