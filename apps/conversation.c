/* Owns the messages of a chat. Knows nothing of terminals and sessions. */
#include "conversation.h"

#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

static const size_t MAX_PROMPT = (size_t)1 << 28;

/* The text of a token, allocated; NULL when memory is short. */
static char *token_text(const bl_tokenizer *tokenizer, bl_token token) {
    size_t len = 0;
    const char *piece =
        token >= 0 ? bl_tokenizer_piece(tokenizer, token, BL_DETOKENIZE_SPECIAL, &len) : "";
    return bl__strndup(piece, len);
}

bl_status conversation_open(conversation *c, const bl_tokenizer *tokenizer,
                            const char *template_source, size_t len, bl_error *err) {
    *c = (conversation){.bos = token_text(tokenizer, bl_tokenizer_bos(tokenizer)),
                        .eos = token_text(tokenizer, bl_tokenizer_eos(tokenizer))};
    bl_status status = BL_OK;
    if (!c->bos || !c->eos)
        status = bl__fail(err, BL_ERR_MEMORY, "out of memory");
    else if (template_source)
        status = bl_chat_template_compile(template_source, len, &c->chat_template, err);
    if (status != BL_OK)
        conversation_close(c);
    return status;
}

void conversation_close(conversation *c) {
    for (size_t i = 0; i < c->n; i++)
        bl__free((char *)c->messages[i].content);
    bl__free(c->messages);
    bl_chat_template_free(c->chat_template);
    bl__free(c->bos);
    bl__free(c->eos);
    *c = (conversation){0};
}

bl_status conversation_add(conversation *c, const char *role, const char *text, size_t len,
                           bl_error *err) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        bl_chat_message *messages = bl__realloc_array(c->messages, cap, sizeof *messages);
        if (!messages)
            return bl__fail(err, BL_ERR_MEMORY, "out of memory");
        c->messages = messages;
        c->cap = cap;
    }
    char *content = bl__strndup(text, len);
    if (!content)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    c->messages[c->n++] = (bl_chat_message){role, content};
    return BL_OK;
}

static void remove_at(conversation *c, size_t first, size_t count) {
    for (size_t i = first; i < first + count; i++)
        bl__free((char *)c->messages[i].content);
    memmove(c->messages + first, c->messages + first + count,
            (c->n - first - count) * sizeof *c->messages);
    c->n -= count;
}

static size_t n_system(const conversation *c) {
    return c->n > 0 && strcmp(c->messages[0].role, "system") == 0 ? 1 : 0;
}

bl_status conversation_set_system(conversation *c, const char *text, bl_error *err) {
    if (*text) {
        bl_status status = conversation_add(c, "system", text, strlen(text), err);
        if (status != BL_OK)
            return status;
        bl_chat_message system = c->messages[c->n - 1];
        memmove(c->messages + 1, c->messages, (c->n - 1) * sizeof *c->messages);
        c->messages[0] = system;
    }
    size_t old = *text ? 1 : 0;
    if (c->n > old && strcmp(c->messages[old].role, "system") == 0)
        remove_at(c, old, 1);
    return BL_OK;
}

void conversation_drop_last(conversation *c) {
    if (c->n > 0)
        remove_at(c, c->n - 1, 1);
}

bool conversation_drop_oldest(conversation *c) {
    size_t first = n_system(c);
    if (c->n < first + 3) /* question, answer, and the question to come */
        return false;
    remove_at(c, first, 2);
    return true;
}

void conversation_clear(conversation *c) {
    size_t first = n_system(c);
    remove_at(c, first, c->n - first);
}

static bl_status render_plain(const conversation *c, char **text, size_t *len, bl_error *err) {
    bl__buffer out = bl__buffer_make(MAX_PROMPT);
    for (size_t i = 0; i < c->n; i++) {
        const bl_chat_message *m = &c->messages[i];
        if (strcmp(m->role, "system") == 0) {
            bl__buffer_puts(&out, m->content);
            bl__buffer_puts(&out, "\n\n");
        } else {
            bl__buffer_puts(&out, strcmp(m->role, "user") == 0 ? "User: " : "Assistant: ");
            bl__buffer_puts(&out, m->content);
            bl__buffer_putc(&out, '\n');
        }
    }
    bl__buffer_puts(&out, "Assistant:");
    *text = out.failed ? NULL : bl__buffer_take(&out, len);
    bl__buffer_free(&out);
    return *text ? BL_OK : bl__fail(err, BL_ERR_MEMORY, "out of memory");
}

bl_status conversation_render(const conversation *c, char **text, size_t *len, bl_error *err) {
    if (!c->chat_template)
        return render_plain(c, text, len, err);
    bl_chat_options options = {
        .bos_token = c->bos, .eos_token = c->eos, .add_generation_prompt = true};
    return bl_chat_template_render(c->chat_template, &options, c->messages, c->n, text, len, err);
}

static json_t *to_json(const conversation *c) {
    json_t *messages = json_array();
    for (size_t i = 0; i < c->n; i++) {
        json_t *message =
            json_pack("{s:s, s:s}", "role", c->messages[i].role, "content", c->messages[i].content);
        if (json_array_append_new(messages, message) != 0) {
            json_decref(messages);
            return NULL;
        }
    }
    return messages;
}

bl_status conversation_save(const conversation *c, const char *path, bl_error *err) {
    json_t *messages = to_json(c);
    char *dump = messages ? json_dumps(messages, JSON_INDENT(2)) : NULL;
    json_decref(messages);
    if (!dump)
        return bl__fail(err, BL_ERR_FORMAT, "%s: a message is not UTF-8, or memory is short", path);
    bl__outfile *file = NULL;
    bl_status status = bl__outfile_open(path, &file, err);
    if (status == BL_OK)
        status = bl__outfile_write(file, dump, strlen(dump), err);
    if (status == BL_OK)
        status = bl__outfile_write(file, "\n", 1, err);
    if (status == BL_OK)
        status = bl__outfile_commit(file, err);
    else
        bl__outfile_abort(file);
    json_free_t release;
    json_get_alloc_funcs(NULL, &release);
    release(dump);
    return status;
}
