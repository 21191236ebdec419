/* Writes a token file (train/data.h) a piece at a time. Must not know where tokens come from. */
#ifndef BL_TRAIN_TOKENS_WRITER_H
#define BL_TRAIN_TOKENS_WRITER_H

#include "base/file.h"
#include "bitloom/data.h"

typedef struct bl__tokens_writer {
    bl__outfile *file;
    const bl_tokenizer *tokenizer; /* borrowed */
    size_t width;                  /* bytes of an id */
    uint64_t *docs;                /* [n_docs, docs_room] */
    size_t n_docs, docs_room;
    uint64_t n_tokens, text_bytes; /* text_bytes: the caller's to count */
} bl__tokens_writer;

/* Begins a file, which appears at path when it is finished. BL_ERR_IO, BL_ERR_MEMORY. */
bl_status bl__tokens_writer_open(const char *path, const bl_tokenizer *tokenizer,
                                 bl__tokens_writer *out, bl_error *err);
/* A document begins `ahead` tokens after those that are written. BL_ERR_MEMORY. */
bl_status bl__tokens_writer_begin(bl__tokens_writer *writer, uint64_t ahead, bl_error *err);
/* Appends ids[n], which are narrowed in place. BL_ERR_IO. */
bl_status bl__tokens_writer_add(bl__tokens_writer *writer, bl_token *ids, size_t n, bl_error *err);
/* Where a tail of this share of the tokens begins: at the first document that begins inside it, or
 * in the middle of a document where the first half of the tail has no beginning. */
uint64_t bl__tokens_writer_split(const bl__tokens_writer *writer, double share);
/* Completes the file, its tokens from n_train on held out; info may be NULL. Then, as after an
 * error, only bl__tokens_writer_close() may follow. BL_ERR_IO. */
bl_status bl__tokens_writer_finish(bl__tokens_writer *writer, uint64_t n_train, bl_data_info *info,
                                   bl_error *err);
/* Removes a file that was not finished; a zeroed writer is accepted. */
void bl__tokens_writer_close(bl__tokens_writer *writer);

#endif
