/* Owns the search for stop strings: one Knuth-Morris-Pratt automaton each, so that the time is
 * linear in the text and what is held back is exactly the longest end of the text that some stop
 * string begins with. */
#include "generate/stop.h"

#include <stdint.h>
#include <string.h>

#include <utf8proc.h>

#include "base/alloc.h"
#include "base/error.h"

enum { MAX_STOPS = 256, MAX_STOP_BYTES = 4096 };

typedef struct stop_string {
    const char *text; /* [len] */
    uint16_t *border; /* [len]: longest proper prefix of text[0..i] that also ends it */
    size_t len;
    size_t matched; /* how much of text the stream now ends with, < len */
} stop_string;

struct bl__stop_filter {
    stop_string *stops; /* [n_stops] */
    size_t n_stops;
    char *bytes;       /* the texts, one after the other */
    uint16_t *borders; /* the same for the borders */
    char *held;        /* what may be the beginning of a stop string */
    size_t n_held;     /* = the largest `matched`, so below the longest len */
    bool done;
};

static bl_status check_stops(const char *const *stops, size_t n_stops, size_t *total,
                             size_t *longest, bl_error *err) {
    if (n_stops > MAX_STOPS)
        return bl__fail(err, BL_ERR_LIMIT, "%zu stop strings, expected at most %d", n_stops,
                        MAX_STOPS);
    for (size_t i = 0; i < n_stops; i++) {
        size_t len = strnlen(stops[i], MAX_STOP_BYTES + 1);
        if (len == 0)
            return bl__fail(err, BL_ERR_ARGUMENT, "stop string %zu is empty", i + 1);
        if (len > MAX_STOP_BYTES)
            return bl__fail(err, BL_ERR_LIMIT, "stop string %zu has more than %d bytes", i + 1,
                            MAX_STOP_BYTES);
        for (size_t at = 0; at < len;) {
            utf8proc_int32_t c;
            utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)stops[i] + at,
                                                  (utf8proc_ssize_t)(len - at), &c);
            if (n <= 0)
                return bl__fail(err, BL_ERR_ARGUMENT,
                                "stop string %zu: byte %zu is not UTF-8; text never matches it",
                                i + 1, at + 1);
            at += (size_t)n;
        }
        *total += len;
        *longest = len > *longest ? len : *longest;
    }
    return BL_OK;
}

/* The length of the longest prefix that matches once `c` follows `matched` bytes of it. */
static size_t advance(const stop_string *stop, size_t matched, char c) {
    while (matched > 0 && stop->text[matched] != c)
        matched = stop->border[matched - 1];
    return stop->text[matched] == c ? matched + 1 : 0;
}

static void fill_borders(stop_string *stop) {
    stop->border[0] = 0;
    for (size_t i = 1; i < stop->len; i++)
        stop->border[i] = (uint16_t)advance(stop, stop->border[i - 1], stop->text[i]);
}

bl_status bl__stop_filter_create(const char *const *stops, size_t n_stops, bl__stop_filter **out,
                                 bl_error *err) {
    size_t total = 0, longest = 0;
    bl_status status = check_stops(stops, n_stops, &total, &longest, err);
    if (status != BL_OK)
        return status;
    bl__stop_filter *filter = bl__calloc(1, sizeof *filter);
    if (!filter)
        goto fail;
    filter->n_stops = n_stops;
    filter->stops = bl__calloc(n_stops, sizeof *filter->stops);
    filter->bytes = bl__malloc(total);
    filter->borders = bl__malloc_array(total, sizeof *filter->borders);
    filter->held = bl__malloc(longest);
    if (!filter->stops || !filter->bytes || !filter->borders || !filter->held)
        goto fail;
    size_t at = 0;
    for (size_t i = 0; i < n_stops; i++) {
        size_t len = strlen(stops[i]);
        memcpy(filter->bytes + at, stops[i], len);
        filter->stops[i] =
            (stop_string){.text = filter->bytes + at, .border = filter->borders + at, .len = len};
        fill_borders(&filter->stops[i]);
        at += len;
    }
    *out = filter;
    return BL_OK;
fail:
    bl__stop_filter_free(filter);
    return bl__fail(err, BL_ERR_MEMORY, "no memory for %zu stop strings", n_stops);
}

void bl__stop_filter_free(bl__stop_filter *filter) {
    if (!filter)
        return;
    bl__free(filter->stops);
    bl__free(filter->bytes);
    bl__free(filter->borders);
    bl__free(filter->held);
    bl__free(filter);
}

/* Hands the first `count` bytes of held ++ text to the sink. */
static bool release(bl__stop_filter *filter, const char *text, size_t count, bl__stop_sink sink,
                    void *user) {
    size_t from_held = count < filter->n_held ? count : filter->n_held;
    if (from_held > 0 && !sink(user, filter->held, from_held))
        return false;
    memmove(filter->held, filter->held + from_held, filter->n_held - from_held);
    filter->n_held -= from_held;
    return count == from_held || sink(user, text, count - from_held);
}

bl__stop_verdict bl__stop_filter_push(bl__stop_filter *filter, const char *text, size_t len,
                                      bl__stop_sink sink, void *user) {
    if (filter->done || len == 0)
        return BL_STOP_FILTER_GO_ON;
    size_t open = 0; /* bytes at the end of the text that may begin a stop string */
    for (size_t i = 0; i < len; i++) {
        size_t complete = 0; /* length of the longest stop string that ends here */
        open = 0;
        for (size_t s = 0; s < filter->n_stops; s++) {
            stop_string *stop = &filter->stops[s];
            stop->matched = advance(stop, stop->matched, text[i]);
            if (stop->matched == stop->len)
                complete = stop->len > complete ? stop->len : complete;
            else
                open = stop->matched > open ? stop->matched : open;
        }
        if (complete > 0) {
            filter->done = true;
            /* Whatever precedes it was held back at least as far as this one begins. */
            return release(filter, text, filter->n_held + i + 1 - complete, sink, user)
                       ? BL_STOP_FILTER_MATCHED
                       : BL_STOP_FILTER_REFUSED;
        }
    }
    size_t before = filter->n_held, count = before + len - open;
    if (!release(filter, text, count, sink, user)) {
        filter->done = true;
        return BL_STOP_FILTER_REFUSED;
    }
    size_t used = count > before ? count - before : 0;
    memcpy(filter->held + filter->n_held, text + used, len - used);
    filter->n_held += len - used;
    return BL_STOP_FILTER_GO_ON;
}

bl__stop_verdict bl__stop_filter_finish(bl__stop_filter *filter, bl__stop_sink sink, void *user) {
    if (filter->done)
        return BL_STOP_FILTER_GO_ON;
    filter->done = true;
    return release(filter, "", filter->n_held, sink, user) ? BL_STOP_FILTER_GO_ON
                                                           : BL_STOP_FILTER_REFUSED;
}
