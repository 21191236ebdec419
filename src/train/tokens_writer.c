/* Owns how a token file is put together. */
#include "train/tokens_writer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "train/data.h"

bl_status bl__tokens_writer_open(const char *path, const bl_tokenizer *tokenizer,
                                 bl__tokens_writer *out, bl_error *err) {
    static const uint8_t zeros[BL_TOKENS_HEADER];
    *out = (bl__tokens_writer){.tokenizer = tokenizer};
    out->width = bl_tokenizer_vocab_size(tokenizer) <= UINT16_MAX + 1 ? 2 : 4;
    bl_status status = bl__outfile_open(path, &out->file, err);
    return status ? status : bl__outfile_write(out->file, zeros, sizeof zeros, err);
}

bl_status bl__tokens_writer_begin(bl__tokens_writer *w, uint64_t ahead, bl_error *err) {
    if (w->n_docs == w->docs_room) {
        size_t room = w->docs_room + w->docs_room / 2 + 16;
        uint64_t *docs = bl__realloc_array(w->docs, room, sizeof *docs);
        if (!docs)
            return bl__fail(err, BL_ERR_MEMORY, "data: cannot allocate for %zu documents", room);
        w->docs = docs;
        w->docs_room = room;
    }
    w->docs[w->n_docs++] = w->n_tokens + ahead;
    return BL_OK;
}

bl_status bl__tokens_writer_add(bl__tokens_writer *w, bl_token *ids, size_t n, bl_error *err) {
    if (w->width == 2) {
        uint8_t *narrow = (uint8_t *)ids;
        for (size_t i = 0; i < n; i++) {
            uint16_t id = (uint16_t)ids[i];
            memcpy(narrow + 2 * i, &id, sizeof id);
        }
    }
    w->n_tokens += n;
    return n ? bl__outfile_write(w->file, ids, n * w->width, err) : BL_OK;
}

uint64_t bl__tokens_writer_split(const bl__tokens_writer *w, double share) {
    uint64_t n_valid = (uint64_t)((double)w->n_tokens * share);
    uint64_t target = w->n_tokens - n_valid;
    size_t low = 0, high = w->n_docs; /* documents before low begin before target */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->docs[middle] < target)
            low = middle + 1;
        else
            high = middle;
    }
    bool is_near = low < w->n_docs && w->docs[low] - target < n_valid / 2;
    return is_near ? w->docs[low] : target;
}

static void store(uint8_t *at, uint64_t value, size_t n) {
    memcpy(at, &value, n);
}

/* What follows the ids, and then the header in front. */
bl_status bl__tokens_writer_finish(bl__tokens_writer *w, uint64_t n_train, bl_data_info *info,
                                   bl_error *err) {
    static const uint8_t zeros[8];
    uint8_t header[BL_TOKENS_HEADER] = "BLTOKENS";
    bl_data_info figures = {.vocab = bl_tokenizer_vocab_size(w->tokenizer),
                            .bytes_per_id = w->width,
                            .n_tokens = w->n_tokens,
                            .n_docs = w->n_docs,
                            .n_train_tokens = n_train,
                            .text_bytes = w->text_bytes,
                            .fingerprint = bl__tokenizer_fingerprint(w->tokenizer)};
    store(header + 8, BL_TOKENS_VERSION, 4);
    store(header + 12, figures.bytes_per_id, 4);
    store(header + 16, figures.vocab, 8);
    store(header + 24, figures.n_tokens, 8);
    store(header + 32, figures.n_docs, 8);
    store(header + 40, figures.n_train_tokens, 8);
    store(header + 48, figures.fingerprint, 8);
    store(header + 56, figures.text_bytes, 8);
    size_t padding = (size_t)(-bl__outfile_offset(w->file) & 7);
    bl_status status = bl__outfile_write(w->file, zeros, padding, err);
    if (!status)
        status = bl__outfile_write(w->file, w->docs, w->n_docs * sizeof *w->docs, err);
    if (!status)
        status = bl__outfile_patch(w->file, 0, header, sizeof header, err);
    if (status)
        return status;
    status = bl__outfile_commit(w->file, err);
    w->file = NULL;
    if (!status && info)
        *info = figures;
    return status;
}

void bl__tokens_writer_close(bl__tokens_writer *w) {
    bl__outfile_abort(w->file);
    bl__free(w->docs);
    *w = (bl__tokens_writer){0};
}
