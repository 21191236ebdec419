/* Owns counting what is in a tensor. Must not know which counts are good. */
#include "measure/tensor_stats.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/half.h"
#include "formats/checksum.h"
#include "quant/quant.h"

enum {
    STRIPE_ROWS = 64,
    EXPONENTS = 256,     /* of float32 */
    ODD_EXPONENTS = 10,  /* above the median row's */
    FAINT_EXPONENTS = 20 /* below it */
};

/* What one part of the rows came to. */
typedef struct partial {
    bl__tensor_stats sum;
    uint32_t most, differs;        /* bits: the largest |w|; where weights differ from the first */
    uint64_t exponents[EXPONENTS]; /* rows by the exponent of their largest weight */
} partial;

typedef struct count_job {
    const bl__gguf_tensor *tensor;
    bool checksum;
    float *rows;          /* float[n_parts][cols] */
    uint8_t *row_sizes;   /* uint8_t[rows]: the exponent of the largest weight; 0 for zeros */
    uint32_t *row_counts; /* uint32_t[rows] or NULL */
    uint32_t *col_counts; /* uint32_t[n_parts][cols] or NULL */
    uint32_t first;       /* bits of the tensor's first weight */
    partial *partials;    /* partial[n_parts] */
    uint64_t value;       /* the checksum */
} count_job;

static void note_row(int64_t *first, size_t row) {
    if (*first == BL_NO_ROW || (int64_t)row < *first)
        *first = (int64_t)row;
}

/* A row that the layout's own check refuses: for a scale or weight that is no number, or a code. */
static void count_bad_row(partial *p, const float *row, size_t cols, size_t index) {
    bool finite = true;
    for (size_t k = 0; k < cols; k++)
        finite &= (bl__f32_bits(row[k]) & 0x7fffffffu) < 0x7f800000u;
    if (finite) {
        p->sum.bad_codes++;
        note_row(&p->sum.first_bad_code, index);
    } else {
        p->sum.bad_numbers++;
        note_row(&p->sum.first_bad_number, index);
    }
}

/* The loop that takes the time, in integers so that it can be vectorized. */
static void count_row(const count_job *job, partial *p, const float *row, size_t index) {
    size_t cols = job->tensor->cols;
    uint32_t minus = 0, plus = 0, most = 0, differs = 0, first = bl__f32_bits(row[0]);
    for (size_t k = 0; k < cols; k++) {
        uint32_t bits = bl__f32_bits(row[k]), size = bits & 0x7fffffffu;
        minus += row[k] < 0; /* a row has fewer than 2^32 weights of either sign */
        plus += row[k] > 0;
        most = size > most ? size : most;
        differs |= bits ^ first;
    }
    p->sum.minus += minus;
    p->sum.plus += plus;
    p->sum.weights += cols;
    p->sum.zero_rows += most == 0;
    p->sum.one_sided += most != 0 && !differs;
    p->most = most > p->most ? most : p->most;
    p->differs |= differs | (first ^ job->first);
    job->row_sizes[index] = (uint8_t)(most >> 23);
    if (most)
        p->exponents[most >> 23]++;
    if (job->row_counts)
        job->row_counts[index] = minus + plus;
}

/* Part 0 takes the checksum; part i + 1 counts the rows of stripes i, i + n, ... */
static void count_part(void *context, size_t part, size_t n_parts) {
    count_job *job = context;
    const bl__gguf_tensor *t = job->tensor;
    size_t n = n_parts - 1;
    if (part == 0) {
        if (job->checksum)
            job->value = bl__checksum_of(t->data, t->bytes);
        return;
    }
    part--;
    float *row = job->rows + part * t->cols;
    partial *p = &job->partials[part];
    for (size_t r = part * STRIPE_ROWS; r < t->rows; r += n * STRIPE_ROWS) {
        size_t end = t->rows - r < STRIPE_ROWS ? t->rows : r + STRIPE_ROWS;
        for (size_t i = r; i < end; i++) {
            bl__layout_unpack_row(t->layout, t->data, t->rows, t->cols, i, row);
            if (!bl__layout_check_row(t->layout, t->data, t->rows, t->cols, i)) {
                count_bad_row(p, row, t->cols, i);
                continue;
            }
            count_row(job, p, row, i);
            if (job->col_counts)
                for (size_t k = 0; k < t->cols; k++)
                    job->col_counts[part * t->cols + k] += row[k] != 0;
        }
    }
}

static void add_partial(partial *sum, const partial *p) {
    bl__tensor_stats *to = &sum->sum;
    to->weights += p->sum.weights;
    to->minus += p->sum.minus;
    to->plus += p->sum.plus;
    to->bad_codes += p->sum.bad_codes;
    to->bad_numbers += p->sum.bad_numbers;
    to->zero_rows += p->sum.zero_rows;
    to->one_sided += p->sum.one_sided;
    if (p->sum.first_bad_code != BL_NO_ROW)
        note_row(&to->first_bad_code, (size_t)p->sum.first_bad_code);
    if (p->sum.first_bad_number != BL_NO_ROW)
        note_row(&to->first_bad_number, (size_t)p->sum.first_bad_number);
    sum->most = p->most > sum->most ? p->most : sum->most;
    sum->differs |= p->differs;
    for (size_t i = 0; i < EXPONENTS; i++)
        sum->exponents[i] += p->exponents[i];
}

/* Rows that are far larger or smaller than the others, by the exponents of their largest weights.
 */
static void find_outliers(const count_job *job, const partial *all, bl__tensor_stats *out) {
    uint64_t rows = 0, seen = 0;
    int median = 0;
    for (size_t i = 0; i < EXPONENTS; i++)
        rows += all->exponents[i];
    while (median < EXPONENTS - 1 && (seen += all->exponents[median]) * 2 < rows)
        median++;
    for (size_t r = 0; rows && r < job->tensor->rows; r++) {
        int size = job->row_sizes[r];
        if (size > median + ODD_EXPONENTS) {
            out->odd_rows++;
            note_row(&out->first_odd, r);
        } else if (size && size < median - FAINT_EXPONENTS) {
            out->faint_rows++;
            note_row(&out->first_faint, r);
        }
    }
}

static void gather(const count_job *job, size_t n, bl__tensor_stats *out) {
    const bl__gguf_tensor *t = job->tensor;
    partial all = job->partials[0];
    for (size_t i = 1; i < n; i++)
        add_partial(&all, &job->partials[i]);
    *out = all.sum;
    out->checksum = job->value;
    out->largest = bl__bits_f32(all.most);
    out->constant = all.sum.weights == (uint64_t)t->rows * t->cols && !all.differs;
    out->row_counts = job->row_counts;
    out->col_counts = job->col_counts;
    for (size_t i = 1; job->col_counts && i < n; i++)
        for (size_t k = 0; k < t->cols; k++)
            job->col_counts[k] += job->col_counts[i * t->cols + k];
    find_outliers(job, &all, out);
}

bl_status bl__tensor_stats_count(const bl__gguf_tensor *tensor, unsigned wanted, bl__pool *pool,
                                 bl__tensor_stats *out, bl_error *err) {
    static const partial empty = {.sum = {.first_bad_code = BL_NO_ROW,
                                          .first_bad_number = BL_NO_ROW,
                                          .first_odd = BL_NO_ROW,
                                          .first_faint = BL_NO_ROW}};
    bool readable = tensor->layout != BL_LAYOUT_COUNT;
    size_t n = readable ? bl__pool_threads(pool) : 0, cols = tensor->cols;
    count_job job = {.tensor = tensor, .checksum = wanted & BL_STATS_CHECKSUM};
    bool fits = cols <= SIZE_MAX / sizeof(float) / (n + 1);
    if (!readable) {
        count_part(&job, 0, 1);
        *out = empty.sum;
        out->checksum = job.value;
        return BL_OK;
    }
    job.partials = bl__malloc_array(n, sizeof *job.partials);
    job.row_sizes = bl__calloc(tensor->rows, 1);
    job.rows = fits ? bl__malloc_array(n * cols, sizeof *job.rows) : NULL;
    if (wanted & BL_STATS_ROWS)
        job.row_counts = bl__calloc(tensor->rows, sizeof *job.row_counts);
    if (wanted & BL_STATS_COLS && fits)
        job.col_counts = bl__calloc(n * cols, sizeof *job.col_counts);
    bool whole = job.partials && job.row_sizes && job.rows &&
                 (job.row_counts || !(wanted & BL_STATS_ROWS)) &&
                 (job.col_counts || !(wanted & BL_STATS_COLS));
    if (whole) {
        for (size_t i = 0; i < n; i++)
            job.partials[i] = empty;
        bl__layout_unpack_row(tensor->layout, tensor->data, tensor->rows, cols, 0, job.rows);
        job.first = bl__f32_bits(job.rows[0]);
        bl__pool_run(pool, count_part, &job, n + 1);
        gather(&job, n, out);
    } else {
        bl__free(job.row_counts);
        bl__free(job.col_counts);
    }
    bl__free(job.partials);
    bl__free(job.row_sizes);
    bl__free(job.rows);
    return whole ? BL_OK
                 : bl__fail(err, BL_ERR_MEMORY, "cannot allocate counts of %zu rows of %zu weights",
                            tensor->rows, cols);
}

void bl__tensor_stats_free(bl__tensor_stats *stats) {
    bl__free(stats->row_counts);
    bl__free(stats->col_counts);
    stats->row_counts = stats->col_counts = NULL;
}
