/* Owns the fields that endpoints share, and the encoding of prompts. Must not know endpoints. */
#include "server/generation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/clock.h"

/* The longest token of usual vocabularies has some 130 bytes, all of them blanks; a text longer
 * than this for each token of the context cannot fit and is not worth encoding. */
enum { MAX_BYTES_PER_TOKEN = 256 };

static uint64_t fresh_seed(void) {
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        seed = (uint64_t)(bl__seconds_now() * 1e9);
    return seed;
}

static void parse_sampling(bl__fields *f, bl_sampler_params *s) {
    *s = bl_sampler_default_params();
    s->temperature = (float)bl__field_number(f, "temperature", 0, 100, (double)s->temperature);
    s->top_p = (float)bl__field_number(f, "top_p", 0, 1, (double)s->top_p);
    if (s->top_p <= 0) /* clients say 0 and mean the likeliest token */
        s->top_p = 1e-6f;
    s->top_k = (int32_t)bl__field_integer(f, "top_k", -1, INT32_MAX, s->top_k);
    s->min_p = (float)bl__field_number(f, "min_p", 0, 1, (double)s->min_p);
    s->repeat_penalty = (float)bl__field_number(f, "repeat_penalty", 0.01, 100, 1);
    s->frequency_penalty = (float)bl__field_number(f, "frequency_penalty", -2, 2, 0);
    s->presence_penalty = (float)bl__field_number(f, "presence_penalty", -2, 2, 0);
    int64_t last_n = bl__field_integer(f, "repeat_last_n", -1, 65536, 0);
    if (last_n != 0)
        s->penalty_last_n = last_n < 0 ? 65536 : (int32_t)last_n;
    else if (s->frequency_penalty != 0.0f || s->presence_penalty != 0.0f)
        s->penalty_last_n = 4096; /* OpenAI's penalties look at the whole text */
    s->seed = bl__field(f, "seed") ? (uint64_t)bl__field_integer(f, "seed", INT64_MIN, INT64_MAX, 0)
                                   : fresh_seed();
}

bool bl__generation_add_stop(bl__generation *g, const char *stop) {
    if (g->n_stops == BL_MAX_REQUEST_STOPS)
        return false;
    g->stops[g->n_stops++] = stop;
    return true;
}

static void parse_stops(bl__fields *f, bl__generation *g) {
    json_t *stop = bl__field(f, "stop"), *item;
    size_t i;
    if (f->failed || !stop)
        return;
    if (json_is_string(stop)) {
        if (json_string_length(stop) > 0)
            bl__generation_add_stop(g, json_string_value(stop));
        return;
    }
    if (!json_is_array(stop) || json_array_size(stop) > BL_MAX_REQUEST_STOPS / 2) {
        bl__field_fail(f, "stop", "expected a string, or an array of at most %d",
                       BL_MAX_REQUEST_STOPS / 2);
        return;
    }
    json_array_foreach(stop, i, item) {
        if (!json_is_string(item) || json_string_length(item) == 0) {
            bl__field_fail(f, "stop", "item %zu is not a string with text", i);
            return;
        }
        bl__generation_add_stop(g, json_string_value(item));
    }
}

static void parse_biases(bl__fields *f, bl__generation *g) {
    json_t *biases = bl__field_object(f, "logit_bias"), *value;
    const char *key;
    size_t n = json_object_size(biases);
    if (!biases || n == 0)
        return;
    if (n > BL_MAX_LOGIT_BIASES) {
        bl__field_fail(f, "logit_bias", "%zu tokens, expected at most %d", n, BL_MAX_LOGIT_BIASES);
        return;
    }
    g->biases = bl__malloc_array(n, sizeof *g->biases);
    if (!g->biases) {
        bl__field_fail(f, "logit_bias", "no memory for %zu tokens", n);
        return;
    }
    json_object_foreach(biases, key, value) {
        char *end;
        long token = strtol(key, &end, 10);
        double bias = json_number_value(value);
        if (*key == '\0' || *end != '\0' || token < 0 || token > INT32_MAX) {
            bl__field_fail(f, "logit_bias", "\"%.40s\" is not the id of a token", key);
            return;
        }
        if (!json_is_number(value) || !(bias >= -100 && bias <= 100)) {
            bl__field_fail(f, "logit_bias", "token %ld: expected a number from -100 to 100", token);
            return;
        }
        g->biases[g->n_biases++] =
            (bl__logit_bias){(bl_token)token, bias <= -100 ? -INFINITY : (float)bias};
    }
}

void bl__generation_parse(bl__fields *f, bl__generation *g) {
    *g = (bl__generation){.n_choices = 1};
    parse_sampling(f, &g->sampling);
    g->n_choices = (size_t)bl__field_integer(f, "n", 1, BL_MAX_CHOICES, 1);
    g->stream = bl__field_bool(f, "stream", false);
    g->ignore_end = bl__field_bool(f, "ignore_eos", false);
    g->seconds = bl__field_number(f, "timeout", 0, 86400, 0);
    json_t *options = bl__field_object(f, "stream_options");
    if (options) {
        bl__fields inner = {.root = options, .response = f->response, .prefix = "stream_options."};
        g->include_usage = bl__field_bool(&inner, "include_usage", false);
        f->failed = f->failed || inner.failed;
    }
    parse_stops(f, g);
    parse_biases(f, g);
}

void bl__generation_clear(bl__generation *g) {
    bl__free(g->biases);
    g->biases = NULL;
}

void bl__generation_parse_length(bl__fields *f, const char *const *names, size_t n,
                                 bl__generation *g) {
    for (size_t i = 0; i < n; i++) {
        int64_t most = bl__field_integer(f, names[i], -1, INT32_MAX, 0);
        if (most > 0)
            g->max_tokens = (size_t)most;
    }
}

bl__job_params bl__generation_job(const bl__generation *g, size_t i) {
    bl__job_params p = {.sampling = g->sampling,
                        .max_tokens = g->max_tokens,
                        .stops = g->stops,
                        .n_stops = g->n_stops,
                        .biases = g->biases,
                        .n_biases = g->n_biases,
                        .ignore_end = g->ignore_end,
                        .seconds = g->seconds};
    p.sampling.seed += i;
    return p;
}

bool bl__encode_prompt(const bl__served *served, const char *text, size_t len, bool special,
                       bl_token **ids, size_t *n_ids, const char *param, bl__response *response) {
    const bl_tokenizer *t = served->tokenizer;
    size_t n_ctx = bl__scheduler_n_ctx(served->scheduler), n = 0;
    bl_token bos = bl_tokenizer_bos(t), eos = bl_tokenizer_eos(t), *list = NULL;
    bl_error err = {0};
    if (len / MAX_BYTES_PER_TOKEN > n_ctx) {
        bl__respond_error(response, 400, "invalid_request_error", param, "context_length_exceeded",
                          "the prompt has %zu bytes, the context holds %zu tokens", len, n_ctx);
        return false;
    }
    unsigned flags = BL_TOKENIZE_EXTRA | (special ? BL_TOKENIZE_SPECIAL : 0u);
    if (bl_tokenizer_encode(t, text, len, flags, &list, &n, &err) != BL_OK) {
        bl__respond_failure(response, &err, param);
        return false;
    }
    if (n > 1 && bos >= 0 && list[0] == bos && list[1] == bos) /* the template wrote it, too */
        memmove(list, list + 1, --n * sizeof *list);
    if (n > 0 && eos >= 0 && list[n - 1] == eos) {
        bl_token *plain = NULL;
        size_t n_plain = 0;
        flags &= ~(unsigned)BL_TOKENIZE_EXTRA;
        if (bl_tokenizer_encode(t, text, len, flags, &plain, &n_plain, &err) != BL_OK) {
            bl_free(list);
            bl__respond_failure(response, &err, param);
            return false;
        }
        n -= n_plain == 0 || plain[n_plain - 1] != eos;
        bl_free(plain);
    }
    if (n == 0) {
        bl_free(list);
        bl__respond_error(response, 400, "invalid_request_error", param, "invalid_value",
                          "the prompt is empty, and the model has no token to begin with");
        return false;
    }
    *ids = list;
    *n_ids = n;
    return true;
}

const char *bl__finish_reason(const bl__job_end *end) {
    if (end->outcome != BL_JOB_FINISHED)
        return "length";
    return end->reason == BL_STOP_END || end->reason == BL_STOP_STRING ? "stop" : "length";
}
