/* Chat templates: the Jinja subset that published models use, in an interpreter of our own with
 * limits on steps, depth and output.
 *
 * Templates see what transformers' apply_chat_template() gives them: jinja2's sandbox with
 * trim_blocks and lstrip_blocks, tojson, raise_exception(), strftime_now(), {% generation %} and
 * loop controls. One rendering takes at most 20 million steps, 16 MiB of text, 256 MiB of values
 * and about 400 KiB of the caller's stack; a template has at most 1 MiB.
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

/* Renders a conversation; `tools` and `documents` are none. *text is allocated (bl_free) and
 * NUL-terminated; *len, which may be NULL, excludes the NUL. options may be NULL.
 * Errors: BL_ERR_ARGUMENT with the template's own words when it calls raise_exception(), and with
 * the line number when it does what Python would not; BL_ERR_UNSUPPORTED as above, met inside an
 * {% if %}; BL_ERR_LIMIT when steps, depth, memory or output exceed their caps. */
bl_status bl_chat_template_render(const bl_chat_template *chat_template,
                                  const bl_chat_options *options, const bl_chat_message *messages,
                                  size_t n_messages, char **text, size_t *len, bl_error *err);

/* Renders with every variable given as one JSON object (messages, tools, bos_token,
 * add_generation_prompt, ...), for conversations with tool calls and structured content.
 * A number in `strftime_now` is the time, in seconds since 1970 UTC, that strftime_now() tells
 * instead of the clock's. */
bl_status bl_chat_template_render_json(const bl_chat_template *chat_template,
                                       const char *variables_json, char **text, size_t *len,
                                       bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
