/* Reading vocabularies: hostile and broken files of every kind are refused with a message that
 * names the fault; parts that we would not do exactly are refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "tokenizer/vocab.h"

enum { MAX_JSON = 8192, MAX_FILE = 1 << 20 };

/* A byte-level tokenizer.json in pieces that tests replace. */
typedef struct json_parts {
    const char *model_type, *vocab, *merges, *model_extra, *added, *normalizer, *pre, *post;
} json_parts;

static const json_parts GOOD = {
    .model_type = "BPE",
    .vocab = "{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"</s>\":4}",
    .merges = "[\"a b\"]",
    .model_extra = "",
    .added = "[{\"id\":0,\"content\":\"<s>\",\"special\":true}]",
    .normalizer = "null",
    .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
    .post = "null",
};

static bl_status read_parts(json_parts parts, const bl__vocab_companions *companions,
                            bl__vocab **out, bl_error *err) {
    static char json[MAX_JSON];
    int len = snprintf(json, sizeof json,
                       "{\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
                       "\"post_processor\":%s,\"model\":{\"type\":\"%s\",\"vocab\":%s,"
                       "\"merges\":%s%s}}",
                       parts.added, parts.normalizer, parts.pre, parts.post, parts.model_type,
                       parts.vocab, parts.merges, parts.model_extra);
    assert_in_range(len, 1, MAX_JSON - 1);
    return bl__vocab_from_json((bl__string){json, (size_t)len}, companions, out, err);
}

static void expect_refusal(json_parts parts, bl_status status, const char *words) {
    bl__vocab *vocab = NULL;
    bl_error err = {BL_OK, ""};
    bl_status got = read_parts(parts, NULL, &vocab, &err);
    if (got != status || !strstr(err.message, words))
        fail_msg("status %d, \"%s\"; expected %d with \"%s\"", got, err.message, status, words);
    assert_null(vocab);
}

static bl__vocab *expect_vocab(json_parts parts, const bl__vocab_companions *companions) {
    bl__vocab *vocab = NULL;
    bl_error err;
    if (read_parts(parts, companions, &vocab, &err))
        fail_msg("%s", err.message);
    return vocab;
}

static void test_json_good(void **state) {
    (void)state;
    bl__vocab *vocab = expect_vocab(GOOD, NULL);
    assert_int_equal(vocab->kind, BL_VOCAB_BPE);
    assert_string_equal(vocab->pre, "gpt-2");
    assert_int_equal(vocab->n_tokens, 5);
    assert_int_equal(vocab->n_merges, 1);
    assert_int_equal(vocab->merges[0].result, 3);
    assert_int_equal(vocab->tokens[0].type, BL_TOKEN_CONTROL);
    assert_int_equal(vocab->bos, -1);
    assert_int_equal(vocab->n_ends, 0); /* </s> is a word here */
    assert_int_equal(vocab->tokens[4].type, BL_TOKEN_NORMAL);
    bl__vocab_free(vocab);

    json_parts set_apart = GOOD;
    set_apart.added = "[{\"id\":4,\"content\":\"</s>\",\"special\":true}]";
    vocab = expect_vocab(set_apart, NULL);
    assert_int_equal(vocab->n_ends, 1);
    assert_int_equal(vocab->ends[0], 4);
    bl__vocab_free(vocab);

    json_parts barred = GOOD; /* never ordinary text */
    barred.vocab = "{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"<|im_end|>\":4}";
    vocab = expect_vocab(barred, NULL);
    assert_int_equal(vocab->n_ends, 1);
    assert_int_equal(vocab->tokens[4].type, BL_TOKEN_CONTROL);
    bl__vocab_free(vocab);

    json_parts pairs = GOOD; /* the newer form of merges */
    pairs.merges = "[[\"a\",\"b\"]]";
    vocab = expect_vocab(pairs, NULL);
    assert_int_equal(vocab->n_merges, 1);
    bl__vocab_free(vocab);

    json_parts holes = GOOD; /* ids that nothing uses */
    holes.vocab = "{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":9}";
    vocab = expect_vocab(holes, NULL);
    assert_int_equal(vocab->n_tokens, 10);
    assert_int_equal(vocab->tokens[5].type, BL_TOKEN_UNUSED);
    bl__vocab_free(vocab);
}

static void test_json_refusals(void **state) {
    (void)state;
#define REFUSE(member, value, status, words)                                                       \
    do {                                                                                           \
        json_parts parts = GOOD;                                                                   \
        parts.member = value;                                                                      \
        expect_refusal(parts, status, words);                                                      \
    } while (0)
    const bl_status format = BL_ERR_FORMAT, unsupported = BL_ERR_UNSUPPORTED;
    REFUSE(vocab, "{}", format, "");
    REFUSE(vocab, "[]", format, "model.vocab");
    REFUSE(vocab, "{\"a\":-1}", format, "id");
    REFUSE(vocab, "{\"a\":1.5}", format, "id");
    REFUSE(vocab, "{\"a\":99999999999}", format, "id");
    REFUSE(vocab, "{\"a\":1,\"b\":1,\"ab\":2}", format, "two tokens have the id 1");
    REFUSE(merges, "[\"a x\"]", format, "\"x\"");
    REFUSE(merges, "[\"b a\"]", format, "\"ba\"");
    REFUSE(merges, "[\"ab\"]", format, "entry 0");
    REFUSE(merges, "[\"\"]", format, "entry 0");
    REFUSE(merges, "[\"a \"]", format, "merge 0");
    REFUSE(merges, "[[\"a\"]]", format, "entry 0");
    REFUSE(merges, "[7]", format, "entry 0");
    REFUSE(merges, "{}", format, "model.merges");
    REFUSE(added, "[{\"id\":1,\"content\":\"<x>\"}]", format, "\"a\" and \"<x>\"");
    REFUSE(added, "[{\"id\":7,\"content\":\"a\"}]", format, "both \"a\"");
    REFUSE(added, "[{\"id\":7}]", format, "no content");
    REFUSE(added, "[{\"content\":\"a\"}]", format, "id");
    REFUSE(added, "[{\"id\":7,\"content\":\"x\",\"special\":3}]", format, "special");
    REFUSE(added, "[{\"id\":7,\"content\":\"x\",\"single_word\":true}]", unsupported,
           "single_word");
    REFUSE(model_type, "WordPiece", unsupported, "\"WordPiece\"");
    REFUSE(model_extra, ",\"dropout\":0.1", unsupported, "dropout");
    REFUSE(model_extra, ",\"end_of_word_suffix\":\"</w>\"", unsupported, "end_of_word_suffix");
    REFUSE(model_extra, ",\"byte_fallback\":\"yes\"", format, "byte_fallback");
    REFUSE(normalizer, "{\"type\":\"Lowercase\"}", unsupported, "\"Lowercase\"");
    REFUSE(normalizer, "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}", unsupported,
           "\"NFKC\"");
    REFUSE(pre, "null", unsupported, "neither ByteLevel nor Metaspace");
    REFUSE(pre, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", unsupported,
           "add_prefix_space");
    REFUSE(pre, "{\"type\":\"BertPreTokenizer\"}", unsupported, "\"BertPreTokenizer\"");
    REFUSE(
        pre,
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
        "\"pattern\":{\"Regex\":\"my own+\"}},{\"type\":\"ByteLevel\",\"use_regex\":false,"
        "\"add_prefix_space\":false}]}",
        unsupported, "\"my own+\"");
    REFUSE(post, "{\"type\":\"BertProcessing\"}", unsupported, "\"BertProcessing\"");
    REFUSE(post,
           "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"no\"}}]}",
           unsupported, "TemplateProcessing");
#undef REFUSE
}

static void test_json_not_json(void **state) {
    (void)state;
    static const char *const texts[] = {
        "", "[]", "null", "{", "{\"model\":{}}", "{\"model\":3}", "\xff", "{\"a\":\"\xff\"}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bl__vocab *vocab;
        bl_error err;
        bl__string json = {texts[i], strlen(texts[i])};
        assert_int_equal(bl__vocab_from_json(json, NULL, &vocab, &err), BL_ERR_FORMAT);
    }
}

static bl__string text_of(const char *text) {
    return (bl__string){text, strlen(text)};
}

static void test_companions(void **state) {
    (void)state;
    bl__vocab_companions files = {
        .tokenizer_config = text_of("{\"bos_token\":{\"content\":\"<s>\"},\"add_bos_token\":true,"
                                    "\"chat_template\":[{\"name\":\"tools\",\"template\":\"T\"},"
                                    "{\"name\":\"default\",\"template\":\"D\"}]}"),
        .special_tokens_map = text_of("{\"bos_token\":\"a\",\"pad_token\":\"b\"}"),
        .generation_config = text_of("{\"eos_token_id\":[3,2]}"),
        .model_config = text_of("{\"eos_token_id\":1}"),
    };
    bl__vocab *vocab = expect_vocab(GOOD, &files);
    assert_int_equal(vocab->bos, 0);
    assert_int_equal(vocab->eos, 3);
    assert_int_equal(vocab->pad, 2);
    assert_true(vocab->add_bos);
    assert_false(vocab->add_eos);
    assert_string_equal(vocab->chat_template, "D");
    const bl_token ends[] = {2, 3};
    assert_int_equal(vocab->n_ends, 2);
    assert_memory_equal(vocab->ends, ends, sizeof ends);
    bl__vocab_free(vocab);

    files.chat_template = text_of("from jinja");
    vocab = expect_vocab(GOOD, &files);
    assert_string_equal(vocab->chat_template, "from jinja");
    bl__vocab_free(vocab);

    files.generation_config = text_of("{\"eos_token_id\":55}");
    bl_error err;
    assert_int_equal(read_parts(GOOD, &files, &vocab, &err), BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "generation_config.json"));
    files.generation_config = text_of("not json");
    assert_int_equal(read_parts(GOOD, &files, &vocab, &err), BL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "generation_config.json"));
}

/* ---- tokenizer.model ---- */

static void test_sentencepiece_truncated(void **state) {
    (void)state;
    char *data;
    size_t len;
    bl_error err;
    if (bl__file_read(BITLOOM_TEST_DATA "/tokenizers/spm/tokenizer.model", MAX_FILE, &data, &len,
                      &err))
        fail_msg("%s", err.message);
    size_t n_refused = 0;
    for (size_t n = 0; n < len; n++) {
        char *cut = bl__malloc(n); /* exactly as long, so that a sanitizer sees any overread */
        bl__vocab *vocab;
        assert_non_null(cut);
        memcpy(cut, data, n);
        if (bl__vocab_from_sentencepiece((bl__string){cut, n}, NULL, &vocab, &err))
            n_refused++;
        else /* cut between two pieces: a smaller vocabulary, but a whole message */
            bl__vocab_free(vocab);
        bl__free(cut);
    }
    assert_true(n_refused > len / 2);
    bl__free(data);
}

static void expect_model_refusal(const char *bytes, size_t len, bl_status status,
                                 const char *words) {
    bl__vocab *vocab;
    bl_error err = {BL_OK, ""};
    bl_status got = bl__vocab_from_sentencepiece((bl__string){bytes, len}, NULL, &vocab, &err);
    if (got != status || !strstr(err.message, words))
        fail_msg("status %d, \"%s\"; expected %d with \"%s\"", got, err.message, status, words);
}

static void test_sentencepiece_refusals(void **state) {
    (void)state;
#define REFUSE(bytes, status, words) expect_model_refusal(bytes, sizeof bytes - 1, status, words)
    /* Fields: 0a = pieces, 12 = trainer, 1a = normalizer; inside a piece 0a text, 15 score. */
    REFUSE("", BL_ERR_FORMAT, "no tokens");
    REFUSE("\x12\x02\x18\x03\x0a\x03\x0a\x01"
           "a",
           BL_ERR_UNSUPPORTED, "model type 3");
    REFUSE("\x0a\x08\x0a\x01"
           "a\x15\x00\x00\xc0\x7f",
           BL_ERR_FORMAT, "not finite");
    REFUSE("\x0a\x05\x0a\x01"
           "a\x18\x09",
           BL_ERR_FORMAT, "type 9");
    REFUSE("\x0a\x03\x0a\x01"
           "a\x0a\x03\x0a\x01"
           "a",
           BL_ERR_FORMAT, "both \"a\"");
    REFUSE("\x1a\x0a\x0a\x03nfk\x12\x03xyz\x0a\x03\x0a\x01"
           "a",
           BL_ERR_UNSUPPORTED, "\"nfk\"");
    REFUSE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", BL_ERR_FORMAT, "field");
    REFUSE("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", BL_ERR_FORMAT, "field");
    REFUSE("\x0b", BL_ERR_FORMAT, "field"); /* a group */
    REFUSE("\x08\x01", BL_ERR_FORMAT, "wrong type");
#undef REFUSE
}

/* ---- GGUF ---- */

typedef struct gguf_parts {
    const char *arch, *model, *pre;
    size_t n_tokens, n_scores, n_types;
    const char *merge;
    float score;
    int32_t type;
    uint32_t bos;
} gguf_parts;

static const gguf_parts GOOD_GGUF = {"llama", "gpt2", "gpt-2", 4, 4, 4, "a b", 0.0f, 1, 3};

static bl_status read_gguf(gguf_parts parts, bl__vocab **out, bl_error *err) {
    static const bl__string texts[] = {{"a", 1}, {"b", 1}, {"ab", 2}, {"<s>", 3}};
    float scores[4] = {0, 0, parts.score, 0};
    int32_t types[4] = {1, 1, parts.type, 3};
    char path[] = "/tmp/bitloom-vocab-XXXXXX";
    close(mkstemp(path));
    bl__gguf_writer *w;
    bl__outfile *file;
    bl__filemap map;
    bl__gguf *gguf = NULL;
    bl__string merge = text_of(parts.merge);
    bl_status status = bl__gguf_writer_create(&w, err);
    status = status ||
             bl__gguf_set_string(w, "general.architecture", parts.arch, strlen(parts.arch), err);
    status = status ||
             bl__gguf_set_string(w, "tokenizer.ggml.model", parts.model, strlen(parts.model), err);
    if (parts.pre)
        status = status ||
                 bl__gguf_set_string(w, "tokenizer.ggml.pre", parts.pre, strlen(parts.pre), err);
    status = status || bl__gguf_set_strings(w, "tokenizer.ggml.tokens", texts, parts.n_tokens, err);
    status = status || bl__gguf_set_f32s(w, "tokenizer.ggml.scores", scores, parts.n_scores, err);
    status = status || bl__gguf_set_i32s(w, "tokenizer.ggml.token_type", types, parts.n_types, err);
    status = status || bl__gguf_set_strings(w, "tokenizer.ggml.merges", &merge, 1, err);
    status = status || bl__gguf_set_u32(w, "tokenizer.ggml.bos_token_id", parts.bos, err);
    status = status || bl__outfile_open(path, &file, err);
    status = status || bl__gguf_writer_begin(w, file, err) || bl__gguf_writer_finish(w, err) ||
             bl__outfile_commit(file, err);
    bl__gguf_writer_free(w);
    if (status || bl__filemap_open(path, &map, err) ||
        bl__gguf_parse(map.data, map.len, &gguf, err))
        fail_msg("%s", err->message);
    unlink(path);
    status = bl__vocab_from_gguf(gguf, out, err);
    bl__gguf_free(gguf);
    bl__filemap_close(&map); /* vocabularies keep nothing of the bytes */
    return status;
}

static void test_gguf_good(void **state) {
    (void)state;
    bl__vocab *vocab;
    bl_error err;
    assert_int_equal(read_gguf(GOOD_GGUF, &vocab, &err), BL_OK);
    assert_string_equal(vocab->pre, "gpt-2");
    assert_int_equal(vocab->bos, 3);
    assert_false(vocab->add_bos);
    bl__vocab_free(vocab);

    gguf_parts parts = GOOD_GGUF; /* Microsoft's files name no pre-tokenizer */
    parts.arch = "bitnet-b1.58";
    parts.pre = NULL;
    assert_int_equal(read_gguf(parts, &vocab, &err), BL_OK);
    assert_string_equal(vocab->pre, "llama-bpe");
    assert_true(vocab->add_bos && vocab->ignore_merges);
    bl__vocab_free(vocab);
    parts.arch = "llama";
    assert_int_equal(read_gguf(parts, &vocab, &err), BL_OK);
    assert_string_equal(vocab->pre, "default");
    bl__vocab_free(vocab);

    parts.bos = 77; /* out of range: none, as for llama.cpp */
    assert_int_equal(read_gguf(parts, &vocab, &err), BL_OK);
    assert_int_equal(vocab->bos, -1);
    bl__vocab_free(vocab);
}

static void test_gguf_refusals(void **state) {
    (void)state;
#define REFUSE(member, value, status, words)                                                       \
    do {                                                                                           \
        gguf_parts parts = GOOD_GGUF;                                                              \
        bl__vocab *vocab;                                                                          \
        bl_error err;                                                                              \
        parts.member = value;                                                                      \
        assert_int_equal(read_gguf(parts, &vocab, &err), status);                                  \
        if (!strstr(err.message, words))                                                           \
            fail_msg("\"%s\" lacks \"%s\"", err.message, words);                                   \
    } while (0)
    REFUSE(model, "bert", BL_ERR_UNSUPPORTED, "\"bert\"");
    REFUSE(pre, "chatglm-bpe", BL_ERR_UNSUPPORTED, "\"chatglm-bpe\"");
    REFUSE(merge, "a c", BL_ERR_FORMAT, "\"c\"");
    REFUSE(merge, "b a", BL_ERR_FORMAT, "\"ba\"");
    REFUSE(merge, "ab", BL_ERR_FORMAT, "entry 0");
    REFUSE(merge, "", BL_ERR_FORMAT, "entry 0");
    REFUSE(n_scores, 3, BL_ERR_FORMAT, "3 values for 4 tokens");
    REFUSE(n_types, 3, BL_ERR_FORMAT, "3 values for 4 tokens");
    REFUSE(n_tokens, 0, BL_ERR_FORMAT, "no tokens");
    REFUSE(score, NAN, BL_ERR_FORMAT, "not finite");
    REFUSE(score, INFINITY, BL_ERR_FORMAT, "not finite");
    REFUSE(type, 7, BL_ERR_FORMAT, "type 7");
    REFUSE(type, -1, BL_ERR_FORMAT, "type -1");
#undef REFUSE
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_good),
        cmocka_unit_test(test_json_refusals),
        cmocka_unit_test(test_json_not_json),
        cmocka_unit_test(test_companions),
        cmocka_unit_test(test_sentencepiece_truncated),
        cmocka_unit_test(test_sentencepiece_refusals),
        cmocka_unit_test(test_gguf_good),
        cmocka_unit_test(test_gguf_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
