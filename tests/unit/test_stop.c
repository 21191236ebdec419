/* The stop filter against a reference that sees the whole text at once, for every way of cutting
 * the text into pieces; and that it holds back no more than it must. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "generate/stop.h"

typedef struct collected {
    char text[4096];
    size_t len, limit; /* refuses once more than limit bytes came */
} collected;

static bool collect_text(void *user, const char *text, size_t len) {
    collected *c = user;
    assert_true(len > 0 && len <= sizeof c->text - c->len);
    assert_int_not_equal((unsigned char)text[0] & 0xc0, 0x80); /* begins a character */
    memcpy(c->text + c->len, text, len);
    c->len += len;
    return c->len <= c->limit;
}

static bl__stop_filter *make_filter(const char *const *stops, size_t n) {
    bl__stop_filter *filter = NULL;
    bl_error err;
    assert_int_equal(bl__stop_filter_create(stops, n, &filter, &err), BL_OK);
    return filter;
}

/* Where the text must end: before the longest of the stop strings that end first. */
static size_t reference_cut(const char *const *stops, size_t n, const char *text, bool *matched) {
    size_t len = strlen(text);
    for (size_t end = 1; end <= len; end++) {
        size_t longest = 0;
        for (size_t s = 0; s < n; s++) {
            size_t k = strlen(stops[s]);
            if (k <= end && memcmp(text + end - k, stops[s], k) == 0 && k > longest)
                longest = k;
        }
        if (longest > 0) {
            *matched = true;
            return end - longest;
        }
    }
    *matched = false;
    return len;
}

/* What must be held back after text[len]: the longest end of it that a stop string begins with. */
static size_t reference_held(const char *const *stops, size_t n, const char *text, size_t len) {
    size_t held = 0;
    for (size_t s = 0; s < n; s++)
        for (size_t k = 1; k < strlen(stops[s]) && k <= len; k++)
            if (memcmp(text + len - k, stops[s], k) == 0 && k > held)
                held = k;
    return held;
}

static void check(const char *const *stops, size_t n, const char *text, bl__random *random) {
    bool matched;
    size_t cut = reference_cut(stops, n, text, &matched), len = strlen(text);
    bl__stop_filter *filter = make_filter(stops, n);
    collected got = {.limit = SIZE_MAX};
    bl__stop_verdict verdict = BL_STOP_FILTER_GO_ON;
    for (size_t at = 0; at < len && verdict == BL_STOP_FILTER_GO_ON;) {
        size_t piece = 1 + (size_t)bl__random_below(random, 5);
        piece = piece > len - at ? len - at : piece;
        verdict = bl__stop_filter_push(filter, text + at, piece, collect_text, &got);
        at += piece;
        if (verdict == BL_STOP_FILTER_GO_ON)
            assert_int_equal(got.len, at - reference_held(stops, n, text, at));
    }
    if (!matched)
        verdict = bl__stop_filter_finish(filter, collect_text, &got);
    assert_int_equal(verdict, matched ? BL_STOP_FILTER_MATCHED : BL_STOP_FILTER_GO_ON);
    assert_int_equal(got.len, cut);
    assert_memory_equal(got.text, text, cut);
    bl__stop_filter_free(filter);
}

static void test_against_reference(void **state) {
    (void)state;
    bl__random random;
    bl__random_seed(&random, 1);
    /* Two letters make overlaps and self-overlaps common. */
    for (int round = 0; round < 20000; round++) {
        char stop_bytes[3][8], text[65];
        const char *stops[3];
        size_t n = (size_t)bl__random_below(&random, 4);
        for (size_t s = 0; s < n; s++) {
            size_t len = 1 + (size_t)bl__random_below(&random, 7);
            for (size_t i = 0; i < len; i++)
                stop_bytes[s][i] = (char)('a' + bl__random_below(&random, 2));
            stop_bytes[s][len] = '\0';
            stops[s] = stop_bytes[s];
        }
        size_t len = (size_t)bl__random_below(&random, 64);
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + bl__random_below(&random, 2));
        text[len] = '\0';
        check(stops, n, text, &random);
    }
}

static void test_across_pieces(void **state) {
    (void)state;
    const char *stops[] = {"\nUser:", "</s>", "日本"};
    bl__stop_filter *filter = make_filter(stops, 3);
    collected got = {.limit = SIZE_MAX};
    assert_int_equal(bl__stop_filter_push(filter, "Hi\n", 3, collect_text, &got),
                     BL_STOP_FILTER_GO_ON);
    assert_int_equal(got.len, 2);
    assert_int_equal(bl__stop_filter_push(filter, "Us", 2, collect_text, &got),
                     BL_STOP_FILTER_GO_ON);
    assert_int_equal(got.len, 2);
    assert_int_equal(bl__stop_filter_push(filter, "e</s日", 7, collect_text, &got),
                     BL_STOP_FILTER_GO_ON);
    assert_int_equal(got.len, 9); /* all but the last character */
    assert_int_equal(bl__stop_filter_push(filter, "本x", 4, collect_text, &got),
                     BL_STOP_FILTER_MATCHED);
    assert_int_equal(got.len, 9);
    assert_memory_equal(got.text, "Hi\nUse</s", 9);
    bl__stop_filter_free(filter);
}

static void test_sink_refuses(void **state) {
    (void)state;
    const char *stops[] = {"xy"};
    bl__stop_filter *filter = make_filter(stops, 1);
    collected got = {.limit = 2};
    assert_int_equal(bl__stop_filter_push(filter, "abx", 3, collect_text, &got),
                     BL_STOP_FILTER_GO_ON);
    assert_int_equal(bl__stop_filter_push(filter, "c", 1, collect_text, &got),
                     BL_STOP_FILTER_REFUSED);
    bl__stop_filter_free(filter);
}

static void test_refuses_bad_stops(void **state) {
    (void)state;
    bl__stop_filter *filter = NULL;
    bl_error err;
    const char *empty[] = {"a", ""};
    assert_int_equal(bl__stop_filter_create(empty, 2, &filter, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "2"));
    const char *latin[] = {"caf\xe9"};
    assert_int_equal(bl__stop_filter_create(latin, 1, &filter, &err), BL_ERR_ARGUMENT);
    char giant[4098];
    memset(giant, 'a', sizeof giant);
    giant[4097] = '\0';
    const char *large[] = {giant};
    assert_int_equal(bl__stop_filter_create(large, 1, &filter, &err), BL_ERR_LIMIT);
    giant[4096] = '\0'; /* just allowed */
    assert_int_equal(bl__stop_filter_create(large, 1, &filter, &err), BL_OK);
    bl__stop_filter_free(filter);
    const char *many[257];
    for (size_t i = 0; i < 257; i++)
        many[i] = "a";
    assert_int_equal(bl__stop_filter_create(many, 257, &filter, &err), BL_ERR_LIMIT);
}

static void test_memory(void **state) {
    (void)state;
    const char *stops[] = {"one", "two"};
    bl__stop_filter *filter = NULL;
    for (long n = 1;; n++) {
        bl__alloc_fail_at(n);
        bl_status status = bl__stop_filter_create(stops, 2, &filter, NULL);
        bl__alloc_fail_at(0);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_null(filter);
    }
    collected got = {.limit = SIZE_MAX};
    long before = bl__alloc_count();
    bl__stop_filter_push(filter, "on and on", 9, collect_text, &got);
    assert_int_equal(bl__alloc_count(), before);
    bl__stop_filter_free(filter);
    bl__stop_filter_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_across_pieces),
        cmocka_unit_test(test_sink_refuses),
        cmocka_unit_test(test_refuses_bad_stops),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
