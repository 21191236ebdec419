/* Owns finding words in what was said, whatever their case, in any script. There is no index: a
 * scan of a hundred thousand messages takes a fraction of a second, and finds parts of words. Must
 * not know the tables. */
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "server/store_internal.h"
#include "tokenizer/utf8.h"

enum { EXCERPT_BEFORE = 40, EXCERPT_AFTER = 120 /* bytes around what was found */ };

/* The letter at text, in lower case; *n: its bytes. Bad UTF-8, which only a hand in the database
 * can have put there, matches nothing. */
static uint32_t fold_char(const char *text, size_t len, size_t *n) {
    unsigned char first = (unsigned char)text[0];
    *n = 1;
    if (first < 0x80)
        return first >= 'A' && first <= 'Z' ? first + 32u : first;
    *n = bl__utf8_len(text, len);
    if (!*n) {
        *n = 1;
        return UINT32_MAX;
    }
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)bl__utf8_decode(text, *n));
}

char *bl__store_fold(bl__store_text text, size_t *len) {
    /* Some letters of two bytes have lower cases of three. */
    char *out = bl__malloc_array(text.len + 1, 2);
    if (!out)
        return NULL;
    size_t used = 0, n;
    for (size_t i = 0; i < text.len; i += n) {
        uint32_t c = fold_char(text.data + i, text.len - i, &n);
        if (c != UINT32_MAX)
            used += bl__utf8_encode(c, out + used);
    }
    out[used] = '\0';
    *len = used;
    return out;
}

/* Whether text goes on with all of the needle. */
static bool is_at(const char *text, size_t len, const char *needle, size_t needle_len) {
    size_t i = 0, n, m;
    for (size_t k = 0; k < needle_len; k += m, i += n) {
        if (i == len)
            return false;
        m = bl__utf8_len(needle + k, needle_len - k);
        if (!m || fold_char(text + i, len - i, &n) != bl__utf8_decode(needle + k, m))
            return false;
    }
    return true;
}

static bool is_continuation(char c) {
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Gives the text around `at` as the result, cut between words, or characters where there is no
 * space. */
static void give_excerpt(sqlite3_context *context, const char *text, size_t len, size_t at) {
    size_t from = at > EXCERPT_BEFORE ? at - EXCERPT_BEFORE : 0;
    size_t to = len - at > EXCERPT_AFTER ? at + EXCERPT_AFTER : len;
    const char *space = from ? memchr(text + from, ' ', at - from) : NULL;
    if (space)
        from = (size_t)(space - text) + 1;
    space = to < len ? memrchr(text + at, ' ', to - at) : NULL;
    if (space && to - (size_t)(space - text) < EXCERPT_AFTER / 2)
        to = (size_t)(space - text);
    while (from < at && is_continuation(text[from]))
        from++;
    while (to < len && is_continuation(text[to]))
        to++;
    char *out = sqlite3_mprintf("%s%.*s%s", from ? "…" : "", (int)(to - from), text + from,
                                to < len ? "…" : "");
    if (out)
        sqlite3_result_text(context, out, -1, sqlite3_free);
    else
        sqlite3_result_error_nomem(context);
}

static void excerpt(sqlite3_context *context, int n_values, sqlite3_value **values) {
    (void)n_values;
    const char *text = (const char *)sqlite3_value_text(values[0]);
    const char *needle = (const char *)sqlite3_value_text(values[1]);
    if (!text || !needle)
        return; /* NULL */
    size_t len = (size_t)sqlite3_value_bytes(values[0]), n;
    size_t needle_len = (size_t)sqlite3_value_bytes(values[1]);
    for (size_t i = 0; i < len; i += n) {
        if (is_at(text + i, len - i, needle, needle_len)) {
            give_excerpt(context, text, len, i);
            return;
        }
        n = bl__utf8_len(text + i, len - i);
        n = n ? n : 1;
    }
}

int bl__store_add_search(sqlite3 *db) {
    return sqlite3_create_function(db, "excerpt", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL,
                                   excerpt, NULL, NULL);
}
