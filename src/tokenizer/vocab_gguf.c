/* Owns the tokenizer.* keys of GGUF, reading and writing. Must not know other vocabulary files.
 * Source: ggml docs/gguf.md; defaults as in llama.cpp. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/error.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/vocab_build.h"

/* Ours, for what GGUF has no word for; other readers skip them: end tokens beyond EOS and EOT,
 * Unicode normalization, whether words that are tokens are taken whole where the name of the
 * pre-tokenizer implies the opposite, and tokens that swallow white space beside them. */
#define KEY_ENDS          "bitloom.tokenizer.end_token_ids"
#define KEY_NFC           "bitloom.tokenizer.nfc"
#define KEY_IGNORE_MERGES "bitloom.tokenizer.ignore_merges"
#define KEY_LSTRIP        "bitloom.tokenizer.lstrip_token_ids"
#define KEY_RSTRIP        "bitloom.tokenizer.rstrip_token_ids"

static const bl__gguf_value *find_array(const bl__gguf *gguf, const char *key) {
    const bl__gguf_value *value = bl__gguf_find(gguf, key);
    return value && value->type == BL_GGUF_ARRAY ? value : NULL;
}

/* The arrays beside the tokens, either of which may be absent. */
typedef struct token_columns {
    const bl__gguf_value *scores, *types;
} token_columns;

static bl_status check_column(const bl__gguf *gguf, const char *key, bl__gguf_type type,
                              size_t n_tokens, const bl__gguf_value **out, bl_error *err) {
    const bl__gguf_value *value = bl__gguf_find(gguf, key);
    if (value && (value->type != BL_GGUF_ARRAY || value->as.array.type != type))
        return bl__fail(err, BL_ERR_FORMAT, "%s: expected an array of %s", key,
                        type == BL_GGUF_F32 ? "f32" : "i32");
    if (value && value->as.array.count < n_tokens)
        return bl__fail(err, BL_ERR_FORMAT, "%s: %zu values for %zu tokens", key,
                        value->as.array.count, n_tokens);
    *out = value;
    return BL_OK;
}

static bl_status read_tokens(const bl__gguf *gguf, bl__vocab **out, bl_error *err) {
    static const char key[] = "tokenizer.ggml.tokens";
    const bl__gguf_value *tokens = find_array(gguf, key);
    if (!tokens || tokens->as.array.type != BL_GGUF_STRING)
        return bl__fail(err, tokens ? BL_ERR_FORMAT : BL_ERR_NOT_FOUND,
                        "%s: expected an array of strings", key);
    size_t n = tokens->as.array.count;
    token_columns columns = {0};
    bl__vocab *vocab = NULL;
    bl_status status =
        check_column(gguf, "tokenizer.ggml.scores", BL_GGUF_F32, n, &columns.scores, err);
    if (!status)
        status =
            check_column(gguf, "tokenizer.ggml.token_type", BL_GGUF_I32, n, &columns.types, err);
    if (!status)
        status = bl__vocab_create(n, &vocab, err);
    for (size_t i = 0; i < n && !status; i++) {
        float score = columns.scores ? bl__load_f32(columns.scores->as.array.data + 4 * i) : 0;
        int32_t type = BL_TOKEN_NORMAL;
        if (columns.types)
            memcpy(&type, columns.types->as.array.data + 4 * i, 4);
        if (type == 0) /* "undefined" in old files */
            type = BL_TOKEN_NORMAL;
        status =
            bl__vocab_set_token(vocab, i, tokens->as.array.strings[i], (double)score, type, err);
    }
    if (!status)
        status = bl__vocab_index(vocab, err);
    if (status) {
        bl__vocab_free(vocab);
        return status;
    }
    vocab->has_scores = columns.scores != NULL;
    *out = vocab;
    return BL_OK;
}

static bl_status read_merges(const bl__gguf *gguf, bl__vocab *vocab, bl_error *err) {
    static const char key[] = "tokenizer.ggml.merges";
    const bl__gguf_value *merges = find_array(gguf, key);
    if (!merges || merges->as.array.type != BL_GGUF_STRING)
        return bl__fail(err, merges ? BL_ERR_FORMAT : BL_ERR_NOT_FOUND,
                        "%s: expected an array of strings", key);
    bl_status status = bl__vocab_reserve_merges(vocab, merges->as.array.count, err);
    for (size_t i = 0; i < merges->as.array.count && !status; i++) {
        bl__string line = merges->as.array.strings[i];
        /* A token may begin with a space but not contain one further on. */
        const char *space = line.len > 1 ? memchr(line.data + 1, ' ', line.len - 1) : NULL;
        if (!space)
            return bl__fail(err, BL_ERR_FORMAT, "%s: entry %zu has no space between two tokens",
                            key, i);
        bl__string left = {line.data, (size_t)(space - line.data)};
        bl__string right = {space + 1, line.len - left.len - 1};
        status = bl__vocab_add_merge(vocab, left, right, err);
    }
    return status;
}

/* An id; out of range means none, as for llama.cpp: files name ids that their vocabulary lacks. */
static bl_status read_id(const bl__gguf *gguf, const char *key, const bl__vocab *vocab,
                         bl_token *out, bl_error *err) {
    uint32_t id = UINT32_MAX;
    bl_status status = bl__gguf_get_u32(gguf, key, false, &id, err);
    if (!status && id < vocab->n_tokens)
        *out = (bl_token)id;
    return status;
}

/* Sets of tokens that are listed under keys of ours. */
typedef enum id_list { LIST_ENDS, LIST_LSTRIP, LIST_RSTRIP } id_list;
static const char *const LIST_KEYS[] = {KEY_ENDS, KEY_LSTRIP, KEY_RSTRIP};

static bl_status read_id_list(const bl__gguf *gguf, bl__vocab *vocab, id_list list, bl_error *err) {
    const char *key = LIST_KEYS[list];
    const bl__gguf_value *ids = bl__gguf_find(gguf, key);
    if (!ids)
        return BL_OK;
    if (ids->type != BL_GGUF_ARRAY || ids->as.array.type != BL_GGUF_I32)
        return bl__fail(err, BL_ERR_FORMAT, "%s: expected an array of i32", key);
    for (size_t i = 0; i < ids->as.array.count; i++) {
        int32_t id;
        memcpy(&id, ids->as.array.data + 4 * i, 4);
        if (id < 0 || (size_t)id >= vocab->n_tokens)
            return bl__fail(err, BL_ERR_FORMAT, "%s: token %d, but there are %zu", key, id,
                            vocab->n_tokens);
        if (list == LIST_LSTRIP)
            vocab->tokens[id].lstrip = true;
        else if (list == LIST_RSTRIP)
            vocab->tokens[id].rstrip = true;
        else
            (void)bl__vocab_add_end(vocab, id, key, NULL); /* in range: cannot fail */
    }
    return BL_OK;
}

static bl_status read_special_ids(const bl__gguf *gguf, bl__vocab *vocab, bl_error *err) {
    bl_token eot = -1, eom = -1;
    const struct {
        const char *key;
        bl_token *id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &vocab->bos},
        {"tokenizer.ggml.eos_token_id", &vocab->eos},
        {"tokenizer.ggml.unknown_token_id", &vocab->unk},
        {"tokenizer.ggml.padding_token_id", &vocab->pad},
        {"tokenizer.ggml.eot_token_id", &eot},
        {"tokenizer.ggml.eom_token_id", &eom},
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        bl_status status = read_id(gguf, ids[i].key, vocab, ids[i].id, err);
        if (status)
            return status;
    }
    bl_status status = BL_OK;
    if (eot >= 0)
        status = bl__vocab_add_end(vocab, eot, "tokenizer.ggml.eot_token_id", err);
    if (!status && eom >= 0)
        status = bl__vocab_add_end(vocab, eom, "tokenizer.ggml.eom_token_id", err);
    for (size_t list = 0; list < 3 && !status; list++)
        status = read_id_list(gguf, vocab, (id_list)list, err);
    return status;
}

/* The name of the pre-tokenizer. Files of Microsoft's BitNet converter have none and need the one
 * of LLaMA 3; elsewhere a missing one means "default". */
static bl_status read_pre(const bl__gguf *gguf, bl__vocab *vocab, bl_error *err) {
    bl__string pre = {NULL, 0}, arch = {"", 0};
    bl_status status = bl__gguf_get_string(gguf, "tokenizer.ggml.pre", false, &pre, err);
    if (!status)
        status = bl__gguf_get_string(gguf, "general.architecture", false, &arch, err);
    if (status)
        return status;
    bool bitnet = arch.len >= 6 && memcmp(arch.data, "bitnet", 6) == 0;
    if (!pre.data)
        pre = bitnet ? (bl__string){"llama-bpe", 9} : (bl__string){"default", 7};
    const bl__pretokenizer_name *known = bl__pretokenizer_lookup(pre);
    if (!known)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "tokenizer.ggml.pre: unknown pre-tokenizer \"%.*s\"",
                        pre.len > 60 ? 60 : (int)pre.len, pre.data);
    vocab->pre = known->name;
    vocab->ignore_merges = known->ignore_merges;
    vocab->add_bos = known->ignore_merges && vocab->bos >= 0; /* LLaMA 3 and its kin */
    return BL_OK;
}

static bl_status read_flags(const bl__gguf *gguf, bl__vocab *vocab, bl_error *err) {
    const struct {
        const char *key;
        bool *flag;
    } flags[] = {
        {"tokenizer.ggml.add_bos_token", &vocab->add_bos},
        {"tokenizer.ggml.add_eos_token", &vocab->add_eos},
        {"tokenizer.ggml.add_space_prefix", &vocab->add_space_prefix},
        {"tokenizer.ggml.remove_extra_whitespaces", &vocab->remove_extra_whitespaces},
        {KEY_NFC, &vocab->nfc},
        {KEY_IGNORE_MERGES, &vocab->ignore_merges},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bl_status status = bl__gguf_get_bool(gguf, flags[i].key, false, flags[i].flag, err);
        if (status)
            return status;
    }
    if (vocab->kind == BL_VOCAB_BPE) /* meaningless there, yet found in files */
        vocab->add_space_prefix = vocab->remove_extra_whitespaces = false;
    const bl__gguf_value *charsmap = find_array(gguf, "tokenizer.ggml.precompiled_charsmap");
    if (vocab->kind != BL_VOCAB_BPE && charsmap && charsmap->as.array.count)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "tokenizer.ggml.precompiled_charsmap: normalization by a character map");
    bool suffix = false;
    bl_status status =
        bl__gguf_get_bool(gguf, "tokenizer.ggml.treat_whitespace_as_suffix", false, &suffix, err);
    if (!status && suffix)
        status =
            bl__fail(err, BL_ERR_UNSUPPORTED, "tokenizer.ggml.treat_whitespace_as_suffix: true");
    return status;
}

static bl_status read_template(const bl__gguf *gguf, bl__vocab *vocab, bl_error *err) {
    bl__string text = {NULL, 0};
    bl_status status = bl__gguf_get_string(gguf, "tokenizer.chat_template", false, &text, err);
    if (status || !text.data)
        return status;
    return bl__vocab_keep(vocab, text.data, text.len, &vocab->chat_template, err);
}

static bl_status read_kind(const bl__gguf *gguf, bl__vocab_kind *kind, bl_error *err) {
    static const char key[] = "tokenizer.ggml.model";
    bl__string model;
    bl_status status = bl__gguf_get_string(gguf, key, true, &model, err);
    if (status)
        return status;
    if (bl__string_is(model, "gpt2"))
        *kind = BL_VOCAB_BPE;
    else if (bl__string_is(model, "llama"))
        *kind = BL_VOCAB_SPM;
    else if (bl__string_is(model, "t5"))
        *kind = BL_VOCAB_UNIGRAM;
    else
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: unknown tokenizer \"%.*s\"", key,
                        model.len > 60 ? 60 : (int)model.len, model.data);
    return BL_OK;
}

bl_status bl__vocab_from_gguf(const bl__gguf *gguf, bl__vocab **out, bl_error *err) {
    bl__vocab_kind kind = BL_VOCAB_BPE;
    bl__vocab *vocab = NULL;
    bl_status status = read_kind(gguf, &kind, err);
    if (!status)
        status = read_tokens(gguf, &vocab, err);
    if (status)
        return status;
    vocab->kind = kind;
    status = read_special_ids(gguf, vocab, err);
    if (!status && kind == BL_VOCAB_BPE) {
        status = read_pre(gguf, vocab, err);
        if (!status)
            status = read_merges(gguf, vocab, err);
    } else {
        vocab->add_space_prefix = true;
        vocab->add_bos = kind == BL_VOCAB_SPM && vocab->bos >= 0;
        vocab->add_eos = kind == BL_VOCAB_UNIGRAM && vocab->eos >= 0;
    }
    if (!status)
        status = read_flags(gguf, vocab, err);
    if (!status)
        status = read_template(gguf, vocab, err);
    if (!status)
        status = bl__vocab_finish(vocab, err);
    if (status) {
        bl__vocab_free(vocab);
        return status;
    }
    *out = vocab;
    return BL_OK;
}

/* ---- writing ---- */

enum { PAD_NAME_BYTES = 24 };

/* Texts, scores and types, with made-up names for the rows that no token has. */
static bl_status write_tokens(const bl__vocab *vocab, bl__gguf_writer *writer, size_t n_rows,
                              bl_error *err) {
    size_t n_empty = n_rows - vocab->n_tokens;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        n_empty += vocab->tokens[i].text.len == 0;
    bl__string *texts = bl__malloc_array(n_rows, sizeof *texts);
    float *scores = bl__malloc_array(n_rows, sizeof *scores);
    int32_t *types = bl__malloc_array(n_rows, sizeof *types);
    char *names = bl__malloc_array(n_empty, PAD_NAME_BYTES), *name = names;
    bl_status status = BL_OK;
    if (!texts || !scores || !types || !names) {
        status = bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu rows", n_rows);
        goto done;
    }
    for (size_t i = 0; i < n_rows; i++) {
        const bl__vocab_token *token = i < vocab->n_tokens ? &vocab->tokens[i] : NULL;
        bool named = token && token->text.len;
        if (named) {
            texts[i] = token->text;
        } else {
            int len = snprintf(name, PAD_NAME_BYTES, "[PAD%zu]", i);
            texts[i] = (bl__string){name, (size_t)len};
            name += PAD_NAME_BYTES;
        }
        scores[i] = named ? token->score : vocab->kind == BL_VOCAB_BPE ? 0.0f : -1e6f;
        types[i] = named ? token->type : BL_TOKEN_UNUSED;
    }
    status = bl__gguf_set_strings(writer, "tokenizer.ggml.tokens", texts, n_rows, err);
    if (!status && vocab->kind != BL_VOCAB_BPE)
        status = bl__gguf_set_f32s(writer, "tokenizer.ggml.scores", scores, n_rows, err);
    if (!status)
        status = bl__gguf_set_i32s(writer, "tokenizer.ggml.token_type", types, n_rows, err);
done:
    bl__free(texts);
    bl__free(scores);
    bl__free(types);
    bl__free(names);
    return status;
}

static bl_status write_merges(const bl__vocab *vocab, bl__gguf_writer *writer, bl_error *err) {
    size_t bytes = 0;
    for (size_t i = 0; i < vocab->n_merges; i++)
        bytes += vocab->tokens[vocab->merges[i].result].text.len + 1;
    bl__string *lines = bl__malloc_array(vocab->n_merges, sizeof *lines);
    char *text = bl__malloc(bytes), *at = text;
    bl_status status = BL_OK;
    if (!lines || !text)
        status =
            bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu merges", vocab->n_merges);
    for (size_t i = 0; i < vocab->n_merges && !status; i++) {
        bl__string left = vocab->tokens[vocab->merges[i].left].text;
        bl__string right = vocab->tokens[vocab->merges[i].right].text;
        lines[i] = (bl__string){at, left.len + 1 + right.len};
        memcpy(at, left.data, left.len);
        at[left.len] = ' ';
        memcpy(at + left.len + 1, right.data, right.len);
        at += lines[i].len;
    }
    if (!status)
        status = bl__gguf_set_strings(writer, "tokenizer.ggml.merges", lines, vocab->n_merges, err);
    bl__free(lines);
    bl__free(text);
    return status;
}

static bl_status write_id(bl__gguf_writer *writer, const char *key, bl_token id, bl_error *err) {
    return id < 0 ? BL_OK : bl__gguf_set_u32(writer, key, (uint32_t)id, err);
}

/* The tokens that swallow white space on one side; nothing when there are none. */
static bl_status write_strips(const bl__vocab *vocab, bl__gguf_writer *writer, id_list list,
                              bl_error *err) {
    int32_t *ids = bl__malloc_array(vocab->n_tokens, sizeof *ids);
    if (!ids)
        return bl__fail(err, BL_ERR_MEMORY, "vocabulary: cannot allocate %zu ids", vocab->n_tokens);
    size_t n = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        if (list == LIST_LSTRIP ? vocab->tokens[i].lstrip : vocab->tokens[i].rstrip)
            ids[n++] = (int32_t)i;
    bl_status status = n ? bl__gguf_set_i32s(writer, LIST_KEYS[list], ids, n, err) : BL_OK;
    bl__free(ids);
    return status;
}

static bl_status write_specials(const bl__vocab *vocab, bl__gguf_writer *writer, bl_error *err) {
    bl_status status = write_id(writer, "tokenizer.ggml.bos_token_id", vocab->bos, err);
    if (!status)
        status = write_id(writer, "tokenizer.ggml.eos_token_id", vocab->eos, err);
    if (!status)
        status = write_id(writer, "tokenizer.ggml.unknown_token_id", vocab->unk, err);
    if (!status)
        status = write_id(writer, "tokenizer.ggml.padding_token_id", vocab->pad, err);
    for (size_t i = 0; i < vocab->n_ends && !status; i++) {
        if (vocab->ends[i] == vocab->eos)
            continue;
        status = write_id(writer, "tokenizer.ggml.eot_token_id", vocab->ends[i], err);
        break; /* there is one key for one id; ours below has them all */
    }
    if (!status && vocab->n_ends)
        status = bl__gguf_set_i32s(writer, KEY_ENDS, vocab->ends, vocab->n_ends, err);
    if (!status)
        status = write_strips(vocab, writer, LIST_LSTRIP, err);
    if (!status)
        status = write_strips(vocab, writer, LIST_RSTRIP, err);
    if (!status)
        status = bl__gguf_set_bool(writer, "tokenizer.ggml.add_bos_token", vocab->add_bos, err);
    if (!status)
        status = bl__gguf_set_bool(writer, "tokenizer.ggml.add_eos_token", vocab->add_eos, err);
    return status;
}

bl_status bl__vocab_write_gguf(const bl__vocab *vocab, bl__gguf_writer *writer,
                               size_t n_vocab_padded, bl_error *err) {
    static const char *const models[] = {"gpt2", "llama", "t5"};
    size_t n_rows = n_vocab_padded ? n_vocab_padded : vocab->n_tokens;
    if (n_rows < vocab->n_tokens || n_rows > BL_VOCAB_MAX_TOKENS)
        return bl__fail(err, BL_ERR_ARGUMENT, "vocabulary: %zu rows for %zu tokens (at most %d)",
                        n_rows, vocab->n_tokens, BL_VOCAB_MAX_TOKENS);
    const char *model = models[vocab->kind];
    bool bpe = vocab->kind == BL_VOCAB_BPE;
    const char *pre = bpe ? vocab->pre : "default";
    bl_status status =
        bl__gguf_set_string(writer, "tokenizer.ggml.model", model, strlen(model), err);
    if (!status)
        status = bl__gguf_set_string(writer, "tokenizer.ggml.pre", pre, strlen(pre), err);
    if (!status)
        status = write_tokens(vocab, writer, n_rows, err);
    if (!status && bpe)
        status = write_merges(vocab, writer, err);
    if (!status)
        status = write_specials(vocab, writer, err);
    if (!status && !bpe)
        status = bl__gguf_set_bool(writer, "tokenizer.ggml.add_space_prefix",
                                   vocab->add_space_prefix, err);
    if (!status && !bpe)
        status = bl__gguf_set_bool(writer, "tokenizer.ggml.remove_extra_whitespaces",
                                   vocab->remove_extra_whitespaces, err);
    if (!status && bpe &&
        vocab->ignore_merges !=
            bl__pretokenizer_lookup((bl__string){pre, strlen(pre)})->ignore_merges)
        status = bl__gguf_set_bool(writer, KEY_IGNORE_MERGES, vocab->ignore_merges, err);
    if (!status && vocab->nfc)
        status = bl__gguf_set_bool(writer, KEY_NFC, true, err);
    if (!status && vocab->chat_template)
        status = bl__gguf_set_string(writer, "tokenizer.chat_template", vocab->chat_template,
                                     strlen(vocab->chat_template), err);
    return status;
}
