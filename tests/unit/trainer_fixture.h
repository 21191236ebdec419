/* What the tests of runs share: a folder, a made-up language in a token file, a small model's
 * settings, and what a run or an exported model came to. */
#ifndef BL_TESTS_TRAINER_FIXTURE_H
#define BL_TESTS_TRAINER_FIXTURE_H

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "bitloom/bitloom.h"
#include "formats/safetensors.h"
#include "train/data.h"
#include "train/run_directory.h"
#include "train/trainer.h"

enum { VOCAB = 40, N_TOKENS = 6000, N_TRAIN = 5000, ROW = 24, MAX_SETTINGS = 24 };

static char root[] = "/tmp/bl_trainer_XXXXXX";
static char data_setting[64];

static char *in_root(const char *name) {
    static char paths[4][128];
    static unsigned at;
    char *path = paths[at++ % 4];
    snprintf(path, 128, "%s/%s", root, name);
    return path;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
static void remove_tree(const char *path) {
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* A token file: each token mostly decides the next. Documents begin every so many tokens. */
static void write_documents(const char *path, uint16_t bad_id, size_t every) {
    uint8_t header[BL_TOKENS_HEADER] = "BLTOKENS";
    const size_t n_docs = (N_TOKENS + every - 1) / every;
    const uint64_t words[] = {VOCAB, N_TOKENS, n_docs, N_TRAIN, 0, N_TOKENS};
    const uint32_t version = 1, width = 2;
    static uint16_t ids[N_TOKENS];
    bl__random random;
    bl__random_seed(&random, 5);
    memcpy(header + 8, &version, 4);
    memcpy(header + 12, &width, 4);
    memcpy(header + 16, words, sizeof words);
    for (size_t i = 1; i < N_TOKENS; i++)
        ids[i] = (uint16_t)(bl__random_below(&random, 5) ? (ids[i - 1] * 7u + 3u) % VOCAB
                                                         : bl__random_below(&random, VOCAB));
    if (bad_id)
        ids[100] = bad_id;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, 1, sizeof header, file), sizeof header);
    assert_int_equal(fwrite(ids, 2, N_TOKENS, file), N_TOKENS);
    for (uint64_t doc = 0; doc < N_TOKENS; doc += every)
        assert_int_equal(fwrite(&doc, 8, 1, file), 1);
    fclose(file);
}
static void write_tokens(const char *path, uint16_t bad_id) {
    write_documents(path, bad_id, N_TOKENS);
}

typedef struct watch {
    uint64_t stop_after;                /* 0: never */
    uint64_t poison_from, poison_until; /* steps after which a weight becomes NaN */
    unsigned n_poisoned, max_poisoned;
    bl__trainer *trainer;
    unsigned n_steps, n_warnings;
    double first, last;
    char warning[200];
} watch;

static bool on_step(void *user, const bl_train_step *s) {
    watch *w = user;
    if (w->n_steps++ == 0)
        w->first = s->loss;
    w->last = s->loss;
    if (w->trainer && s->step == w->poison_from && w->n_poisoned < w->max_poisoned) {
        size_t n;
        bl__network_params(w->trainer ? bl__trainer_network(w->trainer) : NULL, &n)[0].value[7] =
            NAN;
        w->n_poisoned++;
    }
    return s->step != w->stop_after;
}

static void on_warning(void *user, const char *message) {
    watch *w = user;
    w->n_warnings++;
    snprintf(w->warning, sizeof w->warning, "%s", message);
}

typedef struct setup {
    const char *settings[MAX_SETTINGS];
    bl_train_params params;
} setup;

/* A small model, then the settings given (NULL ends them). */
static void make_setup(setup *s, const char *name, watch *w, const char *const *settings) {
    static const char *const base[] = {
        "layers=2",        "dim=32",           "ffn_dim=48", "heads=4",       "kv_heads=2",
        "tokens=24",       "rows=4",           "steps=20",   "eval_rows=0",   "rate=0.01",
        "save_interval=5", "eval_interval=10", "seed=3",     "log_interval=1"};
    size_t n = 0;
    for (; n < sizeof base / sizeof *base; n++)
        s->settings[n] = base[n];
    s->settings[n++] = data_setting;
    while (settings && *settings)
        s->settings[n++] = *settings++;
    s->params = (bl_train_params){.settings = s->settings,
                                  .n_settings = n,
                                  .output = in_root(name),
                                  .n_threads = 1,
                                  .progress = on_step,
                                  .warn = on_warning,
                                  .user = w};
}

static bl_status train(const char *name, watch *w, const char *const *settings, bool resume,
                       uint32_t threads, bl_train_report *report, bl_error *err) {
    setup s;
    make_setup(&s, name, w, settings);
    s.params.resume = resume;
    s.params.n_threads = threads;
    return bl_train(&s.params, report, err);
}

static void must_train(const char *name, watch *w, const char *const *settings, bool resume,
                       uint32_t threads, bl_train_report *report) {
    bl_error err = {0};
    if (train(name, w, settings, resume, threads, report, &err) != BL_OK)
        fail_msg("%s: %s", name, err.message);
}

static void assert_same_checkpoints(const char *a, const char *b, uint64_t step) {
    bl__tensor_set *sets[2];
    const char *const names[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        char path[BL_RUN_MAX_PATH];
        bl_error err = {0};
        bl__run_checkpoint_path(in_root(names[i]), step, path);
        if (bl__tensor_set_open(path, &sets[i], &err) != BL_OK)
            fail_msg("%s", err.message);
    }
    assert_int_equal(sets[0]->n_tensors, sets[1]->n_tensors);
    assert_true(sets[0]->n_tensors > 50);
    for (size_t i = 0; i < sets[0]->n_tensors; i++) {
        const bl__safetensor *x = &sets[0]->tensors[i], *y = &sets[1]->tensors[i];
        assert_string_equal(x->name.data, y->name.data);
        if (x->bytes != y->bytes || memcmp(x->data, y->data, x->bytes) != 0)
            fail_msg("%s differs", x->name.data);
    }
    bl__tensor_set_close(sets[0]);
    bl__tensor_set_close(sets[1]);
}

/* ---- what is exported ---- */

static double token_loss(const float *logits, size_t vocab, int32_t target) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < vocab; i++)
        max = (double)logits[i] > max ? (double)logits[i] : max;
    for (size_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum) - (double)logits[target];
}

/* Mean loss of a GGUF model over the validation windows, each document of a window on its own. */
static double model_loss(const char *path, const char *data, bool apart) {
    static float logits[ROW * VOCAB];
    int32_t inputs[ROW], targets[ROW], firsts[ROW];
    bl_model *model = NULL;
    bl_session *session = NULL;
    const bl_session_params params = {.cache_type = BL_CACHE_F32};
    bl__tokens tokens;
    bl__windows windows;
    bl_error err = {0};
    double loss = 0;
    size_t n = 0;
    if (bl_model_open(path, NULL, &model, &err) != BL_OK)
        fail_msg("%s", err.message);
    assert_int_equal(bl_session_create(model, &params, &session, NULL), BL_OK);
    assert_int_equal(bl__tokens_open(in_root(data), &tokens, NULL), BL_OK);
    assert_int_equal(bl__windows_init(&tokens, ROW, 3, apart, &windows, NULL), BL_OK);
    for (size_t i = 0; i < windows.n_valid_windows; i++) {
        assert_int_equal(bl__windows_valid(&windows, i, 1, inputs, targets, firsts, NULL), BL_OK);
        for (size_t k = 0, end; k < ROW; k = end) {
            for (end = k + 1; end < ROW && firsts[end] == firsts[k];)
                end++;
            bl_session_truncate(session, 0);
            assert_int_equal(
                bl_session_eval(session, inputs + k, end - k, logits + k * VOCAB, NULL), BL_OK);
        }
        for (size_t k = 0; k < ROW; k++)
            if (targets[k] >= 0) {
                loss += token_loss(logits + k * VOCAB, VOCAB, targets[k]);
                n++;
            }
    }
    assert_true(n > 900);
    bl__tokens_close(&tokens);
    bl_session_free(session);
    bl_model_close(model);
    return loss / (double)n;
}

/* ---- the folder ---- */

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(root))
        return -1;
    write_tokens(in_root("data.tok"), 0);
    snprintf(data_setting, sizeof data_setting, "data=%s", in_root("data.tok"));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    remove_tree(root);
    return 0;
}

#endif
