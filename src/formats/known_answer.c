/* Owns how known answers are stored. Must not know how they are made or compared. */
#include "formats/known_answer.h"

#include <string.h>

#include "base/error.h"

static const char prompt_key[] = "bitloom.known_answer.prompt";
static const char tokens_key[] = "bitloom.known_answer.tokens";
static const char logits_key[] = "bitloom.known_answer.logits";

bool bl__known_answer_owns(bl__string key) {
    return bl__string_is(key, prompt_key) || bl__string_is(key, tokens_key) ||
           bl__string_is(key, logits_key);
}

bl_status bl__known_answer_reserve(bl__gguf_writer *writer, bl_error *err) {
    static const bl_known_answer none;
    bl_status status;
    if ((status = bl__gguf_set_i32s(writer, prompt_key, none.prompt, BL_KNOWN_PROMPT, err)) ||
        (status = bl__gguf_set_i32s(writer, tokens_key, none.tokens, BL_KNOWN_TOKENS, err)))
        return status;
    return bl__gguf_set_f32s(writer, logits_key, none.logits, BL_KNOWN_TOKENS, err);
}

bl_status bl__known_answer_fill(bl__gguf_writer *writer, const bl_known_answer *answer,
                                bl_error *err) {
    bl_status status;
    if ((status = bl__gguf_writer_replace(writer, prompt_key, answer->prompt, sizeof answer->prompt,
                                          err)) ||
        (status = bl__gguf_writer_replace(writer, tokens_key, answer->tokens, sizeof answer->tokens,
                                          err)))
        return status;
    return bl__gguf_writer_replace(writer, logits_key, answer->logits, sizeof answer->logits, err);
}

static bl_status read_array(const bl__gguf *gguf, const char *key, bl__gguf_type type, size_t count,
                            void *out, bl_error *err) {
    const bl__gguf_value *value = bl__gguf_find(gguf, key);
    if (!value)
        return bl__fail(err, BL_ERR_FORMAT, "key '%s' is missing beside the others", key);
    if (value->type != BL_GGUF_ARRAY || value->as.array.type != type ||
        value->as.array.count != count)
        return bl__fail(err, BL_ERR_FORMAT, "key '%s': expected an array of %zu %s", key, count,
                        type == BL_GGUF_I32 ? "i32" : "f32");
    memcpy(out, value->as.array.data, count * sizeof(int32_t));
    return BL_OK;
}

bl_status bl__known_answer_read(const bl__gguf *gguf, bl_known_answer *out, bool *found,
                                bl_error *err) {
    bl_status status;
    *found = bl__gguf_find(gguf, prompt_key) || bl__gguf_find(gguf, tokens_key) ||
             bl__gguf_find(gguf, logits_key);
    if (!*found)
        return BL_OK;
    if ((status = read_array(gguf, prompt_key, BL_GGUF_I32, BL_KNOWN_PROMPT, out->prompt, err)) ||
        (status = read_array(gguf, tokens_key, BL_GGUF_I32, BL_KNOWN_TOKENS, out->tokens, err)))
        return status;
    return read_array(gguf, logits_key, BL_GGUF_F32, BL_KNOWN_TOKENS, out->logits, err);
}
