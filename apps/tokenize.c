/* Owns `bitloom tokenize`: bytes to token ids and back. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

typedef struct tokenize_settings {
    const char *model;
    bool ids, no_bos, decode, no_special, json;
} tokenize_settings;

#define TOKENIZE(field) offsetof(tokenize_settings, field)

static const option OPTIONS[] = {
    {'m', "model", NULL, OPTION_TEXT, "PATH", TOKENIZE(model), 0, 0, NULL,
     "GGUF file (one with a vocabulary only will do), Hugging Face directory, tokenizer.json or "
     "tokenizer.model (default: as bitloom run)"},
    {0, "ids", NULL, OPTION_FLAG, NULL, TOKENIZE(ids), 0, 0, NULL,
     "print the ids only, on one line"},
    {0, "json", NULL, OPTION_FLAG, NULL, TOKENIZE(json), 0, 0, NULL,
     "print a JSON array of objects with id and piece (bytes when it is no whole text)"},
    {0, "decode", NULL, OPTION_FLAG, NULL, TOKENIZE(decode), 0, 0, NULL,
     "read ids, separated by blanks or commas, and write the bytes they stand for"},
    {0, "no-bos", NULL, OPTION_FLAG, NULL, TOKENIZE(no_bos), 0, 0, NULL,
     "do not add the BOS and EOS tokens that the model asks for"},
    {0, "no-special", NULL, OPTION_FLAG, NULL, TOKENIZE(no_special), 0, 0, NULL,
     "take special tokens written in the text as plain text; with --decode, write none out"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

static const size_t MAX_OUTPUT = (size_t)1 << 34;

/* The piece in quotes, with what is no printable ASCII or UTF-8 lead or trail byte escaped. */
static void append_quoted(bl__buffer *out, const char *piece, size_t len) {
    bl__buffer_putc(out, '"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)piece[i];
        if (c == '\n')
            bl__buffer_puts(out, "\\n");
        else if (c == '"' || c == '\\')
            bl__buffer_printf(out, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            bl__buffer_printf(out, "\\x%02x", c);
        else
            bl__buffer_putc(out, (char)c);
    }
    bl__buffer_putc(out, '"');
}

/* Whole UTF-8 is shown as it is; only fragments of characters need escapes. */
static void append_piece(bl__buffer *out, const char *piece, size_t len) {
    json_t *text = json_stringn(piece, len); /* NULL unless UTF-8 */
    bool has_control = false;
    for (size_t i = 0; i < len; i++)
        has_control |= iscntrl((unsigned char)piece[i]) || piece[i] == '"' || piece[i] == '\\';
    if (text && !has_control) {
        bl__buffer_putc(out, '"');
        bl__buffer_append(out, piece, len);
        bl__buffer_putc(out, '"');
    } else {
        append_quoted(out, piece, len);
    }
    json_decref(text);
}

static void append_json(bl__buffer *out, bl_token id, const char *piece, size_t len) {
    json_t *text = json_stringn(piece, len);
    if (text) {
        char small[512];
        size_t n = json_dumpb(text, small, sizeof small, JSON_ENCODE_ANY);
        bl__buffer_printf(out, "{\"id\": %d, \"piece\": ", (int)id);
        if (n <= sizeof small) {
            bl__buffer_append(out, small, n);
        } else if (bl__buffer_reserve(out, n)) {
            json_dumpb(text, out->data + out->len, n, JSON_ENCODE_ANY);
            out->len += n;
        }
        bl__buffer_puts(out, "}");
        json_decref(text);
        return;
    }
    bl__buffer_printf(out, "{\"id\": %d, \"bytes\": [", (int)id);
    for (size_t i = 0; i < len; i++)
        bl__buffer_printf(out, "%s%u", i ? ", " : "", (unsigned)(unsigned char)piece[i]);
    bl__buffer_puts(out, "]}");
}

static void append_ids(bl__buffer *out, const tokenize_settings *s, const bl_tokenizer *tokenizer,
                       const bl_token *ids, size_t n_ids) {
    if (s->json)
        bl__buffer_puts(out, "[");
    for (size_t i = 0; i < n_ids; i++) {
        size_t len;
        const char *piece = bl_tokenizer_piece(tokenizer, ids[i], BL_DETOKENIZE_SPECIAL, &len);
        if (s->json) {
            bl__buffer_puts(out, i ? ",\n " : "");
            append_json(out, ids[i], piece, len);
        } else if (s->ids) {
            bl__buffer_printf(out, "%s%d", i ? " " : "", (int)ids[i]);
        } else {
            bl__buffer_printf(out, "%6d  ", (int)ids[i]);
            append_piece(out, piece, len);
            bl__buffer_putc(out, '\n');
        }
    }
    if (s->json)
        bl__buffer_puts(out, "]\n");
    else if (s->ids)
        bl__buffer_puts(out, "\n");
}

static int encode(const tokenize_settings *s, const bl_tokenizer *tokenizer, const char *text,
                  size_t len) {
    unsigned flags =
        (s->no_bos ? 0u : BL_TOKENIZE_EXTRA) | (s->no_special ? 0u : BL_TOKENIZE_SPECIAL);
    bl_token *ids = NULL;
    size_t n_ids = 0;
    bl_error err;
    if (bl_tokenizer_encode(tokenizer, text, len, flags, &ids, &n_ids, &err) != BL_OK)
        return fail_error("tokenize", &err);
    bl__buffer out = bl__buffer_make(MAX_OUTPUT);
    append_ids(&out, s, tokenizer, ids, n_ids);
    int status = EXIT_SUCCESS;
    if (out.failed)
        status = fail_with("tokenize", "out of memory");
    else
        output_write(out.data ? out.data : "", out.len);
    bl__buffer_free(&out);
    bl_free(ids);
    return status;
}

/* Parses ids separated by blanks or commas; brackets are skipped, so that JSON arrays will do. */
static int parse_ids(const char *text, size_t len, size_t vocab, bl_token **ids, size_t *n_ids) {
    /* Each id takes at least a digit and a separator. */
    bl_token *list = bl__malloc_array(len / 2 + 1, sizeof *list);
    if (!list)
        return fail_with("tokenize", "out of memory");
    size_t n = 0;
    for (const char *at = text, *end = text + len; at < end;) {
        if (isspace((unsigned char)*at) || *at == ',' || *at == '[' || *at == ']') {
            at++;
            continue;
        }
        char *after;
        errno = 0;
        long id = strtol(at, &after, 10);
        bool is_whole = after > at && (after == end || isspace((unsigned char)*after) ||
                                       *after == ',' || *after == ']');
        if (!is_whole || errno == ERANGE || id < 0 || (size_t)id >= vocab) {
            bl__free(list);
            return fail_with("tokenize", "id number %zu: found \"%.*s\", expected 0 to %zu", n + 1,
                             (int)strcspn(at, " \t\r\n,]") > 20 ? 20
                                                                : (int)strcspn(at, " \t\r\n,]"),
                             at, vocab - 1);
        }
        list[n++] = (bl_token)id;
        at = after;
    }
    *ids = list;
    *n_ids = n;
    return EXIT_SUCCESS;
}

static int decode(const tokenize_settings *s, const bl_tokenizer *tokenizer, const char *text,
                  size_t len) {
    bl_token *ids = NULL;
    size_t n_ids = 0, n_bytes;
    int status = parse_ids(text, len, bl_tokenizer_vocab_size(tokenizer), &ids, &n_ids);
    if (status != EXIT_SUCCESS)
        return status;
    char *bytes;
    bl_error err;
    if (bl_tokenizer_decode(tokenizer, ids, n_ids, s->no_special ? 0 : BL_DETOKENIZE_SPECIAL,
                            &bytes, &n_bytes, &err) != BL_OK) {
        status = fail_error("tokenize", &err);
    } else {
        output_write(bytes, n_bytes);
        bl_free(bytes);
    }
    bl__free(ids);
    return status;
}

static int run(int argc, char **argv) {
    tokenize_settings s = {0};
    switch (options_parse(&TOKENIZE_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (s.ids + s.json + s.decode > 1)
        return options_complain(&TOKENIZE_COMMAND, "--ids, --json, --decode: expected one of them");
    /* A directory is fine here, so only the default needs looking for. */
    char *path =
        s.model ? bl__strndup(s.model, strlen(s.model)) : find_model(&TOKENIZE_COMMAND, NULL);
    if (!path)
        return s.model ? fail_with("tokenize", "out of memory") : EXIT_USAGE;
    bl_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t len = 0;
    bl_error err;
    int status;
    if (bl_tokenizer_open(path, &tokenizer, &err) != BL_OK ||
        read_input("-", &text, &len, &err) != BL_OK)
        status = fail_error("tokenize", &err);
    else
        status = s.decode ? decode(&s, tokenizer, text, len) : encode(&s, tokenizer, text, len);
    bl_tokenizer_close(tokenizer);
    bl__free(text);
    bl__free(path);
    return status;
}

const command TOKENIZE_COMMAND = {
    .name = "tokenize",
    .summary = "turn text into token ids and back",
    .description =
        "Reads bytes from standard input and prints one token a line: its id and its text.",
    .examples = "  echo -n \"Hello world\" | bitloom tokenize -m model.gguf\n"
                "  bitloom tokenize -m ./hf-checkpoint --ids <text.txt >ids.txt\n"
                "  bitloom tokenize -m model.gguf --decode <ids.txt\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
