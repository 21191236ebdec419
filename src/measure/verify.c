/* Owns the course of a verification and what counts as wrong in a tensor. Must not know how weights
 * are stored, nor who prints the report. */
#include "bitloom/verify.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "bitloom/system.h"
#include "formats/checksum.h"
#include "formats/gguf.h"
#include "formats/known_answer.h"
#include "measure/figures.h"
#include "measure/findings.h"
#include "measure/known_answer.h"
#include "measure/tensor_stats.h"
#include "measure/verify_kernels.h"
#include "measure/verify_order.h"
#include "model/model.h"
#include "quant/quant.h"

enum { SHOWN = 80, LEAST_COLS = 64, LEAST_WEIGHTS = 1000 };

/* Beyond these, numbers are taken for damage: weights of real models lie between 1e-6 and 1e3. */
static const float absurdly_large = 1e5f, absurdly_small = 1e-10f;
static const double most_zeros = 0.98, most_zero_rows = 0.5, most_lopsided = 0.5;
/* What the order of i2_s must stand out by, in standard deviations, to be believed. */
static const double clear_order = 5;
/* How far logits may be from the known ones, in standard deviations of the logits. A wrong
 * activation gives 2 and more, a wrong RoPE base some tenths; scales that are rounded to
 * float16 a hundredth. */
static const double close_logits = 0.05;

typedef struct verification {
    bl__findings findings;
    const char *path;
    bl__filemap map;
    bl__gguf *gguf; /* NULL when its structure is broken */
    bl__pool *pool;
    bl__tensor_stats *stats;  /* bl__tensor_stats[gguf->n_tensors] */
    const uint8_t *checksums; /* uint64_t[1 + n_tensors], unaligned, in the file; or NULL */
    bl_model *model;
    uint32_t n_threads;
} verification;

#define NAME(t)             (int)((t)->name.len < SHOWN ? (t)->name.len : SHOWN), (t)->name.data
#define FAIL(v, check, ...) bl__findings_add(&(v)->findings, check, BL_VERIFY_FAIL, __VA_ARGS__)
#define WARN(v, check, ...) bl__findings_add(&(v)->findings, check, BL_VERIFY_WARN, __VA_ARGS__)
#define PASS(v, check, ...) bl__findings_settle(&(v)->findings, check, BL_VERIFY_PASS, __VA_ARGS__)
#define SKIP(v, check, ...) bl__findings_settle(&(v)->findings, check, BL_VERIFY_SKIP, __VA_ARGS__)

static bool is_ternary(const bl__gguf_tensor *t) {
    return t->layout != BL_LAYOUT_COUNT && bl__layout_get(t->layout)->ternary;
}

static bool has_i2_s(const bl__gguf *gguf) {
    for (size_t i = 0; i < gguf->n_tensors; i++)
        if (gguf->tensors[i].layout == BL_LAYOUT_I2_S)
            return true;
    return false;
}

/* ---- The file ---- */

static bl_status check_structure(verification *v, bl_error *err) {
    bl_error problem;
    bl_status status = bl__gguf_parse(v->map.data, v->map.len, &v->gguf, &problem);
    if (status == BL_ERR_MEMORY) {
        if (err)
            *err = problem;
        return status;
    }
    if (status) {
        v->gguf = NULL;
        FAIL(v, BL_CHECK_STRUCTURE, "%s", problem.message);
        return BL_OK;
    }
    for (size_t i = 0; i < v->gguf->n_tensors; i++) {
        const bl__gguf_tensor *t = &v->gguf->tensors[i];
        if (t->layout == BL_LAYOUT_COUNT)
            WARN(v, BL_CHECK_STRUCTURE, "%.*s: type %s cannot be read", NAME(t), t->type_name);
    }
    v->findings.report->n_tensors = v->gguf->n_tensors;
    PASS(v, BL_CHECK_STRUCTURE, "GGUF version %u, %zu keys, %zu tensors", v->gguf->version,
         v->gguf->n_pairs, v->gguf->n_tensors);
    return BL_OK;
}

static void find_checksums(verification *v) {
    const bl__gguf_value *kind = bl__gguf_find(v->gguf, BL_CHECKSUM_KIND_KEY);
    const bl__gguf_value *value = bl__gguf_find(v->gguf, BL_CHECKSUM_KEY);
    if (!kind && !value)
        SKIP(v, BL_CHECK_CHECKSUMS, "the file has none; bitloom convert writes them");
    else if (!kind || !value)
        FAIL(v, BL_CHECK_CHECKSUMS, "%s is missing", kind ? BL_CHECKSUM_KEY : BL_CHECKSUM_KIND_KEY);
    else if (kind->type != BL_GGUF_STRING || !bl__string_is(kind->as.s, BL_CHECKSUM_KIND))
        FAIL(v, BL_CHECK_CHECKSUMS, "%s: expected \"%s\"", BL_CHECKSUM_KIND_KEY, BL_CHECKSUM_KIND);
    else if (value->type != BL_GGUF_ARRAY || value->as.array.type != BL_GGUF_U64 ||
             value->as.array.count != 1 + v->gguf->n_tensors)
        FAIL(v, BL_CHECK_CHECKSUMS, "%s: expected an array of %zu u64, one for each tensor and one",
             BL_CHECKSUM_KEY, 1 + v->gguf->n_tensors);
    else
        v->checksums = value->as.array.data;
}

static uint64_t load_checksum(const verification *v, size_t index) {
    uint64_t value;
    memcpy(&value, v->checksums + index * sizeof value, sizeof value);
    return value;
}

/* All before the data section, the first checksum taken as zero. */
static bl_status check_header(const verification *v, bl_error *err) {
    static const uint8_t zeros[sizeof(uint64_t)];
    bl__checksum *sum = bl__checksum_create();
    if (!sum)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a checksum");
    const uint8_t *data = v->map.data, *end = v->checksums + sizeof zeros;
    bl__checksum_add(sum, data, (size_t)(v->checksums - data));
    bl__checksum_add(sum, zeros, sizeof zeros);
    bl__checksum_add(sum, end, v->gguf->data_offset - (size_t)(end - data));
    if (bl__checksum_take(sum) != load_checksum(v, 0))
        FAIL(v, BL_CHECK_CHECKSUMS,
             "the metadata is not what was written (bitloom convert writes an edited file anew)");
    bl__checksum_free(sum);
    return BL_OK;
}

/* Padding is zeros, and nothing comes after the last. */
static void check_padding(const verification *v) {
    const bl__gguf *g = v->gguf;
    size_t last = g->data_offset;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const bl__gguf_tensor *t = &g->tensors[i];
        size_t start = g->data_offset + (size_t)t->offset + t->bytes;
        size_t end = start + (size_t)(-(uint64_t)t->bytes & (g->alignment - 1));
        uint8_t found = 0;
        last = end > last ? end : last;
        for (size_t at = start; at < end && at < v->map.len; at++)
            found |= v->map.data[at];
        if (found)
            FAIL(v, BL_CHECK_CHECKSUMS, "%.*s: bytes behind it are not zero", NAME(t));
    }
    if (v->map.len != last)
        FAIL(v, BL_CHECK_CHECKSUMS, "%zu bytes, expected %zu", v->map.len, last);
}

static bl_status check_checksums(const verification *v, bl_error *err) {
    if (!v->checksums)
        return BL_OK;
    bl_status status = check_header(v, err);
    if (status)
        return status;
    for (size_t i = 0; i < v->gguf->n_tensors; i++)
        if (v->stats[i].checksum != load_checksum(v, i + 1))
            FAIL(v, BL_CHECK_CHECKSUMS, "%.*s: %016llx, expected %016llx",
                 NAME(&v->gguf->tensors[i]), (unsigned long long)v->stats[i].checksum,
                 (unsigned long long)load_checksum(v, i + 1));
    check_padding(v);
    PASS(v, BL_CHECK_CHECKSUMS, "metadata and %zu tensors are what was written",
         v->gguf->n_tensors);
    return BL_OK;
}

/* ---- Tensors ---- */

/* One pass over all tensors. */
static bl_status count_tensors(verification *v, bl_error *err) {
    const bl_verify_params *p = v->findings.params;
    const bl__gguf *g = v->gguf;
    uint64_t done = 0, all = 0;
    unsigned common = v->checksums ? BL_STATS_CHECKSUM : 0;
    bool order = has_i2_s(g);
    if (!(v->stats = bl__calloc(g->n_tensors, sizeof *v->stats)))
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate counts of %zu tensors", g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++)
        all += g->tensors[i].bytes;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const bl__gguf_tensor *t = &g->tensors[i];
        unsigned wanted = common | (order && is_ternary(t) ? BL_STATS_ROWS : 0) |
                          (t->layout == BL_LAYOUT_I2_S ? BL_STATS_COLS : 0);
        bl_status status = bl__tensor_stats_count(t, wanted, v->pool, &v->stats[i], err);
        if (status)
            return status;
        bl__filemap_release(t->data, t->bytes);
        done += t->bytes;
        if (p->progress && !p->progress(p->user, done, all))
            return bl__fail(err, BL_ERR_CANCELLED, "cancelled at %.*s", NAME(t));
    }
    return BL_OK;
}

static void judge_numbers(const verification *v, const bl__gguf_tensor *t,
                          const bl__tensor_stats *s) {
    bool ternary = is_ternary(t);
    if (s->bad_numbers)
        FAIL(v, BL_CHECK_NUMBERS, "%.*s: NaN or infinite in %llu rows, the first is %lld", NAME(t),
             (unsigned long long)s->bad_numbers, (long long)s->first_bad_number);
    if (s->largest > absurdly_large)
        FAIL(v, BL_CHECK_NUMBERS, "%.*s: weights of up to %g", NAME(t), (double)s->largest);
    else if (s->largest > 0 && s->largest < absurdly_small)
        WARN(v, BL_CHECK_NUMBERS, "%.*s: no weight larger than %g", NAME(t), (double)s->largest);
    if (s->odd_rows)
        bl__findings_add(&v->findings, BL_CHECK_NUMBERS, ternary ? BL_VERIFY_FAIL : BL_VERIFY_WARN,
                         "%.*s: %llu rows a thousand times as large as most, the first is %lld",
                         NAME(t), (unsigned long long)s->odd_rows, (long long)s->first_odd);
    if (ternary && s->faint_rows)
        WARN(v, BL_CHECK_NUMBERS, "%.*s: %llu rows a millionth as large as most, the first is %lld",
             NAME(t), (unsigned long long)s->faint_rows, (long long)s->first_faint);
}

static bool is_bias(const bl__gguf_tensor *t) {
    static const char suffix[] = ".bias";
    size_t n = sizeof suffix - 1;
    return t->name.len > n && memcmp(t->name.data + t->name.len - n, suffix, n) == 0;
}

static double share(uint64_t part, uint64_t whole) {
    return whole ? (double)part / (double)whole : 0;
}

static void judge_weights(const verification *v, const bl__gguf_tensor *t,
                          const bl__tensor_stats *s) {
    bool matrix = t->rows > 1 && t->cols > 1;
    uint64_t rows = t->rows, nonzero = s->minus + s->plus;
    if (!s->weights)
        return; /* the other checks have said why */
    if (s->largest == 0 && !is_bias(t)) {
        FAIL(v, BL_CHECK_WEIGHTS, "%.*s: all weights are zero", NAME(t));
        return;
    }
    if (matrix && s->constant) {
        FAIL(v, BL_CHECK_WEIGHTS, "%.*s: all weights are the same", NAME(t));
        return;
    }
    if (matrix && t->cols >= LEAST_COLS && s->one_sided)
        FAIL(v, BL_CHECK_WEIGHTS, "%.*s: %llu rows of one and the same weight", NAME(t),
             (unsigned long long)s->one_sided);
    if (matrix && share(s->zero_rows, rows) > most_zero_rows)
        WARN(v, BL_CHECK_WEIGHTS, "%.*s: %.0f %% of the rows are zero", NAME(t),
             100 * share(s->zero_rows, rows));
    if (!is_ternary(t) || s->weights < LEAST_WEIGHTS)
        return;
    if (share(bl__tensor_stats_zeros(s), s->weights) > most_zeros)
        WARN(v, BL_CHECK_WEIGHTS, "%.*s: %.1f %% zeros", NAME(t),
             100 * share(bl__tensor_stats_zeros(s), s->weights));
    double lopsided = fabs((double)s->plus - (double)s->minus) / (double)(nonzero ? nonzero : 1);
    if (lopsided > most_lopsided)
        WARN(v, BL_CHECK_WEIGHTS, "%.*s: %.0f %% are -1 and %.0f %% are +1", NAME(t),
             100 * share(s->minus, s->weights), 100 * share(s->plus, s->weights));
}

static void check_tensors(const verification *v) {
    uint64_t n_ternary = 0, n_read = 0;
    double least = 1, most = 0;
    for (size_t i = 0; i < v->gguf->n_tensors; i++) {
        const bl__gguf_tensor *t = &v->gguf->tensors[i];
        const bl__tensor_stats *s = &v->stats[i];
        if (t->layout == BL_LAYOUT_COUNT)
            continue;
        n_read++;
        judge_numbers(v, t, s);
        judge_weights(v, t, s);
        if (s->bad_codes)
            FAIL(v, BL_CHECK_CODES,
                 "%.*s: codes that %s does not have in %llu rows, the first is %lld", NAME(t),
                 t->type_name, (unsigned long long)s->bad_codes, (long long)s->first_bad_code);
        if (is_ternary(t) && s->weights) {
            double zeros = share(bl__tensor_stats_zeros(s), s->weights);
            least = zeros < least ? zeros : least;
            most = zeros > most ? zeros : most;
        }
        n_ternary += is_ternary(t);
    }
    PASS(v, BL_CHECK_NUMBERS, "%llu tensors without NaN, infinity or absurd size",
         (unsigned long long)n_read);
    if (n_ternary)
        PASS(v, BL_CHECK_CODES, "%llu ternary tensors hold -1, 0, +1 only",
             (unsigned long long)n_ternary);
    else
        SKIP(v, BL_CHECK_CODES, "no ternary tensors");
    if (n_ternary)
        PASS(v, BL_CHECK_WEIGHTS, "no tensor is empty or constant; %.1f to %.1f %% zeros",
             100 * least, 100 * most);
    else
        PASS(v, BL_CHECK_WEIGHTS, "no tensor is empty or constant");
}

static bl_status check_order(const verification *v, bl_error *err) {
    bool no_memory;
    if (!has_i2_s(v->gguf)) {
        SKIP(v, BL_CHECK_ORDER, "no i2_s tensors");
        return BL_OK;
    }
    bl__order_evidence e = bl__order_weigh(v->gguf, v->stats, &no_memory);
    if (no_memory)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate what the order of i2_s is told by");
    if (e.arm > clear_order && e.arm > 2 * e.x86)
        FAIL(v, BL_CHECK_ORDER,
             "written in ARM order, read in x86 order: columns agree with norms and rows by %.1f "
             "deviations from chance as ARM, %.1f as x86 (bitloom convert --i2s-order arm)",
             e.arm, e.x86);
    else if (e.x86 > clear_order && e.x86 > 2 * e.arm)
        PASS(v, BL_CHECK_ORDER,
             "x86, as it is read: %.1f deviations from chance, %.1f as ARM (%zu relations)", e.x86,
             e.arm, e.n_relations);
    else
        WARN(v, BL_CHECK_ORDER,
             "cannot tell: %.1f deviations from chance as x86, %.1f as ARM (%zu relations); the "
             "weights may be random",
             e.x86, e.arm, e.n_relations);
    return BL_OK;
}

/* ---- Running ---- */

static bl_status check_model(verification *v, bl_error *err) {
    bl_error problem;
    if (!v->gguf->n_tensors) {
        SKIP(v, BL_CHECK_MODEL, "no tensors: a vocabulary alone");
        return BL_OK;
    }
    bl_status status = bl__model_from_bytes(v->map.data, v->map.len, BL_SPARSITY_AUTO, v->pool,
                                            &v->model, &problem);
    if (status) {
        v->model = NULL;
        if (status == BL_ERR_MEMORY) {
            if (err)
                *err = problem;
            return status;
        }
        FAIL(v, BL_CHECK_MODEL, "%s", problem.message);
        return BL_OK;
    }
    const bl_model_info *info = bl_model_get_info(v->model);
    PASS(v, BL_CHECK_MODEL, "%s, %u layers, dim %u, ffn %u, %s, %s activations", info->architecture,
         info->n_layers, info->dim, info->ffn_dim, info->activation,
         info->int8_activations ? "int8" : "float");
    return BL_OK;
}

static bl_status check_tokenizer(const verification *v, bl_error *err) {
    if (!bl__gguf_find(v->gguf, "tokenizer.ggml.model")) {
        SKIP(v, BL_CHECK_TOKENIZER, "the file has none");
        return BL_OK;
    }
    return bl__verify_tokenizer(&v->findings, v->path,
                                v->model ? bl_model_get_info(v->model)->vocab : 0, err);
}

static bl_status check_kernels(const verification *v, bl_error *err) {
    char failed[64];
    size_t n_failed;
    bl_status status = bl__verify_kernels(failed, sizeof failed, &n_failed, err);
    if (status)
        return status;
    if (n_failed)
        FAIL(v, BL_CHECK_KERNELS, "%s differs from ref (%zu do)", failed, n_failed);
    PASS(v, BL_CHECK_KERNELS, "%s: the same bits", bl_kernel_levels());
    return BL_OK;
}

static void judge_answer(const verification *v, const bl__answer_check *a) {
    if (a->identical && a->n_same == BL_KNOWN_TOKENS)
        PASS(v, BL_CHECK_ANSWER, "all %d tokens and their logits, to the bit", BL_KNOWN_TOKENS);
    else if (a->largest_gap <= close_logits && a->largest_drift <= close_logits)
        PASS(v, BL_CHECK_ANSWER, "%zu of %d tokens, logits within %.3f deviations", a->n_same,
             BL_KNOWN_TOKENS, a->largest_drift);
    else if (isnan(a->largest_gap) || isnan(a->largest_drift))
        FAIL(v, BL_CHECK_ANSWER, "the model's logits are not finite, or all the same");
    else
        FAIL(v, BL_CHECK_ANSWER,
             "%zu of %d tokens, logits up to %.2f deviations away, expected %.2f at most: wrong "
             "metadata, weights or arithmetic",
             a->n_same, BL_KNOWN_TOKENS, fmax(a->largest_drift, a->largest_gap), close_logits);
}

static bl_status check_answer(const verification *v, bl_error *err) {
    bl_known_answer answer;
    bl__answer_check check;
    bl_error problem;
    bool found;
    bl_status status = bl__known_answer_read(v->gguf, &answer, &found, &problem);
    if (!status && !found) {
        SKIP(v, BL_CHECK_ANSWER, "the file carries none; bitloom convert --known-answer adds one");
        return BL_OK;
    }
    if (!status && !v->model) {
        SKIP(v, BL_CHECK_ANSWER, "the model does not open");
        return BL_OK;
    }
    if (!status)
        status = bl__known_answer_check(v->model, &answer, v->n_threads, &check, &problem);
    if (status == BL_ERR_MEMORY) {
        if (err)
            *err = problem;
        return status;
    }
    if (status)
        FAIL(v, BL_CHECK_ANSWER, "%s", problem.message);
    else
        judge_answer(v, &check);
    return BL_OK;
}

/* ---- The whole ---- */

static bl_status check_all(verification *v, bl_error *err) {
    bl_status status;
    if ((status = check_structure(v, err)) || (status = check_kernels(v, err)) || !v->gguf)
        return status;
    find_checksums(v);
    if ((status = count_tensors(v, err)) || (status = check_checksums(v, err)))
        return status;
    check_tensors(v);
    if ((status = check_order(v, err)) || (status = check_model(v, err)) ||
        (status = check_tokenizer(v, err)))
        return status;
    return check_answer(v, err);
}

static void release(verification *v) {
    for (size_t i = 0; v->stats && i < v->gguf->n_tensors; i++)
        bl__tensor_stats_free(&v->stats[i]);
    bl__free(v->stats);
    bl_model_close(v->model);
    bl__gguf_free(v->gguf);
    bl__pool_free(v->pool);
    bl__filemap_close(&v->map);
}

bl_status bl_verify(const char *path, const bl_verify_params *params, bl_verify_report *out,
                    bl_error *err) {
    static const bl_verify_params defaults = {0};
    bl_verify_report report;
    verification v = {.path = path};
    double start = bl__seconds_now();
    v.findings = (bl__findings){params ? params : &defaults, &report};
    v.n_threads = params && params->n_threads ? params->n_threads : bl_cpu_physical_cores();
    bl_status status = bl__filemap_open(path, &v.map, err);
    if (status)
        return status;
    bl__findings_start(&v.findings);
    report.file_bytes = v.map.len;
    if (!(status = bl__pool_create(v.n_threads, false, &v.pool, err)))
        status = check_all(&v, err);
    release(&v);
    if (status)
        return status;
    report.seconds = bl__seconds_now() - start;
    *out = report;
    return BL_OK;
}
