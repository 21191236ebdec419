/* Owns the way from text to token files: documents in, encoded by many threads, written in order.
 * Must not know files of text, tokenizers' insides or what training does with tokens.
 *
 * A round takes chunks from the corpus, encodes them side by side, and appends what came out. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/pool.h"
#include "bitloom/data.h"
#include "bitloom/system.h"
#include "formats/corpus.h"
#include "tokenizer/vocab.h"
#include "train/tokens_writer.h"

enum { CHUNKS_PER_THREAD = 4, MAX_THREADS = 1024 };

/* Ids, and where in them documents begin. */
typedef struct job {
    const struct builder *builder;
    bl__chunk chunk;
    bl_token *ids; /* [n, room] */
    size_t n, room;
    uint64_t *starts; /* [n_starts, starts_room] */
    size_t n_starts, starts_room;
    bool pending; /* a document has begun and no token of it is there */
    uint64_t text_bytes;
    bl_status status;
    bl_error error;
} job;

typedef struct builder {
    const bl_tokenizer *tokenizer;
    const bl_data_params *params;
    const char *field;
    bl_token bos, eos; /* to write; -1 = none */
    bool drop_space;   /* the tokenizer puts a space before every text */
    bl__pool *pool;
    job *jobs; /* [n_jobs] */
    size_t n_jobs;
    bl__tokens_writer writer;
    bool pending;
    uint64_t bytes_done, n_bytes; /* of the input files */
} builder;

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "data: cannot allocate for the tokens");
}

/* Makes room for one more of `size` bytes; false when memory is short. */
static bool grow(void **array, size_t n, size_t *room, size_t extra, size_t size) {
    if (extra <= *room - n)
        return true;
    size_t more = n + extra + (n + extra) / 2 + 16;
    void *larger = bl__realloc_array(*array, more, size);
    if (!larger)
        return false;
    *array = larger;
    *room = more;
    return true;
}

static bl_status add_ids(job *j, const bl_token *ids, size_t n, bl_error *err) {
    void *array = j->ids, *starts = j->starts;
    if (n == 0)
        return BL_OK;
    if (j->pending) {
        if (!grow(&starts, j->n_starts, &j->starts_room, 1, sizeof *j->starts))
            return fail_memory(err);
        j->starts = starts;
        j->starts[j->n_starts++] = j->n;
    }
    j->pending = false;
    if (!grow(&array, j->n, &j->room, n, sizeof *ids))
        return fail_memory(err);
    j->ids = array;
    memcpy(j->ids + j->n, ids, n * sizeof *ids);
    j->n += n;
    return BL_OK;
}

static bl_status encode_document(void *user, const char *text, size_t len, bool begins, bool ends,
                                 bl_error *err) {
    job *j = user;
    const builder *b = j->builder;
    if (begins && ends && len == 0) /* an empty document would be BOS and EOS */
        return BL_OK;
    bl_status status = BL_OK;
    j->text_bytes += len;
    if (begins) {
        j->pending = true;
        status = add_ids(j, &b->bos, b->bos >= 0, err);
    } else if (b->drop_space && len && *text == ' ') {
        text++; /* the tokenizer gives it back */
        len--;
    }
    bl_token *ids = NULL;
    size_t n = 0;
    if (!status)
        status = bl_tokenizer_encode(b->tokenizer, text, len,
                                     b->params->special ? BL_TOKENIZE_SPECIAL : 0, &ids, &n, err);
    if (!status)
        status = add_ids(j, ids, n, err);
    bl__free(ids);
    if (!status && ends)
        status = add_ids(j, &b->eos, b->eos >= 0, err);
    return status;
}

static void run_job(void *context, size_t part, size_t n_parts) {
    (void)n_parts;
    job *j = &((builder *)context)->jobs[part];
    j->status = bl__chunk_documents(&j->chunk, j->builder->field, encode_document, j, &j->error);
}

static bl_status append_job(builder *b, job *j, bl_error *err) {
    if (j->status) {
        if (err)
            *err = j->error;
        return j->status;
    }
    /* A document whose chunks so far gave no token begins with the first one that comes. */
    bool begins = b->pending && j->n && (!j->n_starts || j->starts[0] != 0);
    bl_status status = begins ? bl__tokens_writer_begin(&b->writer, 0, err) : BL_OK;
    for (size_t i = 0; i < j->n_starts && !status; i++)
        status = bl__tokens_writer_begin(&b->writer, j->starts[i], err);
    b->pending = j->pending || (b->pending && !j->n);
    b->writer.text_bytes += j->text_bytes;
    b->bytes_done += j->chunk.len;
    return status ? status : bl__tokens_writer_add(&b->writer, j->ids, j->n, err);
}

/* Encodes and appends as many chunks as there are jobs. */
static bl_status run_round(builder *b, bl__corpus *corpus, bool *more, bl_error *err) {
    size_t n = 0;
    bl_status status = BL_OK;
    while (n < b->n_jobs && !status) {
        job *j = &b->jobs[n];
        status = bl__corpus_next(corpus, &j->chunk, more, err);
        if (status || !*more)
            break;
        j->n = j->n_starts = 0;
        j->pending = false;
        j->text_bytes = 0;
        n++;
    }
    if (!status)
        bl__pool_run(b->pool, run_job, b, n);
    for (size_t i = 0; i < n; i++) {
        if (!status)
            status = append_job(b, &b->jobs[i], err);
        bl__chunk_release(&b->jobs[i].chunk);
    }
    const bl_data_params *params = b->params;
    if (!status && params->progress && !params->progress(params->user, b->bytes_done, b->n_bytes))
        status = bl__fail(err, BL_ERR_CANCELLED, "data: cancelled");
    return status;
}

static bl_status add_corpus(builder *b, bl__corpus *corpus, bl_error *err) {
    bl_status status = BL_OK;
    for (bool more = true; more && !status;)
        status = run_round(b, corpus, &more, err);
    b->pending = false;
    return status;
}

static bl_status start_builder(builder *b, const char *output, bl_error *err) {
    uint32_t n_threads = b->params->n_threads ? b->params->n_threads : bl_cpu_physical_cores();
    if (n_threads > MAX_THREADS)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: %u threads, at most %d", n_threads,
                        MAX_THREADS);
    const bl__vocab *vocab = bl__tokenizer_vocab(b->tokenizer);
    b->bos = bl_tokenizer_bos(b->tokenizer);
    b->eos = bl_tokenizer_eos(b->tokenizer);
    if (b->bos == b->eos)
        b->bos = -1;
    b->drop_space = vocab->kind != BL_VOCAB_BPE && vocab->add_space_prefix;
    b->jobs = bl__calloc((size_t)n_threads * CHUNKS_PER_THREAD, sizeof *b->jobs);
    if (!b->jobs)
        return fail_memory(err);
    b->n_jobs = (size_t)n_threads * CHUNKS_PER_THREAD;
    for (size_t i = 0; i < b->n_jobs; i++)
        b->jobs[i].builder = b;
    bl_status status = bl__pool_create(n_threads, false, &b->pool, err);
    return status ? status : bl__tokens_writer_open(output, b->tokenizer, &b->writer, err);
}

static void free_builder(builder *b) {
    for (size_t i = 0; i < b->n_jobs; i++) {
        bl__free(b->jobs[i].ids);
        bl__free(b->jobs[i].starts);
    }
    bl__free(b->jobs);
    bl__pool_free(b->pool);
    bl__tokens_writer_close(&b->writer);
}

static bl_status check_params(const bl_data_params *params, bl_error *err) {
    if (!params->n_inputs)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: no input files");
    if (!(params->valid_share >= 0 && params->valid_share <= 0.5))
        return bl__fail(err, BL_ERR_ARGUMENT, "data: share to hold out: %g, expected 0 to 0.5",
                        params->valid_share);
    if (params->n_valid_inputs && params->valid_share > 0)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "data: both files and a share to hold out, expected one of them");
    return BL_OK;
}

static bl_status build(builder *b, bl__corpus *train, bl__corpus *valid, bl_data_info *info,
                       bl_error *err) {
    const bl__tokens_writer *w = &b->writer;
    b->n_bytes = train->bytes + valid->bytes;
    bl_status status = add_corpus(b, train, err);
    uint64_t n_train = w->n_tokens;
    if (!status && !w->n_tokens)
        status = bl__fail(err, BL_ERR_ARGUMENT, "%s%s: no text in %zu files", b->params->inputs[0],
                          b->params->n_inputs > 1 ? " ..." : "", train->n_files);
    if (!status)
        status = add_corpus(b, valid, err);
    if (!status && b->params->n_valid_inputs && n_train == w->n_tokens)
        status =
            bl__fail(err, BL_ERR_ARGUMENT, "%s: no text to hold out", b->params->valid_inputs[0]);
    if (!status && !b->params->n_valid_inputs)
        n_train = bl__tokens_writer_split(w, b->params->valid_share);
    return status ? status : bl__tokens_writer_finish(&b->writer, n_train, info, err);
}

bl_status bl_data_build(const bl_tokenizer *tokenizer, const bl_data_params *params,
                        const char *output, bl_data_info *info, bl_error *err) {
    builder b = {.tokenizer = tokenizer, .params = params};
    b.field = params->field ? params->field : "text";
    bl__corpus train = {0}, valid = {0};
    bl_status status = check_params(params, err);
    if (!status)
        status = bl__corpus_open(params->inputs, params->n_inputs, &train, err);
    if (!status)
        status = bl__corpus_open(params->valid_inputs, params->n_valid_inputs, &valid, err);
    if (!status)
        status = start_builder(&b, output, err);
    if (!status)
        status = build(&b, &train, &valid, info, err);
    bl__corpus_close(&train);
    bl__corpus_close(&valid);
    free_builder(&b);
    return status;
}
