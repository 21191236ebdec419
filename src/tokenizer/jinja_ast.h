/* The tree that the parser makes and the evaluator walks, and the template that owns it. */
#ifndef BL_TOKENIZER_JINJA_AST_H
#define BL_TOKENIZER_JINJA_AST_H

#include "tokenizer/jinja.h"
#include "tokenizer/jinja_pool.h"
#include "tokenizer/jinja_value.h"

/* Children by type; "..." is a chain through `next`. Call arguments are positional nodes in b...
 * and KEYWORD nodes (value: name, a: expression) in c... */
typedef enum jinja_node_type {
    /* Expressions */
    JINJA_N_CONST,   /* value */
    JINJA_N_NAME,    /* symbol, value: its text */
    JINJA_N_LIST,    /* a... */
    JINJA_N_TUPLE,   /* a... */
    JINJA_N_DICT,    /* a...: key, value, key, value */
    JINJA_N_ATTR,    /* a.value */
    JINJA_N_ITEM,    /* a[b] */
    JINJA_N_SLICE,   /* a:b:c, each may be NULL; only as b of an ITEM */
    JINJA_N_CALL,    /* a(b..., c...) */
    JINJA_N_FILTER,  /* a|builtin(b..., c...); a is NULL where a block's text is filtered */
    JINJA_N_TEST,    /* a is builtin(b..., c...) */
    JINJA_N_KEYWORD, /* value = a, only in calls */
    JINJA_N_NOT,     /* a */
    JINJA_N_NEGATE,  /* a */
    JINJA_N_PLUS,    /* a */
    JINJA_N_BINARY,  /* a op b */
    JINJA_N_CONCAT,  /* a... */
    JINJA_N_AND,     /* a, b */
    JINJA_N_OR,      /* a, b */
    JINJA_N_COMPARE, /* a, then b...: OPERAND nodes */
    JINJA_N_OPERAND, /* op a, only in comparisons */
    JINJA_N_COND,    /* b if a else c; c may be NULL */
    /* Statements */
    JINJA_N_TEXT,        /* value */
    JINJA_N_PRINT,       /* a */
    JINJA_N_IF,          /* if a: b..., next branch in d (an IF), else c... */
    JINJA_N_FOR,         /* for a in b if e: c..., else d... */
    JINJA_N_SET,         /* a = b; a: NAME, NSREF or TUPLE of them */
    JINJA_N_SETBLOCK,    /* a = text of c..., through the filters b (may be NULL) */
    JINJA_N_NSREF,       /* symbol.value, only as a target */
    JINJA_N_MACRO,       /* symbol(a...: PARAM) c... */
    JINJA_N_PARAM,       /* symbol, default a (may be NULL) */
    JINJA_N_CALLBLOCK,   /* the CALL d, with caller(a...: PARAM) c... */
    JINJA_N_FILTERBLOCK, /* text of c..., through the filters b */
    JINJA_N_SCOPE,       /* c... in a scope of its own, after the SETs a... */
    JINJA_N_BREAK,
    JINJA_N_CONTINUE,
} jinja_node_type;

typedef enum jinja_op {
    JINJA_ADD,
    JINJA_SUB,
    JINJA_MUL,
    JINJA_DIV,
    JINJA_FLOORDIV,
    JINJA_MOD,
    JINJA_POW,
    JINJA_EQ,
    JINJA_NE,
    JINJA_LT,
    JINJA_LE,
    JINJA_GT,
    JINJA_GE,
    JINJA_IN,
    JINJA_NOT_IN,
} jinja_op;

/* Flags of a MACRO: its body names the variables that collect surplus arguments. */
enum { JINJA_USES_VARARGS = 1, JINJA_USES_KWARGS = 2 };

typedef struct jinja_node jinja_node;
struct jinja_node {
    uint8_t type, op, flags;
    uint32_t line, symbol;
    jinja_node *next;
    jinja_node *a, *b, *c, *d, *e;
    const struct jinja_builtin *builtin; /* of a FILTER or TEST; NULL: unknown, an error when met */
    jinja_value value;
};

/* Names of variables, numbered. */
typedef struct jinja_symbol {
    const char *name; /* NUL-terminated */
    uint32_t len, hash_next;
} jinja_symbol;

struct jinja_template {
    jinja_pool pool; /* owns the nodes, the text and the symbols */
    jinja_node *body;
    jinja_symbol *symbols;
    uint32_t n_symbols;
    /* Symbols that the evaluator sets itself. */
    uint32_t loop_symbol, caller_symbol, varargs_symbol, kwargs_symbol;
};

#endif
