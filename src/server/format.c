/* Owns JSON that several endpoints have in common. */
#include "server/format.h"

#include <string.h>

#include "base/buffer.h"
#include "tokenizer/utf8.h"

json_t *bl__usage_json(const bl__usage *u) {
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)u->n_prompt,
                     "completion_tokens", (json_int_t)u->n_generated, "total_tokens",
                     (json_int_t)(u->n_prompt + u->n_generated), "prompt_tokens_details",
                     "cached_tokens", (json_int_t)u->n_cached);
}

void bl__usage_add(bl__usage *u, const bl__job_end *end) {
    u->n_generated += end->n_generated;
    u->joules += end->joules;
    if (end->prompt_seconds > u->prompt_seconds) /* texts of one request run side by side */
        u->prompt_seconds = end->prompt_seconds;
    if (end->generate_seconds > u->generate_seconds)
        u->generate_seconds = end->generate_seconds;
}

static double rate(uint64_t n, double seconds) {
    return seconds > 0 ? (double)n / seconds : 0;
}

void bl__put_usage(json_t *answer, const bl__usage *u) {
    uint64_t n_read = u->n_prompt - u->n_cached;
    /* The time of writing begins with the first token. */
    uint64_t n_timed = u->n_generated > 0 ? u->n_generated - 1 : 0;
    json_object_set_new(answer, "usage", bl__usage_json(u));
    json_object_set_new(
        answer, "timings",
        json_pack("{s:I, s:I, s:f, s:f, s:I, s:f, s:f}", "cache_n", (json_int_t)u->n_cached,
                  "prompt_n", (json_int_t)n_read, "prompt_ms", u->prompt_seconds * 1e3,
                  "prompt_per_second", rate(n_read, u->prompt_seconds), "predicted_n",
                  (json_int_t)u->n_generated, "predicted_ms", u->generate_seconds * 1e3,
                  "predicted_per_second", rate(n_timed, u->generate_seconds)));
    if (u->joules > 0)
        json_object_set_new(answer, "energy",
                            json_pack("{s:f, s:s}", "joules", u->joules, "kind", "measured"));
}

json_t *bl__token_json(const bl__served *served, bl_token token) {
    size_t len, at = 0;
    const char *text = bl_tokenizer_piece(served->tokenizer, token, BL_DETOKENIZE_SPECIAL, &len);
    bl__buffer out = bl__buffer_make(1 << 16);
    while (at < len) {
        size_t n = bl__utf8_len(text + at, len - at);
        if (n == 0)
            bl__buffer_puts(&out, "\xef\xbf\xbd");
        else
            bl__buffer_append(&out, text + at, n);
        at += n ? n : 1;
    }
    json_t *value = out.failed ? NULL : json_stringn_nocheck(out.len ? out.data : "", out.len);
    bl__buffer_free(&out);
    return value;
}

static json_t *entry_json(const bl__served *served, const bl__logprob *entry) {
    size_t len;
    const char *text =
        bl_tokenizer_piece(served->tokenizer, entry->token, BL_DETOKENIZE_SPECIAL, &len);
    json_t *bytes = json_array();
    for (size_t i = 0; i < len; i++)
        json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    return json_pack("{s:o, s:f, s:o}", "token", bl__token_json(served, entry->token), "logprob",
                     (double)entry->logprob, "bytes", bytes);
}

json_t *bl__logprob_json(const bl__served *served, const bl__piece *piece) {
    json_t *entry = entry_json(served, &piece->logprobs[0]), *top = json_array();
    for (size_t i = 1; i < piece->n_logprobs; i++)
        json_array_append_new(top, entry_json(served, &piece->logprobs[i]));
    if (!entry || json_object_set_new(entry, "top_logprobs", top) != 0) {
        json_decref(entry);
        return NULL;
    }
    return entry;
}

/* What went wrong: the status of HTTP, 0 when nothing did. */
static int end_status(const bl__job_end *end, const char **type, const char **code,
                      const char **message) {
    *type = "server_error";
    *code = NULL;
    switch (end->outcome) {
    case BL_JOB_FINISHED:
        return 0;
    case BL_JOB_CANCELLED:
        *code = "cancelled";
        *message = "the request was cancelled";
        return 499;
    case BL_JOB_TIMED_OUT:
        *code = "timeout";
        *message = "the answer took longer than it may";
        return 408;
    case BL_JOB_STOPPED:
        *code = "stopping";
        *message = "the server is stopping";
        return 503;
    case BL_JOB_FAILED:
        break;
    }
    *message = end->error.message;
    return 500;
}

json_t *bl__end_error(const bl__job_end *end) {
    const char *type, *code, *message;
    return end_status(end, &type, &code, &message) ? bl__error_json(type, NULL, code, message)
                                                   : NULL;
}

bool bl__respond_end(bl__response *response, const bl__job_end *end) {
    const char *type, *code, *message;
    int status = end_status(end, &type, &code, &message);
    if (status)
        bl__respond_error(response, status, type, NULL, code, "%s", message);
    return status != 0;
}
