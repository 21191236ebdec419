/* Owns the making of token files: documents in, encoded by many threads, written in order. Must not
 * know files of text, tokenizers' insides or what training does with tokens.
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
#include "train/data.h"

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
    size_t width;
    bl__pool *pool;
    job *jobs; /* [n_jobs] */
    size_t n_jobs;
    bl__outfile *file;
    uint64_t *docs; /* [n_docs, docs_room] */
    size_t n_docs, docs_room;
    uint64_t n_tokens, n_train, text_bytes;
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

static bool push_start(uint64_t **starts, size_t *n, size_t *room, uint64_t start) {
    void *array = *starts;
    if (!grow(&array, *n, room, 1, sizeof **starts))
        return false;
    *starts = array;
    (*starts)[(*n)++] = start;
    return true;
}

static bl_status add_ids(job *j, const bl_token *ids, size_t n, bl_error *err) {
    void *array = j->ids;
    if (n == 0)
        return BL_OK;
    if (j->pending && !push_start(&j->starts, &j->n_starts, &j->starts_room, j->n))
        return fail_memory(err);
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

/* Narrows the ids in place when they are written with two bytes. */
static bl_status write_ids(builder *b, job *j, bl_error *err) {
    if (b->width == 2) {
        uint8_t *narrow = (uint8_t *)j->ids;
        for (size_t i = 0; i < j->n; i++) {
            uint16_t id = (uint16_t)j->ids[i];
            memcpy(narrow + 2 * i, &id, sizeof id);
        }
    }
    return j->n ? bl__outfile_write(b->file, j->ids, j->n * b->width, err) : BL_OK;
}

static bl_status append_job(builder *b, job *j, bl_error *err) {
    if (j->status) {
        if (err)
            *err = j->error;
        return j->status;
    }
    /* A document whose chunks so far gave no token begins with the first one that comes. */
    bool begins = b->pending && j->n && (!j->n_starts || j->starts[0] != 0);
    if (begins && !push_start(&b->docs, &b->n_docs, &b->docs_room, b->n_tokens))
        return fail_memory(err);
    for (size_t i = 0; i < j->n_starts; i++)
        if (!push_start(&b->docs, &b->n_docs, &b->docs_room, b->n_tokens + j->starts[i]))
            return fail_memory(err);
    b->pending = j->pending || (b->pending && !j->n);
    b->n_tokens += j->n;
    b->text_bytes += j->text_bytes;
    b->bytes_done += j->chunk.len;
    return write_ids(b, j, err);
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

/* The first token of the held-out tail. */
static uint64_t split_tail(const builder *b) {
    double share = b->params->valid_share;
    uint64_t n_valid = (uint64_t)((double)b->n_tokens * share);
    uint64_t target = b->n_tokens - n_valid;
    size_t low = 0, high = b->n_docs; /* documents before low begin before target */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (b->docs[middle] < target)
            low = middle + 1;
        else
            high = middle;
    }
    bool is_near = low < b->n_docs && b->docs[low] - target < n_valid / 2;
    return is_near ? b->docs[low] : target;
}

static void store(uint8_t *at, uint64_t value, size_t n) {
    memcpy(at, &value, n);
}

/* What follows the ids, and then the header in front. */
static bl_status finish_file(builder *b, bl_error *err) {
    static const uint8_t zeros[8];
    uint8_t header[BL_TOKENS_HEADER] = "BLTOKENS";
    store(header + 8, BL_TOKENS_VERSION, 4);
    store(header + 12, b->width, 4);
    store(header + 16, bl_tokenizer_vocab_size(b->tokenizer), 8);
    store(header + 24, b->n_tokens, 8);
    store(header + 32, b->n_docs, 8);
    store(header + 40, b->n_train, 8);
    store(header + 48, bl__tokenizer_fingerprint(b->tokenizer), 8);
    store(header + 56, b->text_bytes, 8);
    size_t padding = (size_t)(-bl__outfile_offset(b->file) & 7);
    bl_status status = bl__outfile_write(b->file, zeros, padding, err);
    if (!status)
        status = bl__outfile_write(b->file, b->docs, b->n_docs * sizeof *b->docs, err);
    if (!status)
        status = bl__outfile_patch(b->file, 0, header, sizeof header, err);
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
    b->width = vocab->n_tokens <= UINT16_MAX + 1 ? 2 : 4;
    b->jobs = bl__calloc((size_t)n_threads * CHUNKS_PER_THREAD, sizeof *b->jobs);
    if (!b->jobs)
        return fail_memory(err);
    b->n_jobs = (size_t)n_threads * CHUNKS_PER_THREAD;
    for (size_t i = 0; i < b->n_jobs; i++)
        b->jobs[i].builder = b;
    bl_status status = bl__pool_create(n_threads, false, &b->pool, err);
    if (!status)
        status = bl__outfile_open(output, &b->file, err);
    static const uint8_t zeros[BL_TOKENS_HEADER];
    return status ? status : bl__outfile_write(b->file, zeros, sizeof zeros, err);
}

static void free_builder(builder *b) {
    for (size_t i = 0; i < b->n_jobs; i++) {
        bl__free(b->jobs[i].ids);
        bl__free(b->jobs[i].starts);
    }
    bl__free(b->jobs);
    bl__free(b->docs);
    bl__pool_free(b->pool);
    bl__outfile_abort(b->file);
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

static bl_status build(builder *b, bl__corpus *train, bl__corpus *valid, bl_error *err) {
    b->n_bytes = train->bytes + valid->bytes;
    bl_status status = add_corpus(b, train, err);
    b->n_train = b->n_tokens;
    if (!status && !b->n_tokens)
        status = bl__fail(err, BL_ERR_ARGUMENT, "%s%s: no text in %zu files", b->params->inputs[0],
                          b->params->n_inputs > 1 ? " ..." : "", train->n_files);
    if (!status)
        status = add_corpus(b, valid, err);
    if (!status && b->params->n_valid_inputs && b->n_train == b->n_tokens)
        status =
            bl__fail(err, BL_ERR_ARGUMENT, "%s: no text to hold out", b->params->valid_inputs[0]);
    if (!status && !b->params->n_valid_inputs)
        b->n_train = split_tail(b);
    return status ? status : finish_file(b, err);
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
        status = build(&b, &train, &valid, err);
    if (!status) {
        status = bl__outfile_commit(b.file, err);
        b.file = NULL;
    }
    if (!status && info)
        *info = (bl_data_info){.vocab = bl_tokenizer_vocab_size(tokenizer),
                               .bytes_per_id = b.width,
                               .n_tokens = b.n_tokens,
                               .n_docs = b.n_docs,
                               .n_train_tokens = b.n_train,
                               .text_bytes = b.text_bytes,
                               .fingerprint = bl__tokenizer_fingerprint(tokenizer)};
    bl__corpus_close(&train);
    bl__corpus_close(&valid);
    free_builder(&b);
    return status;
}
