/* Owns tokenizer.json, the format of the Hugging Face tokenizers library. Must not know other
 * files.
 *
 * That format describes a pipeline of many possible parts. We recognise, by their meaning, the
 * pipelines of byte-level BPE, of SentencePiece BPE written as merges and of unigram models, and
 * refuse every part that we would not do exactly. */
#include <string.h>

#include "base/error.h"
#include "tokenizer/hf_json.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/utf8.h"

static const char FILE_NAME[] = "tokenizer.json";
/* What ByteLevel's own use_regex stands for. */
static const char GPT2_REGEX[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { MAX_PARTS = 8, MAX_DEPTH = 4 };

/* A pipeline stage with its nested sequences laid out flat. */
typedef struct part_list {
    const json_t *parts[MAX_PARTS];
    size_t n;
} part_list;

static bl_status unsupported(const char *what, bl__string which, bl_error *err) {
    return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: %s \"%.*s\"", FILE_NAME, what,
                    which.len > 150 ? 150 : (int)which.len, which.data ? which.data : "");
}

static bl__string type_of(const json_t *part) {
    bl__string type = bl__json_text(json_object_get(part, "type"));
    return type.data ? type : (bl__string){"", 0};
}

static bool is_type(const json_t *part, const char *type) {
    return bl__string_is(type_of(part), type);
}

static bool is_text(const json_t *part, const char *key, const char *text) {
    return bl__string_is(bl__json_text(json_object_get(part, key)), text);
}

/* Lays out a part; members of a Sequence are under `members`. */
static bl_status flatten(const json_t *part, const char *members, int depth, part_list *out,
                         bl_error *err) {
    if (!part || json_is_null(part))
        return BL_OK;
    if (depth == MAX_DEPTH || out->n == MAX_PARTS || !json_is_object(part))
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: %s: nested or malformed", FILE_NAME, members);
    if (!is_type(part, "Sequence")) {
        out->parts[out->n++] = part;
        return BL_OK;
    }
    size_t i;
    const json_t *member;
    bl_status status = BL_OK;
    json_array_foreach(json_object_get(part, members), i, member) if (!status) status =
        flatten(member, members, depth + 1, out, err);
    return status;
}

/* ---- pre-tokenizers ---- */

static bool flag_is(const json_t *part, const char *key, bool otherwise, bool wanted) {
    const json_t *value = json_object_get(part, key);
    return (json_is_boolean(value) ? json_is_true(value) : otherwise) == wanted;
}

static bool is_bytelevel(const json_t *part, bool use_regex) {
    return is_type(part, "ByteLevel") && flag_is(part, "use_regex", true, use_regex) &&
           flag_is(part, "add_prefix_space", true, false);
}

/* The regular expression of a Split that keeps matches as words; .data == NULL for others. Removing
 * what does not match is the same, for expressions that match everything. */
static bl__string split_regex(const json_t *part) {
    bool isolated = is_text(part, "behavior", "Isolated") && flag_is(part, "invert", false, false);
    bool removed = is_text(part, "behavior", "Removed") && flag_is(part, "invert", false, true);
    if (!is_type(part, "Split") || (!isolated && !removed))
        return (bl__string){NULL, 0};
    return bl__json_text(json_object_get(json_object_get(part, "pattern"), "Regex"));
}

/* Names the chain of pre-tokenizers of a byte-level vocabulary. */
static bl_status read_bytelevel(const part_list *list, bl__vocab *vocab, bl_error *err) {
    const json_t *const *parts = list->parts;
    const char *name = NULL;
    if (list->n == 1 && is_bytelevel(parts[0], true)) {
        bl__string regex = {GPT2_REGEX, strlen(GPT2_REGEX)};
        name = bl__pretokenizer_by_regex(regex, vocab->ignore_merges);
    } else if (list->n == 2 && is_bytelevel(parts[1], false) && split_regex(parts[0]).data) {
        bl__string regex = split_regex(parts[0]);
        name = bl__pretokenizer_by_regex(regex, vocab->ignore_merges);
        if (!name)
            return unsupported("pre_tokenizer: regular expression", regex, err);
    } else if (list->n == 2 && is_type(parts[0], "Digits") &&
               flag_is(parts[0], "individual_digits", false, true) &&
               is_bytelevel(parts[1], true)) {
        name = "smollm";
    } else if (list->n == 4 && is_type(parts[0], "Punctuation") &&
               is_text(parts[0], "behavior", "Contiguous") && is_bytelevel(parts[1], true) &&
               is_type(parts[2], "Digits") &&
               flag_is(parts[2], "individual_digits", false, false) &&
               bl__string_is(split_regex(parts[3]), "[0-9][0-9][0-9]")) {
        name = "falcon";
    }
    for (size_t i = 0; i < list->n && !name; i++) {
        bl__string regex = split_regex(parts[i]);
        if (regex.data)
            return unsupported("pre_tokenizer: regular expression", regex, err);
        if (!is_type(parts[i], "ByteLevel"))
            return unsupported("pre_tokenizer: type", type_of(parts[i]), err);
    }
    if (!name)
        return unsupported("pre_tokenizer: ByteLevel with unknown settings; expected",
                           (bl__string){"add_prefix_space: false", 23}, err);
    vocab->pre = name;
    return BL_OK;
}

/* True when no token goes on behind a space mark that is not at its start: then it does not matter
 * whether words are cut before each mark. */
static bool marks_only_lead(const bl__vocab *vocab) {
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__string text = vocab->tokens[i].text;
        if (vocab->tokens[i].type != BL_TOKEN_NORMAL)
            continue;
        for (size_t at = 1; at < text.len; at++)
            if (bl__utf8_is_space_mark(text.data + at, text.len - at))
                return false;
    }
    return true;
}

static bl_status read_metaspace(const json_t *part, bl__vocab *vocab, bl_error *err) {
    if (!is_text(part, "replacement", BL_UTF8_SPACE_MARK))
        return unsupported("pre_tokenizer: Metaspace: replacement",
                           bl__json_text(json_object_get(part, "replacement")), err);
    if (flag_is(part, "split", true, true) && !marks_only_lead(vocab))
        return unsupported("pre_tokenizer: Metaspace:", (bl__string){"split: true", 11}, err);
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    if (scheme && !is_text(part, "prepend_scheme", "always") &&
        !is_text(part, "prepend_scheme", "first") && !is_text(part, "prepend_scheme", "never"))
        return unsupported("pre_tokenizer: Metaspace: prepend_scheme", bl__json_text(scheme), err);
    vocab->add_space_prefix = scheme ? !is_text(part, "prepend_scheme", "never")
                                     : flag_is(part, "add_prefix_space", true, true);
    return BL_OK;
}

/* Normalizers of a byte-level vocabulary: NFC or none. */
static bl_status read_bytelevel_normalizers(const part_list *list, bl__vocab *vocab,
                                            bl_error *err) {
    for (size_t i = 0; i < list->n; i++) {
        if (!is_type(list->parts[i], "NFC"))
            return unsupported("normalizer: type", type_of(list->parts[i]), err);
        vocab->nfc = true;
    }
    return BL_OK;
}

/* Of a SentencePiece one: Prepend and Replace, which turn spaces into U+2581. */
static bl_status read_space_normalizers(const part_list *list, bl__vocab *vocab, bool *escapes,
                                        bl_error *err) {
    for (size_t i = 0; i < list->n; i++) {
        const json_t *part = list->parts[i];
        const json_t *pattern = json_object_get(part, "pattern");
        if (is_type(part, "Prepend") && is_text(part, "prepend", BL_UTF8_SPACE_MARK))
            vocab->add_space_prefix = true;
        else if (is_type(part, "Replace") && is_text(part, "content", BL_UTF8_SPACE_MARK) &&
                 is_text(pattern, "String", " "))
            *escapes = true;
        else
            return unsupported("normalizer: type", type_of(part), err);
    }
    return BL_OK;
}

static bl_status read_pipeline(const json_t *root, bl__vocab *vocab, bl_error *err) {
    part_list pre = {.n = 0}, normalizers = {.n = 0};
    bl_status status =
        flatten(json_object_get(root, "pre_tokenizer"), "pretokenizers", 0, &pre, err);
    if (!status)
        status = flatten(json_object_get(root, "normalizer"), "normalizers", 0, &normalizers, err);
    if (status)
        return status;
    bool bytelevel = false;
    for (size_t i = 0; i < pre.n; i++)
        bytelevel = bytelevel || is_type(pre.parts[i], "ByteLevel");
    if (bytelevel && vocab->kind != BL_VOCAB_UNIGRAM) {
        vocab->kind = BL_VOCAB_BPE;
        status = read_bytelevel(&pre, vocab, err);
        return status ? status : read_bytelevel_normalizers(&normalizers, vocab, err);
    }
    if (vocab->ignore_merges)
        return unsupported("model:", (bl__string){"ignore_merges without ByteLevel", 31}, err);
    bool escapes = false;
    status = read_space_normalizers(&normalizers, vocab, &escapes, err);
    for (size_t i = 0; i < pre.n && !status; i++) {
        if (!is_type(pre.parts[i], "Metaspace"))
            return unsupported("pre_tokenizer: type", type_of(pre.parts[i]), err);
        status = read_metaspace(pre.parts[i], vocab, err);
        escapes = true;
    }
    if (!status && !escapes)
        status =
            unsupported("pre_tokenizer:", (bl__string){"neither ByteLevel nor Metaspace", 31}, err);
    return status;
}

/* ---- post-processor ---- */

/* The id of {"SpecialToken": {"id": "<s>"}}; -1 for other items of a template. */
static bl_token special_of(const json_t *item, const bl__vocab *vocab) {
    bl__string text = bl__json_text(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    return text.data ? bl__vocab_find(vocab, text.data, text.len) : -1;
}

/* A template says which tokens stand before and after a text: at most one each. */
static bl_status read_template(const json_t *part, bl__vocab *vocab, bl_error *err) {
    bl_token before = -1, after = -1;
    bool seen_text = false, too_many = false;
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(part, "single"), i, item) {
        if (json_object_get(item, "Sequence")) {
            too_many = too_many || seen_text;
            seen_text = true;
            continue;
        }
        bl_token id = special_of(item, vocab);
        bl_token *side = seen_text ? &after : &before;
        too_many = too_many || *side >= 0 || id < 0;
        *side = id;
    }
    if (too_many || !seen_text)
        return unsupported("post_processor:", (bl__string){"TemplateProcessing", 18}, err);
    vocab->add_bos = before >= 0;
    vocab->add_eos = after >= 0;
    vocab->bos = before >= 0 ? before : vocab->bos;
    vocab->eos = after >= 0 ? after : vocab->eos;
    return BL_OK;
}

static bl_status read_post_processor(const json_t *root, bl__vocab *vocab, bl_error *err) {
    part_list list = {.n = 0};
    bl_status status =
        flatten(json_object_get(root, "post_processor"), "processors", 0, &list, err);
    for (size_t i = 0; i < list.n && !status; i++) {
        if (is_type(list.parts[i], "TemplateProcessing"))
            status = read_template(list.parts[i], vocab, err);
        else if (!is_type(list.parts[i], "ByteLevel")) /* that one only moves offsets */
            status = unsupported("post_processor: type", type_of(list.parts[i]), err);
    }
    return status;
}

/* ---- model ---- */

static bl_status fail_format(const char *what, bl_error *err) {
    return bl__fail(err, BL_ERR_FORMAT, "%s: %s", FILE_NAME, what);
}

/* Raises *n_tokens above an id. */
static bl_status count_id(const json_t *value, size_t *n_tokens, bl_error *err) {
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (id < 0 || id >= BL_VOCAB_MAX_TOKENS)
        return fail_format("a token without a proper id", err);
    if ((size_t)id >= *n_tokens)
        *n_tokens = (size_t)id + 1;
    return BL_OK;
}

static bl_status count_tokens(const json_t *root, const json_t *model_vocab, size_t *out,
                              bl_error *err) {
    size_t n_tokens = json_is_array(model_vocab) ? json_array_size(model_vocab) : 0, i;
    const char *text;
    json_t *id;
    bl_status status = BL_OK;
    if (json_is_object(model_vocab))
        json_object_foreach((json_t *)(uintptr_t)model_vocab, text, id) if (!status) status =
            count_id(id, &n_tokens, err);
    json_array_foreach(json_object_get(root, "added_tokens"), i, id) if (!status) status =
        count_id(json_object_get(id, "id"), &n_tokens, err);
    size_t n_listed = json_array_size(json_object_get(root, "added_tokens")) +
                      (json_is_object(model_vocab) ? json_object_size(model_vocab)
                                                   : json_array_size(model_vocab));
    *out = n_tokens;
    return status ? status : bl__vocab_check_holes(n_tokens, n_listed, err);
}

/* <0x0A> and its like. */
static bool is_byte_text(bl__string text) {
    static const char hex[] = "0123456789ABCDEF";
    return text.len == 6 && memcmp(text.data, "<0x", 3) == 0 && text.data[5] == '>' &&
           memchr(hex, text.data[3], 16) && memchr(hex, text.data[4], 16);
}

static bl_status set_token(bl__vocab *vocab, size_t id, bl__string text, double score,
                           bool byte_fallback, bl_error *err) {
    if (vocab->tokens[id].text.len)
        return bl__fail(err, BL_ERR_FORMAT, "%s: two tokens have the id %zu", FILE_NAME, id);
    int64_t type = byte_fallback && is_byte_text(text) ? BL_TOKEN_BYTE : BL_TOKEN_NORMAL;
    return bl__vocab_set_token(vocab, id, text, score, type, err);
}

/* model.vocab: {"text": id, ...} for BPE, [["text", score], ...] for unigram. */
static bl_status read_model_vocab(const json_t *model_vocab, bool byte_fallback, bl__vocab *vocab,
                                  bl_error *err) {
    bl_status status = BL_OK;
    const char *text;
    json_t *value;
    size_t i;
    if (json_is_object(model_vocab))
        json_object_foreach((json_t *)(uintptr_t)model_vocab, text, value) {
            bl__string key = {text, strlen(text)};
            if (!status)
                status =
                    set_token(vocab, (size_t)json_integer_value(value), key, 0, byte_fallback, err);
        }
    if (json_is_array(model_vocab))
        json_array_foreach(model_vocab, i, value) {
            bl__string key = bl__json_text(json_array_get(value, 0));
            const json_t *score = json_array_get(value, 1);
            if (!key.data || !json_is_number(score))
                return fail_format("model.vocab: expected [text, score]", err);
            if (!status)
                status = set_token(vocab, i, key, json_number_value(score), byte_fallback, err);
        }
    return status;
}

/* "left right" or ["left", "right"]. */
static bl_status read_merges(const json_t *merges, bl__vocab *vocab, bl_error *err) {
    if (!json_is_array(merges))
        return fail_format("model.merges: expected an array", err);
    bl_status status = bl__vocab_reserve_merges(vocab, json_array_size(merges), err);
    size_t i;
    const json_t *merge;
    json_array_foreach(merges, i, merge) {
        bl__string left = bl__json_text(json_array_get(merge, 0));
        bl__string right = bl__json_text(json_array_get(merge, 1));
        bl__string line = bl__json_text(merge);
        if (line.data) {
            const char *space = line.len ? memchr(line.data + 1, ' ', line.len - 1) : NULL;
            left = (bl__string){line.data, space ? (size_t)(space - line.data) : 0};
            right = (bl__string){space ? space + 1 : NULL, space ? line.len - left.len - 1 : 0};
        }
        if (!left.data || !right.data)
            return bl__fail(err, BL_ERR_FORMAT, "%s: model.merges: entry %zu is no pair of tokens",
                            FILE_NAME, i);
        if (!status)
            status = bl__vocab_add_merge(vocab, left, right, err);
        if (status)
            break;
    }
    return status;
}

/* GGUF ranks SentencePiece merges by the score of what they make: minus the first rank. */
static void score_by_merges(bl__vocab *vocab) {
    for (size_t i = vocab->n_merges; i-- > 0;)
        vocab->tokens[vocab->merges[i].result].score = -(float)i;
    vocab->has_scores = true;
}

/* Settings of the BPE model that change what it does. */
static bl_status check_model(const json_t *model, bool byte_fallback, const bl__vocab *vocab,
                             bl_error *err) {
    static const char *const texts[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (bl__json_text(json_object_get(model, texts[i])).len)
            return unsupported("model:", (bl__string){texts[i], strlen(texts[i])}, err);
    if (json_number_value(json_object_get(model, "dropout")) != 0)
        return unsupported("model:", (bl__string){"dropout", 7}, err);
    if (vocab->kind != BL_VOCAB_BPE && !byte_fallback && vocab->unk < 0)
        return unsupported("model:", (bl__string){"neither byte_fallback nor unk_token", 35}, err);
    return BL_OK;
}

static bl_status read_added(const json_t *root, bl__vocab *vocab, bl_error *err) {
    size_t i;
    const json_t *token;
    bl_status status = BL_OK;
    json_array_foreach(json_object_get(root, "added_tokens"), i, token) {
        size_t id = (size_t)json_integer_value(json_object_get(token, "id"));
        bl__string content = bl__json_text(json_object_get(token, "content"));
        bl__string old = vocab->tokens[id].text;
        if (old.len && content.data &&
            (old.len != content.len || memcmp(old.data, content.data, old.len) != 0))
            return bl__fail(err, BL_ERR_FORMAT, "%s: token %zu is \"%.60s\" and \"%.60s\"",
                            FILE_NAME, id, old.data, content.data);
        if (!status)
            status = bl__json_set_added(vocab, id, token, FILE_NAME, err);
    }
    return status;
}

/* The unknown token: by text in BPE, by id in unigram. */
static void read_unknown(const json_t *model, bl__vocab *vocab) {
    bl__string text = bl__json_text(json_object_get(model, "unk_token"));
    const json_t *id = json_object_get(model, "unk_id");
    if (text.data)
        vocab->unk = bl__vocab_find(vocab, text.data, text.len);
    else if (json_is_integer(id) && json_integer_value(id) >= 0 &&
             (uint64_t)json_integer_value(id) < vocab->n_tokens)
        vocab->unk = (bl_token)json_integer_value(id);
    if (vocab->unk >= 0)
        vocab->tokens[vocab->unk].type = BL_TOKEN_UNKNOWN;
}

/* Everything of tokenizer.json itself, into *out, which the caller frees on failure too. */
static bl_status read_root(const json_t *root, bl__vocab **out, bl_error *err) {
    const json_t *model = json_object_get(root, "model");
    const json_t *model_vocab = json_object_get(model, "vocab");
    bool unigram = is_type(model, "Unigram");
    if (!unigram && !is_type(model, "BPE") && json_object_get(model, "type"))
        return unsupported("model: type", type_of(model), err);
    if (unigram ? !json_is_array(model_vocab) : !json_is_object(model_vocab))
        return fail_format("model.vocab: missing or of the wrong type", err);
    bl_status status = BL_OK;
    size_t n_tokens = 0;
    bool fallback = bl__json_flag(model, "byte_fallback", false, FILE_NAME, &status, err);
    bool whole = bl__json_flag(model, "ignore_merges", false, FILE_NAME, &status, err);
    if (!status)
        status = count_tokens(root, model_vocab, &n_tokens, err);
    if (!status)
        status = bl__vocab_create(n_tokens, out, err);
    if (status)
        return status;
    bl__vocab *vocab = *out;
    vocab->kind = unigram ? BL_VOCAB_UNIGRAM : BL_VOCAB_SPM;
    vocab->has_scores = unigram;
    vocab->ignore_merges = whole;
    status = read_model_vocab(model_vocab, fallback, vocab, err);
    if (!status)
        status = read_added(root, vocab, err);
    if (!status)
        status = bl__vocab_index(vocab, err);
    if (status)
        return status;
    read_unknown(model, vocab);
    status = read_pipeline(root, vocab, err);
    if (!status)
        status = check_model(model, fallback, vocab, err);
    if (!status && !unigram)
        status = read_merges(json_object_get(model, "merges"), vocab, err);
    if (!status && vocab->kind == BL_VOCAB_SPM)
        score_by_merges(vocab);
    return status ? status : read_post_processor(root, vocab, err);
}

bl_status bl__vocab_from_json(bl__string json, const bl__vocab_companions *companions,
                              bl__vocab **out, bl_error *err) {
    json_t *root = NULL;
    bl__companion_json files = {0};
    bl__vocab *vocab = NULL;
    bl_status status = bl__json_parse_object(json, FILE_NAME, &root, err);
    if (!status)
        status = bl__companions_parse(companions, &files, err);
    if (!status)
        status = read_root(root, &vocab, err);
    if (!status)
        status = bl__companions_apply(&files, vocab, err);
    if (!status)
        status = bl__vocab_finish(vocab, err);
    json_decref(root);
    bl__companions_free(&files);
    if (status) {
        bl__vocab_free(vocab);
        return status;
    }
    *out = vocab;
    return BL_OK;
}
