/* Owns the regular expressions and PCRE2. Must not know tokens.
 *
 * A rule is a chain of expressions: each cuts the pieces that the one before left, matches and what
 * lies between them alike. None of them backtracks over more than one run of characters, so
 * matching is linear. Expressions as in llama.cpp and the models' tokenizer.json files. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/pretokenizer.h"

#include <pcre2.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/utf8.h"

enum { MAX_STAGES = 4 };

typedef enum rule {
    RULE_DEFAULT,
    RULE_GPT2,
    RULE_LLAMA3,
    RULE_QWEN2,
    RULE_FALCON,
    RULE_SMOLLM
} rule;

/* Unicode's White_Space; PCRE2's \s also has U+180E, which left that set in Unicode 6.3. */
#define WS                                                                                         \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"       \
    "\\x{3000}"
#define CONTRACTIONS_ANY_CASE "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
/* A run of white space leaves its last character to the word that follows. */
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"
#define GPT2   "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES
#define LLAMA3(digits)                                                                             \
    CONTRACTIONS_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS                      \
                          "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|" SPACES

/* The expressions of each rule, and how the JSON files spell a rule of one expression. */
static const struct {
    const char *stages[MAX_STAGES];
    const char *json_regex;
} RULES[] = {
    [RULE_DEFAULT] = {{"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}, NULL},
    [RULE_GPT2] = {{GPT2},
                   "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                   "\\s+(?!\\S)|\\s+"},
    [RULE_LLAMA3] = {{LLAMA3("\\p{N}{1,3}")},
                     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                     " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    [RULE_QWEN2] = {{LLAMA3("\\p{N}")},
                    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    [RULE_FALCON] = {{"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}, NULL},
    [RULE_SMOLLM] = {{"\\p{N}", GPT2}, NULL},
};

/* Of several names that fit, tokenizer.json files are given the first. */
static const bl__pretokenizer_name NAMES[] = {
    {"default", RULE_DEFAULT, false},  {"llama-bpe", RULE_LLAMA3, true},
    {"llama3", RULE_LLAMA3, true},     {"llama-v3", RULE_LLAMA3, true},
    {"falcon3", RULE_LLAMA3, true},    {"falcon-h1", RULE_LLAMA3, true},
    {"pixtral", RULE_LLAMA3, true},    {"smaug-bpe", RULE_LLAMA3, false},
    {"dbrx", RULE_LLAMA3, false},      {"gpt-2", RULE_GPT2, false},
    {"phi-2", RULE_GPT2, false},       {"mpt", RULE_GPT2, false},
    {"olmo", RULE_GPT2, false},        {"qwen2", RULE_QWEN2, false},
    {"stablelm2", RULE_QWEN2, false},  {"deepseek-r1-qwen", RULE_QWEN2, false},
    {"falcon", RULE_FALCON, false},    {"smollm", RULE_SMOLLM, false},
    {"starcoder", RULE_SMOLLM, false}, {"refact", RULE_SMOLLM, false},
    {"command-r", RULE_SMOLLM, false}, {"codeshell", RULE_SMOLLM, false},
};
enum { N_NAMES = sizeof NAMES / sizeof *NAMES, N_RULES = sizeof RULES / sizeof *RULES };

struct bl__pretokenizer {
    pcre2_general_context *memory;
    size_t n_stages;
    pcre2_code *stages[MAX_STAGES];
};

struct bl__splitter {
    const bl__pretokenizer *rules;
    pcre2_match_data *match[MAX_STAGES];
    pcre2_match_context *context;
    bl__word_fn fn;
    void *user;
};

const bl__pretokenizer_name *bl__pretokenizer_lookup(bl__string name) {
    for (size_t i = 0; i < N_NAMES; i++)
        if (bl__string_is(name, NAMES[i].name))
            return &NAMES[i];
    return NULL;
}

const char *bl__pretokenizer_by_regex(bl__string regex, bool ignore_merges) {
    const char *name = NULL;
    for (size_t i = 0; i < N_NAMES; i++) {
        const char *json_regex = RULES[NAMES[i].rule].json_regex;
        if (!json_regex || !bl__string_is(regex, json_regex))
            continue;
        if (NAMES[i].ignore_merges == ignore_merges)
            return NAMES[i].name;
        name = name ? name : NAMES[i].name;
    }
    return name;
}

const char *bl__pretokenizer_regex(const char *name) {
    const bl__pretokenizer_name *known = bl__pretokenizer_lookup((bl__string){name, strlen(name)});
    return known ? RULES[known->rule].json_regex : NULL;
}

static void *pcre_malloc(size_t size, void *unused) {
    (void)unused;
    return bl__malloc(size);
}
static void pcre_free(void *memory, void *unused) {
    (void)unused;
    bl__free(memory);
}

bl_status bl__pretokenizer_create(const char *name, bl__pretokenizer **out, bl_error *err) {
    const bl__pretokenizer_name *known = bl__pretokenizer_lookup((bl__string){name, strlen(name)});
    if (!known)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "unknown pre-tokenizer \"%.60s\"", name);
    bl__pretokenizer *pretokenizer = bl__calloc(1, sizeof *pretokenizer);
    if (!pretokenizer)
        goto fail;
    pretokenizer->memory = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    if (!pretokenizer->memory)
        goto fail;
    pcre2_compile_context *context = pcre2_compile_context_create(pretokenizer->memory);
    if (!context)
        goto fail;
    for (size_t i = 0; i < MAX_STAGES && RULES[known->rule].stages[i]; i++) {
        int code;
        PCRE2_SIZE offset;
        pcre2_code *stage =
            pcre2_compile((PCRE2_SPTR)RULES[known->rule].stages[i], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, context);
        if (!stage) /* the expressions are constants: only memory can be short */
            break;
        /* Without a just-in-time compiler PCRE2 interprets: slower, the same matches. */
        (void)pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE);
        pretokenizer->stages[pretokenizer->n_stages++] = stage;
    }
    pcre2_compile_context_free(context);
    size_t n = pretokenizer->n_stages;
    if (n < MAX_STAGES && RULES[known->rule].stages[n])
        goto fail;
    *out = pretokenizer;
    return BL_OK;
fail:
    bl__pretokenizer_free(pretokenizer);
    return bl__fail(err, BL_ERR_MEMORY, "pre-tokenizer %s: cannot allocate its expressions", name);
}

void bl__pretokenizer_free(bl__pretokenizer *pretokenizer) {
    if (!pretokenizer)
        return;
    for (size_t i = 0; i < pretokenizer->n_stages; i++)
        pcre2_code_free(pretokenizer->stages[i]);
    pcre2_general_context_free(pretokenizer->memory);
    bl__free(pretokenizer);
}

bl_status bl__splitter_create(const bl__pretokenizer *pretokenizer, bl__splitter **out,
                              bl_error *err) {
    bl__splitter *splitter = bl__calloc(1, sizeof *splitter);
    if (!splitter)
        goto fail;
    splitter->rules = pretokenizer;
    splitter->context = pcre2_match_context_create(pretokenizer->memory);
    if (!splitter->context)
        goto fail;
    for (size_t i = 0; i < pretokenizer->n_stages; i++) {
        splitter->match[i] = pcre2_match_data_create(1, pretokenizer->memory);
        if (!splitter->match[i])
            goto fail;
    }
    *out = splitter;
    return BL_OK;
fail:
    bl__splitter_free(splitter);
    return bl__fail(err, BL_ERR_MEMORY, "pre-tokenizer: cannot allocate its match data");
}

void bl__splitter_free(bl__splitter *splitter) {
    if (!splitter)
        return;
    for (size_t i = 0; i < MAX_STAGES; i++)
        pcre2_match_data_free(splitter->match[i]);
    pcre2_match_context_free(splitter->context);
    bl__free(splitter);
}

static bl_status fail_match(int code, bl_error *err) {
    PCRE2_UCHAR message[128] = "";
    pcre2_get_error_message(code, message, sizeof message);
    bl_status status = code == PCRE2_ERROR_NOMEMORY ? BL_ERR_MEMORY : BL_ERR_LIMIT;
    return bl__fail(err, status, "pre-tokenizer: %s", (const char *)message);
}

/* Cuts valid UTF-8 by the stage and hands the pieces to the next one. Recursion is at most
 * MAX_STAGES deep. */
static bl_status run_stage(bl__splitter *splitter, size_t stage, const char *text, size_t len,
                           bl_error *err) {
    if (stage == splitter->rules->n_stages)
        return splitter->fn(splitter->user, text, len, err);
    const pcre2_code *code = splitter->rules->stages[stage];
    pcre2_match_data *match = splitter->match[stage];
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
    bl_status status = BL_OK;
    for (size_t at = 0; at < len && !status;) {
        int rc = pcre2_match(code, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK, match,
                             splitter->context);
        if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
            return fail_match(rc, err);
        size_t start = rc < 0 ? len : span[0], end = rc < 0 ? len : span[1];
        if (start > at)
            status = run_stage(splitter, stage + 1, text + at, start - at, err);
        if (end > start && !status)
            status = run_stage(splitter, stage + 1, text + start, end - start, err);
        at = end; /* no expression matches the empty string */
    }
    return status;
}

bl_status bl__splitter_run(bl__splitter *splitter, const char *text, size_t len, bl__word_fn fn,
                           void *user, bl_error *err) {
    /* Far above what these expressions can need, so that reaching it means a fault, not a text. */
    size_t limit = len < UINT32_MAX / 16 ? len * 16 + 10000 : UINT32_MAX;
    pcre2_set_match_limit(splitter->context, (uint32_t)limit);
    pcre2_set_heap_limit(splitter->context, UINT32_MAX);
    splitter->fn = fn;
    splitter->user = user;
    bl_status status = BL_OK;
    while (len && !status) {
        size_t valid = bl__utf8_valid_prefix(text, len);
        if (valid)
            status = run_stage(splitter, 0, text, valid, err);
        text += valid;
        len -= valid;
        size_t bad = 0;
        while (bad < len && !bl__utf8_len(text + bad, len - bad))
            bad++;
        if (bad && !status)
            status = fn(user, text, bad, err);
        text += bad;
        len -= bad;
    }
    return status;
}
