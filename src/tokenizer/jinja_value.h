/* The values that templates compute with. They live in the pool of one rendering (constants: of
 * the template) and are never changed once made, namespaces and lists under construction apart. */
#ifndef BL_TOKENIZER_JINJA_VALUE_H
#define BL_TOKENIZER_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum jinja_kind {
    JINJA_MISSING,   /* an argument that was not given; never seen by templates */
    JINJA_UNDEFINED, /* prints as nothing; len bytes at text name what is undefined */
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING, /* text[len], any bytes, no NUL at the end */
    JINJA_LIST,   /* every kind of sequence: see jinja_flavour */
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_LOOP,     /* the variable `loop` */
    JINJA_MACRO,    /* a macro, or the caller() of a call block */
    JINJA_FUNCTION, /* a global function */
    JINJA_METHOD,   /* a method bound to a value */
} jinja_kind;

/* What kind of string, and as what a list shows itself. */
typedef enum jinja_flavour {
    JINJA_PLAIN = 0,
    JINJA_SAFE, /* strings: markup; adding plain text to it escapes that text */
    JINJA_TUPLE,
    JINJA_RANGE,     /* start, stop and step follow the items */
    JINJA_GENERATOR, /* may be gone through once */
    JINJA_DICT_KEYS,
    JINJA_DICT_VALUES,
    JINJA_DICT_ITEMS,
} jinja_flavour;

typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;

typedef struct jinja_value {
    uint8_t kind, flavour;
    uint32_t len; /* strings and undefined values: bytes at text */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const char *text;
        jinja_list *list;
        jinja_dict *dict; /* also of a namespace */
        struct jinja_loop *loop;
        const struct jinja_macro *macro;
        const struct jinja_builtin *function;
        const struct jinja_bound *method;
    } as;
} jinja_value;

struct jinja_list {
    jinja_value *items;
    size_t count, capacity;
};

typedef struct jinja_entry {
    jinja_value key, value;
} jinja_entry;

struct jinja_dict {
    jinja_entry *entries; /* in the order of insertion */
    size_t count, capacity;
};

typedef struct jinja_bound {
    const struct jinja_builtin *builtin;
    jinja_value self;
} jinja_bound;

static inline jinja_value bl__jinja_none(void) {
    return (jinja_value){.kind = JINJA_NONE};
}
static inline jinja_value bl__jinja_bool(bool b) {
    return (jinja_value){.kind = JINJA_BOOL, .as.boolean = b};
}
static inline jinja_value bl__jinja_int(int64_t i) {
    return (jinja_value){.kind = JINJA_INT, .as.integer = i};
}
static inline jinja_value bl__jinja_float(double f) {
    return (jinja_value){.kind = JINJA_FLOAT, .as.number = f};
}
/* Borrows text. No string is longer than the caps on memory, which are below 4 GiB. */
static inline jinja_value bl__jinja_string(const char *text, size_t len) {
    return (jinja_value){.kind = JINJA_STRING, .len = (uint32_t)len, .as.text = text};
}
static inline jinja_value bl__jinja_literal(const char *text) {
    return bl__jinja_string(text, strlen(text));
}
static inline jinja_value bl__jinja_undefined(const char *name, size_t len) {
    return (jinja_value){.kind = JINJA_UNDEFINED, .len = (uint32_t)len, .as.text = name};
}
static inline bool bl__jinja_text_is(const jinja_value *v, const char *text) {
    return v->len == strlen(text) && memcmp(v->as.text, text, v->len) == 0;
}
/* Booleans count as integers, as in Python. */
static inline bool bl__jinja_is_int(const jinja_value *v) {
    return v->kind == JINJA_INT || v->kind == JINJA_BOOL;
}
static inline int64_t bl__jinja_as_int(const jinja_value *v) {
    return v->kind == JINJA_BOOL ? v->as.boolean : v->as.integer;
}
static inline bool bl__jinja_is_number(const jinja_value *v) {
    return bl__jinja_is_int(v) || v->kind == JINJA_FLOAT;
}
static inline double bl__jinja_as_float(const jinja_value *v) {
    return v->kind == JINJA_FLOAT ? v->as.number : (double)bl__jinja_as_int(v);
}

#endif
