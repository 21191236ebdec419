/* Runs of the trainer on a small made-up language: they learn it, go on bit for bit after a stop,
 * survive what goes wrong, and what they export runs with the trainer's own loss. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "formats/gguf.h"
#include "trainer_fixture.h"

static const char *const accumulating[] = {"accumulate=2", NULL};

static void a_stopped_run_goes_on_bit_for_bit(void **state) {
    (void)state;
    watch w = {0};
    bl_error err = {0};
    must_train("whole", &w, accumulating, false, 1, NULL);
    assert_int_equal(w.n_steps, 20);
    assert_true(w.last < w.first - 0.5);
    w = (watch){.stop_after = 9};
    assert_int_equal(train("parts", &w, accumulating, false, 3, NULL, &err), BL_ERR_CANCELLED);
    assert_non_null(strstr(err.message, "step 9 of 20"));
    w = (watch){0};
    must_train("parts", &w, accumulating, true, 2, NULL);
    assert_int_equal(w.n_steps, 11);
    assert_same_checkpoints("whole", "parts", 20);
    /* A run that is finished has nothing to do. */
    w = (watch){0};
    must_train("parts", &w, NULL, true, 1, NULL);
    assert_int_equal(w.n_steps, 0);
}

/* What a crash leaves: later checkpoints that never were, half a line, half a file. */
static void a_crashed_run_goes_on_bit_for_bit(void **state) {
    (void)state;
    watch w = {.stop_after = 12};
    char path[BL_RUN_MAX_PATH], *text;
    size_t len;
    train("crashed", &w, accumulating, false, 1, NULL, NULL);
    bl__run_checkpoint_path(in_root("crashed"), 12, path);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/step-00000015.safetensors.part-77", in_root("crashed"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    snprintf(path, sizeof path, "%s/run.jsonl", in_root("crashed"));
    file = fopen(path, "a");
    assert_non_null(file);
    fputs("{\"step\":13,\"tok", file);
    fclose(file);
    w = (watch){0};
    must_train("crashed", &w, accumulating, true, 2, NULL);
    assert_int_equal(w.n_steps, 10); /* from step 10 on */
    assert_same_checkpoints("whole", "crashed", 20);
    /* Each step once in the metrics, in order; two checkpoints kept, nothing half written. */
    assert_int_equal(bl__file_read(path, 1 << 20, &text, &len, NULL), BL_OK);
    uint64_t step = 0;
    for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
        json_t *object = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_int_equal(json_integer_value(json_object_get(object, "step")), ++step);
        assert_true(json_is_real(json_object_get(object, "loss")));
        assert_int_equal(json_object_get(object, "validation") != NULL, step % 10 == 0);
        json_decref(object);
    }
    assert_int_equal(step, 20);
    bl__free(text);
    bl__run_checkpoint_path(in_root("crashed"), 15, path);
    assert_true(bl__file_exists(path));
    bl__run_checkpoint_path(in_root("crashed"), 10, path);
    assert_false(bl__file_exists(path));
    snprintf(path, sizeof path, "%s/step-00000015.safetensors.part-77", in_root("crashed"));
    assert_false(bl__file_exists(path));
}

/* ---- what is exported ---- */

static void assert_same_bytes(const char *a, const char *b) {
    bl__filemap x, y;
    assert_int_equal(bl__filemap_open(a, &x, NULL), BL_OK);
    assert_int_equal(bl__filemap_open(b, &y, NULL), BL_OK);
    if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0)
        fail_msg("%s and %s differ", a, b);
    bl__filemap_close(&x);
    bl__filemap_close(&y);
}

/* Exports to a GGUF file, straight and by way of a directory: the same bytes. */
static void check_export(const char *name, const char *const *settings, bool masters) {
    watch w = {0};
    bl_train_report report = {0};
    bl_error err = {0};
    char directory[160], converted[160], named[160], gguf[160];
    must_train(name, &w, settings, masters, 1, &report);
    snprintf(directory, sizeof directory, "%s-hf", in_root(name));
    snprintf(converted, sizeof converted, "%s-converted.gguf", in_root(name));
    snprintf(named, sizeof named, "%s-hf.gguf", in_root(name)); /* as a model, like directory */
    snprintf(gguf, sizeof gguf, "%s.gguf", in_root(name));
    if (bl_train_export_gguf(in_root(name), named, masters, &err) != BL_OK)
        fail_msg("%s: %s", name, err.message);
    if (strncmp(name, "groups", 6) == 0) {
        assert_int_equal(bl_train_export(in_root(name), directory, masters, &err),
                         BL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, "linears in 2 groups"));
    } else if (bl_train_export(in_root(name), directory, masters, &err) != BL_OK ||
               bl_convert(directory, converted, &(bl_convert_params){.known_answer = true}, NULL,
                          &err) != BL_OK) {
        fail_msg("%s: %s", name, err.message);
    } else {
        assert_same_bytes(named, converted);
    }
    assert_int_equal(rename(named, gguf), 0);
    bool apart = strcmp(name, "packed") == 0;
    double found = model_loss(gguf, apart ? "documents.tok" : "data.tok", apart);
    /* Masters are not rounded. */
    double expected = masters ? report.validation : report.deployed;
    if (!(fabs(found - expected) <= 1e-5))
        fail_msg("%s: the model's loss is %.7f, the trainer's %.7f", name, found, expected);
    assert_true(fabs(report.deployed - report.validation) < 0.05);
}

static void exported_models_have_the_trainers_loss(void **state) {
    (void)state;
    static const char *const ternary[] = {"precision=float32", NULL};
    static const char *const binary[] = {"weights=binary", NULL};
    static const char *const silu[] = {"activation=silu", NULL};
    static const char *const llama[] = {"activation=silu", "sub_norms=false", NULL};
    static const char *const floats[] = {"weights=float", NULL};
    static const char *const llama_floats[] = {"weights=float", "activation=silu",
                                               "sub_norms=false", NULL};
    static const char *const first[] = {"recipe=bitnet", NULL};
    static const char *const first_silu[] = {"norm=layer", "activation=silu", NULL};
    static const char *const first_floats[] = {"norm=layer", "weights=float", NULL};
    check_export("ternary", ternary, false);
    check_export("ternary", ternary, true); /* resumes: nothing is left to do */
    check_export("binary", binary, false);
    check_export("silu", silu, false);
    check_export("llama", llama, false);
    check_export("floats", floats, false);
    check_export("llama_floats", llama_floats, false);
    check_export("first", first, false);
    check_export("first_silu", first_silu, false);
    check_export("first_floats", first_floats, false);
    static const char *const groups[] = {"groups=2", "precision=float32", NULL};
    static const char *const groups_binary[] = {"groups=2", "weights=binary", NULL};
    static const char *const groups_float[] = {"groups=2", "weights=float", NULL};
    static const char *const groups_llama[] = {"groups=2", "activation=silu", "sub_norms=false",
                                               NULL};
    check_export("groups", groups, false);
    check_export("groups", groups, true);
    check_export("groups_binary", groups_binary, false);
    check_export("groups_float", groups_float, false);
    check_export("groups_llama", groups_llama, false);
    static const char *const groups_first[] = {"groups=2", "recipe=bitnet", NULL};
    check_export("groups_first", groups_first, false);
    char setting[160];
    const char *const packed[] = {"mask_documents=true", setting, NULL};
    snprintf(setting, sizeof setting, "data=%s", in_root("documents.tok"));
    write_documents(in_root("documents.tok"), 0, 17);
    check_export("packed", packed, false);
    bl_error err = {0};
    assert_int_equal(bl_train_export(in_root("binary"), in_root("none-hf"), true, &err),
                     BL_ERR_UNSUPPORTED);
    assert_int_equal(bl_train_export(in_root("none"), in_root("none-hf"), true, &err),
                     BL_ERR_NOT_FOUND);
}

/* ---- models to start from ---- */

static const char *from_setting(const char *path) {
    static char text[2][1024];
    static unsigned at;
    char *out = text[at++ % 2];
    snprintf(out, sizeof *text, "from=%s", path);
    return out;
}

/* The validation loss before the first step. */
static double loss_of_start(const char *const *settings) {
    watch w = {0};
    setup s;
    bl__trainer *t = NULL;
    bl_error err = {0};
    double loss = NAN;
    remove_tree(in_root("start"));
    make_setup(&s, "start", &w, settings);
    if (bl__trainer_open(&s.params, NULL, &t, &err) != BL_OK ||
        bl__trainer_validate(t, &loss, &err) != BL_OK)
        fail_msg("%s: %s", settings[0], err.message);
    assert_int_equal(w.n_steps, 1); /* step 0 */
    bl__trainer_close(t);
    return loss;
}

static void a_run_starts_with_the_loss_of_its_model(void **state) {
    (void)state;
    static const char *const types[] = {"f32", "f16", "bf16"};
    bl_error err = {0};
    char paths[6][160], checkpoint[BL_RUN_MAX_PATH];
    double expected = model_loss(in_root("llama_floats.gguf"), "data.tok", false);
    bl__run_checkpoint_path(in_root("llama_floats"), 20, checkpoint);
    snprintf(paths[3], sizeof *paths, "%s", in_root("llama_floats-hf"));
    snprintf(paths[4], sizeof *paths, "%s", in_root("llama_floats"));
    snprintf(paths[5], sizeof *paths, "%.150s", checkpoint);
    for (size_t i = 0; i < 6; i++) {
        const char *const settings[] = {from_setting(paths[i]), "lambda_steps=10",
                                        i % 2 ? "weights=binary" : "weights=ternary", NULL};
        if (i < 3) { /* Q and K of these are permuted */
            bl_convert_params params = {.type = types[i], .embed_type = types[i]};
            snprintf(paths[i], sizeof *paths, "%s", in_root(types[i]));
            assert_int_equal(bl_convert(in_root("llama_floats-hf"), paths[i], &params, NULL, &err),
                             BL_OK);
            const char *const again[] = {from_setting(paths[i]), settings[1], settings[2], NULL};
            double found = loss_of_start(again), whole = model_loss(paths[i], "data.tok", false);
            if (!(fabs(found - whole) <= 1e-5))
                fail_msg("%s: the run starts at %.7f, the model has %.7f", types[i], found, whole);
            continue;
        }
        double found = loss_of_start(settings);
        if (!(fabs(found - expected) <= 1e-5))
            fail_msg("%s: the run starts at %.7f, the model has %.7f", paths[i], found, expected);
    }
    /* Sub-norms come in as ones and change the model; masters of quantized ones go on as they are.
     */
    const char *const added[] = {from_setting(in_root("llama_floats")), "sub_norms=true", NULL};
    assert_true(fabs(loss_of_start(added) - expected) > 1e-3);
    const char *const layers[] = {from_setting(in_root("first_floats.gguf")), NULL};
    expected = model_loss(in_root("first_floats.gguf"), "data.tok", false);
    assert_true(fabs(loss_of_start(layers) - expected) <= 1e-5);
    const char *const layers_hf[] = {from_setting(in_root("first_floats-hf")), NULL};
    assert_true(fabs(loss_of_start(layers_hf) - expected) <= 1e-5);
    const char *const masters[] = {from_setting(in_root("ternary-hf")), NULL};
    expected = model_loss(in_root("ternary.gguf"), "data.tok", false); /* made of the masters */
    assert_true(fabs(loss_of_start(masters) - expected) <= 1e-5);
}

static void quantization_comes_in_over_stops(void **state) {
    (void)state;
    bl_error err = {0};
    char path[BL_RUN_MAX_PATH], from[160];
    snprintf(from, sizeof from, "from=%s", in_root("llama_floats.gguf"));
    const char *const settings[] = {from, "lambda_steps=15", "rate=0.002", NULL};
    watch w = {0};
    bl_train_report report;
    must_train("ramp", &w, settings, false, 1, &report);
    assert_int_equal(w.n_steps, 21);
    assert_true(fabs(report.deployed - report.validation) < 0.05);
    w = (watch){.stop_after = 12};
    assert_int_equal(train("ramp2", &w, settings, false, 2, NULL, &err), BL_ERR_CANCELLED);
    assert_int_equal(bl_train_export(in_root("ramp2"), in_root("ramp2-hf"), false, &err),
                     BL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "quantization has come in by 0.8 of 1 at step 12 of 15"));
    snprintf(path, sizeof path, "%s/best.safetensors", in_root("ramp2"));
    assert_false(bl__file_exists(path)); /* for all that step 10 was measured */
    w = (watch){0};
    must_train("ramp2", &w, settings, true, 3, NULL); /* the model itself is not asked again */
    assert_int_equal(w.n_steps, 8);
    assert_same_checkpoints("ramp", "ramp2", 20);
    assert_true(bl__file_exists(path));
    check_export("ramp", settings, true); /* resumes: nothing is left to do */
}

/* A GGUF file with the metadata of a small LLaMA, an embedding, and one more tensor. */
static void write_odd_gguf(const char *path, const char *name, float scale) {
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"llama.block_count", 2},
                 {"llama.embedding_length", 32},
                 {"llama.feed_forward_length", 48},
                 {"llama.attention.head_count", 4},
                 {"llama.attention.head_count_kv", 2},
                 {"llama.context_length", 24},
                 {"llama.rope.dimension_count", 8}};
    static float zeros[VOCAB * 32];
    const uint64_t dims[2] = {32, VOCAB};
    bl__gguf_writer *writer = NULL;
    bl__outfile *file = NULL;
    assert_int_equal(bl__gguf_writer_create(&writer, NULL), BL_OK);
    assert_int_equal(bl__gguf_set_string(writer, "general.architecture", "llama", 5, NULL), BL_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_equal(bl__gguf_set_u32(writer, sizes[i].key, sizes[i].value, NULL), BL_OK);
    bl__gguf_set_f32(writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f, NULL);
    bl__gguf_set_f32(writer, "llama.rope.scale_linear", scale, NULL);
    bl__gguf_add_tensor(writer, "token_embd.weight", 2, dims, BL_LAYOUT_F32, NULL);
    bl__gguf_add_tensor(writer, name, 2, dims, BL_LAYOUT_F32, NULL);
    assert_int_equal(bl__outfile_open(path, &file, NULL), BL_OK);
    assert_int_equal(bl__gguf_writer_begin(writer, file, NULL), BL_OK);
    zeros[0] = 0;
    bl__gguf_write_data(writer, zeros, sizeof zeros, NULL);
    zeros[0] = 1;
    bl__gguf_write_data(writer, zeros, sizeof zeros, NULL);
    assert_int_equal(bl__gguf_writer_finish(writer, NULL), BL_OK);
    assert_int_equal(bl__outfile_commit(file, NULL), BL_OK);
    bl__gguf_writer_free(writer);
}

static void refused(const char *name, const char *const *settings, bool resume, bl_status status,
                    const char *words);

static void models_of_another_kind_are_refused(void **state) {
    (void)state;
    static const char *const odd[] = {"blk.0.attn_q.bias", "blk.1.ffn_gate_exps.weight",
                                      "blk.2.attn_q.weight", "rope_freqs.weight", "output.weight"};
    char from[160];
    const char *const settings[] = {from, NULL}, *const wide[] = {from, "layers=3", NULL};
    snprintf(from, sizeof from, "from=%s", in_root("odd.gguf"));
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        write_odd_gguf(in_root("odd.gguf"), odd[i], 1);
        refused("b", settings, false, BL_ERR_UNSUPPORTED, odd[i]);
    }
    write_odd_gguf(in_root("odd.gguf"), "blk.0.attn_q.weight", 2);
    refused("b", settings, false, BL_ERR_UNSUPPORTED, "RoPE");
    write_odd_gguf(in_root("odd.gguf"), "blk.0.attn_q.weight", 1);
    refused("b", settings, false, BL_ERR_NOT_FOUND, "blk.0.attn_norm.weight");
    snprintf(from, sizeof from, "from=%s", in_root("silu.gguf"));
    const char *const relu2[] = {from, "activation=relu2", NULL};
    refused("c", relu2, false, BL_ERR_ARGUMENT, "activation silu, expected relu2");
    refused("c", settings, false, BL_ERR_UNSUPPORTED, "ternary already");
    snprintf(from, sizeof from, "from=%s", in_root("groups_float.gguf"));
    refused("d", settings, false, BL_ERR_UNSUPPORTED, "linears in 2 groups");
    snprintf(from, sizeof from, "from=%s", in_root("silu-hf"));
    refused("d", settings, false, BL_ERR_UNSUPPORTED, "packed ternary");
    snprintf(from, sizeof from, "from=%s", in_root("llama_floats"));
    refused("e", wide, false, BL_ERR_ARGUMENT, "layers 2, expected 3");
    snprintf(from, sizeof from, "from=%s", in_root("data.tok"));
    refused("e", settings, false, BL_ERR_LIMIT, "data.tok");
    snprintf(from, sizeof from, "from=%s", in_root("nothing"));
    refused("e", settings, false, BL_ERR_NOT_FOUND, "nothing");
}

/* ---- what goes wrong ---- */

static void poison(const char *name, watch *w, bl_status expected, bl_error *err) {
    setup s;
    make_setup(&s, name, w, NULL);
    assert_int_equal(bl__trainer_open(&s.params, NULL, &w->trainer, err), BL_OK);
    assert_int_equal(bl__trainer_run(w->trainer, err), expected);
    bl__trainer_close(w->trainer);
}

static void a_loss_that_is_not_finite_is_undone(void **state) {
    (void)state;
    bl_error err = {0};
    watch w = {.poison_from = 8, .max_poisoned = 1};
    poison("poisoned", &w, BL_OK, &err);
    assert_int_equal(w.n_warnings, 1);
    assert_string_equal(w.warning, "step 9: the loss is nan; back to step 5, passing over the data "
                                   "since");
    assert_int_equal(w.n_steps, 8 + 15);
    assert_true(isfinite(w.last) && w.last < w.first);
    /* One that comes again at every try, and weights that would go into a checkpoint. */
    w = (watch){.poison_from = 8, .max_poisoned = 100};
    poison("diverging", &w, BL_ERR_LIMIT, &err);
    assert_int_equal(w.n_warnings, 2);
    assert_non_null(strstr(err.message, "diverges"));
    w = (watch){.poison_from = 10, .max_poisoned = 1};
    poison("late", &w, BL_OK, &err);
    assert_non_null(strstr(w.warning, "a weight"));
    assert_true(isfinite(w.last));
}

static void refused(const char *name, const char *const *settings, bool resume, bl_status status,
                    const char *words) {
    bl_error err = {0};
    watch w = {0};
    bl_status found = train(name, &w, settings, resume, 1, NULL, &err);
    if (found != status || !strstr(err.message, words))
        fail_msg("%s: status %d, '%s', expected %d and '%s'", name, (int)found, err.message,
                 (int)status, words);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    static const char *const no_data[] = {"data=/nowhere/data.tok", NULL};
    static const char *const small[] = {"vocab=30", NULL};
    static const char *const wide[] = {"ffn_dim=64", NULL};
    static const char *const unknown[] = {"stepps=3", NULL};
    char bad[96], path[BL_RUN_MAX_PATH];
    const char *const bad_data[] = {bad, NULL};
    snprintf(bad, sizeof bad, "data=%s", in_root("bad.tok"));
    write_tokens(in_root("bad.tok"), VOCAB);
    refused("a", no_data, false, BL_ERR_NOT_FOUND, "/nowhere/data.tok");
    refused("a", small, false, BL_ERR_ARGUMENT, "vocab is 30");
    refused("a", unknown, false, BL_ERR_ARGUMENT, "stepps");
    refused("a", bad_data, false, BL_ERR_FORMAT, "bad.tok");
    refused("whole", NULL, false, BL_ERR_ARGUMENT, "resume it");
    refused("whole", wide, true, BL_ERR_ARGUMENT, "ffn_dim 48, expected 64");
    bl__run_checkpoint_path(in_root("whole"), 20, path);
    assert_int_equal(truncate(path, 1000), 0);
    refused("whole", NULL, true, BL_ERR_FORMAT, "step-00000020.safetensors");
    bl__run_checkpoint_path(in_root("whole"), 15, path); /* the one before is as it was */
    bl__checkpoint *c = NULL;
    assert_int_equal(bl__checkpoint_open(path, &c, NULL), BL_OK);
    bl__checkpoint_close(c);
}

/* A lock belongs to an open file, so a second call in one process meets it as another process does.
 */
static void one_directory_has_one_run(void **state) {
    (void)state;
    watch w = {0};
    setup s;
    bl__trainer *first = NULL, *second = NULL;
    bl_error err = {0};
    char path[160], pid[24];
    make_setup(&s, "locked", &w, NULL);
    assert_int_equal(bl__trainer_open(&s.params, NULL, &first, &err), BL_OK);
    s.params.resume = true;
    assert_int_equal(bl__trainer_open(&s.params, NULL, &second, &err), BL_ERR_IO);
    assert_null(second);
    snprintf(pid, sizeof pid, "process %ld ", (long)getpid());
    assert_non_null(strstr(err.message, pid));
    /* What the first is writing is not taken for what a crash left. */
    snprintf(path, sizeof path, "%s/step-00000005.safetensors.part-77", in_root("locked"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(bl__trainer_open(&s.params, NULL, &second, NULL), BL_ERR_IO);
    assert_true(bl__file_exists(path));
    bl__trainer_close(first);
    /* A file that a killed process left is no lock, whatever it says. */
    snprintf(path, sizeof path, "%s/.lock", in_root("locked"));
    file = fopen(path, "w");
    assert_non_null(file);
    fputs("1\n", file);
    fclose(file);
    assert_int_equal(bl__trainer_open(&s.params, NULL, &second, &err), BL_OK);
    bl__trainer_close(second);
}

static void survive_failing_memory(const char *const *settings) {
    bl_status status = BL_ERR_MEMORY;
    long n = 0;
    while (status) {
        watch w = {0};
        bl_train_report report;
        remove_tree(in_root("memory"));
        bl__alloc_fail_at(++n);
        status = train("memory", &w, settings, false, 1, &report, NULL);
        if (!status)
            status = bl_train_export(in_root("memory"), in_root("memory"), false, NULL);
        if (!status)
            status = bl_train_export_gguf(in_root("memory"), in_root("memory/m.gguf"), false, NULL);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        assert_true(n < 5000);
    }
    assert_true(n > 40);
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    char from[2][160];
    const char *const one[] = {"steps=1", "layers=1", NULL};
    const char *const gguf[] = {from[0], "steps=1", "lambda_steps=1", NULL};
    const char *const own[] = {from[1], "steps=1", NULL};
    snprintf(from[0], sizeof *from, "from=%s", in_root("llama_floats.gguf"));
    snprintf(from[1], sizeof *from, "from=%s", in_root("ternary"));
    survive_failing_memory(one);
    survive_failing_memory(gguf);
    survive_failing_memory(own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stopped_run_goes_on_bit_for_bit),
        cmocka_unit_test(a_crashed_run_goes_on_bit_for_bit),
        cmocka_unit_test(exported_models_have_the_trainers_loss),
        cmocka_unit_test(a_run_starts_with_the_loss_of_its_model),
        cmocka_unit_test(quantization_comes_in_over_stops),
        cmocka_unit_test(models_of_another_kind_are_refused),
        cmocka_unit_test(a_loss_that_is_not_finite_is_undone),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(one_directory_has_one_run),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
