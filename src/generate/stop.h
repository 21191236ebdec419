/* Stop strings in streamed text: lets text through as soon as no stop string can begin in it.
 *
 * Knows bytes only. Pushing allocates nothing. */
#ifndef BL_GENERATE_STOP_H
#define BL_GENERATE_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

typedef struct bl__stop_filter bl__stop_filter;

typedef enum bl__stop_verdict {
    BL_STOP_FILTER_GO_ON,
    BL_STOP_FILTER_MATCHED, /* a stop string ended here; nothing of it was let through */
    BL_STOP_FILTER_REFUSED  /* the sink returned false */
} bl__stop_verdict;

/* Takes text[len], len > 0; returns false to stop. */
typedef bool (*bl__stop_sink)(void *user, const char *text, size_t len);

/* Copies stops[n_stops]. Errors: BL_ERR_ARGUMENT for an empty one and one that is not UTF-8,
 * BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__stop_filter_create(const char *const *stops, size_t n_stops, bl__stop_filter **out,
                                 bl_error *err);
void bl__stop_filter_free(bl__stop_filter *filter);

/* Adds text[len], whole UTF-8 characters, and hands the sink whole characters. The stop string
 * that is complete first wins; of several that end at the same byte, the longest. After MATCHED or
 * REFUSED the filter takes no more text. */
bl__stop_verdict bl__stop_filter_push(bl__stop_filter *filter, const char *text, size_t len,
                                      bl__stop_sink sink, void *user);
/* At the end of the text: lets through what was held back. */
bl__stop_verdict bl__stop_filter_finish(bl__stop_filter *filter, bl__stop_sink sink, void *user);

#endif
