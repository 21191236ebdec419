/* Owns the factorization of Hessians. Must not know what they are of.
 *
 * Wanted is the upper U with H^-1 = U^T U. With J the reversal of rows and columns and J H J = L
 * L^T, H = (J L J) (J L J)^T, so that U = (J L J)^-1 = J L^-1 J: one Cholesky factorization and one
 * triangular inverse, 2/3 n^3 operations and no inverse of H itself. In double precision. */
#include "compress/factor.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"

enum { BLOCK = 64, COLUMNS_PER_PART = 32, ROWS_PER_PART = 16 };

typedef struct job {
    double *a, *inverse, *across; /* across: [BLOCK][n], the block's columns as rows */
    size_t n, first, end;         /* of the block's columns */
} job;

/* row[n] -= the sum of scale[i] * rows[i], 4 rows at a time. */
static void subtract_rows(double *row, const double *scale, const double *rows, size_t stride,
                          size_t n_rows, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n_rows; i += 4) {
        const double *r0 = rows + i * stride, *r1 = r0 + stride, *r2 = r1 + stride,
                     *r3 = r2 + stride;
        double s0 = scale[i], s1 = scale[i + 1], s2 = scale[i + 2], s3 = scale[i + 3];
        for (size_t j = 0; j < n; j++)
            row[j] -= (s0 * r0[j] + s1 * r1[j]) + (s2 * r2[j] + s3 * r3[j]);
    }
    for (; i < n_rows; i++)
        for (size_t j = 0; j < n; j++)
            row[j] -= scale[i] * rows[i * stride + j];
}

/* The block on the diagonal: false when a pivot is not positive. */
static bool factor_block(double *a, size_t n, size_t first, size_t end) {
    for (size_t i = first; i < end; i++)
        for (size_t j = first; j <= i; j++) {
            double sum = a[i * n + j];
            for (size_t k = first; k < j; k++)
                sum -= a[i * n + k] * a[j * n + k];
            if (i == j && !(sum > 0 && isfinite(sum)))
                return false;
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
    return true;
}

/* Rows below the block: its columns become those of L. */
static void solve_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    size_t n = j->n, rows = n - j->end, end = j->end + rows * (part + 1) / n_parts;
    for (size_t i = j->end + rows * part / n_parts; i < end; i++) {
        double *row = j->a + i * n;
        for (size_t c = j->first; c < j->end; c++) {
            const double *of = j->a + c * n;
            double sum = row[c];
            for (size_t k = j->first; k < c; k++)
                sum -= row[k] * of[k];
            row[c] = sum / of[c];
            j->across[(c - j->first) * n + i] = row[c];
        }
    }
}

/* What is right of the block in these rows, up to the diagonal. Rows are dealt out in turns: later
 * ones are longer. */
static void update_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    for (size_t i = j->end + part; i < j->n; i += n_parts)
        subtract_rows(j->a + i * j->n + j->end, j->a + i * j->n + j->first, j->across + j->end,
                      j->n, j->end - j->first, i + 1 - j->end);
}

/* Columns of the inverse, which do not depend on each other. Rows of zeros above the first column
 * are left out. */
static void invert_part(void *context, size_t part, size_t n_parts) {
    const job *j = context;
    size_t n = j->n;
    for (size_t first = part * COLUMNS_PER_PART; first < n; first += n_parts * COLUMNS_PER_PART) {
        size_t width = bl__min_size(COLUMNS_PER_PART, n - first);
        for (size_t i = first; i < n; i++) {
            double *row = j->inverse + i * n + first, pivot = j->a[i * n + i];
            memset(row, 0, width * sizeof *row);
            subtract_rows(row, j->a + i * n + first, j->inverse + first * n + first, n, i - first,
                          width);
            if (i < first + width)
                row[i - first] += 1;
            for (size_t c = 0; c < width; c++)
                row[c] /= pivot;
        }
    }
}

static size_t parts_of(bl__pool *pool, size_t n, size_t each) {
    size_t most = (size_t)bl__pool_threads(pool) * 4, parts = (n + each - 1) / each;
    return parts < 1 ? 1 : parts < most ? parts : most;
}

/* a[n][n], lower triangle, becomes L; false when it is not positive definite. */
static bool factor_lower(job *j, bl__pool *pool) {
    for (j->first = 0; j->first < j->n; j->first = j->end) {
        j->end = bl__min_size(j->first + BLOCK, j->n);
        if (!factor_block(j->a, j->n, j->first, j->end))
            return false;
        size_t below = j->n - j->end, parts = parts_of(pool, below, ROWS_PER_PART);
        bl__pool_run(pool, solve_part, j, below ? parts : 0);
        bl__pool_run(pool, update_part, j, below ? parts : 0);
    }
    return true;
}

/* h made whole and damped, as one can see from outside; *mean of its diagonal. */
static bl_status prepare(double *h, size_t n, const char *name, bl__damping *damping, double *mean,
                         bl_error *err) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = h[i * n + i];
        damping->dead += d == 0;
        sum += d;
    }
    if (!isfinite(sum))
        return bl__fail(err, BL_ERR_FORMAT,
                        "%s: activations of the calibration text are not finite numbers", name);
    if (!(sum > 0))
        return bl__fail(err, BL_ERR_FORMAT, "%s: all activations of the calibration text are 0",
                        name);
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        if (h[i * n + i] == 0)
            h[i * n + i] = 1;
        for (size_t j = 0; j < i; j++)
            h[i * n + j] = h[j * n + i];
    }
    return BL_OK;
}

bl_status bl__factor_inverse(double *h, size_t n, double share, bl__pool *pool, const char *name,
                             float *factor, bl__damping *out, bl_error *err) {
    bl__damping damping = {0};
    double mean;
    bl_status status = prepare(h, n, name, &damping, &mean, err);
    if (status)
        return status;
    job j = {.a = bl__malloc_array(n * n, sizeof(double)),
             .inverse = bl__malloc_array(n * n, sizeof(double)),
             .across = bl__malloc_array(n * BLOCK, sizeof(double)),
             .n = n};
    if (!j.a || !j.inverse || !j.across) {
        status =
            bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate a Hessian of %zu columns", name, n);
        goto done;
    }
    bool found = false;
    double added = 0;
    for (; share <= 1 && !found; share *= 10) {
        added = share * mean;
        damping.tries++;
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k <= i; k++)
                j.a[i * n + k] = h[(n - 1 - i) * n + n - 1 - k] + (i == k ? added : 0);
        found = factor_lower(&j, pool);
    }
    if (!found) {
        status = bl__fail(err, BL_ERR_FORMAT,
                          "%s: the Hessian is singular even with %.3g of its mean diagonal added; "
                          "more calibration text may help",
                          name, share / 10);
        goto done;
    }
    bl__pool_run(pool, invert_part, &j, parts_of(pool, n, COLUMNS_PER_PART));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            factor[i * n + k] = k < i ? 0 : (float)j.inverse[(n - 1 - i) * n + n - 1 - k];
    for (size_t i = 0; i < n; i++)
        h[i * n + i] += added;
    damping.added = added;
    *out = damping;
done:
    bl__free(j.a);
    bl__free(j.inverse);
    bl__free(j.across);
    return status;
}
