/* Encoding and decoding: special tokens, bytes that are no UTF-8, streaming, long words, limits,
 * failing allocations. Ids themselves are checked against references in tests/golden. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "base/random.h"
#include "bitloom/tokenizer.h"
#include "tokenizer/merge.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

#define VOCABULARY(name) BITLOOM_TEST_DATA "/tokenizers/" name
enum { LONG_TEXT = 1 << 20 };

static bl_tokenizer *open_tokenizer(const char *path) {
    bl_tokenizer *tokenizer;
    bl_error err;
    if (bl_tokenizer_open(path, &tokenizer, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static bl_token find(const bl_tokenizer *tokenizer, const char *text) {
    bl_token id = bl__vocab_find(bl__tokenizer_vocab(tokenizer), text, strlen(text));
    assert_true(id >= 0);
    return id;
}

static size_t encode(const bl_tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                     bl_token **ids) {
    size_t n;
    bl_error err;
    if (bl_tokenizer_encode(tokenizer, text, len, flags, ids, &n, &err))
        fail_msg("%s", err.message);
    return n;
}

static bool contains(const bl_token *ids, size_t n, bl_token id) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static void test_special_tokens(void **state) {
    (void)state;
    bl_tokenizer *tokenizer = open_tokenizer(VOCABULARY("bpe"));
    static const char text[] = "<|bos|>a<tool>b<tool_call>c<|eos|>";
    bl_token bos = find(tokenizer, "<|bos|>"), eos = find(tokenizer, "<|eos|>");
    bl_token tool = find(tokenizer, "<tool>"), call = find(tokenizer, "<tool_call>");
    bl_token *ids;
    /* Text of unknown origin cannot write control tokens, but user-defined ones are text. */
    size_t n = encode(tokenizer, text, strlen(text), 0, &ids);
    assert_false(contains(ids, n, bos) || contains(ids, n, eos));
    assert_true(contains(ids, n, tool) && contains(ids, n, call));
    bl_free(ids);
    n = encode(tokenizer, text, strlen(text), BL_TOKENIZE_SPECIAL, &ids);
    const bl_token expected[] = {bos,  find(tokenizer, "a"), tool, find(tokenizer, "b"),
                                 call, find(tokenizer, "c"), eos};
    assert_int_equal(n, 7);
    assert_memory_equal(ids, expected, sizeof expected);

    char *back;
    size_t len;
    bl_error err;
    assert_int_equal(bl_tokenizer_decode(tokenizer, ids, n, 0, &back, &len, &err), BL_OK);
    assert_string_equal(back, "a<tool>b<tool_call>c");
    bl_free(back);
    assert_int_equal(
        bl_tokenizer_decode(tokenizer, ids, n, BL_DETOKENIZE_SPECIAL, &back, &len, &err), BL_OK);
    assert_string_equal(back, text);
    bl_free(back);
    bl_free(ids);

    assert_true(bl_tokenizer_is_end(tokenizer, eos) == (bl_tokenizer_eos(tokenizer) == eos));
    assert_false(bl_tokenizer_is_end(tokenizer, -1));
    assert_false(bl_tokenizer_is_end(tokenizer, bos));
    n = encode(tokenizer, "", 0, BL_TOKENIZE_EXTRA, &ids);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], bos);
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
}

static void test_pieces(void **state) {
    (void)state;
    bl_tokenizer *tokenizer = open_tokenizer(VOCABULARY("spm"));
    size_t len;
    bl_token eos = find(tokenizer, "</s>");
    assert_int_equal(bl_tokenizer_eos(tokenizer), eos);
    assert_true(bl_tokenizer_is_end(tokenizer, eos));
    bl_tokenizer_piece(tokenizer, eos, 0, &len);
    assert_int_equal(len, 0);
    assert_memory_equal(bl_tokenizer_piece(tokenizer, eos, BL_DETOKENIZE_SPECIAL, &len), "</s>", 4);
    assert_int_equal(len, 4);
    const char *piece = bl_tokenizer_piece(tokenizer, find(tokenizer, "<0xE2>"), 0, &len);
    assert_int_equal(len, 1);
    assert_int_equal((uint8_t)piece[0], 0xe2);
    assert_memory_equal(bl_tokenizer_piece(tokenizer, find(tokenizer, "\xe2\x96\x81the"), 0, &len),
                        " the", 4);
    const bl_token strange[] = {-1, INT32_MIN, INT32_MAX,
                                (bl_token)bl_tokenizer_vocab_size(tokenizer)};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
        assert_non_null(bl_tokenizer_piece(tokenizer, strange[i], 0, &len));
        assert_int_equal(len, 0);
    }
    assert_null(bl_tokenizer_chat_template(tokenizer));
    bl_tokenizer_close(tokenizer);
}

/* Every byte string comes back, in either kind of vocabulary. */
static void test_any_bytes_come_back(void **state) {
    (void)state;
    static const char *const paths[] = {VOCABULARY("bpe"), VOCABULARY("spm"),
                                        VOCABULARY("spm-json"), VOCABULARY("gpt2")};
    bl__random random;
    bl__random_seed(&random, 7);
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        bl_tokenizer *tokenizer = open_tokenizer(paths[p]);
        for (int round = 0; round < 2000; round++) {
            char text[64], *back;
            size_t len = (size_t)(bl__random_u64(&random) % sizeof text), n, back_len;
            bool ascii = round % 2;
            for (size_t i = 0; i < len; i++)
                text[i] = (char)(bl__random_u64(&random) % (ascii ? 128 : 256));
            bl_token *ids;
            bl_error err;
            n = encode(tokenizer, text, len, 0, &ids);
            assert_int_equal(bl_tokenizer_decode(tokenizer, ids, n, 0, &back, &back_len, &err),
                             BL_OK);
            assert_int_equal(back_len, len);
            assert_memory_equal(back, text, len);
            bl_free(back);
            bl_free(ids);
        }
        bl_tokenizer_close(tokenizer);
    }
}

/* Streams ids through a decoder into out; returns the length. Pushing must not allocate. */
static size_t stream(const bl_tokenizer *tokenizer, const bl_token *ids, size_t n, bool continues,
                     char *out) {
    bl_decoder *decoder;
    bl_error err;
    assert_int_equal(bl_decoder_create(tokenizer, 0, continues, &decoder, &err), BL_OK);
    long before = bl__alloc_count();
    size_t n_out = 0, len;
    for (size_t i = 0; i <= n; i++) {
        const char *text =
            i < n ? bl_decoder_push(decoder, ids[i], &len) : bl_decoder_finish(decoder, &len);
        for (size_t at = 0, bad, step; at < len; at += step) { /* whole characters only */
            bool cut;
            step = bl__utf8_char(text + at, len - at, &bad, &cut);
            assert_true(step > 0);
        }
        memcpy(out + n_out, text, len);
        n_out += len;
    }
    assert_int_equal(bl__alloc_count(), before);
    bl_decoder_free(decoder);
    return n_out;
}

static void test_streaming(void **state) {
    (void)state;
    static const char text[] = "na\xc3\xafve \xe6\x88\x91\xe6\x83\xb3 \xf0\x9f\xa6\x99 end\n";
    static const char *const paths[] = {VOCABULARY("bpe"), VOCABULARY("spm")};
    for (size_t p = 0; p < 2; p++) {
        bl_tokenizer *tokenizer = open_tokenizer(paths[p]);
        bl_token *ids;
        char out[256];
        size_t n = encode(tokenizer, text, strlen(text), 0, &ids);
        assert_true(n > 12); /* characters are spread over tokens */
        size_t len = stream(tokenizer, ids, n, false, out);
        assert_int_equal(len, strlen(text));
        assert_memory_equal(out, text, len);
        bl_free(ids);
        bl_tokenizer_close(tokenizer);
    }
}

static void test_streaming_broken_utf8(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
    } cases[] = {
        {"\xff", "\xef\xbf\xbd"},
        {"\xe2\x96", "\xef\xbf\xbd"},   /* cut off at the end */
        {"\xe2\x96!", "\xef\xbf\xbd!"}, /* cut off in the middle */
        {"\xf0\x9f\xa6\xf0\x9f\xa6\x99", "\xef\xbf\xbd\xf0\x9f\xa6\x99"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"a\x80z", "a\xef\xbf\xbdz"},
    };
    bl_tokenizer *tokenizer = open_tokenizer(VOCABULARY("spm"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_token *ids;
        char out[64];
        size_t n = encode(tokenizer, cases[i].bytes, strlen(cases[i].bytes), 0, &ids);
        size_t len = stream(tokenizer, ids, n, false, out);
        assert_int_equal(len, strlen(cases[i].text));
        assert_memory_equal(out, cases[i].text, len);
        bl_free(ids);
    }
    bl_tokenizer_close(tokenizer);
}

/* The space that stands before a SentencePiece text is not part of it, unless it goes on. */
static void test_leading_space(void **state) {
    (void)state;
    bl_tokenizer *tokenizer = open_tokenizer(VOCABULARY("spm"));
    bl_token ids[] = {find(tokenizer, "\xe2\x96\x81the"), find(tokenizer, "\xe2\x96\x81the")};
    char out[64];
    assert_int_equal(stream(tokenizer, ids, 2, false, out), 7);
    assert_memory_equal(out, "the the", 7);
    assert_int_equal(stream(tokenizer, ids, 2, true, out), 8);
    assert_memory_equal(out, " the the", 8);
    bl_tokenizer_close(tokenizer);
}

/* A megabyte that makes one word of itself: anything quadratic would run for hours. */
static void test_long_words(void **state) {
    (void)state;
    static const char *const paths[] = {VOCABULARY("bpe"), VOCABULARY("spm"), VOCABULARY("unigram"),
                                        VOCABULARY("bpe-nfc")};
    static const char *const patterns[] = {"a", " ",    "\n ", "the",     "!",
                                           "7", "\xff", "<",   "\xcc\x81"};
    char *text = bl__malloc(LONG_TEXT);
    assert_non_null(text);
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        bl_tokenizer *tokenizer = open_tokenizer(paths[p]);
        for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
            size_t unit = strlen(patterns[i]), len = LONG_TEXT / unit * unit, back_len;
            for (size_t at = 0; at < len; at += unit)
                memcpy(text + at, patterns[i], unit);
            bl_token *ids;
            char *back;
            bl_error err;
            size_t n = encode(tokenizer, text, len, 0, &ids);
            assert_int_equal(bl_tokenizer_decode(tokenizer, ids, n, 0, &back, &back_len, &err),
                             BL_OK);
            if (p < 2) {
                assert_int_equal(back_len, len);
                assert_memory_equal(back, text, len);
            }
            bl_free(back);
            bl_free(ids);
        }
        bl_tokenizer_close(tokenizer);
    }
    bl__free(text);
}

static void test_limits(void **state) {
    (void)state;
    bl_tokenizer *tokenizer = open_tokenizer(VOCABULARY("bpe"));
    bl_token *ids = NULL;
    size_t n = 99;
    bl_error err;
    assert_int_equal(
        bl_tokenizer_encode(tokenizer, "x", (size_t)BL_ENCODE_MAX_BYTES + 1, 0, &ids, &n, &err),
        BL_ERR_LIMIT);
    assert_null(ids); /* outputs stay as they were */
    assert_int_equal(n, 99);
    bl_tokenizer_close(tokenizer);
    bl_tokenizer_close(NULL);
    bl_decoder_free(NULL);
    assert_int_equal(bl_tokenizer_open(VOCABULARY("nothing-there"), &tokenizer, &err),
                     BL_ERR_NOT_FOUND);
    assert_int_equal(bl_tokenizer_open(BITLOOM_TEST_DATA "/tokenizers", &tokenizer, &err),
                     BL_ERR_NOT_FOUND);
}

/* Merges as the definition says: again and again the leftmost pair of the lowest rank. */
static size_t merge_naively(const bl__pair_table *table, uint32_t *ids, size_t n) {
    for (;;) {
        const bl__pair *best = NULL;
        size_t where = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t s = 0; s <= table->mask; s++) {
                const bl__pair *pair = &table->slots[s];
                if (pair->rank != BL_RANK_NONE &&
                    pair->key == ((uint64_t)ids[i] << 32 | ids[i + 1]) &&
                    (!best || pair->rank < best->rank)) {
                    best = pair;
                    where = i;
                }
            }
        if (!best)
            return n;
        ids[where] = best->result;
        memmove(&ids[where + 1], &ids[where + 2], (n - where - 2) * sizeof *ids);
        n--;
    }
}

static void test_merging_long_and_short(void **state) {
    (void)state;
    enum { N_IDS = 12, MAX_WORD = 80 };
    bl__random random;
    bl__random_seed(&random, 3);
    bl__merger merger = {0};
    for (int round = 0; round < 300; round++) {
        bl__pair_table table;
        bl_error err;
        assert_int_equal(bl__pair_table_create(20, &table, &err), BL_OK);
        for (uint32_t i = 0; i < 20; i++)
            bl__pair_table_add(&table, (uint32_t)(bl__random_u64(&random) % N_IDS),
                               (uint32_t)(bl__random_u64(&random) % N_IDS), i / 2,
                               (uint32_t)(bl__random_u64(&random) % N_IDS));
        merger.table = &table;
        size_t n = 1 + (size_t)(bl__random_u64(&random) % MAX_WORD), expected;
        uint32_t ids[MAX_WORD];
        assert_int_equal(bl__merger_reserve(&merger, n, &err), BL_OK);
        for (size_t i = 0; i < n; i++) {
            bool none = bl__random_u64(&random) % 16 == 0;
            ids[i] = none ? BL_SYMBOL_NONE : (uint32_t)(bl__random_u64(&random) % 3);
            merger.symbols[i] = (bl__symbol){ids[i], (uint32_t)i};
        }
        expected = merge_naively(&table, ids, n);
        assert_int_equal(bl__merger_run(&merger, &n, &err), BL_OK);
        assert_int_equal(n, expected);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(merger.symbols[i].id, ids[i]);
        bl__pair_table_destroy(&table);
    }
    bl__merger_destroy(&merger);
}

typedef struct shared_work {
    const bl_tokenizer *tokenizer;
    const char *text;
    size_t len, n;
    const bl_token *ids;
    int n_wrong[8];
} shared_work;

static void encode_again(void *context, size_t part, size_t n_parts) {
    shared_work *work = context;
    (void)n_parts;
    bl_token *ids;
    size_t n;
    bl_error err;
    bool same = !bl_tokenizer_encode(work->tokenizer, work->text, work->len, 0, &ids, &n, &err);
    if (same) {
        same = n == work->n && memcmp(ids, work->ids, n * sizeof *ids) == 0;
        bl_free(ids);
    }
    work->n_wrong[part] = !same;
}

static void test_threads_share(void **state) {
    (void)state;
    static const char text[] =
        "It was the best of times, it was the worst of times. \xf0\x9f\xa6\x99\n";
    static const char *const paths[] = {VOCABULARY("bpe"), VOCABULARY("spm"),
                                        VOCABULARY("unigram")};
    bl__pool *pool;
    bl_error err;
    assert_int_equal(bl__pool_create(4, false, &pool, &err), BL_OK);
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        bl_tokenizer *tokenizer = open_tokenizer(paths[p]);
        bl_token *ids;
        size_t n = encode(tokenizer, text, strlen(text), 0, &ids);
        shared_work work = {tokenizer, text, strlen(text), n, ids, {0}};
        bl__pool_run(pool, encode_again, &work, 8);
        for (int i = 0; i < 8; i++)
            assert_int_equal(work.n_wrong[i], 0);
        bl_free(ids);
        bl_tokenizer_close(tokenizer);
    }
    bl__pool_free(pool);
}

/* Opens, encodes, decodes and streams. */
static bl_status do_everything(const char *path) {
    static const char text[] = "Hello,  w\xc3\xb6rld 123 <tool> the quick brown foxes "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \xff";
    bl_tokenizer *tokenizer = NULL;
    bl_decoder *decoder = NULL;
    bl_token *ids = NULL;
    char *back = NULL;
    size_t n, len;
    bl_error err;
    bl_status status = bl_tokenizer_open(path, &tokenizer, &err);
    if (!status)
        status = bl_tokenizer_encode(tokenizer, text, strlen(text),
                                     BL_TOKENIZE_EXTRA | BL_TOKENIZE_SPECIAL, &ids, &n, &err);
    if (!status)
        status = bl_tokenizer_decode(tokenizer, ids, n, 0, &back, &len, &err);
    if (!status)
        status = bl_decoder_create(tokenizer, 0, false, &decoder, &err);
    bl_decoder_free(decoder);
    bl_free(back);
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
    return status;
}

static void test_every_allocation_failing(void **state) {
    (void)state;
    static const char *const paths[] = {
        VOCABULARY("bpe"),      VOCABULARY("bpe-nfc"), VOCABULARY("spm"),
        VOCABULARY("spm-json"), VOCABULARY("unigram"),
    };
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        long before = bl__alloc_count();
        assert_int_equal(do_everything(paths[p]), BL_OK);
        long total = bl__alloc_count() - before, n_passed = 0;
        assert_true(total > 20);
        for (long nth = 1; nth <= total; nth++) {
            bl__alloc_fail_at(nth);
            bl_status status = do_everything(paths[p]);
            bl__alloc_fail_at(0);
            assert_true(status == BL_ERR_MEMORY || status == BL_OK);
            n_passed += status == BL_OK;
        }
        /* Only the just-in-time compiler of PCRE2, some ten allocations, can be done without. */
        assert_true(n_passed <= 12);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_any_bytes_come_back),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_streaming_broken_utf8),
        cmocka_unit_test(test_leading_space),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_merging_long_and_short),
        cmocka_unit_test(test_threads_share),
        cmocka_unit_test(test_every_allocation_failing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
