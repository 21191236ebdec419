/* Server-sent events (HTML Living Standard, section 9.2), as the API writes them. */
#ifndef BL_SERVER_SSE_H
#define BL_SERVER_SSE_H

#include <jansson.h>

#include "base/buffer.h"

/* "data: JSON" and an empty line; takes over the reference. NULL sets out->failed. */
void bl__sse_data(bl__buffer *out, json_t *value);
/* The same with "event: name" before it. */
void bl__sse_event(bl__buffer *out, const char *name, json_t *value);
/* "data: [DONE]". */
void bl__sse_done(bl__buffer *out);

#endif
