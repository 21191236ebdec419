/* Functions that a model may call: what a request offers, and the calls in what the model wrote.
 *
 * How a call is written depends on the model. These forms are known: <tool_call>{JSON}</tool_call>
 * (Hermes, Qwen, Falcon), [TOOL_CALLS][{JSON}, ...] (Mistral), <function=NAME>{JSON}</function>
 * (Llama 3.1), and an answer that is nothing but JSON (Llama 3.2), each with "name" and
 * "arguments" or "parameters". */
#ifndef BL_SERVER_TOOLS_H
#define BL_SERVER_TOOLS_H

#include "server/fields.h"

enum { BL_MAX_TOOLS = 128 };

typedef struct bl__tools {
    json_t *list;          /* array as the template wants it; NULL: no tools */
    bool required;         /* the answer must be a call ... */
    const char *only_name; /* ... of this function, where it is not NULL */
} bl__tools;

/* Reads tools and tool_choice; the list is a new reference. */
void bl__tools_parse(bl__fields *fields, bl__tools *out);

/* For templates that do not know tools: the same conversation (a new reference) with the functions
 * told in the system message, and calls and their results written out. NULL: no memory. */
json_t *bl__tools_tell(const bl__tools *tools, const json_t *messages);

/* A JSON schema of one call, as an object: {"name": ..., "arguments": {...}}. A new reference. */
json_t *bl__tools_schema(const bl__tools *tools);

/* The calls in a text, as the API's tool_calls (a new reference), and the length of the text before
 * the first; NULL when there are none, or when they cannot be read. */
json_t *bl__tools_find(const bl__tools *tools, const char *text, size_t len, size_t *n_before);

/* How much of a text that is not yet whole can be shown: what may belong to a call is held back. */
size_t bl__tools_shown(const char *text, size_t len);

#endif
