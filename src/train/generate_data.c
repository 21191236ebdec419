/* Owns token files of text that a model writes itself: documents drawn side by side, written in
 * their order. Must not know how tokens are drawn or what training does with them. */
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"
#include "bitloom/model.h"
#include "bitloom/sampler.h"
#include "train/tokens_writer.h"

enum {
    N_SLOTS = 16,
    MAX_DOC_TOKENS = 4096,
    AHEAD = 4 /* documents for each slot that may wait for one before them */
};

/* A document that is drawn or waits to be written. */
typedef struct document {
    bl_token *ids; /* [n, doc_tokens] */
    size_t n;
    bool is_done;
} document;

/* A sequence of the session. */
typedef struct slot {
    bl_sampler *sampler;
    document *document; /* NULL: idle */
    bl_token last;      /* to be read next */
} slot;

typedef struct drawer {
    const bl_tokenizer *tokenizer;
    const bl_data_generate_params *params;
    bl_session *session;
    size_t vocab, doc_tokens, n_slots, n_ring;
    uint64_t *allowed; /* ids that the tokenizer has; NULL: all */
    slot *slots;       /* [n_slots] */
    document *ring;    /* [n_ring]: document number i at i % n_ring */
    bl_token *ids;     /* [n_ring][doc_tokens] */
    uint64_t n_begun, n_written;
    bl__random seeds;     /* of documents, in their order */
    bl_batch_item *items; /* [n_slots] */
    float *logits;        /* float[n_slots][vocab] */
    bl__tokens_writer writer;
} drawer;

/* A number's document is the same whatever is drawn beside it. */
static bl_status begin_document(drawer *d, slot *s, bl_error *err) {
    bl_sampler_params sampler = d->params->sampler;
    sampler.seed = bl__random_u64(&d->seeds);
    bl_sampler_free(s->sampler);
    s->sampler = NULL;
    bl_status status = bl_sampler_create(&sampler, d->vocab, &s->sampler, err);
    if (status)
        return status;
    bl_token bos = bl_tokenizer_bos(d->tokenizer), eos = bl_tokenizer_eos(d->tokenizer);
    s->document = &d->ring[d->n_begun++ % d->n_ring];
    s->document->n = 0;
    s->document->is_done = false;
    s->last = bos >= 0 ? bos : eos; /* which divides documents then */
    if (bos >= 0 && bos != eos)
        s->document->ids[s->document->n++] = bos;
    return BL_OK;
}

static bl_status take_token(drawer *d, size_t index, const float *logits, bl_error *err) {
    slot *s = &d->slots[index];
    document *doc = s->document;
    bl_token token = bl_sampler_sample_allowed(s->sampler, logits, d->allowed);
    if (token < 0)
        return bl__fail(err, BL_ERR_FORMAT, "data: the model's logits are not numbers");
    bool is_end = bl_tokenizer_is_end(d->tokenizer, token);
    bl_sampler_accept(s->sampler, token);
    if (is_end && bl_tokenizer_eos(d->tokenizer) >= 0)
        token = bl_tokenizer_eos(d->tokenizer); /* as bl_data_build() ends documents */
    doc->ids[doc->n++] = s->last = token;
    if (is_end || doc->n == d->doc_tokens) {
        doc->is_done = true;
        s->document = NULL;
        bl_sequence_truncate(d->session, (uint32_t)index, 0);
    }
    return BL_OK;
}

/* One token more for every document at hand. */
static bl_status step(drawer *d, bl_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < d->n_slots; i++) {
        slot *s = &d->slots[i];
        bl_status status = BL_OK;
        if (!s->document && d->n_begun < d->n_written + d->n_ring)
            status = begin_document(d, s, err);
        if (status)
            return status;
        if (s->document)
            d->items[n++] = (bl_batch_item){(uint32_t)i, s->last, true};
    }
    bl_status status = bl_session_eval_batch(d->session, d->items, n, d->logits, err);
    for (size_t i = 0; i < n && !status; i++)
        status = take_token(d, d->items[i].sequence, d->logits + i * d->vocab, err);
    return status;
}

static bl_status write_document(drawer *d, document *doc, bl_error *err) {
    char *text = NULL;
    size_t len = 0;
    bl_status status = bl_tokenizer_decode(d->tokenizer, doc->ids, doc->n, 0, &text, &len, err);
    bl__free(text);
    d->writer.text_bytes += len;
    if (!status)
        status = bl__tokens_writer_begin(&d->writer, 0, err);
    return status ? status : bl__tokens_writer_add(&d->writer, doc->ids, doc->n, err);
}

static bl_status draw(drawer *d, bl_error *err) {
    const bl_data_generate_params *p = d->params;
    bl_status status = BL_OK;
    while (d->writer.n_tokens < p->n_tokens && !status) {
        if ((status = step(d, err)))
            break;
        for (document *doc; !status && d->writer.n_tokens < p->n_tokens; d->n_written++) {
            doc = &d->ring[d->n_written % d->n_ring];
            if (d->n_written == d->n_begun || !doc->is_done)
                break;
            status = write_document(d, doc, err);
        }
        uint64_t done = d->writer.n_tokens < p->n_tokens ? d->writer.n_tokens : p->n_tokens;
        if (!status && p->progress && !p->progress(p->user, done, p->n_tokens))
            status = bl__fail(err, BL_ERR_CANCELLED, "data: cancelled");
    }
    return status;
}

/* ---- beginning and end ---- */

static bl_status check(const bl_model_info *info, const bl_tokenizer *tokenizer,
                       const bl_data_generate_params *p, size_t doc_tokens, bl_error *err) {
    if (!p->n_tokens)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: 0 tokens to write, expected some");
    if (doc_tokens < 2 || doc_tokens > info->context_length) /* BOS and a token */
        return bl__fail(
            err, BL_ERR_ARGUMENT,
            "data: documents of up to %zu tokens, expected 2 to the model's context, %u",
            doc_tokens, info->context_length);
    if (p->n_parallel > BL_MAX_SEQUENCES)
        return bl__fail(err, BL_ERR_ARGUMENT, "data: %u documents side by side, at most %d",
                        p->n_parallel, BL_MAX_SEQUENCES);
    if (!(p->valid_share >= 0 && p->valid_share <= 0.5))
        return bl__fail(err, BL_ERR_ARGUMENT, "data: share to hold out: %g, expected 0 to 0.5",
                        p->valid_share);
    if (bl_tokenizer_vocab_size(tokenizer) > info->vocab)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "data: a tokenizer of %zu tokens, the model's vocabulary is %u",
                        bl_tokenizer_vocab_size(tokenizer), info->vocab);
    if (bl_tokenizer_bos(tokenizer) < 0 && bl_tokenizer_eos(tokenizer) < 0)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "data: a tokenizer with neither BOS nor EOS to begin documents with");
    return BL_OK;
}

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "data: cannot allocate for the documents");
}

static bl_status allow_known(drawer *d, bl_error *err) {
    size_t known = bl_tokenizer_vocab_size(d->tokenizer);
    if (known == d->vocab)
        return BL_OK;
    d->allowed = bl__calloc((d->vocab + 63) / 64, sizeof *d->allowed);
    for (size_t i = 0; d->allowed && i < known; i++)
        d->allowed[i / 64] |= (uint64_t)1 << i % 64;
    return d->allowed ? BL_OK : fail_memory(err);
}

static bl_status start(drawer *d, const bl_model *model, const char *output, bl_error *err) {
    const bl_data_generate_params *p = d->params;
    const bl_model_info *info = bl_model_get_info(model);
    size_t n_ids, n_logits;
    d->vocab = info->vocab;
    d->doc_tokens =
        p->doc_tokens ? p->doc_tokens : bl__min_size(info->context_length, MAX_DOC_TOKENS);
    bl_status status = check(info, d->tokenizer, p, d->doc_tokens, err);
    if (status)
        return status;
    d->n_slots = p->n_parallel ? p->n_parallel : N_SLOTS;
    d->n_ring = d->n_slots * AHEAD;
    bl_session_params session = {.n_ctx = (uint32_t)d->doc_tokens,
                                 .n_threads = p->n_threads,
                                 .n_sequences = (uint32_t)d->n_slots};
    if (!bl__mul_size(d->n_ring, d->doc_tokens, &n_ids) ||
        !bl__mul_size(d->n_slots, d->vocab, &n_logits))
        return fail_memory(err);
    d->slots = bl__calloc(d->n_slots, sizeof *d->slots);
    d->items = bl__calloc(d->n_slots, sizeof *d->items);
    d->ring = bl__calloc(d->n_ring, sizeof *d->ring);
    d->ids = bl__calloc(n_ids, sizeof *d->ids);
    d->logits = bl__malloc_array(n_logits, sizeof *d->logits);
    if (!d->slots || !d->items || !d->ring || !d->ids || !d->logits)
        return fail_memory(err);
    for (size_t i = 0; i < d->n_ring; i++)
        d->ring[i].ids = d->ids + i * d->doc_tokens;
    if (!(status = allow_known(d, err)) &&
        !(status = bl_session_create(model, &session, &d->session, err)))
        status = bl__tokens_writer_open(output, d->tokenizer, &d->writer, err);
    return status;
}

static void stop(drawer *d) {
    for (size_t i = 0; d->slots && i < d->n_slots; i++)
        bl_sampler_free(d->slots[i].sampler);
    bl__tokens_writer_close(&d->writer);
    bl_session_free(d->session);
    bl__free(d->slots);
    bl__free(d->items);
    bl__free(d->ring);
    bl__free(d->ids);
    bl__free(d->logits);
    bl__free(d->allowed);
}

bl_status bl_data_generate(const bl_model *model, const bl_tokenizer *tokenizer,
                           const bl_data_generate_params *params, const char *output,
                           bl_data_info *info, bl_error *err) {
    drawer d = {.tokenizer = tokenizer, .params = params};
    bl__random_seed(&d.seeds, params->sampler.seed);
    bl_status status = start(&d, model, output, err);
    if (!status)
        status = draw(&d, err);
    if (!status)
        status = bl__tokens_writer_finish(
            &d.writer, bl__tokens_writer_split(&d.writer, params->valid_share), info, err);
    stop(&d);
    return status;
}
