/* The items that /v1/responses speaks in, to and from messages. */
#ifndef BL_SERVER_RESPONSE_ITEMS_H
#define BL_SERVER_RESPONSE_ITEMS_H

#include "server/fields.h"

/* The conversation `before` (NULL: none) with a request's input behind it, as a new reference; NULL
 * with the fields' error set. */
json_t *bl__items_to_messages(bl__fields *fields, const char *name, const json_t *before);
/* Adds what the assistant said, and its calls (NULL: none), to a conversation. */
void bl__messages_add_answer(json_t *messages, const char *text, size_t len, const json_t *calls);

/* All give new references; NULL when memory is short. */
json_t *bl__item_text(const char *text, size_t len);
/* text: NULL: without content. */
json_t *bl__item_message(const char *id, const char *status, const char *text, size_t len);
/* call: as chat has it. */
json_t *bl__item_call(const json_t *call);

#endif
