/* Chat templates: the Jinja subset that published models use, in an interpreter of our own with
 * limits on steps, depth and output.
 *
 * A compiled template is immutable and may be shared by threads. */
#ifndef BITLOOM_CHAT_H
#define BITLOOM_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bl_chat_template bl_chat_template;

typedef struct bl_chat_message {
    const char *role;    /* "system", "user", "assistant", ... */
    const char *content; /* UTF-8, NUL-terminated */
} bl_chat_message;

typedef struct bl_chat_options {
    const char *bos_token;      /* text of BOS; NULL means empty */
    const char *eos_token;      /* text of EOS; NULL means empty */
    bool add_generation_prompt; /* end with the opening of the assistant's turn */
} bl_chat_options;

/* Compiles source[len]. Errors: BL_ERR_FORMAT with the line number, BL_ERR_UNSUPPORTED with the
 * name of a tag, filter or test outside the subset, BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl_chat_template_compile(const char *source, size_t len, bl_chat_template **out,
                                   bl_error *err);
void bl_chat_template_free(bl_chat_template *chat_template);

/* Renders a conversation. *text is allocated (bl_free) and NUL-terminated; *len excludes the NUL.
 * Errors: BL_ERR_ARGUMENT with the template's own words when it calls raise_exception();
 * BL_ERR_LIMIT when steps, depth or output exceed their caps. */
bl_status bl_chat_template_render(const bl_chat_template *chat_template,
                                  const bl_chat_options *options, const bl_chat_message *messages,
                                  size_t n_messages, char **text, size_t *len, bl_error *err);

/* Renders with every variable given as one JSON object (messages, tools, bos_token,
 * add_generation_prompt, ...), for conversations with tool calls and structured content. */
bl_status bl_chat_template_render_json(const bl_chat_template *chat_template,
                                       const char *variables_json, char **text, size_t *len,
                                       bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
