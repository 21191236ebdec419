/* Splits the source of a template into tokens, whitespace control applied. */
#ifndef BL_TOKENIZER_JINJA_LEX_H
#define BL_TOKENIZER_JINJA_LEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "tokenizer/jinja_pool.h"

typedef enum jinja_token_type {
    JINJA_T_END,
    JINJA_T_DATA,
    JINJA_T_BLOCK_BEGIN,
    JINJA_T_BLOCK_END,
    JINJA_T_PRINT_BEGIN,
    JINJA_T_PRINT_END,
    JINJA_T_NAME,
    JINJA_T_STRING, /* text is the value, escapes resolved */
    JINJA_T_INT,
    JINJA_T_FLOAT,
    JINJA_T_OPERATOR, /* text is one of + - * / // % ** ~ == != < <= > >= = . , : | ( ) [ ] { } */
} jinja_token_type;

typedef struct jinja_token {
    jinja_token_type type;
    uint32_t line;
    const char *text;
    size_t len;
    uint16_t op; /* an OPERATOR's characters, the first one low; 0 for other tokens */
    int64_t integer;
    double number;
} jinja_token;

typedef struct jinja_lexer {
    jinja_pool *pool; /* for strings with escapes */
    const char *source;
    size_t len, at;
    uint32_t line;
    uint8_t mode;       /* outside tags, in {% %} or in {{ }} */
    bool line_starting; /* what came before ended a line */
    uint32_t brackets;  /* open ( [ { inside the tag */
    jinja_token pending;
    bool has_pending;
    bl_error *err;
    bl_status status;
} jinja_lexer;

/* source[len]: line ends are \n already. */
void bl__jinja_lexer_init(jinja_lexer *lexer, jinja_pool *pool, const char *source, size_t len,
                          bl_error *err);
/* false on an error, which is then in status and err. After the last token: END, forever. */
bool bl__jinja_lexer_next(jinja_lexer *lexer, jinja_token *out);

#endif
