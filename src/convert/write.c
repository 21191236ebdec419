/* Carries a plan out: rows are read, changed and packed a few at a time on all threads, and written
 * in order. Memory: two batches' worth of rows a thread, whatever the size of a tensor, and a whole
 * tensor where its rows cannot be packed apart. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "convert/plan.h"

enum {
    BATCH_WEIGHTS = 256 * 1024, /* of a batch; at least BATCH_ROWS rows */
    BATCH_ROWS = BL_PACK_ROWS,
    BATCHES_PER_THREAD = 2,
    COPY_BYTES = 8 * 1024 * 1024
};

/* A run of rows of one tensor, packed as a tensor of its own. */
typedef struct batch {
    float *row, *again; /* float[cols] each */
    uint8_t *packed;    /* bl__layout_bytes() of the most rows a batch has; NULL: see job */
    bl_status status;
    bl_error error;
} batch;

typedef struct job {
    const bl__plan_tensor *tensor;
    size_t batch_rows; /* of every batch but the last */
    size_t first_row;  /* of batch 0 */
    uint8_t *whole; /* all of the tensor, for layouts whose rows cannot be packed apart; or NULL */
    batch *batches;
} job;

/* How far a conversion has come. */
typedef struct progress {
    const bl_convert_params *params;
    size_t tensors_done, n_tensors;
    uint64_t bytes_done, n_bytes;
} progress;

/* Counts bytes of input that are dealt with, and lets the caller cancel. */
static bl_status advance(progress *p, const bl__plan_tensor *t, uint64_t bytes, bl_error *err) {
    p->bytes_done += bytes;
    if (p->params->progress && !p->params->progress(p->params->user, p->tensors_done, p->n_tensors,
                                                    p->bytes_done, p->n_bytes))
        return bl__fail(err, BL_ERR_CANCELLED, "cancelled at %s", t->name);
    return BL_OK;
}

static size_t rows_of(const job *j, size_t index) {
    size_t left = j->tensor->rows - j->first_row - index * j->batch_rows;
    return left < j->batch_rows ? left : j->batch_rows;
}

/* Same bits, a zero being equal to minus zero; NaN differs from all. */
static bool same_weights(const float *a, const float *b, size_t n) {
    bool same = true;
    for (size_t i = 0; i < n; i++)
        same &= a[i] == b[i];
    return same;
}

/* Row first + i of the tensor, which is row i of a batch of n. */
static bl_status pack_row(const job *j, batch *b, size_t first, size_t i, size_t n, bl_error *err) {
    const bl__plan_tensor *t = j->tensor;
    uint8_t *packed = j->whole ? j->whole : b->packed;
    size_t row = j->whole ? first + i : i, rows = j->whole ? t->rows : n;
    bl_status status = bl__plan_read_row(t, first + i, b->row, err);
    if (status)
        return status;
    status = bl__layout_pack_rows(t->target, b->row, rows, t->cols, row, 1, t->tensor_scale, packed,
                                  err);
    if (status) {
        bl__error_prefix(err, t->name);
        return status;
    }
    if (!t->exact)
        return BL_OK;
    bl__layout_unpack_row(t->target, packed, rows, t->cols, row, b->again);
    if (same_weights(b->row, b->again, t->cols))
        return BL_OK;
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%s: row %zu: %s weights do not fit %s exactly; f32 holds them all", t->name,
                    first + i, bl__layout_get(t->source)->name, bl__layout_get(t->target)->name);
}

static void pack_batch(void *context, size_t part, size_t n_parts) {
    job *j = context;
    batch *b = &j->batches[part];
    size_t n = rows_of(j, part), first = j->first_row + part * j->batch_rows;
    (void)n_parts;
    b->status = BL_OK;
    for (size_t i = 0; i < n && !b->status; i++)
        b->status = pack_row(j, b, first, i, n, &b->error);
}

static void free_batches(batch *batches, size_t n) {
    for (size_t i = 0; batches && i < n; i++) {
        bl__free(batches[i].row);
        bl__free(batches[i].again);
        bl__free(batches[i].packed);
    }
    bl__free(batches);
}

static bl_status make_batches(const job *j, size_t n, batch **out, bl_error *err) {
    const bl__plan_tensor *t = j->tensor;
    size_t bytes;
    bl_status status = bl__layout_bytes(t->target, j->batch_rows, t->cols, &bytes, err);
    if (status) {
        bl__error_prefix(err, t->name);
        return status;
    }
    batch *batches = bl__calloc(n, sizeof *batches);
    bool whole = batches != NULL;
    for (size_t i = 0; whole && i < n; i++) {
        batches[i].row = bl__malloc_array(t->cols, sizeof(float));
        batches[i].again = t->exact ? bl__malloc_array(t->cols, sizeof(float)) : NULL;
        batches[i].packed = j->whole ? NULL : bl__malloc(bytes);
        whole =
            batches[i].row && (batches[i].packed || j->whole) && (batches[i].again || !t->exact);
    }
    if (!whole) {
        free_batches(batches, n);
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate %zu batches of %zu bytes", t->name,
                        n, bytes);
    }
    *out = batches;
    return BL_OK;
}

static bl_status make_whole(job *j, bl_error *err) {
    const bl__plan_tensor *t = j->tensor;
    size_t bytes;
    if (bl__layout_is_divisible(t->target))
        return BL_OK;
    bl_status status = bl__layout_bytes(t->target, t->rows, t->cols, &bytes, err);
    if (!status && !(j->whole = bl__malloc(bytes)))
        status = bl__fail(err, BL_ERR_MEMORY, "cannot allocate %zu bytes", bytes);
    if (status)
        bl__error_prefix(err, t->name);
    return status;
}

/* Writes what n batches hold. A layout with bytes behind the last row (the scale of i2_s) has them
 * in every batch, all the same: only those of the tensor's last batch are written. */
static bl_status write_batches(const job *j, size_t n, bl__gguf_writer *writer, bl_error *err) {
    const bl__plan_tensor *t = j->tensor;
    size_t tail = 0, bytes = 0;
    bl_status status = bl__layout_bytes(t->target, j->whole ? t->rows : 0, t->cols, &tail, err);
    for (size_t i = 0; i < n && !status; i++) {
        const batch *b = &j->batches[i];
        size_t rows = rows_of(j, i);
        bool last = j->first_row + i * j->batch_rows + rows == t->rows;
        if (b->status) {
            if (err)
                *err = b->error;
            return b->status;
        }
        if (j->whole) {
            status = last ? bl__gguf_write_data(writer, j->whole, tail, err) : BL_OK;
            continue;
        }
        status = bl__layout_bytes(t->target, rows, t->cols, &bytes, err);
        if (!status)
            status = bl__gguf_write_data(writer, b->packed, last ? bytes : bytes - tail, err);
    }
    return status;
}

static bl_status pack_tensor(const bl__plan_tensor *tensor, bl__gguf_writer *writer, bl__pool *pool,
                             progress *p, bl_error *err) {
    size_t rows = BATCH_WEIGHTS / (tensor->cols ? tensor->cols : 1);
    rows = (rows < BATCH_ROWS ? BATCH_ROWS : rows) / BATCH_ROWS * BATCH_ROWS;
    job j = {.tensor = tensor, .batch_rows = rows < tensor->rows ? rows : tensor->rows};
    size_t n_all = (tensor->rows + j.batch_rows - 1) / j.batch_rows;
    size_t n_at_once = BATCHES_PER_THREAD * (size_t)bl__pool_threads(pool);
    n_at_once = n_at_once < n_all ? n_at_once : n_all;
    bl_status status = make_whole(&j, err);
    status = status ? status : make_batches(&j, n_at_once, &j.batches, err);
    for (size_t done = 0, n; done < n_all && !status; done += n) {
        n = n_all - done < n_at_once ? n_all - done : n_at_once;
        j.first_row = done * j.batch_rows;
        bl__pool_run(pool, pack_batch, &j, n);
        status = write_batches(&j, n, writer, err);
        size_t end = done + n < n_all ? (done + n) * j.batch_rows : tensor->rows;
        uint64_t before = tensor->bytes / tensor->rows * j.first_row;
        uint64_t after = end < tensor->rows ? tensor->bytes / tensor->rows * end : tensor->bytes;
        status = status ? status : advance(p, tensor, after - before, err);
    }
    free_batches(j.batches, n_at_once);
    bl__free(j.whole);
    return status;
}

static bl_status copy_tensor(const bl__plan_tensor *tensor, bl__gguf_writer *writer, progress *p,
                             bl_error *err) {
    bl_status status = BL_OK;
    for (size_t done = 0, n; done < tensor->bytes && !status; done += n) {
        n = tensor->bytes - done < COPY_BYTES ? tensor->bytes - done : COPY_BYTES;
        status = bl__gguf_write_data(writer, tensor->data + done, n, err);
        status = status ? status : advance(p, tensor, n, err);
    }
    return status;
}

bl_status bl__plan_write(const bl__plan *plan, bl__gguf_writer *writer, bl__pool *pool,
                         const bl_convert_params *params, bl_error *err) {
    progress p = {.params = params, .n_tensors = plan->n_tensors};
    for (size_t i = 0; i < plan->n_tensors; i++)
        p.n_bytes += plan->tensors[i].bytes;
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const bl__plan_tensor *t = &plan->tensors[i];
        bool as_it_is =
            t->source == t->target && !t->head_dim && t->scale == 1 && t->inverse == 0 && !t->make;
        bl_status status =
            as_it_is ? copy_tensor(t, writer, &p, err) : pack_tensor(t, writer, pool, &p, err);
        if (status)
            return status;
        if (plan->release)
            plan->release(t);
        p.tensors_done++;
        if ((status = advance(&p, t, 0, err)))
            return status;
    }
    return BL_OK;
}
