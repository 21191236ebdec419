/* Shared by the golden tests: recorded figures, converted checkpoints, logits and greedy tokens
 * through the public API, and one process per kernel level. Figures are read here with jansson
 * rather than with formats/, so that a bug there cannot excuse itself. Include after cmocka.h. */
#ifndef BL_TESTS_GOLDEN_H
#define BL_TESTS_GOLDEN_H

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "assets.h"
#include "base/bytes.h"
#include "base/file.h"
#include "bitloom/bitloom.h"

/* ---- Recorded figures: a safetensors file ---- */

typedef struct golden_figures {
    bl__filemap map;
    json_t *header;
    const uint8_t *body;
    size_t body_len;
} golden_figures;

static inline void golden_open(const char *path, golden_figures *out) {
    bl_error err = {0};
    if (bl__filemap_open(path, &out->map, &err))
        fail_msg("%s", err.message);
    uint64_t len = bl__load_u64(out->map.data);
    assert_true(out->map.len > 8 && len <= out->map.len - 8);
    out->header = json_loadb((const char *)out->map.data + 8, (size_t)len, 0, NULL);
    assert_non_null(out->header);
    out->body = out->map.data + 8 + len;
    out->body_len = out->map.len - 8 - (size_t)len;
}

static inline void golden_close(golden_figures *figures) {
    json_decref(figures->header);
    bl__filemap_close(&figures->map);
}

/* The tensor `name` of 4-byte elements; *n receives how many there are. */
static inline const void *golden_tensor(const golden_figures *figures, const char *name,
                                        const char *dtype, size_t *n) {
    json_t *tensor = json_object_get(figures->header, name);
    json_t *offsets = json_object_get(tensor, "data_offsets");
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
    size_t end = (size_t)json_integer_value(json_array_get(offsets, 1));
    assert_string_equal(json_string_value(json_object_get(tensor, "dtype")), dtype);
    assert_true(begin <= end && end <= figures->body_len);
    *n = (end - begin) / 4;
    return figures->body + begin;
}

static inline const bl_token *golden_ids(const golden_figures *figures, const char *name,
                                         size_t *n) {
    return golden_tensor(figures, name, "I32", n);
}

static inline const float *golden_floats(const golden_figures *figures, const char *name,
                                         size_t *n) {
    return golden_tensor(figures, name, "F32", n);
}

/* ---- Converted checkpoints, in a folder of this process that golden_cleanup() removes ---- */

static char golden_folder[512];

static inline void golden_cleanup(void) {
    char path[600];
    snprintf(path, sizeof path, "%s/model.gguf", golden_folder);
    unlink(path);
    rmdir(golden_folder);
}

/* Converts the checkpoint at `input` and opens the result. type: as bl_convert_params says. */
static inline bl_model *golden_convert(const char *input, const char *type) {
    char path[600];
    bl_error err = {0};
    bl_model *model = NULL;
    if (!golden_folder[0]) {
        const char *parent = getenv("TMPDIR");
        snprintf(golden_folder, sizeof golden_folder, "%s/bitloom-golden-XXXXXX",
                 parent ? parent : "/tmp");
        assert_non_null(mkdtemp(golden_folder));
        atexit(golden_cleanup);
    }
    snprintf(path, sizeof path, "%s/model.gguf", golden_folder);
    if (bl_convert(input, path, &(bl_convert_params){.type = type}, NULL, &err))
        fail_msg("converting %s: %s", input, err.message);
    if (bl_model_open(path, NULL, &model, &err))
        fail_msg("opening %s, converted: %s", input, err.message);
    return model;
}

/* ---- Running ---- */

/* Of the sessions below. Keys and values rounded to float16 flip a few of the roundings to int8
 * that follow, so only float32 is held to what was recorded as closely as sums allow. */
static bl_cache_type golden_cache = BL_CACHE_F32;

static inline bl_session *golden_session(const bl_model *model, uint32_t n_threads,
                                         uint32_t n_batch) {
    bl_session *session = NULL;
    bl_error err = {0};
    bl_session_params params = {
        .n_threads = n_threads, .n_batch = n_batch, .cache_type = golden_cache};
    if (bl_session_create(model, &params, &session, &err))
        fail_msg("%s", err.message);
    return session;
}

static inline void golden_eval(bl_session *session, const bl_token *ids, size_t n, float *logits) {
    bl_error err = {0};
    if (bl_session_eval(session, ids, n, logits, &err))
        fail_msg("%s", err.message);
}

/* Logits after every token, fed `chunk` at a time: float[n][vocab], release with free(). */
static inline float *golden_logits(const bl_model *model, uint32_t n_threads, const bl_token *ids,
                                   size_t n, size_t chunk) {
    size_t vocab = bl_model_get_info(model)->vocab;
    float *logits = malloc(n * vocab * sizeof *logits);
    bl_session *session = golden_session(model, n_threads, 0);
    assert_non_null(logits);
    for (size_t i = 0; i < n; i += chunk)
        golden_eval(session, ids + i, n - i < chunk ? n - i : chunk, logits + i * vocab);
    bl_session_free(session);
    return logits;
}

static inline bl_token golden_best(const float *logits, size_t vocab) {
    size_t best = 0;
    for (size_t i = 1; i < vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    return (bl_token)best;
}

/* Feeds ids[n_prompt] and goes on greedily; asserts that the tokens are ids[n_prompt ... n]. */
static inline void golden_greedy(const bl_model *model, uint32_t n_threads, const bl_token *ids,
                                 size_t n_prompt, size_t n) {
    size_t vocab = bl_model_get_info(model)->vocab;
    bl_session *session = golden_session(model, n_threads, 0);
    golden_eval(session, ids, n_prompt, NULL);
    for (size_t i = n_prompt; i < n; i++) {
        bl_token token = golden_best(bl_session_logits(session), vocab);
        if (token != ids[i])
            fail_msg("greedy token %zu is %d, expected %d", i, token, ids[i]);
        golden_eval(session, &token, 1, NULL);
    }
    bl_session_free(session);
}

/* The largest |a - b| of a row as a share of the largest |b|; infinite when a value is NaN. */
static inline double golden_deviation(const float *a, const float *b, size_t vocab) {
    double most = 0, largest = 0;
    for (size_t i = 0; i < vocab; i++) {
        double difference = fabs((double)a[i] - (double)b[i]);
        if (isnan(difference))
            return INFINITY;
        most = difference > most ? difference : most;
        largest = fabs((double)b[i]) > largest ? fabs((double)b[i]) : largest;
    }
    return most / largest;
}

/* -log p of ids[1 ... n - 1], each after all that precede it, summed. */
static inline double golden_nll(bl_session *session, size_t vocab, const bl_token *ids, size_t n) {
    float *logits = malloc(n * vocab * sizeof *logits);
    double nll = 0;
    assert_non_null(logits);
    golden_eval(session, ids, n, logits);
    for (size_t i = 0; i + 1 < n; i++) {
        const float *row = logits + i * vocab;
        double largest = (double)row[golden_best(row, vocab)], sum = 0;
        for (size_t v = 0; v < vocab; v++)
            sum += exp((double)row[v] - largest);
        nll += log(sum) + largest - (double)row[ids[i + 1]];
    }
    free(logits);
    return nll;
}

/* The bytes of a text file, NUL-terminated; release with bl__free of base/alloc.h. */
static inline char *golden_text(const char *path, size_t *len) {
    char *text = NULL;
    bl_error err = {0};
    if (bl__file_read(path, (size_t)1 << 26, &text, len, &err))
        fail_msg("%s", err.message);
    return text;
}

/* ---- Kernel levels ---- */

/* The level is read once in a process, so `run` (a cmocka group; 0 = passed) is executed in a
 * fresh process per level that this machine has; in this one when BITLOOM_CPU asks for a level. */
static inline int golden_on_every_level(char *program, int (*run)(void)) {
    if (getenv("BITLOOM_CPU")) {
        printf("kernel level %s\n", bl_kernel_level());
        return run();
    }
    char levels[256];
    int result = EXIT_SUCCESS;
    snprintf(levels, sizeof levels, "%s", bl_kernel_levels());
    for (char *level = levels, *rest; *level; level = rest) {
        size_t len = strcspn(level, " ");
        rest = level + len + (level[len] != '\0');
        level[len] = '\0';
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            setenv("BITLOOM_CPU", level, 1);
            execl("/proc/self/exe", program, (char *)NULL);
            _exit(EXIT_FAILURE);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) < 0)
            return EXIT_FAILURE;
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
        if (code != EXIT_SUCCESS && result != EXIT_FAILURE)
            result = code == EXIT_SKIPPED ? EXIT_SKIPPED : EXIT_FAILURE;
    }
    return result;
}

#endif
