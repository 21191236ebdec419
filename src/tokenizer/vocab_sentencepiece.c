/* Owns tokenizer.model: the protocol buffer of SentencePiece, read from bytes. Must not know other
 * files. Source: sentencepiece_model.proto of google/sentencepiece; encoding.md of protobuf. */
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "tokenizer/hf_json.h"
#include "tokenizer/utf8.h"

/* Field numbers. */
enum { MODEL_PIECE = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_SPACE_SUFFIX = 24,
    TRAINER_UNK_ID = 40,
    TRAINER_BOS_ID = 41,
    TRAINER_EOS_ID = 42,
    TRAINER_PAD_ID = 43
};
enum {
    NORMALIZER_NAME = 1,
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_DUMMY_PREFIX = 3,
    NORMALIZER_EXTRA_SPACES = 4,
    NORMALIZER_ESCAPE_SPACES = 5
};
enum { TYPE_UNIGRAM = 1, TYPE_BPE = 2 };

typedef enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 } wire_type;

typedef struct field {
    uint64_t number;
    wire_type wire;
    uint64_t value;   /* WIRE_VARINT, WIRE_64, WIRE_32 */
    bl__reader bytes; /* WIRE_BYTES */
} field;

/* What the model says beside its pieces; the defaults are those of the .proto file. */
typedef struct model_spec {
    int64_t model_type;
    bool space_suffix, dummy_prefix, extra_spaces, escape_spaces;
    int32_t unk, bos, eos, pad;
    bl__string normalizer, charsmap;
} model_spec;

static bl_status fail_format(const char *what, bl_error *err) {
    return bl__fail(err, BL_ERR_FORMAT, "tokenizer.model: %s", what);
}

static bool read_varint(bl__reader *reader, uint64_t *out) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte;
        if (!bl__read_u8(reader, &byte))
            return false;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

/* The next field of a message; groups, long deprecated, count as malformed. */
static bl_status read_field(bl__reader *reader, field *out, bl_error *err) {
    uint64_t tag, len;
    uint32_t low;
    if (!read_varint(reader, &tag))
        return fail_format("cut off or malformed field", err);
    *out = (field){.number = tag >> 3, .wire = (wire_type)(tag & 7)};
    bool ok = false;
    switch (out->wire) {
    case WIRE_VARINT:
        ok = read_varint(reader, &out->value);
        break;
    case WIRE_64:
        ok = bl__read_u64(reader, &out->value);
        break;
    case WIRE_32:
        ok = bl__read_u32(reader, &low);
        out->value = ok ? low : 0;
        break;
    case WIRE_BYTES:
        ok = read_varint(reader, &len) && len <= bl__reader_left(reader) &&
             bl__read_bytes(reader, (size_t)len, &out->bytes.data);
        out->bytes.len = ok ? (size_t)len : 0;
        break;
    default:
        break;
    }
    return ok && out->number ? BL_OK : fail_format("cut off or malformed field", err);
}

static bl__string field_text(const field *f) {
    return (bl__string){(const char *)f->bytes.data, f->bytes.len};
}

/* True when the field has the number and the wire type; a known number of another wire type makes
 * *status an error. */
static bool is_field(const field *f, uint64_t number, wire_type wire, bl_status *status,
                     bl_error *err) {
    if (f->number != number)
        return false;
    if (f->wire != wire && !*status)
        *status = fail_format("a field of the wrong type", err);
    return f->wire == wire;
}

static bl_status read_trainer(bl__reader reader, model_spec *spec, bl_error *err) {
    bl_status status = BL_OK;
    while (!status && bl__reader_left(&reader)) {
        field f;
        status = read_field(&reader, &f, err);
        if (status)
            break;
        if (is_field(&f, TRAINER_MODEL_TYPE, WIRE_VARINT, &status, err))
            spec->model_type = (int64_t)f.value;
        else if (is_field(&f, TRAINER_SPACE_SUFFIX, WIRE_VARINT, &status, err))
            spec->space_suffix = f.value != 0;
        else if (is_field(&f, TRAINER_UNK_ID, WIRE_VARINT, &status, err))
            spec->unk = (int32_t)f.value;
        else if (is_field(&f, TRAINER_BOS_ID, WIRE_VARINT, &status, err))
            spec->bos = (int32_t)f.value;
        else if (is_field(&f, TRAINER_EOS_ID, WIRE_VARINT, &status, err))
            spec->eos = (int32_t)f.value;
        else if (is_field(&f, TRAINER_PAD_ID, WIRE_VARINT, &status, err))
            spec->pad = (int32_t)f.value;
    }
    return status;
}

static bl_status read_normalizer(bl__reader reader, model_spec *spec, bl_error *err) {
    bl_status status = BL_OK;
    while (!status && bl__reader_left(&reader)) {
        field f;
        status = read_field(&reader, &f, err);
        if (status)
            break;
        if (is_field(&f, NORMALIZER_NAME, WIRE_BYTES, &status, err))
            spec->normalizer = field_text(&f);
        else if (is_field(&f, NORMALIZER_CHARSMAP, WIRE_BYTES, &status, err))
            spec->charsmap = field_text(&f);
        else if (is_field(&f, NORMALIZER_DUMMY_PREFIX, WIRE_VARINT, &status, err))
            spec->dummy_prefix = f.value != 0;
        else if (is_field(&f, NORMALIZER_EXTRA_SPACES, WIRE_VARINT, &status, err))
            spec->extra_spaces = f.value != 0;
        else if (is_field(&f, NORMALIZER_ESCAPE_SPACES, WIRE_VARINT, &status, err))
            spec->escape_spaces = f.value != 0;
    }
    return status;
}

static bl_status read_piece(bl__reader reader, bl__vocab *vocab, size_t id, bl_error *err) {
    bl__string text = {"", 0};
    float score = 0;
    int64_t type = BL_TOKEN_NORMAL;
    bl_status status = BL_OK;
    while (!status && bl__reader_left(&reader)) {
        field f;
        status = read_field(&reader, &f, err);
        if (status)
            break;
        if (is_field(&f, PIECE_TEXT, WIRE_BYTES, &status, err))
            text = field_text(&f);
        else if (is_field(&f, PIECE_SCORE, WIRE_32, &status, err))
            memcpy(&score, &f.value, sizeof score);
        else if (is_field(&f, PIECE_TYPE, WIRE_VARINT, &status, err))
            type = (int64_t)f.value;
    }
    return status ? status : bl__vocab_set_token(vocab, id, text, (double)score, type, err);
}

/* First pass: everything but the pieces, which are counted. */
static bl_status read_spec(bl__string model, model_spec *spec, size_t *n_pieces, bl_error *err) {
    bl__reader reader = {(const uint8_t *)model.data, model.len, 0};
    bl_status status = BL_OK;
    size_t n = 0;
    while (!status && bl__reader_left(&reader)) {
        field f;
        status = read_field(&reader, &f, err);
        if (status)
            break;
        if (is_field(&f, MODEL_PIECE, WIRE_BYTES, &status, err))
            n++;
        else if (is_field(&f, MODEL_TRAINER, WIRE_BYTES, &status, err))
            status = read_trainer(f.bytes, spec, err);
        else if (is_field(&f, MODEL_NORMALIZER, WIRE_BYTES, &status, err))
            status = read_normalizer(f.bytes, spec, err);
    }
    *n_pieces = n;
    return status;
}

/* Second pass. */
static bl_status read_pieces(bl__string model, bl__vocab *vocab, bl_error *err) {
    bl__reader reader = {(const uint8_t *)model.data, model.len, 0};
    bl_status status = BL_OK;
    for (size_t id = 0; !status && bl__reader_left(&reader);) {
        field f;
        status = read_field(&reader, &f, err);
        if (!status && f.number == MODEL_PIECE)
            status = read_piece(f.bytes, vocab, id++, err);
    }
    return status;
}

static bl_status check_spec(const model_spec *spec, bl_error *err) {
    if (spec->model_type != TYPE_UNIGRAM && spec->model_type != TYPE_BPE)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "tokenizer.model: model type %lld, expected 1 (unigram) or 2 (BPE)",
                        (long long)spec->model_type);
    if (spec->charsmap.len)
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "tokenizer.model: normalization rule \"%.*s\", expected \"identity\"",
                        spec->normalizer.len > 60 ? 60 : (int)spec->normalizer.len,
                        spec->normalizer.data ? spec->normalizer.data : "");
    if (spec->space_suffix)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "tokenizer.model: treat_whitespace_as_suffix");
    if (!spec->escape_spaces)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "tokenizer.model: escape_whitespaces: false");
    return BL_OK;
}

/* User-defined pieces are looked for in the text as it comes, with plain spaces. */
static bl_status unmark_user_defined(bl__vocab *vocab, bl_error *err) {
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        bl__vocab_token *token = &vocab->tokens[i];
        if (token->type != BL_TOKEN_USER_DEFINED)
            continue;
        char plain[BL_VOCAB_MAX_TOKEN_BYTES];
        size_t n = 0;
        for (size_t at = 0; at < token->text.len;) {
            bool mark =
                token->text.len - at >= 3 && memcmp(token->text.data + at, "\xe2\x96\x81", 3) == 0;
            plain[n++] = mark ? ' ' : token->text.data[at];
            at += mark ? 3 : 1;
        }
        if (n == token->text.len)
            continue;
        bl_status status = bl__vocab_keep(vocab, plain, n, &token->text.data, err);
        if (status)
            return status;
        token->text.len = n;
    }
    return BL_OK;
}

static bl_token id_of_type(const bl__vocab *vocab, int32_t id, uint8_t type) {
    bool ok = id >= 0 && (size_t)id < vocab->n_tokens && vocab->tokens[id].type == type;
    return ok ? id : -1;
}

bl_status bl__vocab_from_sentencepiece(bl__string model, const bl__vocab_companions *companions,
                                       bl__vocab **out, bl_error *err) {
    model_spec spec = {.model_type = TYPE_UNIGRAM,
                       .dummy_prefix = true,
                       .extra_spaces = true,
                       .escape_spaces = true,
                       .unk = 0,
                       .bos = 1,
                       .eos = 2,
                       .pad = -1};
    bl__companion_json json = {0};
    bl__vocab *vocab = NULL;
    size_t n_pieces = 0, n_tokens = 0;
    bl_status status = read_spec(model, &spec, &n_pieces, err);
    if (!status)
        status = check_spec(&spec, err);
    if (!status)
        status = bl__companions_parse(companions, &json, err);
    if (!status)
        status = bl__companions_count(&json, n_pieces, &n_tokens, err);
    if (!status)
        status = bl__vocab_check_holes(n_tokens, n_pieces, err);
    if (!status)
        status = bl__vocab_create(n_tokens, &vocab, err);
    if (status)
        goto fail;
    vocab->kind = spec.model_type == TYPE_BPE ? BL_VOCAB_SPM : BL_VOCAB_UNIGRAM;
    vocab->add_space_prefix = spec.dummy_prefix;
    vocab->remove_extra_whitespaces = spec.extra_spaces;
    vocab->has_scores = true;
    status = read_pieces(model, vocab, err);
    if (!status)
        status = bl__companions_add(&json, vocab, err);
    if (!status)
        status = unmark_user_defined(vocab, err);
    if (!status)
        status = bl__vocab_index(vocab, err);
    if (status)
        goto fail;
    vocab->unk = id_of_type(vocab, spec.unk, BL_TOKEN_UNKNOWN);
    vocab->bos = id_of_type(vocab, spec.bos, BL_TOKEN_CONTROL);
    vocab->eos = id_of_type(vocab, spec.eos, BL_TOKEN_CONTROL);
    vocab->pad = id_of_type(vocab, spec.pad, BL_TOKEN_CONTROL);
    /* SentencePiece leaves BOS and EOS to its caller; these are the defaults of the LLaMA and T5
     * classes that use it. */
    vocab->add_bos = vocab->kind == BL_VOCAB_SPM;
    vocab->add_eos = vocab->kind == BL_VOCAB_UNIGRAM;
    status = bl__companions_apply(&json, vocab, err);
    if (!status)
        status = bl__vocab_finish(vocab, err);
    if (status)
        goto fail;
    bl__companions_free(&json);
    *out = vocab;
    return BL_OK;
fail:
    bl__companions_free(&json);
    bl__vocab_free(vocab);
    return status;
}
