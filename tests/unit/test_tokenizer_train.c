/* Learning a tokenizer: merges worked out by hand, files that our reader takes and that give text
 * back, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "tokenizer/train_bpe.h"
#include "tokenizer/train_words.h"

static char folder[64], text_path[128], json_path[128], config_path[128];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/bitloom-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(text_path, sizeof text_path, "%s/a.txt", folder);
    snprintf(json_path, sizeof json_path, "%s/tokenizer.json", folder);
    snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(text_path);
    unlink(json_path);
    unlink(config_path);
    return rmdir(folder); /* fails when anything else was left behind */
}

static void write_text(const char *text, size_t len) {
    FILE *file = fopen(text_path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static bl_status train(bl_tokenizer_train_params params, bl_tokenizer_train_report *report,
                       bl_error *err) {
    const char *inputs[] = {text_path};
    params.inputs = inputs;
    params.n_inputs = 1;
    return bl_tokenizer_train(&params, json_path, report, err);
}

static void words_are_counted(void **state) {
    (void)state;
    bl__word_counts counts = {0};
    char word[8];
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 20000; i++) {
            size_t len = (size_t)snprintf(word, sizeof word, "%d", i >> round);
            assert_int_equal(bl__word_counts_add(&counts, word, len, NULL), BL_OK);
        }
    assert_int_equal(counts.n, 20000);
    assert_int_equal(counts.n_total, 60000);
    assert_int_equal(counts.words[7].len, 1);
    assert_int_equal(counts.words[7].count, 1 + 2 + 4);
    assert_int_equal(counts.words[19999].count, 1);
    bl__word_counts_destroy(&counts);
}

/* Learns from words of one-letter symbols; ids are those of a ... e. */
static void learn(bl__bpe *bpe, size_t vocab, const char *const *texts, const uint64_t *counts,
                  size_t n_words) {
    uint32_t symbols[64];
    bl__bpe_word words[8];
    size_t n = 0;
    for (char c = 'a'; c <= 'e'; c++)
        assert_int_equal(bl__bpe_add_token(bpe, &c, 1, NULL), BL_OK);
    for (size_t w = 0; w < n_words; w++) {
        words[w] = (bl__bpe_word){n, (uint32_t)strlen(texts[w]), counts[w]};
        for (const char *c = texts[w]; *c; c++)
            symbols[n++] = (uint32_t)(*c - 'a');
    }
    assert_int_equal(bl__bpe_learn(bpe, vocab, symbols, words, n_words, NULL), BL_OK);
}

static void merges_by_hand(void **state) {
    (void)state;
    bl__bpe bpe = {0};
    /* ab 12, bc 7, ca 7: ab first; then abc 7 against cab 7 (of "abcab"), by lower ids: c = 2 is
     * the lower left id, so "c"+"ab", which leaves "ab"+"cab" 7, and "de" last with 2. "ee" is
     * there but once. */
    static const char *const texts[] = {"abcab", "ab", "de", "ee"};
    static const uint64_t counts[] = {7, 5, 2, 1};
    learn(&bpe, 100, texts, counts, 4);
    static const char *const expected[] = {"ab", "cab", "abcab", "de"};
    assert_int_equal(bpe.n_merges, 4);
    assert_int_equal(bpe.n_tokens, 9);
    for (size_t i = 0; i < 4; i++)
        assert_true(bl__string_is(bpe.texts[5 + i], expected[i]));
    assert_int_equal(bpe.merges[1].left, 2);
    assert_int_equal(bpe.merges[1].right, 5);
    bl__bpe_destroy(&bpe);
    /* The vocabulary is full before. */
    learn(&bpe, 6, texts, counts, 4);
    assert_int_equal(bpe.n_merges, 1);
    bl__bpe_destroy(&bpe);
    /* Runs: "aaaaa" is aa aa a. */
    static const char *const runs[] = {"aaaaa"};
    static const uint64_t twice[] = {2};
    learn(&bpe, 100, runs, twice, 1);
    assert_int_equal(bpe.n_merges, 3);
    assert_true(bl__string_is(bpe.texts[5], "aa"));
    assert_true(bl__string_is(bpe.texts[7], "aaaaa"));
    bl__bpe_destroy(&bpe);
}

/* Two ways to one text share one token. */
static void one_token_for_one_text(void **state) {
    (void)state;
    bl__bpe bpe = {0};
    static const char *const texts[] = {"abd", "abc", "bce", "abc"};
    static const uint64_t counts[] = {90, 10, 95, 0};
    learn(&bpe, 100, texts, counts, 4);
    for (size_t i = 0; i < bpe.n_tokens; i++)
        for (size_t k = 0; k < i; k++)
            assert_false(bpe.texts[i].len == bpe.texts[k].len &&
                         memcmp(bpe.texts[i].data, bpe.texts[k].data, bpe.texts[i].len) == 0);
    for (size_t i = 0; i < bpe.n_merges; i++)
        for (size_t k = 0; k < i; k++)
            assert_false(bpe.merges[i].left == bpe.merges[k].left &&
                         bpe.merges[i].right == bpe.merges[k].right);
    bl__bpe_destroy(&bpe);
}

static const char TEXT[] =
    "The weaver wove. The weaver's loom; the loom's thread, 1234 threads!\n\nIt's the WEAVER'S\n"
    "th\xc3\xa9 na\xc3\xafve \xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80 the the the \xff\xfe <s> "
    "\ttabs\r\n";

static void gives_text_back(void **state) {
    (void)state;
    static const char *const kinds[] = {"llama3", "gpt2", "sentencepiece"};
    static const char *const names[] = {"bpe/llama-bpe", "bpe/gpt-2", "spm"};
    static const char *const specials[] = {"<|user|>", "<s>"};
    write_text(TEXT, strlen(TEXT));
    for (size_t k = 0; k < 3; k++) {
        bl_error err;
        bl_tokenizer_train_report report;
        bl_tokenizer_train_params params = {
            .kind = kinds[k], .vocab = 330, .specials = specials, .n_specials = 2};
        assert_int_equal(train(params, &report, &err), BL_OK);
        assert_int_equal(report.text_bytes, strlen(TEXT));
        bl_tokenizer *tokenizer;
        if (bl_tokenizer_open(json_path, &tokenizer, &err) != BL_OK)
            fail_msg("%s", err.message);
        assert_string_equal(bl_tokenizer_kind(tokenizer), names[k]);
        assert_int_equal(bl_tokenizer_vocab_size(tokenizer), report.n_tokens);
        assert_int_equal(bl_tokenizer_bos(tokenizer), 0);
        assert_int_equal(bl_tokenizer_eos(tokenizer), 1);
        bl_token *ids;
        size_t n, len;
        char *text;
        assert_int_equal(
            bl_tokenizer_encode(tokenizer, TEXT, strlen(TEXT), BL_TOKENIZE_EXTRA, &ids, &n, &err),
            BL_OK);
        assert_int_equal(ids[0], 0);
        assert_true(n < strlen(TEXT) * 8 / 10); /* something was learnt */
        assert_int_equal(bl_tokenizer_decode(tokenizer, ids, n, 0, &text, &len, &err), BL_OK);
        assert_int_equal(len, strlen(TEXT));
        assert_memory_equal(text, TEXT, len);
        bl_free(text);
        bl_free(ids);
        bl_tokenizer_encode(tokenizer, "<|user|>", 8, BL_TOKENIZE_SPECIAL, &ids, &n, &err);
        assert_int_equal(n, 1);
        assert_int_equal(ids[0], 2);
        bl_free(ids);
        bl_tokenizer_close(tokenizer);
    }
}

static void same_text_same_file(void **state) {
    (void)state;
    bl_error err;
    char *first, *second;
    size_t n_first, n_second;
    write_text(TEXT, strlen(TEXT));
    assert_int_equal(train((bl_tokenizer_train_params){.vocab = 300}, NULL, &err), BL_OK);
    assert_int_equal(bl__file_read(json_path, 1 << 20, &first, &n_first, &err), BL_OK);
    assert_int_equal(train((bl_tokenizer_train_params){.vocab = 300}, NULL, &err), BL_OK);
    assert_int_equal(bl__file_read(json_path, 1 << 20, &second, &n_second, &err), BL_OK);
    assert_int_equal(n_first, n_second);
    assert_memory_equal(first, second, n_first);
    bl__free(first);
    bl__free(second);
}

static void coverage_leaves_rare_characters_to_bytes(void **state) {
    (void)state;
    bl_error err;
    bl_tokenizer_train_report all, most;
    char text[2000];
    memset(text, 'a', sizeof text);
    memcpy(text + 1000, "\xe6\xbc\xa2", 3);
    for (size_t i = 9; i < sizeof text; i += 10)
        text[i] = ' ';
    write_text(text, sizeof text);
    bl_tokenizer_train_params params = {.kind = "sentencepiece", .vocab = 270, .coverage = 1};
    assert_int_equal(train(params, &all, &err), BL_OK);
    params.coverage = 0.99;
    assert_int_equal(train(params, &most, &err), BL_OK);
    assert_int_equal(all.n_tokens - all.n_merges, 2 + 256 + 3);
    assert_int_equal(most.n_tokens - most.n_merges, 2 + 256 + 2);
}

static void refusals(void **state) {
    (void)state;
    bl_error err;
    static const char *const bad_special[] = {"\xff"};
    write_text(TEXT, strlen(TEXT));
    unlink(json_path);
    const struct {
        bl_tokenizer_train_params params;
        const char *words;
    } bad[] = {
        {{.vocab = 257}, "found 257, expected 258"},
        {{.vocab = 257, .bos = "", .eos = "", .kind = "word"}, "found \"word\""},
        {{.vocab = (size_t)1 << 23}, "found 8388608"},
        {{.vocab = 300, .coverage = 1.5}, "found 1.5"},
        {{.vocab = 300, .specials = bad_special, .n_specials = 1}, "expected UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(train(bad[i].params, NULL, &err), BL_ERR_ARGUMENT);
        if (!strstr(err.message, bad[i].words))
            fail_msg("case %zu: %s", i, err.message);
    }
    assert_int_equal(
        train((bl_tokenizer_train_params){.vocab = 256, .bos = "", .eos = ""}, NULL, &err), BL_OK);
    write_text("", 0);
    assert_int_equal(train((bl_tokenizer_train_params){.vocab = 300}, NULL, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "no text"));
    bl_tokenizer_train_params none = {.vocab = 300};
    assert_int_equal(bl_tokenizer_train(&none, json_path, NULL, &err), BL_ERR_ARGUMENT);
}

static void survives_every_failing_allocation(void **state) {
    (void)state;
    static const char *const kinds[] = {"llama3", "sentencepiece"};
    write_text(TEXT, strlen(TEXT));
    for (size_t k = 0; k < 2; k++) {
        bl_tokenizer_train_params params = {.kind = kinds[k], .vocab = 320};
        bl_error err;
        long n = bl__alloc_count();
        assert_int_equal(train(params, NULL, &err), BL_OK);
        n = bl__alloc_count() - n;
        assert_true(n > 300);
        long failures = 0;
        for (long nth = 1; nth <= n; nth++) {
            bl__alloc_fail_at(nth);
            bl_status status = train(params, NULL, &err);
            bl__alloc_fail_at(0);
            assert_true(status == BL_OK || status == BL_ERR_MEMORY);
            failures += status != BL_OK;
        }
        assert_true(failures >= n - 16); /* PCRE2 goes on without its just-in-time compiler */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_counted),
        cmocka_unit_test(merges_by_hand),
        cmocka_unit_test(one_token_for_one_text),
        cmocka_unit_test(gives_text_back),
        cmocka_unit_test(same_text_same_file),
        cmocka_unit_test(coverage_leaves_rare_characters_to_bytes),
        cmocka_unit_test(refusals),
        cmocka_unit_test(survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
