/* Texts to learn from: text files, JSON lines, and directories of those, in pieces of bounded size.
 *
 * Owns which files count, where documents begin and end, and where a text may be cut. Must not know
 * tokens. A text file is one document and any bytes; every line of a .jsonl or .ndjson file is a
 * JSON object with a document under one key. */
#ifndef BL_FORMATS_CORPUS_H
#define BL_FORMATS_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "bitloom/status.h"

enum {
    BL_CORPUS_MAX_DEPTH = 32, /* of directories in each other */
    BL_CORPUS_MAX_FILES = 1 << 24,
    BL_CORPUS_MAX_LINE = 1 << 28, /* bytes of a line of JSON */
    BL_CORPUS_CHUNK = 1 << 20     /* bytes that chunks aim at */
};

typedef struct bl__corpus_file {
    char *path;
    uint64_t bytes;
} bl__corpus_file;

typedef struct bl__corpus {
    bl__corpus_file *files; /* [n_files]; those of a directory in the order of their paths */
    size_t n_files, room;
    uint64_t bytes; /* of all files */
    /* where the next chunk begins */
    size_t file;
    size_t offset;
    bl__filemap map;
} bl__corpus;

/* Finds the files. Of directories it takes *.txt, *.text, *.md, *.jsonl and *.ndjson, recursively,
 * links to directories and hidden files left out. Errors name the path: BL_ERR_NOT_FOUND,
 * BL_ERR_IO, BL_ERR_UNSUPPORTED (compressed files), BL_ERR_ARGUMENT (no such file in a directory),
 * BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__corpus_open(const char *const *paths, size_t n_paths, bl__corpus *out, bl_error *err);
void bl__corpus_close(bl__corpus *corpus); /* a zeroed one is accepted */

/* Part of a file: lines, or a stretch of a text. Several may be read at once by different threads.
 */
typedef struct bl__chunk {
    const char *path; /* borrowed from the corpus */
    const char *text; /* [len], in map */
    size_t len;
    bool is_json, is_first, is_last; /* of its file */
    bl__filemap map;
} bl__chunk;

/* The next chunk, never empty; *more is false, and nothing is handed out, after the last one. Texts
 * are cut before a single space between two ASCII letters where there is one: no pre-tokenizer has
 * a word across that. */
bl_status bl__corpus_next(bl__corpus *corpus, bl__chunk *out, bool *more, bl_error *err);
/* Call it for every chunk, in order. */
void bl__chunk_release(bl__chunk *chunk);

/* Receives (part of) a document; len may be 0. */
typedef bl_status (*bl__document_fn)(void *user, const char *text, size_t len, bool begins,
                                     bool ends, bl_error *err);
/* Hands the chunk's documents to fn. field: the key of JSON lines. Errors name path and line. */
bl_status bl__chunk_documents(const bl__chunk *chunk, const char *field, bl__document_fn fn,
                              void *user, bl_error *err);

#endif
