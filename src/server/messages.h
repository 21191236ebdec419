/* Conversations as requests give them, checked and written out by the model's template. */
#ifndef BL_SERVER_MESSAGES_H
#define BL_SERVER_MESSAGES_H

#include "server/fields.h"
#include "server/models.h"
#include "server/tools.h"

enum { BL_MAX_MESSAGES = 4096 };

/* Checks an array of messages and gives it in the form that templates know: content as text, the
 * arguments of tool calls as objects. Returns a new reference; NULL with the fields' error set. */
json_t *bl__messages_parse(bl__fields *fields, json_t *messages, const char *name);

/* Writes messages out with the model's template, ready for the assistant to go on. Where the last
 * message is the assistant's, its text is the beginning of the answer; where a tool must be called,
 * the mark that the model's calls begin with is. tools and kwargs (further variables of the
 * template) may be NULL. *text: bl_free(). On failure fills the response. */
bool bl__messages_render(const bl__served *served, json_t *messages, const bl__tools *tools,
                         json_t *kwargs, char **text, size_t *len, bl__response *response);

#endif
