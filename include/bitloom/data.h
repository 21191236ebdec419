/* Data for training: text, a model's own too, into token files, and tokenizers learnt from text.
 *
 * Inputs are text files (each a document, any bytes), .jsonl and .ndjson files (every line an
 * object with a document under one key), and directories, of which *.txt, *.text, *.md, *.jsonl and
 * *.ndjson are taken, recursively, in the order of their paths. Compressed files are refused.
 *
 * A bl_data is immutable after opening and may be shared by any number of threads. */
#ifndef BITLOOM_DATA_H
#define BITLOOM_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "bitloom/sampler.h"
#include "bitloom/status.h"
#include "bitloom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Called every few megabytes of text, or tokens; returns false to cancel. */
typedef bool (*bl_data_progress)(void *user, uint64_t n_done, uint64_t n);

/* ---- token files ---- */

typedef struct bl_data_params {
    const char *const *inputs; /* [n_inputs] paths */
    size_t n_inputs;
    const char *const *valid_inputs; /* [n_valid_inputs] paths of text to hold out, may be none */
    size_t n_valid_inputs;
    double valid_share; /* without valid_inputs: share of the tokens, in 0 ... 0.5, to hold out */
    const char *field;  /* key of the text in JSON lines; NULL = "text" */
    bool special;       /* recognise special tokens written out in the text */
    uint32_t n_threads; /* 0 = all physical cores */
    bl_data_progress progress; /* may be NULL */
    void *user;
} bl_data_params;

typedef struct bl_data_info {
    size_t vocab;        /* ids are below this */
    size_t bytes_per_id; /* 2 or 4 */
    uint64_t n_tokens, n_docs;
    uint64_t n_train_tokens; /* those before this one are for training, the rest is held out */
    uint64_t text_bytes;
    uint64_t fingerprint; /* of the tokenizer */
} bl_data_info;

/* Encodes every document, BOS before it and EOS after it where the tokenizer has them (a tokenizer
 * that has one token for both: after it only), into the token file `output`, which appears only
 * when whole. Without valid_inputs the held-out share is the tail: from the first document that
 * begins inside it, or in the middle of a document where its first half has no beginning.
 *
 * Texts are encoded in pieces of about 1 MiB, cut where no word is cut, so memory does not grow
 * with the data (8 bytes a document do). info may be NULL. Errors: BL_ERR_ARGUMENT (no inputs, no
 * text in them, a directory without files for us), BL_ERR_NOT_FOUND, BL_ERR_IO, BL_ERR_UNSUPPORTED
 * (compressed files), BL_ERR_FORMAT and BL_ERR_LIMIT (JSON lines, by file and line),
 * BL_ERR_CANCELLED, BL_ERR_MEMORY. */
bl_status bl_data_build(const bl_tokenizer *tokenizer, const bl_data_params *params,
                        const char *output, bl_data_info *info, bl_error *err);

typedef struct bl_data_generate_params {
    uint64_t n_tokens;         /* to write; the document that gets there is written to its end */
    uint32_t doc_tokens;       /* of a document at most; 0 = the model's context, at most 4096 */
    uint32_t n_parallel;       /* documents drawn side by side, at most BL_MAX_SEQUENCES; 0 = 16.
                                  It changes nothing that is written */
    bl_sampler_params sampler; /* its seed decides the seed of each document, by its number */
    double valid_share;        /* as in bl_data_params */
    uint32_t n_threads;        /* 0 = all physical cores */
    bl_data_progress progress; /* of tokens, every few of them; may be NULL */
    void *user;
} bl_data_generate_params;

/* Writes a token file of text that the model draws from nothing but BOS (EOS where there is no
 * BOS), document after document, each to its EOS or doc_tokens: for a student to learn from when
 * its teacher's own data are not at hand (arXiv 2402.11295, section 4.1; 2305.17888). The tokenizer
 * is the model's. info may be NULL. Errors: BL_ERR_ARGUMENT (a size or sampler parameter, a
 * tokenizer of more tokens than the model's), BL_ERR_UNSUPPORTED (neither BOS nor EOS),
 * BL_ERR_FORMAT (logits are not numbers), BL_ERR_NOT_FOUND and BL_ERR_IO (output), BL_ERR_LIMIT,
 * BL_ERR_CANCELLED, BL_ERR_MEMORY. */
bl_status bl_data_generate(const bl_model *model, const bl_tokenizer *tokenizer,
                           const bl_data_generate_params *params, const char *output,
                           bl_data_info *info, bl_error *err);

typedef struct bl_data bl_data;

/* Maps a token file and checks it, all but the ids, which are checked when they are read.
 * Errors: BL_ERR_NOT_FOUND, BL_ERR_IO, BL_ERR_FORMAT, BL_ERR_UNSUPPORTED (a newer version). */
bl_status bl_data_open(const char *path, bl_data **out, bl_error *err);
void bl_data_close(bl_data *data); /* NULL is accepted */
bl_data_info bl_data_get_info(const bl_data *data);

/* Reads all ids; BL_ERR_FORMAT names the first that is not below vocab. */
bl_status bl_data_check(const bl_data *data, bl_error *err);
/* BL_ERR_ARGUMENT unless the ids are this tokenizer's. */
bl_status bl_data_match(const bl_data *data, const bl_tokenizer *tokenizer, bl_error *err);

/* Tokens first ... first + n - 1 into ids[n]. Errors: BL_ERR_ARGUMENT (there are not so many),
 * BL_ERR_FORMAT (an id that is not below vocab). */
bl_status bl_data_read(const bl_data *data, uint64_t first, size_t n, bl_token *ids, bl_error *err);
/* Document number doc < n_docs: its first token and how many it has. BL_ERR_ARGUMENT for others. */
bl_status bl_data_document(const bl_data *data, uint64_t doc, uint64_t *first, uint64_t *n,
                           bl_error *err);

/* ---- tokenizers ---- */

typedef struct bl_tokenizer_train_params {
    const char *const *inputs; /* [n_inputs] paths */
    size_t n_inputs;
    const char *field; /* key of the text in JSON lines; NULL = "text" */
    const char *kind;  /* "llama3" (NULL means that) or "gpt2": byte-level BPE with that split
                          pattern; "sentencepiece": BPE over characters, U+2581 for spaces, bytes
                          for characters that are not covered */
    size_t vocab;      /* tokens in all, at least 256 + the special ones */
    double coverage; /* sentencepiece: share of the text's characters to have tokens; 0 = 0.9995 */
    const char *bos, *eos; /* special tokens, the first ids; NULL = "<s>" and "</s>", "" = none */
    const char *const *specials; /* [n_specials] more of them */
    size_t n_specials;
    bl_data_progress progress; /* may be NULL */
    void *user;
} bl_tokenizer_train_params;

typedef struct bl_tokenizer_train_report {
    size_t n_tokens, n_merges; /* fewer than asked for when the text has no more pairs */
    uint64_t text_bytes, n_words, n_distinct_words;
} bl_tokenizer_train_report;

/* Learns a vocabulary by byte pair encoding (arXiv 1508.07909) and writes it as a tokenizer.json
 * that the Hugging Face library and bl_tokenizer_open() read, with a tokenizer_config.json in the
 * same directory that names BOS and EOS. The most frequent pair inside words is merged until the
 * vocabulary is full or no pair occurs twice; among equals the one of lower ids. The same text
 * gives the same file. Special tokens in the text are text. Memory grows with the distinct words
 * only. report may be NULL. Errors: as bl_data_build(), and BL_ERR_ARGUMENT (a vocabulary too small
 * or too large, an unknown kind, special tokens that are not distinct UTF-8). */
bl_status bl_tokenizer_train(const bl_tokenizer_train_params *params, const char *output,
                             bl_tokenizer_train_report *report, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
