/* Owns the files of a corpus and how they are cut. Must not know tokens. */
#include "formats/corpus.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "formats/json.h"

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "corpus: cannot allocate its list of files");
}

static bool has_suffix(const char *path, const char *suffix) {
    size_t a = strlen(path), b = strlen(suffix);
    return a >= b && memcmp(path + a - b, suffix, b) == 0;
}

static bool has_one_of(const char *path, const char *const *suffixes) {
    for (; *suffixes; suffixes++)
        if (has_suffix(path, *suffixes))
            return true;
    return false;
}

static bool is_json_name(const char *path) {
    static const char *const suffixes[] = {".jsonl", ".ndjson", NULL};
    return has_one_of(path, suffixes);
}

static bool is_text_name(const char *path) {
    static const char *const suffixes[] = {".txt", ".text", ".md", NULL};
    return has_one_of(path, suffixes);
}

/* Takes path over, also on failure. */
static bl_status add_file(bl__corpus *corpus, char *path, uint64_t bytes, bl_error *err) {
    static const char *const packed[] = {".xz", ".gz", ".zst", ".bz2", ".zip", ".parquet", NULL};
    bl_status status = BL_OK;
    if (has_one_of(path, packed))
        status = bl__fail(err, BL_ERR_UNSUPPORTED,
                          "%s: compressed; unpack it first (for .xz: xz -dk FILE)", path);
    else if (corpus->n_files == BL_CORPUS_MAX_FILES)
        status = bl__fail(err, BL_ERR_LIMIT, "%s: more than %d files", path, BL_CORPUS_MAX_FILES);
    if (!status && corpus->n_files == corpus->room) {
        size_t room = corpus->room ? corpus->room * 2 : 16;
        bl__corpus_file *files = bl__realloc_array(corpus->files, room, sizeof *files);
        if (files) {
            corpus->files = files;
            corpus->room = room;
        } else {
            status = fail_memory(err);
        }
    }
    if (status) {
        bl__free(path);
        return status;
    }
    corpus->files[corpus->n_files++] = (bl__corpus_file){path, bytes};
    corpus->bytes += bytes;
    return BL_OK;
}

static bl_status add_directory(bl__corpus *corpus, const char *path, int depth, bl_error *err);

/* What a directory holds under a name that is not hidden. */
static bl_status add_entry(bl__corpus *corpus, const char *directory, const char *name, int depth,
                           bl_error *err) {
    char *path = bl__path_join(directory, name);
    if (!path)
        return fail_memory(err);
    struct stat own, target; /* a link to a file counts; one to a directory could lead in circles */
    bl_status status = BL_OK;
    if (lstat(path, &own) != 0 || stat(path, &target) != 0) {
        /* gone since, or a link to nowhere */
    } else if (S_ISDIR(own.st_mode)) {
        status = add_directory(corpus, path, depth + 1, err);
    } else if (S_ISREG(target.st_mode) && (is_text_name(name) || is_json_name(name))) {
        return add_file(corpus, path, (uint64_t)target.st_size, err);
    }
    bl__free(path);
    return status;
}

static bl_status add_directory(bl__corpus *corpus, const char *path, int depth, bl_error *err) {
    if (depth == BL_CORPUS_MAX_DEPTH)
        return bl__fail(err, BL_ERR_LIMIT, "%s: directories nested more than %d deep", path,
                        BL_CORPUS_MAX_DEPTH);
    DIR *dir = opendir(path);
    if (!dir)
        return bl__fail(err, BL_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    bl_status status = BL_OK;
    for (struct dirent *entry; !status && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            status = add_entry(corpus, path, entry->d_name, depth, err);
    closedir(dir);
    return status;
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(((const bl__corpus_file *)a)->path, ((const bl__corpus_file *)b)->path);
}

static bl_status add_path(bl__corpus *corpus, const char *path, bl_error *err) {
    struct stat st;
    if (stat(path, &st) != 0) {
        int code = errno;
        return bl__fail(err, code == ENOENT ? BL_ERR_NOT_FOUND : BL_ERR_IO, "%s: cannot open: %s",
                        path, strerror(code));
    }
    if (!S_ISDIR(st.st_mode)) {
        char *copy = bl__strndup(path, strlen(path));
        return copy ? add_file(corpus, copy, (uint64_t)st.st_size, err) : fail_memory(err);
    }
    size_t before = corpus->n_files;
    bl_status status = add_directory(corpus, path, 0, err);
    if (!status && corpus->n_files == before)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "%s: no .txt, .text, .md, .jsonl or .ndjson file in this directory", path);
    if (!status)
        qsort(corpus->files + before, corpus->n_files - before, sizeof *corpus->files,
              compare_paths);
    return status;
}

bl_status bl__corpus_open(const char *const *paths, size_t n_paths, bl__corpus *out,
                          bl_error *err) {
    bl__corpus corpus = {0};
    bl_status status = BL_OK;
    for (size_t i = 0; i < n_paths && !status; i++)
        status = add_path(&corpus, paths[i], err);
    if (status)
        bl__corpus_close(&corpus);
    else
        *out = corpus;
    return status;
}

void bl__corpus_close(bl__corpus *corpus) {
    for (size_t i = 0; i < corpus->n_files; i++)
        bl__free(corpus->files[i].path);
    bl__free(corpus->files);
    bl__filemap_close(&corpus->map);
    *corpus = (bl__corpus){0};
}

/* ---- cutting ---- */

static bool is_letter(char c) {
    return (unsigned)((c | 0x20) - 'a') < 26;
}

static bool may_cut(const char *text, size_t at) {
    return text[at] == ' ' && is_letter(text[at - 1]) && is_letter(text[at + 1]);
}

/* Where to end a chunk of text[len]. A text without any word boundary for four chunks is cut
 * between characters. */
static size_t cut_text(const char *text, size_t len) {
    size_t most = 4 * (size_t)BL_CORPUS_CHUNK;
    if (len <= BL_CORPUS_CHUNK)
        return len;
    for (size_t i = BL_CORPUS_CHUNK; i > BL_CORPUS_CHUNK / 2; i--)
        if (i + 1 < len && may_cut(text, i))
            return i;
    for (size_t i = BL_CORPUS_CHUNK; i < most && i + 1 < len; i++)
        if (may_cut(text, i))
            return i;
    if (len <= most)
        return len;
    size_t cut = most;
    while (cut > most - 4 && ((uint8_t)text[cut] & 0xc0) == 0x80)
        cut--;
    return cut;
}

/* After the last line that ends in a chunk, or after the line that fills more than that. */
static size_t cut_lines(const char *text, size_t len) {
    if (len <= BL_CORPUS_CHUNK)
        return len;
    const char *end = memrchr(text, '\n', BL_CORPUS_CHUNK);
    if (!end)
        end = memchr(text + BL_CORPUS_CHUNK, '\n', len - BL_CORPUS_CHUNK);
    return end ? (size_t)(end - text) + 1 : len;
}

bl_status bl__corpus_next(bl__corpus *corpus, bl__chunk *out, bool *more, bl_error *err) {
    while (!corpus->map.data) {
        if (corpus->file == corpus->n_files) {
            *more = false;
            return BL_OK;
        }
        bl_status status = bl__filemap_open(corpus->files[corpus->file].path, &corpus->map, err);
        if (status)
            return status;
        corpus->offset = 0;
        if (!corpus->map.data) /* an empty file is no document */
            corpus->file++;
    }
    const char *path = corpus->files[corpus->file].path;
    const char *text = (const char *)corpus->map.data + corpus->offset;
    size_t left = corpus->map.len - corpus->offset;
    bool is_json = is_json_name(path);
    size_t len = is_json ? cut_lines(text, left) : cut_text(text, left);
    *out = (bl__chunk){.path = path,
                       .text = text,
                       .len = len,
                       .is_json = is_json,
                       .is_first = corpus->offset == 0,
                       .is_last = len == left,
                       .map = corpus->map};
    corpus->offset += len;
    if (out->is_last) { /* the map is the chunk's now */
        corpus->map = (bl__filemap){0};
        corpus->file++;
    }
    *more = true;
    return BL_OK;
}

void bl__chunk_release(bl__chunk *chunk) {
    if (chunk->is_last)
        bl__filemap_close(&chunk->map);
    else
        bl__filemap_release((const uint8_t *)chunk->text, chunk->len);
}

/* ---- documents ---- */

static bl_status fail_line(const bl__chunk *chunk, const char *line, bl_error *err,
                           bl_status status, const char *what) {
    size_t number = 1;
    for (const char *at = (const char *)chunk->map.data; at < line; number++) {
        const char *end = memchr(at, '\n', (size_t)(line - at));
        if (!end)
            break;
        at = end + 1;
    }
    return bl__fail(err, status, "%s: line %zu: %s", chunk->path, number, what);
}

static bl_status read_line(const bl__chunk *chunk, const char *line, size_t len, const char *field,
                           bl__document_fn fn, void *user, bl_error *err) {
    static const bl__json_limits limits = {.depth = 64, .values = 1 << 20, .as_reals = true};
    bl_error inner;
    json_t *root;
    if (len > BL_CORPUS_MAX_LINE)
        return fail_line(chunk, line, err, BL_ERR_LIMIT, "longer than 256 MiB");
    bl_status status = bl__json_parse(line, len, limits, &root, &inner);
    if (status)
        return fail_line(chunk, line, err, status, inner.message);
    const json_t *text = json_object_get(root, field);
    if (json_is_string(text)) {
        status = fn(user, json_string_value(text), json_string_length(text), true, true, err);
    } else {
        bl__fail(&inner, BL_ERR_FORMAT, "\"%.60s\" is %s, expected a string", field,
                 bl__json_type_name(text));
        status = fail_line(chunk, line, err, BL_ERR_FORMAT, inner.message);
    }
    json_decref(root);
    return status;
}

static bool is_blank(const char *text, size_t len) {
    while (len && (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n')) {
        text++;
        len--;
    }
    return len == 0;
}

bl_status bl__chunk_documents(const bl__chunk *chunk, const char *field, bl__document_fn fn,
                              void *user, bl_error *err) {
    const char *text = chunk->text, *end = text + chunk->len;
    if (chunk->is_first && chunk->len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3; /* a byte order mark is not text */
    if (!chunk->is_json)
        return fn(user, text, (size_t)(end - text), chunk->is_first, chunk->is_last, err);
    bl_status status = BL_OK;
    while (text < end && !status) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline ? newline : end;
        if (!is_blank(text, (size_t)(line_end - text)))
            status = read_line(chunk, text, (size_t)(line_end - text), field, fn, user, err);
        text = newline ? newline + 1 : end;
    }
    return status;
}
