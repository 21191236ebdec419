/* The messages of a chat and how they become a prompt: by the model's chat template, or plainly
 * as "User:" and "Assistant:" when it has none. */
#ifndef BL_APPS_CONVERSATION_H
#define BL_APPS_CONVERSATION_H

#include <stdbool.h>
#include <stddef.h>

#include "bitloom/bitloom.h"

typedef struct conversation {
    bl_chat_message *messages; /* [n], roles static, contents allocated */
    size_t n, cap;
    bl_chat_template *chat_template; /* NULL: plain turns */
    char *bos, *eos;                 /* texts of the tokens, for the template */
} conversation;

/* Plain turns end where the model would speak for the user. */
#define PLAIN_STOP "\nUser:"

/* Sets up an empty conversation; template_source may be NULL. On failure nothing is held. */
bl_status conversation_open(conversation *c, const bl_tokenizer *tokenizer,
                            const char *template_source, size_t len, bl_error *err);
void conversation_close(conversation *c);

bl_status conversation_add(conversation *c, const char *role, const char *text, size_t len,
                           bl_error *err);
/* Replaces the system message, which is the first; an empty text removes it. */
bl_status conversation_set_system(conversation *c, const char *text, bl_error *err);
void conversation_drop_last(conversation *c);
/* Drops the oldest question and its answer, not the last question; false when there is none. */
bool conversation_drop_oldest(conversation *c);
void conversation_clear(conversation *c); /* all but the system message */

/* The prompt that asks for the next answer; *text is allocated (bl_free). */
bl_status conversation_render(const conversation *c, char **text, size_t *len, bl_error *err);
/* Writes all messages to a JSON file. */
bl_status conversation_save(const conversation *c, const char *path, bl_error *err);

#endif
