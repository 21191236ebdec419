/* From the source of a template to its tree. */
#ifndef BL_TOKENIZER_JINJA_PARSE_H
#define BL_TOKENIZER_JINJA_PARSE_H

#include "bitloom/status.h"
#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_lex.h"

enum { JINJA_SYMBOL_BUCKETS = 1024 };

/* The state shared by the parsers of expressions (jinja_parse.c) and statements
 * (jinja_statements.c). Functions that return a node give NULL after a failure, which is then in
 * status and err. */
typedef struct jinja_parser {
    jinja_template *template;
    jinja_lexer lexer;
    jinja_token token, ahead; /* the current one and the one after it, inside tags */
    bool has_ahead;
    uint32_t depth, loop_depth;
    bool soft; /* inside an if: unknown filters and tests fail only when they are met */
    const jinja_node *unknown; /* the first FILTER or TEST without a builtin outside of an if */
    uint8_t macro_flags;
    uint32_t *symbol_buckets; /* [JINJA_SYMBOL_BUCKETS] heads of the chains through hash_next */
    uint32_t symbol_capacity;
    bl_status status;
    bl_error *err;
} jinja_parser;

/* Gives NULL, always; functions that return bool end with `... != NULL`. */
void *bl__jinja_parse_fail(jinja_parser *p, bl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool bl__jinja_next(jinja_parser *p); /* moves to the next token */
static inline bool bl__jinja_token_is_name(const jinja_token *token, const char *name) {
    return token->type == JINJA_T_NAME && token->len == strlen(name) &&
           memcmp(token->text, name, token->len) == 0;
}
static inline bool bl__jinja_at_name(const jinja_parser *p, const char *name) {
    return bl__jinja_token_is_name(&p->token, name);
}
/* Inline, for a parser asks this a dozen times a token: with a literal it is one comparison. */
static inline bool bl__jinja_at_operator(const jinja_parser *p, const char *op) {
    return p->token.op == ((unsigned char)op[0] | (unsigned char)op[1] << 8);
}
/* Moves past the token when it is the one named. *found says whether it was; false on failure. */
bool bl__jinja_skip_name(jinja_parser *p, const char *name, bool *found);
bool bl__jinja_skip_operator(jinja_parser *p, const char *op, bool *found);
bool bl__jinja_expect_operator(jinja_parser *p, const char *op);
bool bl__jinja_expect_type(jinja_parser *p, jinja_token_type type, const char *what);
bool bl__jinja_enter(jinja_parser *p); /* one level deeper; p->depth-- leaves */
jinja_node *bl__jinja_node(jinja_parser *p, jinja_node_type type);
/* The number of the variable of this name; false on failure. */
bool bl__jinja_intern(jinja_parser *p, const char *name, size_t len, uint32_t *symbol);

jinja_node *bl__jinja_parse_expression(jinja_parser *p);
/* An expression, or a tuple without parentheses. */
jinja_node *bl__jinja_parse_tuple(jinja_parser *p, bool with_condition);
/* "name(args)|name ..." applied to operand (NULL: the text of a block); the first "|" is absent
 * when inline_start. */
jinja_node *bl__jinja_parse_filters(jinja_parser *p, jinja_node *operand, bool inline_start);

/* The whole template into p->template->body. */
bool bl__jinja_parse_template(jinja_parser *p);

#endif
