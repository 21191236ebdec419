/* Answers of /v1/responses that requests may come back to. In memory, bounded: the oldest go. */
#ifndef BL_SERVER_REPLIES_H
#define BL_SERVER_REPLIES_H

#include <jansson.h>
#include <stdbool.h>

#include "bitloom/status.h"

typedef struct bl__replies bl__replies;

bl_status bl__replies_create(bl__replies **out, bl_error *err);
void bl__replies_free(bl__replies *replies); /* NULL is accepted */

/* Keeps an answer, by its "id", with the conversation up to and with it. Copies. Any thread, as
 * all below. What is too large, or finds no memory, is not kept. */
void bl__replies_put(bl__replies *replies, const json_t *response, const json_t *messages);
/* Copies, as new references; *messages, and either pointer, may be unwanted: NULL. */
bool bl__replies_get(bl__replies *replies, const char *id, json_t **response, json_t **messages);
bool bl__replies_delete(bl__replies *replies, const char *id);

#endif
