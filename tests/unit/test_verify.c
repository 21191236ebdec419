/* Verification: good models of every kind pass, each kind of damage is found by the check that is
 * for it, and no byte of a file with checksums can change unseen. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "formats/checksum.h"
#include "formats/gguf.h"
#include "quant/quant.h"
#include "tiny_model.h"

static const char default_model[] = BITLOOM_MODELS "/novels-6m.gguf";
static char folder[200];

/* A path in the test's folder; eight of them at a time. */
static const char *in_folder(const char *name) {
    static char paths[8][256];
    static size_t next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* ---- Files ---- */

static char *read_bytes(const char *path, size_t *len) {
    char *data = NULL;
    bl_error err = {0};
    if (bl__file_read(path, (size_t)1 << 28, &data, len, &err))
        fail_msg("%s", err.message);
    return data;
}

static void write_bytes(const char *path, const char *data, size_t len) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void convert(const char *from, const char *to, const char *type, bool answer, bool arm) {
    const bl_convert_params params = {
        .type = type, .n_threads = 2, .known_answer = answer, .i2_s_arm = arm};
    bl_error err = {0};
    if (bl_convert(from, to, &params, NULL, &err))
        fail_msg("%s", err.message);
}

/* Changes the bytes of a tensor that is about to be written. */
typedef void (*damage_fn)(const bl__gguf_tensor *tensor, uint8_t *data);

/* Writes a file anew, with checksums that are right, a string of the metadata changed (key may be
 * NULL) and every tensor as `damage` leaves it (may be NULL). */
static void rewrite(const char *from, const char *to, const char *key, const char *value,
                    damage_fn damage) {
    size_t len;
    char *data = read_bytes(from, &len);
    bl__gguf *g;
    bl__gguf_writer *w;
    bl__outfile *file;
    assert_int_equal(bl__gguf_parse((uint8_t *)data, len, &g, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_create(&w, NULL), BL_OK);
    for (size_t i = 0; i < g->n_pairs; i++) {
        char name[128];
        bl__gguf_value changed = g->pairs[i].value;
        snprintf(name, sizeof name, "%.*s", (int)g->pairs[i].key.len, g->pairs[i].key.data);
        if (key && strcmp(name, key) == 0)
            changed.as.s = (bl__string){value, strlen(value)};
        if (strncmp(name, "bitloom.checksum.", 17) != 0)
            assert_int_equal(bl__gguf_set_value(w, name, &changed, NULL), BL_OK);
    }
    for (size_t i = 0; i < g->n_tensors; i++) {
        const bl__gguf_tensor *t = &g->tensors[i];
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.data);
        assert_int_equal(bl__gguf_add_tensor(w, name, t->n_dims, t->dims, t->layout, NULL), BL_OK);
    }
    assert_int_equal(bl__gguf_writer_checksums(w, NULL), BL_OK);
    assert_int_equal(bl__outfile_open(to, &file, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(w, file, NULL), BL_OK);
    for (size_t i = 0; i < g->n_tensors; i++) {
        if (damage)
            damage(&g->tensors[i], (uint8_t *)(uintptr_t)g->tensors[i].data);
        assert_int_equal(bl__gguf_write_data(w, g->tensors[i].data, g->tensors[i].bytes, NULL),
                         BL_OK);
    }
    assert_int_equal(bl__gguf_writer_finish(w, NULL), BL_OK);
    assert_int_equal(bl__outfile_commit(file, NULL), BL_OK);
    bl__gguf_writer_free(w);
    bl__gguf_free(g);
    bl__free(data);
}

static bool is_named(const bl__gguf_tensor *t, const char *name) {
    return bl__string_is(t->name, name);
}

/* ---- Verdicts ---- */

static bl_verify_report verify(const char *path) {
    const bl_verify_params params = {.n_threads = 2};
    bl_verify_report report;
    bl_error err = {0};
    if (bl_verify(path, &params, &report, &err))
        fail_msg("%s: %s", path, err.message);
    bool failed = false;
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        assert_non_null(report.checks[i].name);
        assert_true(strlen(report.checks[i].detail) > 0);
        failed |= report.checks[i].result == BL_VERIFY_FAIL;
    }
    assert_int_equal(report.passed, !failed);
    return report;
}

static const bl_verify_check *find(const bl_verify_report *report, const char *name) {
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++)
        if (strcmp(report->checks[i].name, name) == 0)
            return &report->checks[i];
    fail_msg("there is no check '%s'", name);
    return NULL;
}

/* The checks named in `failing`, separated by commas, fail, and no others. */
static void expect(const char *path, const char *failing) {
    bl_verify_report report = verify(path);
    for (size_t i = 0; i < BL_VERIFY_CHECKS; i++) {
        const bl_verify_check *c = &report.checks[i];
        const char *at = strstr(failing, c->name);
        if ((c->result == BL_VERIFY_FAIL) != (at != NULL))
            fail_msg("%s: %s: %s, expected to fail: %s", path, c->name, c->detail, failing);
    }
}

static void expect_result(const char *path, const char *check, bl_verify_result result,
                          const char *words) {
    bl_verify_report report = verify(path);
    const bl_verify_check *c = find(&report, check);
    if (c->result != result || !strstr(c->detail, words))
        fail_msg("%s: %s: result %d, %s; expected %d, %s", path, check, c->result, c->detail,
                 result, words);
}

/* ---- Good models ---- */

static void good_models_pass(void **state) {
    static const char *const types[] = {"native", "bl_t5",  "i2_s", "tq1_0", "tq2_0",
                                        "iq1_bn", "iq2_bn", "f32",  "f16",   "bf16"};
    (void)state;
    expect(default_model, "");
    expect_result(default_model, "checksums", BL_VERIFY_PASS, "68 tensors");
    expect_result(default_model, "known answer", BL_VERIFY_PASS, "16");
    convert(default_model, in_folder("answer.gguf"), NULL, true, false);
    expect_result(in_folder("answer.gguf"), "known answer", BL_VERIFY_PASS, "to the bit");
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        convert(in_folder("answer.gguf"), in_folder("type.gguf"), types[i], false, false);
        bl_verify_report report = verify(in_folder("type.gguf"));
        if (!report.passed || find(&report, "checksums")->result != BL_VERIFY_PASS ||
            find(&report, "known answer")->result != BL_VERIFY_PASS)
            fail_msg("%s: %s; %s", types[i], find(&report, "checksums")->detail,
                     find(&report, "known answer")->detail);
    }
}

static void random_models_pass(void **state) {
    static const char *const types[] = {"bl_t2", "bl_t5", "bl_b1", "i2_s",   "tq1_0",
                                        "tq2_0", "q1_0",  "q2_0",  "iq1_bn", "iq2_bn",
                                        "f32",   "bf16",  "q8_0",  "q4_0"};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        bl_dummy_params params = {.type = types[i], .seed = i, .n_threads = 2};
        assert_int_equal(bl_dummy_shape_read("2x256x512", &params.shape, NULL), BL_OK);
        params.shape.vocab = 300;
        assert_int_equal(bl_dummy_write(in_folder("dummy.gguf"), &params, NULL, NULL), BL_OK);
        expect(in_folder("dummy.gguf"), "");
        if (strcmp(types[i], "i2_s") == 0)
            expect_result(in_folder("dummy.gguf"), "i2_s order", BL_VERIFY_WARN, "cannot tell");
    }
    tiny_model tiny = tiny_model_default();
    tiny_model_write(&tiny, 1, in_folder("tiny.gguf"));
    expect(in_folder("tiny.gguf"), "");
    expect_result(in_folder("tiny.gguf"), "checksums", BL_VERIFY_SKIP, "none");
    expect_result(in_folder("tiny.gguf"), "tokenizer", BL_VERIFY_SKIP, "none");
    tiny.architecture = "llama";
    tiny.quantization = "none";
    tiny.layout = BL_LAYOUT_F32;
    tiny.sub_norms = false;
    tiny_model_write(&tiny, 2, in_folder("tiny.gguf"));
    expect(in_folder("tiny.gguf"), "");
}

/* ---- Damage ---- */

static void zero_down(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.2.ffn_down.weight"))
        memset(data, 0, t->bytes);
}
static void zero_norm(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.2.ffn_norm.weight"))
        memset(data, 0, t->bytes);
}
/* All codes 0, that is -1, with the scale left. */
static void clear_codes(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.1.attn_q.weight"))
        memset(data, 0, t->bytes - 32);
}
/* A page of zeros, as a disk or a download leaves them: rows of -1. */
static void clear_page(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.4.ffn_up.weight"))
        memset(data + 4096, 0, 4096);
}
static void break_scale(const bl__gguf_tensor *t, uint8_t *data) {
    const float broken = NAN;
    if (is_named(t, "blk.0.attn_k.weight"))
        memcpy(data + t->bytes - 32, &broken, sizeof broken);
}
static void enlarge_scale(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.0.attn_k.weight"))
        data[t->bytes - 32 + 3] ^= 0x40; /* the highest bit of the exponent */
}
/* The scale of one row of bl_t2. */
static void enlarge_row(const bl__gguf_tensor *t, uint8_t *data) {
    float scale;
    if (!is_named(t, "blk.0.attn_k.weight"))
        return;
    memcpy(&scale, data + 5 * sizeof scale, sizeof scale);
    scale *= 65536;
    memcpy(data + 5 * sizeof scale, &scale, sizeof scale);
}
static void break_code(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "blk.3.attn_v.weight"))
        data[777] |= 3 << 4;
}
static void break_embedding(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "token_embd.weight"))
        memset(data + 1000, 0xff, 2); /* NaN in 16 bits */
}
static void make_constant(const bl__gguf_tensor *t, uint8_t *data) {
    if (is_named(t, "token_embd.weight"))
        for (size_t i = 2; i < t->bytes; i++)
            data[i] = data[i - 2];
}

/* With checksums that are right: what finds the damage is the check that is for it. The model must
 * be wrong too where it is damaged enough. */
static void damage_is_found(void **state) {
    static const struct {
        const char *type;
        damage_fn damage;
        const char *failing, *check, *words;
    } cases[] = {
        {"bl_t5", zero_down, "codes, known answer", "codes", "blk.2.ffn_down.weight"},
        {"native", zero_down, "weights, known answer", "weights", "blk.2.ffn_down.weight"},
        {"i2_s", zero_down, "weights, known answer", "weights", "all weights are zero"},
        {"i2_s", zero_norm, "weights, known answer", "weights", "blk.2.ffn_norm.weight"},
        {"i2_s", clear_codes, "weights, known answer", "weights", "all weights are the same"},
        {"i2_s", clear_page, "weights, known answer", "weights", "one and the same weight"},
        {"i2_s", break_scale, "numbers, model", "numbers", "NaN or infinite in 128 rows"},
        {"i2_s", enlarge_scale, "numbers, known answer", "numbers", "weights of up to"},
        {"native", enlarge_row, "numbers, known answer", "numbers", "1 rows a thousand times"},
        {"i2_s", break_code, "codes, model", "codes", "i2_s does not have in 1 rows"},
        {"native", break_embedding, "numbers, known answer", "numbers", "token_embd.weight"},
        {"native", make_constant, "weights, known answer", "weights", "all weights are the same"},
    };
    (void)state;
    convert(default_model, in_folder("native"), "native", true, false);
    convert(in_folder("native"), in_folder("i2_s"), "i2_s", false, false);
    convert(in_folder("native"), in_folder("bl_t5"), "bl_t5", false, false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rewrite(in_folder(cases[i].type), in_folder("bad.gguf"), NULL, NULL, cases[i].damage);
        expect(in_folder("bad.gguf"), cases[i].failing);
        expect_result(in_folder("bad.gguf"), cases[i].check, BL_VERIFY_FAIL, cases[i].words);
    }
}

static void wrong_metadata_is_found(void **state) {
    (void)state;
    convert(default_model, in_folder("native"), "native", true, false);
    rewrite(in_folder("native"), in_folder("bad.gguf"), "bitnet-b1.58.hidden_act", "silu", NULL);
    expect(in_folder("bad.gguf"), "known answer");
    expect_result(in_folder("bad.gguf"), "known answer", BL_VERIFY_FAIL, "deviations away");
    rewrite(in_folder("native"), in_folder("good.gguf"), "general.name", "another name", NULL);
    expect(in_folder("good.gguf"), "");
}

/* Packs i2_s as builds for ARM do. */
static void reorder(const bl__gguf_tensor *t, uint8_t *data) {
    if (t->layout != BL_LAYOUT_I2_S)
        return;
    float *row = malloc(t->cols * sizeof *row), scale;
    uint8_t *packed = malloc(t->bytes);
    memcpy(&scale, data + t->bytes - 32, sizeof scale);
    for (size_t r = 0; r < t->rows; r++) {
        bl__layout_unpack_row(BL_LAYOUT_I2_S, data, t->rows, t->cols, r, row);
        assert_int_equal(bl__layout_pack_rows(BL_LAYOUT_I2_S_ARM, row, t->rows, t->cols, r, 1,
                                              scale, packed, NULL),
                         BL_OK);
    }
    memcpy(data, packed, t->bytes);
    free(packed);
    free(row);
}

static void same_tensors(const char *a, const char *b) {
    size_t lens[2];
    char *data[2] = {read_bytes(a, &lens[0]), read_bytes(b, &lens[1])};
    bl__gguf *g[2];
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(bl__gguf_parse((uint8_t *)data[i], lens[i], &g[i], NULL), BL_OK);
    assert_int_equal(g[0]->n_tensors, g[1]->n_tensors);
    for (size_t i = 0; i < g[0]->n_tensors; i++) {
        const bl__gguf_tensor *x = &g[0]->tensors[i], *y = &g[1]->tensors[i];
        assert_int_equal(x->bytes, y->bytes);
        assert_memory_equal(x->data, y->data, x->bytes);
    }
    for (size_t i = 0; i < 2; i++) {
        bl__gguf_free(g[i]);
        bl__free(data[i]);
    }
}

static void order_of_i2_s_is_told(void **state) {
    (void)state;
    convert(default_model, in_folder("i2_s"), "i2_s", true, false);
    expect_result(in_folder("i2_s"), "i2_s order", BL_VERIFY_PASS, "x86");
    rewrite(in_folder("i2_s"), in_folder("arm"), NULL, NULL, reorder);
    expect(in_folder("arm"), "i2_s order, known answer");
    expect_result(in_folder("arm"), "i2_s order", BL_VERIFY_FAIL, "--i2s-order arm");
    convert(in_folder("arm"), in_folder("again"), "i2_s", false, true);
    expect(in_folder("again"), "");
    same_tensors(in_folder("i2_s"), in_folder("again"));
}

/* ---- Bytes ---- */

/* A flipped bit anywhere in a file with checksums: header, metadata, tensors, padding. */
static void no_byte_changes_unseen(void **state) {
    tiny_model tiny = tiny_model_default();
    size_t len, n_tried = 0;
    (void)state;
    tiny.n_layers = 1;
    tiny_model_write(&tiny, 3, in_folder("tiny.gguf"));
    convert(in_folder("tiny.gguf"), in_folder("good.gguf"), NULL, true, false);
    expect(in_folder("good.gguf"), "");
    char *data = read_bytes(in_folder("good.gguf"), &len);
    for (size_t at = 0; at < len; at += at < 2048 ? 17 : 131, n_tried++) {
        const bl_verify_params params = {.n_threads = 1};
        bl_verify_report report;
        bl_error err;
        data[at] = (char)(data[at] ^ 1 << at % 8);
        write_bytes(in_folder("bad.gguf"), data, len);
        assert_int_equal(bl_verify(in_folder("bad.gguf"), &params, &report, &err), BL_OK);
        if (report.passed)
            fail_msg("byte %zu of %zu changed unseen", at, len);
        data[at] = (char)(data[at] ^ 1 << at % 8);
    }
    assert_true(n_tried > 200);
    write_bytes(in_folder("bad.gguf"), data, len - 1);
    assert_false(verify(in_folder("bad.gguf")).passed);
    write_bytes(in_folder("bad.gguf"), data, len / 2);
    expect(in_folder("bad.gguf"), "structure");
    expect_result(in_folder("bad.gguf"), "weights", BL_VERIFY_SKIP, "not reached");
    data = bl__realloc_array(data, len + 32, 1);
    memset(data + len, 0, 32);
    write_bytes(in_folder("bad.gguf"), data, len + 32);
    expect(in_folder("bad.gguf"), "checksums");
    write_bytes(in_folder("bad.gguf"), data, 0);
    expect(in_folder("bad.gguf"), "structure");
    bl__free(data);
}

/* Published values of XXH3 with 64 bits, seed 0: of nothing, and of what our files hold. */
static void checksums_are_xxh3(void **state) {
    (void)state;
    assert_true(bl__checksum_of("", 0) == 0x2d06800538d394c2u);
    uint8_t data[5000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    bl__checksum *sum = bl__checksum_create();
    assert_true(bl__checksum_take(sum) == bl__checksum_of("", 0));
    for (size_t at = 0, n; at < sizeof data; at += n) {
        n = at % 97 + 1 < sizeof data - at ? at % 97 + 1 : sizeof data - at;
        bl__checksum_add(sum, data + at, n);
    }
    assert_true(bl__checksum_take(sum) == bl__checksum_of(data, sizeof data));
    bl__checksum_free(sum);
}

/* ---- The rest ---- */

static void missing_files_are_errors(void **state) {
    bl_verify_report report;
    bl_error err;
    (void)state;
    assert_int_equal(bl_verify(in_folder("none"), NULL, &report, &err), BL_ERR_NOT_FOUND);
    assert_int_equal(bl_verify(folder, NULL, &report, &err), BL_ERR_IO);
    write_bytes(in_folder("text"), "Once upon a time", 16);
    expect(in_folder("text"), "structure");
}

static bool stop(void *user, uint64_t done, uint64_t all) {
    assert_true(done > 0 && done <= all);
    return --*(int *)user > 0;
}

static void count(void *user, const char *check, bl_verify_result result, const char *text) {
    bool warns = strcmp(check, "weights") == 0; /* the default model has many rows of zeros */
    assert_int_equal(result, warns ? BL_VERIFY_WARN : BL_VERIFY_FAIL);
    if (strcmp(check, "numbers") == 0 && strstr(text, "NaN"))
        ++*(int *)user;
}

static void callers_are_told(void **state) {
    int left = 3, n_found = 0;
    bl_verify_report report;
    bl_error err;
    bl_verify_params params = {.progress = stop, .user = &left};
    (void)state;
    assert_int_equal(bl_verify(default_model, &params, &report, &err), BL_ERR_CANCELLED);
    rewrite(default_model, in_folder("bad.gguf"), NULL, NULL, break_embedding);
    params = (bl_verify_params){.finding = count, .user = &n_found};
    assert_int_equal(bl_verify(in_folder("bad.gguf"), &params, &report, &err), BL_OK);
    assert_int_equal(n_found, 1);
    assert_int_equal(find(&report, "numbers")->n_findings, 1);
}

static void every_failing_allocation_is_survived(void **state) {
    const bl_verify_params params = {.n_threads = 1};
    bl_dummy_params dummy = {.type = "i2_s", .n_threads = 1};
    bl_verify_report report;
    bl_status status = BL_ERR_MEMORY;
    bl_error err;
    (void)state;
    assert_int_equal(bl_dummy_shape_read("1x128x128", &dummy.shape, NULL), BL_OK);
    dummy.shape.vocab = 260;
    assert_int_equal(bl_dummy_write(in_folder("plain"), &dummy, NULL, NULL), BL_OK);
    convert(in_folder("plain"), in_folder("small"), "i2_s", true, false);
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        assert_true(nth < 5000);
        bl__alloc_fail_at(nth);
        status = bl_verify(in_folder("small"), &params, &report, &err);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
    assert_true(report.passed);
}

/* Nor does a conversion that runs its model leave anything behind when memory is short. */
static void answers_survive_failing_allocations(void **state) {
    const bl_convert_params params = {.n_threads = 1, .known_answer = true};
    tiny_model tiny = tiny_model_default();
    bl_status status = BL_ERR_MEMORY;
    bl_error err;
    (void)state;
    tiny.n_layers = 1;
    tiny_model_write(&tiny, 3, in_folder("tiny.gguf"));
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        assert_true(nth < 5000);
        bl__alloc_fail_at(nth);
        status = bl_convert(in_folder("tiny.gguf"), in_folder("made.gguf"), &params, NULL, &err);
        assert_int_equal(access(in_folder("made.gguf"), F_OK) == 0, status == BL_OK);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
    expect(in_folder("made.gguf"), "");
}

static int make_folder(void **state) {
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(folder, sizeof folder, "%.150s/bitloom-verify-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    static const char *const names[] = {"answer.gguf", "type.gguf", "dummy.gguf", "tiny.gguf",
                                        "native",      "i2_s",      "arm",        "again",
                                        "bad.gguf",    "good.gguf", "text",       "plain",
                                        "small",       "made.gguf", "bl_t5"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unlink(in_folder(names[i]));
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_xxh3),
        cmocka_unit_test(good_models_pass),
        cmocka_unit_test(random_models_pass),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(wrong_metadata_is_found),
        cmocka_unit_test(order_of_i2_s_is_told),
        cmocka_unit_test(no_byte_changes_unseen),
        cmocka_unit_test(missing_files_are_errors),
        cmocka_unit_test(callers_are_told),
        cmocka_unit_test(every_failing_allocation_is_survived),
        cmocka_unit_test(answers_survive_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
