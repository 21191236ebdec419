/* Making token files: what is a document, what is refused, and that pieces, threads and held-out
 * tails come out as if the text had been encoded in one go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "bitloom/bitloom.h"
#include "formats/corpus.h"
#include "tokenizer/vocab.h"

static char folder[64];
static bl_tokenizer *tokenizer; /* bytes are tokens 2 ... 257, "ab" is 258, BOS 0, EOS 1 */

/* The path of a name in the folder; stays valid. */
static const char *at(const char *name) {
    static char paths[32][160];
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    size_t i = 0;
    while (paths[i][0] && strcmp(paths[i], path) != 0)
        i++;
    assert_in_range(i, 0, 31);
    memcpy(paths[i], path, sizeof path);
    return paths[i];
}

static void write_bytes(const char *name, const char *bytes, size_t len) {
    FILE *file = fopen(at(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text) {
    write_bytes(name, text, strlen(text));
}

/* A tokenizer.json of bytes <0x00> ... and pieces "a" "b" "ab" "▁". */
static void write_tokenizer(const char *name) {
    FILE *file = fopen(at(name), "wb");
    assert_non_null(file);
    fputs("{\"added_tokens\": [{\"id\": 0, \"content\": \"<s>\", \"special\": true}, {\"id\": 1, "
          "\"content\": \"</s>\", \"special\": true}], \"normalizer\": {\"type\": \"Sequence\", "
          "\"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}, {\"type\": "
          "\"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\xe2\x96\x81\"}]}, "
          "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", "
          "\"pattern\": {\"String\": \"\xe2\x96\x81\"}, \"content\": \" \"}, {\"type\": "
          "\"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", "
          "\"start\": 1, \"stop\": 0}]}, \"post_processor\": {\"type\": \"TemplateProcessing\", "
          "\"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": "
          "{\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"</s>\", \"type_id\": "
          "0}}], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [0], \"tokens\": "
          "[\"<s>\"]}, \"</s>\": {\"id\": \"</s>\", \"ids\": [1], \"tokens\": [\"</s>\"]}}}, "
          "\"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {\"<s>\": 0, "
          "\"</s>\": 1",
          file);
    for (int i = 0; i < 256; i++)
        fprintf(file, ", \"<0x%02X>\": %d", (unsigned)i, i + 2);
    fputs(", \"ab\": 258, \"a\": 259, \"b\": 260, \"\xe2\x96\x81\": 261, \"\xe2\x96\x81"
          "ab\": 262}, \"merges\": [\"a b\", \"\xe2\x96\x81 ab\"]}}",
          file);
    assert_int_equal(fclose(file), 0);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/bitloom-test-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    write_tokenizer("tokenizer.json");
    bl_error err;
    if (bl_tokenizer_open(at("tokenizer.json"), &tokenizer, &err) != BL_OK) {
        print_error("%s\n", err.message);
        return -1;
    }
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {
        "tokenizer.json", "a.txt",     "b.txt",      "out",          "a.jsonl",   "bad.jsonl",
        "big.txt",        "empty.txt", "v.txt",      "x.txt.xz",     "d/2.txt",   "d/10.txt",
        "d/e/1.jsonl",    "d/.h.txt",  "d/skip.bin", "none/other.c", "spaces.txt"};
    bl_tokenizer_close(tokenizer);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(at(names[i]));
    rmdir(at("d/e"));
    rmdir(at("d"));
    rmdir(at("none"));
    return rmdir(folder); /* fails when anything else was left behind */
}

static bl_status build(const char *const *inputs, size_t n, bl_data_params params, bl_error *err) {
    params.inputs = inputs;
    params.n_inputs = n;
    return bl_data_build(tokenizer, &params, at("out"), NULL, err);
}

/* The file's ids as text: "0 258 1". */
static const char *dump(void) {
    static char text[4096];
    bl_data *data;
    bl_error err;
    assert_int_equal(bl_data_open(at("out"), &data, &err), BL_OK);
    assert_int_equal(bl_data_check(data, &err), BL_OK);
    assert_int_equal(bl_data_match(data, tokenizer, &err), BL_OK);
    bl_data_info info = bl_data_get_info(data);
    bl_token ids[256];
    size_t len = 0;
    assert_int_equal(bl_data_read(data, 0, info.n_tokens, ids, &err), BL_OK);
    for (size_t i = 0; i < info.n_tokens; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%d", i ? " " : "", ids[i]);
    for (uint64_t doc = 0; doc < info.n_docs; doc++) {
        uint64_t first, n;
        assert_int_equal(bl_data_document(data, doc, &first, &n, &err), BL_OK);
        assert_int_equal(ids[first], 0);
        assert_int_equal(ids[first + n - 1], 1);
    }
    assert_int_equal(bl_data_document(data, info.n_docs, &(uint64_t){0}, &(uint64_t){0}, &err),
                     BL_ERR_ARGUMENT);
    assert_int_equal(bl_data_read(data, info.n_tokens, 1, ids, &err), BL_ERR_ARGUMENT);
    bl_data_close(data);
    return text;
}

static void documents(void **state) {
    (void)state;
    bl_error err;
    write_text("a.txt", "\xef\xbb\xbf"
                        "ab ab");
    write_text("b.txt", "b\xff");
    write_text("a.jsonl",
               "{\"text\": \"a\"}\n\n  \n{\"n\": 1, \"text\": \"b\"}\r\n{\"text\": \"\"}\n"
               "{\"text\": \"ab\"}");
    const char *inputs[] = {at("a.txt"), at("b.txt"), at("a.jsonl")};
    assert_int_equal(build(inputs, 3, (bl_data_params){0}, &err), BL_OK);
    assert_string_equal(dump(), "0 262 262 1 0 261 260 257 1 0 261 259 1 0 261 260 1 0 262 1");
    /* Special tokens in text are text, unless asked for. */
    write_text("a.txt", "</s>b");
    assert_int_equal(build(inputs, 1, (bl_data_params){.special = true}, &err), BL_OK);
    assert_string_equal(dump(), "0 1 261 260 1");
    assert_int_equal(build(inputs, 1, (bl_data_params){0}, &err), BL_OK);
    assert_string_equal(dump(), "0 261 62 49 117 64 260 1");
    /* Another key. */
    write_text("a.jsonl", "{\"body\": \"ab\", \"text\": 3}\n");
    assert_int_equal(build(inputs + 2, 1, (bl_data_params){.field = "body"}, &err), BL_OK);
    assert_string_equal(dump(), "0 262 1");
}

static void directories_in_order(void **state) {
    (void)state;
    bl_error err;
    assert_int_equal(mkdir(at("d"), 0700), 0);
    assert_int_equal(mkdir(at("d/e"), 0700), 0);
    assert_int_equal(mkdir(at("none"), 0700), 0);
    write_text("d/2.txt", "b");
    write_text("d/10.txt", "a");
    write_text("d/.h.txt", "hidden");
    write_text("d/skip.bin", "other");
    write_text("d/e/1.jsonl", "{\"text\": \"ab\"}");
    write_text("none/other.c", "x");
    const char *inputs[] = {at("d")};
    assert_int_equal(build(inputs, 1, (bl_data_params){0}, &err), BL_OK);
    assert_string_equal(dump(), "0 261 259 1 0 261 260 1 0 262 1");
    inputs[0] = at("none");
    assert_int_equal(build(inputs, 1, (bl_data_params){0}, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "no .txt"));
}

static void held_out(void **state) {
    (void)state;
    bl_error err;
    write_text("a.jsonl",
               "{\"text\": \"a\"}\n{\"text\": \"a\"}\n{\"text\": \"a\"}\n{\"text\": \"a\"}");
    write_text("v.txt", "ab");
    const char *inputs[] = {at("a.jsonl")}, *valid[] = {at("v.txt")};
    bl_data_params params = {.inputs = inputs, .n_inputs = 1, .valid_share = 0.4};
    bl_data_info info;
    /* 6 of 16 tokens, from the document that begins 2 tokens later. */
    assert_int_equal(bl_data_build(tokenizer, &params, at("out"), &info, &err), BL_OK);
    assert_int_equal(info.n_tokens, 16);
    assert_int_equal(info.n_train_tokens, 12);
    /* 3 tokens: the next document begins at the end, so the last one is cut. */
    params.valid_share = 0.2;
    assert_int_equal(bl_data_build(tokenizer, &params, at("out"), &info, &err), BL_OK);
    assert_int_equal(info.n_train_tokens, 13);
    params.valid_share = 0;
    params.valid_inputs = valid;
    params.n_valid_inputs = 1;
    assert_int_equal(bl_data_build(tokenizer, &params, at("out"), &info, &err), BL_OK);
    assert_int_equal(info.n_train_tokens, 16);
    assert_int_equal(info.n_tokens, 19);
    assert_int_equal(info.n_docs, 5);
    assert_int_equal(info.text_bytes, 6);
    params.valid_share = 0.1;
    assert_int_equal(bl_data_build(tokenizer, &params, at("out"), &info, &err), BL_ERR_ARGUMENT);
    params.n_valid_inputs = 0;
    params.valid_share = 0.6;
    assert_int_equal(bl_data_build(tokenizer, &params, at("out"), &info, &err), BL_ERR_ARGUMENT);
}

static bool count_call(void *user, uint64_t done, uint64_t n) {
    assert_true(done <= n);
    ++*(int *)user;
    return true;
}
static bool refuse(void *user, uint64_t done, uint64_t n) {
    (void)user, (void)done, (void)n;
    return false;
}

/* Eleven megabytes in pieces, by any number of threads, are what one call gives. */
static void pieces_are_seamless(void **state) {
    (void)state;
    bl_error err;
    size_t len = 11 * (size_t)BL_CORPUS_CHUNK + 123;
    char *text = malloc(len);
    assert_non_null(text);
    uint32_t random = 1;
    for (size_t i = 0; i < len; i++) {
        random = random * 1664525 + 1013904223;
        text[i] = "ab b\na  \xc3\xa9"[(random >> 24) % 10];
    }
    write_bytes("big.txt", text, len);
    bl_token *expected;
    size_t n;
    assert_int_equal(
        bl_tokenizer_encode(tokenizer, text, len, BL_TOKENIZE_EXTRA, &expected, &n, &err), BL_OK);
    bl_token *ids = malloc(n * sizeof *ids);
    assert_non_null(ids);
    const char *inputs[] = {at("big.txt")};
    for (uint32_t threads = 1; threads <= 3; threads++) {
        int calls = 0;
        bl_data_params params = {.n_threads = threads, .progress = count_call, .user = &calls};
        assert_int_equal(build(inputs, 1, params, &err), BL_OK);
        assert_true(calls >= 1);
        bl_data *data;
        assert_int_equal(bl_data_open(at("out"), &data, &err), BL_OK);
        assert_int_equal(bl_data_get_info(data).n_tokens, n);
        assert_int_equal(bl_data_get_info(data).n_docs, 1);
        assert_int_equal(bl_data_get_info(data).text_bytes, len);
        assert_int_equal(bl_data_read(data, 0, n, ids, &err), BL_OK);
        assert_memory_equal(ids, expected, n * sizeof *ids);
        bl_data_close(data);
    }
    unlink(at("out"));
    bl_data_params params = {.progress = refuse};
    assert_int_equal(build(inputs, 1, params, &err), BL_ERR_CANCELLED);
    assert_int_equal(access(at("out"), F_OK), -1);
    /* No place to cut at all. */
    memset(text, ' ', len);
    write_bytes("spaces.txt", text, len);
    inputs[0] = at("spaces.txt");
    assert_int_equal(build(inputs, 1, (bl_data_params){.n_threads = 2}, &err), BL_OK);
    free(text);
    free(ids);
    bl_free(expected);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *name, *text, *words;
        bl_status status;
    } bad[] = {
        {"x.txt.xz", "x", "xz -dk", BL_ERR_UNSUPPORTED},
        {"empty.txt", "", "no text in 1 files", BL_ERR_ARGUMENT},
        {"bad.jsonl", "\n\n", "no text in 1 files", BL_ERR_ARGUMENT},
        {"bad.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 7}", "bad.jsonl: line 3: \"text\" is a real",
         BL_ERR_FORMAT},
        {"bad.jsonl", "{\"text\": \"a\"}\n{}", "line 2: \"text\" is nothing", BL_ERR_FORMAT},
        {"bad.jsonl", "{\"text\": \"a\"\n", "line 1: JSON", BL_ERR_FORMAT},
        {"bad.jsonl", "[\"text\"]\n", "line 1: \"text\" is nothing", BL_ERR_FORMAT},
        {"bad.jsonl", "{\"text\": \"\xff\"}\n", "line 1: JSON", BL_ERR_FORMAT},
    };
    bl_error err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(bad[i].name, bad[i].text);
        const char *inputs[] = {at(bad[i].name)};
        assert_int_equal(build(inputs, 1, (bl_data_params){0}, &err), bad[i].status);
        if (!strstr(err.message, bad[i].words))
            fail_msg("case %zu: %s", i, err.message);
    }
    const char *missing[] = {at("missing.txt")};
    assert_int_equal(build(missing, 1, (bl_data_params){0}, &err), BL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "missing.txt"));
    assert_int_equal(build(missing, 0, (bl_data_params){0}, &err), BL_ERR_ARGUMENT);
    const char *device[] = {"/dev/null"};
    assert_int_equal(build(device, 1, (bl_data_params){0}, &err), BL_ERR_IO);
}

static void another_tokenizer(void **state) {
    (void)state;
    bl_error err;
    write_text("a.txt", "ab ab");
    const char *inputs[] = {at("a.txt")};
    assert_int_equal(build(inputs, 1, (bl_data_params){0}, &err), BL_OK);
    bl_tokenizer *other;
    bl_data *data;
    assert_int_equal(bl_tokenizer_open(BITLOOM_MODELS "/novels-6m.gguf", &other, &err), BL_OK);
    assert_int_equal(bl_data_open(at("out"), &data, &err), BL_OK);
    assert_int_equal(bl_data_match(data, other, &err), BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "263 tokens, the tokenizer has 4096"));
    bl_data_close(data);
    bl_tokenizer_close(other);
}

static void survives_every_failing_allocation(void **state) {
    (void)state;
    write_text("a.txt", "ab ab");
    write_text("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    const char *inputs[] = {at("a.txt"), at("a.jsonl"), at("d")};
    unlink(at("out"));
    bl_error err;
    bl_status status = BL_ERR_MEMORY;
    long nth = 1;
    for (; status != BL_OK; nth++) {
        bl__alloc_fail_at(nth);
        status = build(inputs, 3, (bl_data_params){.n_threads = 1}, &err);
        bl__alloc_fail_at(0);
        if (status != BL_OK) {
            assert_int_equal(status, BL_ERR_MEMORY);
            assert_int_equal(access(at("out"), F_OK), -1);
        }
    }
    assert_true(nth > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(directories_in_order),
        cmocka_unit_test(held_out),
        cmocka_unit_test(pieces_are_seamless),
        cmocka_unit_test(refusals),
        cmocka_unit_test(another_tokenizer),
        cmocka_unit_test(survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
