/* Tiny vocabularies of every kind against the ids that the Hugging Face and SentencePiece libraries
 * computed (tools/make_golden_tokenizers.py): as their own files give them, through a GGUF that we
 * wrote, and back to text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitloom/tokenizer.h"
#include "formats/gguf.h"
#include "tokenizer/vocab.h"

enum { MAX_PATH = 4096, PADDING = 7 };

typedef struct vocabulary {
    const char *name, *kind;
    bool reversible; /* plain text comes back from its ids byte by byte */
} vocabulary;

static const vocabulary GOLDEN[] = {
    {"bpe", "bpe/smaug-bpe", true}, {"bpe-nfc", "bpe/qwen2", false},
    {"gpt2", "bpe/gpt-2", true},    {"smollm", "bpe/smollm", true},
    {"spm", "spm", true},           {"spm-json", "spm", true},
    {"unigram", "unigram", false},
};
enum { N_GOLDEN = sizeof GOLDEN / sizeof *GOLDEN };

static bl_tokenizer *open_tokenizer(const char *path) {
    bl_tokenizer *tokenizer;
    bl_error err;
    if (bl_tokenizer_open(path, &tokenizer, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

static void check_case(const bl_tokenizer *tokenizer, const vocabulary *golden,
                       const json_t *item) {
    const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
    bool special = json_is_true(json_object_get(item, "special"));
    bl_token *got;
    size_t n;
    bl_error err;
    if (bl_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                            special ? BL_TOKENIZE_EXTRA | BL_TOKENIZE_SPECIAL : 0, &got, &n, &err))
        fail_msg("%s", err.message);
    for (size_t i = 0; i < n && i < json_array_size(ids); i++)
        if (got[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("%s: \"%s\": token %zu is %d, expected %d", golden->name,
                     json_string_value(text), i, (int)got[i],
                     (int)json_integer_value(json_array_get(ids, i)));
    assert_int_equal(n, json_array_size(ids));

    char *back;
    size_t len;
    assert_int_equal(bl_tokenizer_decode(tokenizer, got, n, 0, &back, &len, &err), BL_OK);
    /* SentencePiece cannot tell a space from a U+2581 that stood in the text. */
    bool marked = golden->kind[0] == 's' && strstr(json_string_value(text), "\xe2\x96\x81");
    if (golden->reversible && !special && !marked) {
        assert_int_equal(len, json_string_length(text));
        assert_memory_equal(back, json_string_value(text), len);
    }
    bl_free(back);
    bl_free(got);
}

static void check_all_cases(const bl_tokenizer *tokenizer, const vocabulary *golden) {
    char path[MAX_PATH];
    snprintf(path, sizeof path, BITLOOM_TEST_DATA "/tokenizers/%s/cases.json", golden->name);
    json_error_t error;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!cases)
        fail_msg("%s: %s", path, error.text);
    assert_true(json_array_size(cases) >= 15);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(tokenizer, golden, json_array_get(cases, i));
    json_decref(cases);
}

static void test_files(void **state) {
    (void)state;
    for (size_t i = 0; i < N_GOLDEN; i++) {
        char path[MAX_PATH];
        snprintf(path, sizeof path, BITLOOM_TEST_DATA "/tokenizers/%s", GOLDEN[i].name);
        bl_tokenizer *tokenizer = open_tokenizer(path);
        assert_string_equal(bl_tokenizer_kind(tokenizer), GOLDEN[i].kind);
        check_all_cases(tokenizer, &GOLDEN[i]);
        bl_tokenizer_close(tokenizer);
    }
}

/* Writes a vocabulary-only GGUF with rows beyond the vocabulary. */
static void write_gguf(const char *from, const char *to) {
    bl__vocab *vocab;
    bl__gguf_writer *writer = NULL;
    bl__outfile *file;
    bl_error err;
    if (bl__vocab_open(from, &vocab, &err) || bl__gguf_writer_create(&writer, &err) ||
        bl__vocab_write_gguf(vocab, writer, vocab->n_tokens + PADDING, &err) ||
        bl__outfile_open(to, &file, &err) || bl__gguf_writer_begin(writer, file, &err) ||
        bl__gguf_writer_finish(writer, &err) || bl__outfile_commit(file, &err))
        fail_msg("%s", err.message);
    bl__gguf_writer_free(writer);
    bl__vocab_free(vocab);
}

static void compare_vocabularies(const bl_tokenizer *a, const bl_tokenizer *b) {
    const bl__vocab *x = bl__tokenizer_vocab(a), *y = bl__tokenizer_vocab(b);
    assert_int_equal(y->n_tokens, x->n_tokens + PADDING);
    assert_int_equal(y->bos, x->bos);
    assert_int_equal(y->eos, x->eos);
    assert_int_equal(y->unk, x->unk);
    assert_int_equal(y->add_bos, x->add_bos);
    assert_int_equal(y->add_eos, x->add_eos);
    assert_int_equal(y->n_ends, x->n_ends);
    for (size_t i = 0; i < x->n_tokens; i++) {
        size_t m, n;
        const char *p = bl_tokenizer_piece(a, (bl_token)i, BL_DETOKENIZE_SPECIAL, &m);
        const char *q = bl_tokenizer_piece(b, (bl_token)i, BL_DETOKENIZE_SPECIAL, &n);
        assert_int_equal(m, n);
        assert_memory_equal(p, q, n);
    }
}

static void test_through_gguf(void **state) {
    (void)state;
    for (size_t i = 0; i < N_GOLDEN; i++) {
        char from[MAX_PATH], to[] = "/tmp/bitloom-vocab-XXXXXX";
        int fd = mkstemp(to);
        assert_true(fd >= 0);
        close(fd);
        snprintf(from, sizeof from, BITLOOM_TEST_DATA "/tokenizers/%s", GOLDEN[i].name);
        write_gguf(from, to);
        bl_tokenizer *original = open_tokenizer(from), *copy = open_tokenizer(to);
        unlink(to);
        assert_string_equal(bl_tokenizer_kind(copy), GOLDEN[i].kind);
        compare_vocabularies(original, copy);
        check_all_cases(copy, &GOLDEN[i]);
        bl_tokenizer_close(original);
        bl_tokenizer_close(copy);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_through_gguf)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
