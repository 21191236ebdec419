/* Owns the keys of recipes. Sources of presets and published recipes: arXiv 2310.11453 tables 5
 * and 6; 2402.17764 with "The Era of 1-bit LLMs: Training Tips, Code and FAQ". */
#include "train/recipe.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"

enum { MAX_RECIPE = 1 << 20, MAX_DEPTH = 4, MAX_VALUES = 1000, SHOWN = 60 };
static const int64_t UNSET = INT64_MIN;

typedef enum field_kind {
    FIELD_WHOLE,
    FIELD_REAL,
    FIELD_CHOICE,
    FIELD_FLAG,
    FIELD_TEXT
} field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset;
    double min, max;
    const char *names; /* of a choice, separated by spaces, in the order of their values */
    bool shape;        /* decides what parameters the network has or what they mean */
} field;

#define AT(member) offsetof(bl__recipe, member)
static const field FIELDS[] = {
    {"preset", FIELD_TEXT, AT(preset), 0, 0, NULL, false},
    {"layers", FIELD_WHOLE, AT(layers), 1, 1024, NULL, true},
    {"dim", FIELD_WHOLE, AT(dim), 2, 1 << 20, NULL, true},
    {"ffn_dim", FIELD_WHOLE, AT(ffn_dim), 1, 1 << 20, NULL, true},
    {"heads", FIELD_WHOLE, AT(heads), 1, 1 << 16, NULL, true},
    {"kv_heads", FIELD_WHOLE, AT(kv_heads), 1, 1 << 16, NULL, true},
    {"head_dim", FIELD_WHOLE, AT(head_dim), 2, 1 << 16, NULL, true},
    {"vocab", FIELD_WHOLE, AT(vocab), 0, 1 << 24, NULL, true},
    {"context", FIELD_WHOLE, AT(context), 1, 1 << 24, NULL, false},
    {"weights", FIELD_CHOICE, AT(weights), 0, 0, "float ternary binary onebit", true},
    {"activation", FIELD_CHOICE, AT(activation), 0, 0, "silu relu2", true},
    {"norm", FIELD_CHOICE, AT(norm), 0, 0, "rms layer", true},
    {"sub_norms", FIELD_FLAG, AT(sub_norms), 0, 0, NULL, true},
    {"groups", FIELD_WHOLE, AT(groups), 1, 1 << 16, NULL, true},
    {"precision", FIELD_CHOICE, AT(precision), 0, 0, "auto float32 bf16 int8", false},
    {"memory", FIELD_CHOICE, AT(memory), 0, 0, "store recompute", false},
    {"rope_base", FIELD_REAL, AT(rope_base), 1, 1e12, NULL, true},
    {"norm_eps", FIELD_REAL, AT(norm_eps), 0, 1, NULL, true},
    {"init_std", FIELD_REAL, AT(init_std), 0, 10, NULL, false},
    {"data", FIELD_TEXT, AT(data), 0, 0, NULL, false},
    {"tokenizer", FIELD_TEXT, AT(tokenizer), 0, 0, NULL, false},
    {"from", FIELD_TEXT, AT(from), 0, 0, NULL, false},
    {"teacher", FIELD_TEXT, AT(teacher), 0, 0, NULL, false},
    {"distill_hidden", FIELD_REAL, AT(distill_hidden), 0, 1e6, NULL, false},
    {"distill_hard", FIELD_REAL, AT(distill_hard), 0, 1, NULL, false},
    {"distill_temperature", FIELD_REAL, AT(distill_temperature), 1e-3, 1e3, NULL, false},
    {"distill_relations", FIELD_REAL, AT(distill_relations), 0, 1e9, NULL, false},
    {"relation_layer", FIELD_WHOLE, AT(relation_layer), 0, 1024, NULL, false},
    {"relation_heads", FIELD_WHOLE, AT(relation_heads), 0, 1 << 16, NULL, false},
    {"relation_temperature", FIELD_REAL, AT(relation_temperature), 1e-3, 1e3, NULL, false},
    {"mask_documents", FIELD_FLAG, AT(mask_documents), 0, 0, NULL, false},
    {"rows", FIELD_WHOLE, AT(rows), 1, 1 << 20, NULL, false},
    {"tokens", FIELD_WHOLE, AT(tokens), 1, 1 << 24, NULL, false},
    {"accumulate", FIELD_WHOLE, AT(accumulate), 1, 1 << 20, NULL, false},
    {"tensor_parallel", FIELD_WHOLE, AT(tensor_parallel), 1, 1024, NULL, false},
    {"steps", FIELD_WHOLE, AT(steps), 1, 1e12, NULL, false},
    {"recipe", FIELD_CHOICE, AT(recipe), 0, 0, "b1.58 bitnet", false},
    {"shape", FIELD_CHOICE, AT(shape), 0, 0, "constant linear cosine two-stage", false},
    {"warmup", FIELD_WHOLE, AT(warmup), 0, 1e12, NULL, false},
    {"lambda_steps", FIELD_WHOLE, AT(lambda_steps), 0, 1e12, NULL, false},
    {"rate", FIELD_REAL, AT(rate), 0, 1e30, NULL, false},
    {"rate2", FIELD_REAL, AT(rate2), 0, 1e30, NULL, false},
    {"end", FIELD_REAL, AT(end), 0, 1, NULL, false},
    {"decay", FIELD_REAL, AT(decay), 0, 100, NULL, false},
    {"decay2", FIELD_REAL, AT(decay2), 0, 100, NULL, false},
    {"beta1", FIELD_REAL, AT(beta1), 0, 0.999999, NULL, false},
    {"beta2", FIELD_REAL, AT(beta2), 0, 0.999999, NULL, false},
    {"eps", FIELD_REAL, AT(eps), 1e-30, 1, NULL, false},
    {"clip", FIELD_REAL, AT(clip), 0, 1e30, NULL, false},
    {"seed", FIELD_WHOLE, AT(seed), 0, 9e15, NULL, false},
    {"eval_interval", FIELD_WHOLE, AT(eval_interval), 0, 1e12, NULL, false},
    {"eval_rows", FIELD_WHOLE, AT(eval_rows), 0, 1e9, NULL, false},
    {"save_interval", FIELD_WHOLE, AT(save_interval), 0, 1e12, NULL, false},
    {"keep", FIELD_WHOLE, AT(keep), 1, 1000, NULL, false},
    {"log_interval", FIELD_WHOLE, AT(log_interval), 1, 1e12, NULL, false},
    {"spike", FIELD_REAL, AT(spike), 0, 1e30, NULL, false},
    {"sample_tokens", FIELD_WHOLE, AT(sample_tokens), 0, 1e9, NULL, false},
    {"sample_interval", FIELD_WHOLE, AT(sample_interval), 0, 1e12, NULL, false},
    {"prompt", FIELD_TEXT, AT(prompt), 0, 0, NULL, false},
    {"temperature", FIELD_REAL, AT(temperature), 0, 100, NULL, false},
};
#undef AT
enum { N_FIELDS = sizeof FIELDS / sizeof *FIELDS };

/* Rates of the published sizes go with their own recipe; small models stand a higher one. */
static const struct preset {
    const char *name;
    int layers, dim, ffn_dim, heads, kv_heads, tokens;
    double rate, rate2;
} PRESETS[] = {
    {"tiny-1m", 4, 128, 384, 4, 2, 256, 1e-2, 6.6e-3},
    {"small-3m", 4, 256, 512, 8, 4, 256, 7e-3, 4.6e-3},
    {"5m", 5, 256, 768, 8, 4, 256, 7e-3, 4.6e-3},
    {"15m", 8, 384, 1024, 6, 3, 256, 2e-3, 1.3e-3},
    {"25m", 8, 512, 1408, 8, 4, 512, 2e-3, 1.3e-3},
    {"125m", 12, 768, 2048, 12, 12, 2048, 2.4e-3, 1.6e-3},
    {"350m", 24, 1024, 2736, 16, 16, 2048, 1.2e-3, 8e-4},
    {"760m", 24, 1536, 4096, 16, 16, 2048, 1e-3, 6.6e-4},
    {"700m", 24, 1536, 4096, 24, 24, 2048, 1.5e-3, 1e-3},
    {"1.3b", 24, 2048, 5460, 32, 32, 2048, 1.2e-3, 8e-4},
    {"2.7b", 32, 2560, 6832, 32, 32, 2048, 6.4e-4, 4.2e-4},
    {"3b", 26, 3200, 8640, 32, 32, 2048, 1.2e-3, 8e-4},
    {"3.9b", 26, 3200, 12800, 32, 32, 2048, 1.2e-3, 8e-4},
};
enum { N_PRESETS = sizeof PRESETS / sizeof *PRESETS };
enum { RECIPE_B158, RECIPE_BITNET };
static const char DEFAULT_PRESET[] = "small-3m";
/* For models that were trained in full precision: Hugging Face's "Fine-tuning LLMs to 1.58bit". */
static const double FROM_RATE = 1e-4;
enum { FROM_LAMBDA_STEPS = 1000 };

/* ---- fields ---- */

static int64_t *whole_at(const bl__recipe *r, const field *f) {
    return (int64_t *)(void *)((char *)(uintptr_t)r + f->offset);
}
static double *real_at(const bl__recipe *r, const field *f) {
    return (double *)(void *)((char *)(uintptr_t)r + f->offset);
}
static char **text_at(const bl__recipe *r, const field *f) {
    return (char **)(void *)((char *)(uintptr_t)r + f->offset);
}

static const field *find_field(const char *key) {
    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(FIELDS[i].key, key) == 0)
            return &FIELDS[i];
    return NULL;
}

/* The place of `word` among names, or -1. */
static int64_t find_choice(const char *names, const char *word) {
    size_t len = strlen(word);
    int64_t place = 0;
    for (const char *at = names; *at; at += strspn(at, " "), place++) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, n) == 0)
            return place;
        at += n;
    }
    return -1;
}

/* Copies the name at a place. */
static void choice_name(const char *names, int64_t place, char out[32]) {
    for (; place > 0; place--) {
        names += strcspn(names, " ");
        names += strspn(names, " ");
    }
    snprintf(out, 32, "%.*s", (int)strcspn(names, " "), names);
}

static void unset(bl__recipe *r) {
    memset(r, 0, sizeof *r);
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (FIELDS[i].kind == FIELD_REAL)
            *real_at(r, &FIELDS[i]) = NAN;
        else if (FIELDS[i].kind != FIELD_TEXT)
            *whole_at(r, &FIELDS[i]) = UNSET;
    }
}

void bl__recipe_free(bl__recipe *r) {
    for (size_t i = 0; i < N_FIELDS; i++)
        if (FIELDS[i].kind == FIELD_TEXT) {
            bl__free(*text_at(r, &FIELDS[i]));
            *text_at(r, &FIELDS[i]) = NULL;
        }
}

static bl_status wrong_type(const field *f, const json_t *value, const char *expected,
                            bl_error *err) {
    return bl__fail(err, BL_ERR_FORMAT, "%s is %s, expected %s", f->key, bl__json_type_name(value),
                    expected);
}

static bl_status set_number(bl__recipe *r, const field *f, const json_t *value, bl_error *err) {
    bool is_whole = f->kind == FIELD_WHOLE;
    if (is_whole ? !json_is_integer(value) : !json_is_number(value))
        return wrong_type(f, value, is_whole ? "a whole number" : "a number", err);
    double number = json_number_value(value);
    if (!(number >= f->min && number <= f->max))
        return bl__fail(err, BL_ERR_ARGUMENT, "%s is %g, expected %g to %g", f->key, number, f->min,
                        f->max);
    if (is_whole)
        *whole_at(r, f) = json_integer_value(value);
    else
        *real_at(r, f) = number;
    return BL_OK;
}

static bl_status set_field(bl__recipe *r, const field *f, const json_t *value, bl_error *err) {
    const char *text = json_string_value(value);
    switch (f->kind) {
    case FIELD_WHOLE:
    case FIELD_REAL:
        return set_number(r, f, value, err);
    case FIELD_FLAG:
        if (!json_is_boolean(value))
            return wrong_type(f, value, "true or false", err);
        *whole_at(r, f) = json_is_true(value);
        return BL_OK;
    case FIELD_CHOICE:
        if (!text)
            return wrong_type(f, value, "a string", err);
        if ((*whole_at(r, f) = find_choice(f->names, text)) < 0)
            return bl__fail(err, BL_ERR_ARGUMENT, "%s is '%.*s', expected one of: %s", f->key,
                            SHOWN, text, f->names);
        return BL_OK;
    case FIELD_TEXT:
        break;
    }
    if (!text || strlen(text) != json_string_length(value))
        return wrong_type(f, value, "a string", err);
    char *copy = bl__strndup(text, strlen(text));
    if (!copy)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", f->key);
    bl__free(*text_at(r, f));
    *text_at(r, f) = copy;
    return BL_OK;
}

static bl_status read_object(bl__recipe *r, const char *text, size_t len, bl_error *err) {
    const char *key;
    json_t *root = NULL, *value;
    bl_status status = bl__json_parse(
        text, len, (bl__json_limits){.depth = MAX_DEPTH, .values = MAX_VALUES}, &root, err);
    if (status)
        return status;
    if (!json_is_object(root))
        status = bl__fail(err, BL_ERR_FORMAT, "a recipe is an object, found %s",
                          bl__json_type_name(root));
    json_object_foreach(root, key, value) {
        const field *f = find_field(key);
        if (status)
            break;
        status = f ? set_field(r, f, value, err)
                   : bl__fail(err, BL_ERR_ARGUMENT, "unknown key '%.*s'", SHOWN, key);
    }
    json_decref(root);
    return status;
}

/* "key=value"; the value of a text or choice stands as it is, others are JSON. */
static bl_status read_setting(bl__recipe *r, const char *setting, bl_error *err) {
    char key[32];
    size_t len = strcspn(setting, "=");
    snprintf(key, sizeof key, "%.*s", (int)(len < sizeof key ? len : sizeof key - 1), setting);
    const field *f = len < sizeof key ? find_field(key) : NULL;
    if (!f || setting[len] != '=')
        return bl__fail(err, BL_ERR_ARGUMENT, "'%.*s': expected KEY=VALUE with a key of recipes",
                        SHOWN, setting);
    const char *text = setting + len + 1;
    json_t *value = f->kind == FIELD_TEXT || f->kind == FIELD_CHOICE
                        ? json_string(text)
                        : json_loads(text, JSON_DECODE_ANY, NULL);
    bl_status status =
        value ? set_field(r, f, value, err)
              : bl__fail(err, BL_ERR_ARGUMENT, "%s: '%.*s' is no value for it", key, SHOWN, text);
    json_decref(value);
    return status;
}

/* ---- defaults ---- */

static void default_whole(int64_t *value, int64_t otherwise) {
    if (*value == UNSET)
        *value = otherwise;
}
static void default_real(double *value, double otherwise) {
    if (isnan(*value))
        *value = otherwise;
}

static bl_status apply_preset(bl__recipe *r, bl_error *err) {
    const char *name = r->preset ? r->preset : DEFAULT_PRESET;
    const struct preset *p = NULL;
    char known[200] = "";
    size_t at = 0;
    for (size_t i = 0; i < N_PRESETS; i++) {
        at += (size_t)snprintf(known + at, sizeof known - at, " %s", PRESETS[i].name);
        if (strcmp(PRESETS[i].name, name) == 0)
            p = &PRESETS[i];
    }
    if (!p)
        return bl__fail(err, BL_ERR_ARGUMENT, "preset is '%.*s', expected one of:%s", SHOWN, name,
                        known);
    if (!r->preset && !(r->preset = bl__strndup(name, strlen(name))))
        return bl__fail(err, BL_ERR_MEMORY, "preset: cannot allocate");
    bool own_heads = r->heads != UNSET;
    default_whole(&r->layers, p->layers);
    default_whole(&r->dim, p->dim);
    default_whole(&r->ffn_dim, p->ffn_dim);
    default_whole(&r->heads, p->heads);
    default_whole(&r->kv_heads, own_heads ? r->heads : p->kv_heads);
    default_whole(&r->head_dim, r->dim / r->heads);
    default_whole(&r->tokens,
                  r->context != UNSET && r->context < p->tokens ? r->context : p->tokens);
    default_whole(&r->context, r->tokens);
    default_real(&r->rate, r->from ? FROM_RATE : p->rate);
    default_real(&r->rate2, p->rate2 * (r->rate / p->rate));
    return BL_OK;
}

static void apply_recipe(bl__recipe *r) {
    default_whole(&r->recipe, RECIPE_B158);
    bool first = r->recipe == RECIPE_BITNET;
    int64_t warmup = first ? 750 : 375, most = r->steps / 10; /* theirs are long runs */
    default_whole(&r->shape, first ? BL_DECAY_LINEAR : BL_DECAY_TWO_STAGE);
    default_whole(&r->weights, first ? BL_WEIGHTS_BINARY : BL_WEIGHTS_TERNARY);
    default_whole(&r->norm, first);
    default_whole(&r->warmup, warmup < most ? warmup : most);
    most = r->from && r->weights != BL_WEIGHTS_ONEBIT ? r->steps / 2 : 0;
    default_whole(&r->lambda_steps, FROM_LAMBDA_STEPS < most ? FROM_LAMBDA_STEPS : most);
    default_real(&r->end, 0.03);
    default_real(&r->decay, first ? 0.01 : 0.1);
    default_real(&r->decay2, first ? r->decay : 0.0);
    default_real(&r->beta1, 0.9);
    default_real(&r->beta2, first ? 0.98 : 0.95);
    default_real(&r->eps, 1e-8);
    default_real(&r->clip, first ? 0.0 : 1.0);
}

static void apply_rest(bl__recipe *r) {
    default_whole(&r->vocab, 0);
    default_whole(&r->activation, 1);
    default_whole(&r->sub_norms, 1);
    default_whole(&r->groups, 1);
    default_whole(&r->precision, BL_PRECISION_AUTO);
    default_whole(&r->memory, 0);
    default_real(&r->rope_base, 10000);
    default_real(&r->norm_eps, 1e-5);
    default_real(&r->init_std, 0.02);
    default_real(&r->distill_hidden, 0.1); /* docs/training.md: 1, the paper's, costs small ones */
    default_real(&r->distill_hard, 0.0);
    default_real(&r->distill_temperature, 1.0);
    default_real(&r->distill_relations, 0.0);
    default_whole(&r->relation_layer, 0);
    default_whole(&r->relation_heads, 0);
    default_real(&r->relation_temperature, 1.0);
    default_whole(&r->mask_documents, 0);
    default_whole(&r->rows, 16);
    default_whole(&r->accumulate, 1);
    default_whole(&r->tensor_parallel, 1);
    default_whole(&r->seed, 1);
    default_whole(&r->eval_interval, 250);
    default_whole(&r->eval_rows, 64);
    default_whole(&r->save_interval, 250);
    default_whole(&r->keep, 2);
    default_whole(&r->log_interval, 10);
    default_real(&r->spike, 2.0);
    default_whole(&r->sample_tokens, 48);
    default_whole(&r->sample_interval, r->eval_interval);
    default_real(&r->temperature, 0.8);
}

static bl_status check_fit(const bl__recipe *r, bl_error *err) {
    if (r->heads % r->kv_heads)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "heads is %lld, expected a multiple of kv_heads, %lld", (long long)r->heads,
                        (long long)r->kv_heads);
    if (r->head_dim < 2 || r->head_dim % 2)
        return bl__fail(err, BL_ERR_ARGUMENT, "head_dim is %lld, expected an even number",
                        (long long)r->head_dim);
    if (r->groups % r->tensor_parallel)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "tensor_parallel is %lld, expected a divisor of groups, %lld",
                        (long long)r->tensor_parallel, (long long)r->groups);
    if (r->kv_heads % r->groups || r->ffn_dim % r->groups)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "groups is %lld, expected a divisor of kv_heads, %lld, and ffn_dim, %lld",
                        (long long)r->groups, (long long)r->kv_heads, (long long)r->ffn_dim);
    if (r->weights == BL_WEIGHTS_ONEBIT && (r->groups > 1 || r->lambda_steps))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "groups is %lld and lambda_steps %lld, expected 1 and 0 with onebit "
                        "weights: signs and vectors are there from the first step, whole",
                        (long long)r->groups, (long long)r->lambda_steps);
    if (r->tokens > r->context)
        return bl__fail(err, BL_ERR_ARGUMENT, "tokens is %lld, more than the context, %lld",
                        (long long)r->tokens, (long long)r->context);
    if (r->warmup > r->steps)
        return bl__fail(err, BL_ERR_ARGUMENT, "warmup is %lld, more than steps, %lld",
                        (long long)r->warmup, (long long)r->steps);
    if (r->lambda_steps > r->steps)
        return bl__fail(err, BL_ERR_ARGUMENT, "lambda_steps is %lld, more than steps, %lld",
                        (long long)r->lambda_steps, (long long)r->steps);
    if (r->norm == 1 && !r->sub_norms)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "norm is 'layer' without sub_norms: LayerNorm stands before each linear");
    if (r->activation == 1 && !r->sub_norms)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "activation is 'relu2' without sub_norms, which no known architecture has; "
                        "expected 'silu'");
    /* What is exported is packed four rows to a byte. */
    if ((r->weights == BL_WEIGHTS_TERNARY || r->weights == BL_WEIGHTS_BINARY) &&
        (r->dim % 4 || r->ffn_dim % 4 || r->heads * r->head_dim % 4 ||
         r->kv_heads * r->head_dim % 4))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "dim, ffn_dim, heads x head_dim and kv_heads x head_dim must be multiples "
                        "of 4 for quantized weights");
    return BL_OK;
}

/* Text and settings over a base, not yet resolved. */
static bl_status read_all(const char *base, const char *text, size_t len,
                          const char *const *settings, size_t n, bl__recipe *r, bl_error *err) {
    unset(r);
    bl_status status = base ? read_object(r, base, strlen(base), err) : BL_OK;
    if (!status && len)
        status = read_object(r, text, len, err);
    for (size_t i = 0; i < n && !status; i++)
        status = read_setting(r, settings[i], err);
    return status;
}

static bl_status parse_over(const char *base, const char *text, size_t len,
                            const char *const *settings, size_t n, bl__recipe *out, bl_error *err) {
    bl__recipe r;
    bl_status status = read_all(base, text, len, settings, n, &r, err);
    if (!status)
        status = apply_preset(&r, err);
    if (!status) {
        default_whole(&r.steps, 1000);
        apply_recipe(&r);
        apply_rest(&r);
        status = check_fit(&r, err);
    }
    if (status)
        bl__recipe_free(&r);
    else
        *out = r;
    return status;
}

bl_status bl__recipe_parse(const char *text, size_t len, const char *const *settings, size_t n,
                           bl__recipe *out, bl_error *err) {
    return parse_over(NULL, text, len, settings, n, out, err);
}

bl_status bl__recipe_parse_model(const char *base, bl__recipe *out, bl_error *err) {
    return parse_over("{\"weights\": \"float\"}", base, strlen(base), NULL, 0, out, err);
}

/* The bytes of a recipe's file; nothing when path is NULL. */
static bl_status read_text(const char *path, char **text, size_t *len, bl_error *err) {
    *text = NULL;
    *len = 0;
    bl_status status = path ? bl__file_read(path, MAX_RECIPE, text, len, err) : BL_OK;
    if (!status && path && !*len) {
        bl__free(*text);
        status = bl__fail(err, BL_ERR_FORMAT, "%s: empty", path);
    }
    return status;
}

bl_status bl__recipe_read_over(const char *base, const char *path, const char *const *settings,
                               size_t n, bl__recipe *out, bl_error *err) {
    char *text;
    size_t len;
    bl_status status = read_text(path, &text, &len, err);
    if (status)
        return status;
    if ((status = parse_over(base, text, len, settings, n, out, err)) && path)
        bl__error_prefix(err, path);
    bl__free(text);
    return status;
}

bl_status bl__recipe_read(const char *path, const char *const *settings, size_t n, bl__recipe *out,
                          bl_error *err) {
    return bl__recipe_read_over(NULL, path, settings, n, out, err);
}

bl_status bl__recipe_find_from(const char *path, const char *const *settings, size_t n, char **out,
                               bl_error *err) {
    char *text;
    size_t len;
    bl__recipe r;
    bl_status status = read_text(path, &text, &len, err);
    if (status)
        return status;
    if ((status = read_all(NULL, text, len, settings, n, &r, err)) && path)
        bl__error_prefix(err, path);
    if (!status) {
        *out = r.from;
        r.from = NULL;
    }
    bl__recipe_free(&r);
    bl__free(text);
    return status;
}

/* ---- what it gives ---- */

/* is_wanted NULL: all. */
static char *write_fields(const bl__recipe *r, bool (*is_wanted)(const field *)) {
    json_t *root = json_object();
    bool good = root != NULL;
    for (size_t i = 0; i < N_FIELDS && good; i++) {
        const field *f = &FIELDS[i];
        char name[32];
        json_t *value = NULL;
        if ((is_wanted && !is_wanted(f)) || (f->kind == FIELD_TEXT && !*text_at(r, f)))
            continue;
        if (f->kind == FIELD_TEXT)
            value = json_string(*text_at(r, f));
        else if (f->kind == FIELD_REAL)
            value = json_real(*real_at(r, f));
        else if (f->kind == FIELD_FLAG)
            value = json_boolean(*whole_at(r, f));
        else if (f->kind == FIELD_WHOLE)
            value = json_integer((json_int_t)*whole_at(r, f));
        else {
            choice_name(f->names, *whole_at(r, f), name);
            value = json_string(name);
        }
        good = json_object_set_new(root, f->key, value) == 0;
    }
    char *out = good ? bl__json_write(root, JSON_INDENT(2), NULL) : NULL;
    json_decref(root);
    return out;
}

static bool is_of_base(const field *f) {
    return f->shape || f->offset == offsetof(bl__recipe, context) ||
           f->offset == offsetof(bl__recipe, lambda_steps) ||
           f->offset == offsetof(bl__recipe, tokenizer);
}

char *bl__recipe_text(const bl__recipe *r) {
    return write_fields(r, NULL);
}

char *bl__recipe_base_text(const bl__recipe *r) {
    return write_fields(r, is_of_base);
}

bl_status bl__recipe_match_model(const bl__recipe *wanted, const bl__recipe *found, bl_error *err) {
    for (size_t i = 0; i < N_FIELDS; i++) {
        const field *f = &FIELDS[i];
        if (!f->shape)
            continue;
        double a, b;
        if (f->kind == FIELD_REAL) {
            a = *real_at(wanted, f);
            b = *real_at(found, f);
        } else {
            a = (double)*whole_at(wanted, f);
            b = (double)*whole_at(found, f);
        }
        if (a == b)
            continue;
        if (f->kind != FIELD_CHOICE)
            return bl__fail(err, BL_ERR_ARGUMENT, "a model with %s %g, expected %g", f->key, b, a);
        char names[2][32];
        choice_name(f->names, (int64_t)a, names[0]);
        choice_name(f->names, (int64_t)b, names[1]);
        return bl__fail(err, BL_ERR_ARGUMENT, "a model with %s %s, expected %s", f->key, names[1],
                        names[0]);
    }
    return BL_OK;
}

bl__network_config bl__recipe_network(const bl__recipe *r) {
    return (bl__network_config){.n_layers = (uint32_t)r->layers,
                                .dim = (uint32_t)r->dim,
                                .ffn_dim = (uint32_t)r->ffn_dim,
                                .n_heads = (uint32_t)r->heads,
                                .n_kv_heads = (uint32_t)r->kv_heads,
                                .head_dim = (uint32_t)r->head_dim,
                                .vocab = (uint32_t)r->vocab,
                                .context = (uint32_t)r->context,
                                .rope_base = (float)r->rope_base,
                                .norm_eps = (float)r->norm_eps,
                                .weights = (bl__weight_mode)r->weights,
                                .precision = (bl__precision)r->precision,
                                .relu2 = r->activation == 1,
                                .sub_norms = r->sub_norms != 0,
                                .recompute = r->memory == 1,
                                .layer_norm = r->norm == 1,
                                .n_groups = (uint32_t)r->groups,
                                .blends = r->lambda_steps > 0};
}

bl__schedule bl__recipe_schedule(const bl__recipe *r) {
    return (bl__schedule){.shape = (bl__decay_shape)r->shape,
                          .n_steps = (uint64_t)r->steps,
                          .n_warmup = (uint64_t)r->warmup,
                          .rate = r->rate,
                          .rate2 = r->rate2,
                          .end_factor = r->end,
                          .decay = r->decay,
                          .decay2 = r->decay2,
                          .n_lambda =
                              r->weights != BL_WEIGHTS_FLOAT ? (uint64_t)r->lambda_steps : 0};
}

bl__optimizer_config bl__recipe_optimizer(const bl__recipe *r) {
    return (bl__optimizer_config){.beta1 = r->beta1, .beta2 = r->beta2, .eps = r->eps};
}

bl__distillation bl__recipe_distillation(const bl__recipe *r) {
    return (bl__distillation){.hard = (float)r->distill_hard,
                              .temperature = (float)r->distill_temperature,
                              .hidden = (float)r->distill_hidden,
                              .relations = (float)r->distill_relations,
                              .relation_layer = (uint32_t)r->relation_layer,
                              .relation_heads = (uint32_t)r->relation_heads,
                              .relation_temperature = (float)r->relation_temperature};
}
