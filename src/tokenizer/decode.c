/* Owns the way from ids to text. Must not know files or how text was cut. */
#include <string.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/error.h"
#include "tokenizer/bytelevel.h"
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
enum { REPLACEMENT_LEN = 3 };

/* Decoded text never outgrows this many bytes. */
static const size_t MAX_DECODED = (size_t)1 << 32;

/* Letters of the byte alphabet as the bytes they stand for; other characters as they are. */
static size_t decode_bytelevel(bl__string text, char *out) {
    size_t n_out = 0;
    for (size_t i = 0, n; i < text.len; i += n) {
        uint8_t byte;
        n = bl__utf8_len(text.data + i, text.len - i);
        if (n && bl__bytelevel_byte(bl__utf8_decode(text.data + i, n), &byte)) {
            out[n_out++] = (char)byte;
        } else {
            n = n ? n : 1;
            memcpy(out + n_out, text.data + i, n);
            n_out += n;
        }
    }
    return n_out;
}

/* U+2581 as a space. */
static size_t decode_space_marks(bl__string text, char *out) {
    size_t n_out = 0;
    for (size_t i = 0; i < text.len;) {
        bool mark = bl__utf8_is_space_mark(text.data + i, text.len - i);
        out[n_out++] = mark ? ' ' : text.data[i];
        i += mark ? BL_UTF8_SPACE_MARK_LEN : 1;
    }
    return n_out;
}

/* <0x0A> as its byte. */
static bool parse_byte_token(bl__string text, char *out) {
    static const char hex[] = "0123456789ABCDEF";
    if (text.len != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return false;
    const char *high = memchr(hex, text.data[3], 16), *low = memchr(hex, text.data[4], 16);
    if (!high || !low)
        return false;
    *out = (char)((high - hex) * 16 + (low - hex));
    return true;
}

/* The bytes of one token, no more than its text has. */
static size_t decode_token(const bl__vocab *vocab, const bl__vocab_token *token, char *out) {
    bl__string text = token->text;
    switch ((bl__token_type)token->type) {
    case BL_TOKEN_UNUSED:
        return 0;
    case BL_TOKEN_BYTE:
        if (parse_byte_token(text, out))
            return 1;
        break;
    case BL_TOKEN_NORMAL:
        return vocab->kind == BL_VOCAB_BPE ? decode_bytelevel(text, out)
                                           : decode_space_marks(text, out);
    default:
        break;
    }
    memcpy(out, text.data, text.len);
    return text.len;
}

bl_status bl__pieces_init(bl_tokenizer *tokenizer, bl_error *err) {
    const bl__vocab *vocab = tokenizer->vocab;
    size_t bytes = 0;
    for (size_t i = 0; i < vocab->n_tokens; i++)
        bytes += vocab->tokens[i].text.len;
    tokenizer->pieces = bl__malloc_array(vocab->n_tokens, sizeof *tokenizer->pieces);
    tokenizer->piece_bytes = bl__malloc(bytes);
    if (!tokenizer->pieces || !tokenizer->piece_bytes)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate %zu pieces",
                        vocab->n_tokens);
    char *at = tokenizer->piece_bytes;
    for (size_t i = 0; i < vocab->n_tokens; i++) {
        size_t len = decode_token(vocab, &vocab->tokens[i], at);
        tokenizer->pieces[i] = (bl__string){at, len};
        tokenizer->max_piece = len > tokenizer->max_piece ? len : tokenizer->max_piece;
        at += len;
    }
    return BL_OK;
}

static bool in_range(const bl_tokenizer *tokenizer, bl_token token) {
    return token >= 0 && (size_t)token < tokenizer->vocab->n_tokens;
}

const char *bl_tokenizer_piece(const bl_tokenizer *tokenizer, bl_token token, unsigned flags,
                               size_t *len) {
    *len = 0;
    if (!in_range(tokenizer, token))
        return "";
    uint8_t type = tokenizer->vocab->tokens[token].type;
    if ((type == BL_TOKEN_CONTROL || type == BL_TOKEN_UNKNOWN) && !(flags & BL_DETOKENIZE_SPECIAL))
        return "";
    *len = tokenizer->pieces[token].len;
    return tokenizer->pieces[token].data;
}

/* The bytes of a token in its place: without the space that encoding puts in front of ordinary text
 * at the start and behind special tokens. *fresh says whether that holds here, then for the next
 * token. */
static const char *piece_in_text(const bl_tokenizer *tokenizer, bl_token token, unsigned flags,
                                 bool *fresh, size_t *len) {
    const char *piece = bl_tokenizer_piece(tokenizer, token, flags, len);
    if (!in_range(tokenizer, token) || tokenizer->vocab->kind == BL_VOCAB_BPE)
        return piece;
    bool special = bl__token_is_special(tokenizer->vocab, token);
    if (*fresh && !special && *len && piece[0] == ' ') {
        piece++;
        --*len;
    }
    *fresh = special && tokenizer->vocab->add_space_prefix;
    return piece;
}

bl_status bl_tokenizer_decode(const bl_tokenizer *tokenizer, const bl_token *ids, size_t n_ids,
                              unsigned flags, char **text, size_t *len, bl_error *err) {
    bl__buffer out = bl__buffer_make(MAX_DECODED);
    bool fresh = tokenizer->vocab->add_space_prefix;
    for (size_t i = 0; i < n_ids; i++) {
        size_t n;
        const char *piece = piece_in_text(tokenizer, ids[i], flags, &fresh, &n);
        bl__buffer_append(&out, piece, n);
    }
    size_t n_out;
    char *bytes = bl__buffer_take(&out, &n_out);
    if (!bytes) {
        bool too_large = out.too_large;
        bl__buffer_free(&out);
        if (too_large)
            return bl__fail(err, BL_ERR_LIMIT, "tokenizer: decoded text exceeds %zu bytes",
                            MAX_DECODED);
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate decoded text");
    }
    *text = bytes;
    *len = n_out;
    return BL_OK;
}

struct bl_decoder {
    const bl_tokenizer *tokenizer;
    unsigned flags;
    bool fresh;
    size_t n_held; /* bytes of an unfinished character at the start of `in` */
    char *in;      /* [max_piece + BL_UTF8_MAX] */
    char *out;     /* [REPLACEMENT_LEN * (max_piece + BL_UTF8_MAX)] */
};

bl_status bl_decoder_create(const bl_tokenizer *tokenizer, unsigned flags, bool continues_text,
                            bl_decoder **out, bl_error *err) {
    size_t room = tokenizer->max_piece + BL_UTF8_MAX;
    bl_decoder *decoder = bl__malloc(sizeof *decoder + room * (1 + REPLACEMENT_LEN));
    if (!decoder)
        return bl__fail(err, BL_ERR_MEMORY, "tokenizer: cannot allocate a decoder");
    char *bytes = (char *)(decoder + 1);
    *decoder = (bl_decoder){.tokenizer = tokenizer,
                            .flags = flags,
                            .fresh = !continues_text && tokenizer->vocab->add_space_prefix,
                            .in = bytes,
                            .out = bytes + room};
    *out = decoder;
    return BL_OK;
}

void bl_decoder_free(bl_decoder *decoder) {
    bl__free(decoder);
}

const char *bl_decoder_push(bl_decoder *decoder, bl_token token, size_t *len) {
    size_t n;
    const char *piece =
        piece_in_text(decoder->tokenizer, token, decoder->flags, &decoder->fresh, &n);
    memcpy(decoder->in + decoder->n_held, piece, n);
    size_t n_in = decoder->n_held + n, at = 0, n_out = 0;
    decoder->n_held = 0;
    while (at < n_in) {
        size_t bad;
        bool cut;
        n = bl__utf8_char(decoder->in + at, n_in - at, &bad, &cut);
        if (cut) { /* fewer than BL_UTF8_MAX bytes */
            decoder->n_held = n_in - at;
            memmove(decoder->in, decoder->in + at, decoder->n_held);
            break;
        }
        if (n) {
            memcpy(decoder->out + n_out, decoder->in + at, n);
            n_out += n;
            at += n;
        } else {
            memcpy(decoder->out + n_out, REPLACEMENT, REPLACEMENT_LEN);
            n_out += REPLACEMENT_LEN;
            at += bad;
        }
    }
    *len = n_out;
    return decoder->out;
}

const char *bl_decoder_finish(bl_decoder *decoder, size_t *len) {
    *len = decoder->n_held ? REPLACEMENT_LEN : 0;
    decoder->n_held = 0;
    return REPLACEMENT;
}
