/* Owns the writing of tokenizer.json and tokenizer_config.json. Must not know how merges are found.
 */
#include "tokenizer/train_json.h"

#include <jansson.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "tokenizer/bytelevel.h"
#include "tokenizer/utf8.h"

static const size_t MAX_TEXT = 4 * BL_BPE_MAX_PIECE;

static bl_status fail_memory(bl_error *err) {
    return bl__fail(err, BL_ERR_MEMORY, "tokenizer training: cannot allocate for the JSON");
}

/* Appends a token as the file spells it. */
static void spell(const bl__learnt *learnt, uint32_t id, bl__buffer *out) {
    bl__string text = learnt->bpe->texts[id];
    if (!learnt->regex || id < learnt->n_specials) {
        bl__buffer_append(out, text.data, text.len);
        return;
    }
    for (size_t i = 0; i < text.len; i++) {
        char letter[BL_UTF8_MAX];
        bl__buffer_append(out, letter,
                          bl__utf8_encode(bl__bytelevel_char((uint8_t)text.data[i]), letter));
    }
}

static json_t *make_vocab(const bl__learnt *learnt) {
    json_t *object = json_object();
    bl__buffer text = bl__buffer_make(MAX_TEXT);
    bool ok = object != NULL;
    for (size_t id = 0; id < learnt->bpe->n_tokens && ok; id++) {
        text.len = 0;
        spell(learnt, (uint32_t)id, &text);
        ok = !text.failed &&
             json_object_set_new(object, text.data, json_integer((json_int_t)id)) == 0;
    }
    bl__buffer_free(&text);
    if (!ok)
        json_decref(object);
    return ok ? object : NULL;
}

static json_t *make_merges(const bl__learnt *learnt) {
    json_t *array = json_array();
    bl__buffer text = bl__buffer_make(MAX_TEXT);
    bool ok = array != NULL;
    for (size_t i = 0; i < learnt->bpe->n_merges && ok; i++) {
        bl__bpe_merge merge = learnt->bpe->merges[i];
        text.len = 0;
        spell(learnt, merge.left, &text);
        bl__buffer_putc(&text, ' ');
        spell(learnt, merge.right, &text);
        ok = !text.failed && json_array_append_new(array, json_stringn(text.data, text.len)) == 0;
    }
    bl__buffer_free(&text);
    if (!ok)
        json_decref(array);
    return ok ? array : NULL;
}

static json_t *make_added(const bl__learnt *learnt) {
    json_t *array = json_array();
    bool ok = array != NULL;
    for (size_t id = 0; id < learnt->n_specials && ok; id++)
        ok = json_array_append_new(
                 array, json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id,
                                  "content", learnt->bpe->texts[id].data, "single_word", 0,
                                  "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1)) == 0;
    if (!ok)
        json_decref(array);
    return ok ? array : NULL;
}

/* Puts BOS before a text, and between the two of a pair. */
static json_t *make_post_processor(const bl__learnt *learnt) {
    const char *bos = learnt->bos;
    if (!bos)
        return json_null();
    json_int_t id = 0;
    while (strcmp(learnt->bpe->texts[id].data, bos) != 0)
        id++;
    return json_pack("{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], "
                     "s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}], "
                     "s:{s:{s:s, s:[I], s:[s]}}}",
                     "type", "TemplateProcessing", "single", "SpecialToken", "id", bos, "type_id",
                     0, "Sequence", "id", "A", "type_id", 0, "pair", "SpecialToken", "id", bos,
                     "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id", bos,
                     "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", bos, "id",
                     bos, "ids", id, "tokens", bos);
}

static json_t *make_normalizer(const bl__learnt *learnt) {
    if (learnt->regex)
        return json_null();
    return json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}, s:s}]}", "type", "Sequence",
                     "normalizers", "type", "Prepend", "prepend", BL_UTF8_SPACE_MARK, "type",
                     "Replace", "pattern", "String", " ", "content", BL_UTF8_SPACE_MARK);
}

static json_t *make_pre_tokenizer(const bl__learnt *learnt) {
    if (!learnt->regex) /* finds the mark that the normalizer has put, and adds no other */
        return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement",
                         BL_UTF8_SPACE_MARK, "prepend_scheme", "always", "split", 1);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]}", "type",
                     "Sequence", "pretokenizers", "type", "Split", "pattern", "Regex",
                     learnt->regex, "behavior", "Isolated", "invert", 0, "type", "ByteLevel",
                     "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
}

static json_t *make_decoder(const bl__learnt *learnt) {
    if (learnt->regex)
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                         "trim_offsets", 1, "use_regex", 1);
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type",
                     "Sequence", "decoders", "type", "Replace", "pattern", "String",
                     BL_UTF8_SPACE_MARK, "content", " ", "type", "ByteFallback", "type", "Fuse",
                     "type", "Strip", "content", " ", "start", 1, "stop", 0);
}

static json_t *make_model(const bl__learnt *learnt) {
    return json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                     "byte_fallback", learnt->regex == NULL, "ignore_merges", learnt->ignore_merges,
                     "vocab", make_vocab(learnt), "merges", make_merges(learnt));
}

static int write_part(const char *bytes, size_t len, void *user) {
    return bl__buffer_append(user, bytes, len) ? 0 : -1;
}

/* Takes root over; NULL means that memory was short. */
static bl_status write_json(json_t *root, const char *path, bl_error *err) {
    bl__buffer text = bl__buffer_make((size_t)1 << 31);
    bl__outfile *file = NULL;
    bl_status status = BL_OK;
    if (!root || json_dump_callback(root, write_part, &text, JSON_INDENT(1)) != 0 ||
        !bl__buffer_putc(&text, '\n'))
        status = fail_memory(err);
    if (!status)
        status = bl__outfile_open(path, &file, err);
    if (!status)
        status = bl__outfile_write(file, text.data, text.len, err);
    if (status)
        bl__outfile_abort(file);
    else
        status = bl__outfile_commit(file, err);
    bl__buffer_free(&text);
    json_decref(root);
    return status;
}

static json_t *text_or_null(const char *text) {
    return text ? json_string(text) : json_null();
}

bl_status bl__learnt_write(const bl__learnt *learnt, const char *path, bl_error *err) {
    const char *slash = strrchr(path, '/');
    char *directory = slash ? bl__strndup(path, (size_t)(slash - path) + 1) : bl__strndup(".", 1);
    char *config = directory ? bl__path_join(directory, "tokenizer_config.json") : NULL;
    bl__free(directory);
    if (!config)
        return fail_memory(err);
    bl_status status = write_json(
        json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation",
                  "padding", "added_tokens", make_added(learnt), "normalizer",
                  make_normalizer(learnt), "pre_tokenizer", make_pre_tokenizer(learnt),
                  "post_processor", make_post_processor(learnt), "decoder", make_decoder(learnt),
                  "model", make_model(learnt)),
        path, err);
    if (!status)
        status = write_json(json_pack("{s:s, s:o, s:o, s:b}", "tokenizer_class",
                                      "PreTrainedTokenizerFast", "bos_token",
                                      text_or_null(learnt->bos), "eos_token",
                                      text_or_null(learnt->eos), "clean_up_tokenization_spaces", 0),
                            config, err);
    bl__free(config);
    return status;
}
