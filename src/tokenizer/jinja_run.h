/* One rendering: its state, and what the evaluator, the filters, tests and methods offer each
 * other. Functions that return bool give false after a failure, which is then in run->status; the
 * caller only passes that on. */
#ifndef BL_TOKENIZER_JINJA_RUN_H
#define BL_TOKENIZER_JINJA_RUN_H

#include "base/buffer.h"
#include "tokenizer/jinja.h"
#include "tokenizer/jinja_ast.h"

/* Lists and dicts inside one another that are printed, compared or taken from JSON. */
enum { JINJA_NESTING_MAX = 200, JINJA_STACK_MAX = 4096, JINJA_MAX_PARAMS = 5 };

/* What printing or rounding a float costs, in steps: microseconds, where a step takes less than a
 * tenth of one. */
enum { JINJA_FLOAT_STEPS = 100 };

typedef struct jinja_binding {
    uint32_t symbol;
    jinja_value value;
} jinja_binding;

typedef struct jinja_scope {
    struct jinja_scope *parent;
    jinja_binding *bindings;
    uint32_t count, capacity;
    bool captured; /* a macro refers to it: it must stay as it is */
} jinja_scope;

typedef struct jinja_macro {
    const jinja_node *node; /* MACRO or CALLBLOCK */
    jinja_scope *scope;     /* where it was defined */
} jinja_macro;

typedef struct jinja_loop {
    const jinja_list *items;
    size_t index, depth;
} jinja_loop;

typedef struct jinja_run {
    const jinja_template *template;
    jinja_limits limits;
    jinja_pool pool;
    bl__buffer out;       /* the text so far; blocks being captured are cut off its end */
    jinja_value *globals; /* [n_symbols] variables given and global functions */
    jinja_value *stack;   /* [JINJA_STACK_MAX] arguments of the calls under way */
    size_t stack_used;
    uint64_t steps;
    uint32_t depth, line, loop_depth;
    bl_status status;
    bl_error *err;
    bool has_time; /* strftime_now() tells `time` */
    int64_t time;
} jinja_run;

/* The arguments of a call. */
typedef struct jinja_args {
    const jinja_value *values; /* [count] positional */
    size_t count;
    const jinja_value *named; /* [2 n_named] name, value, name, value ... */
    size_t n_named;
} jinja_args;

/* self: what is filtered, tested, or whose method it is. arg: [JINJA_MAX_PARAMS] arguments by
 * position in `params`, MISSING where not given; all: the arguments as they were. */
typedef bool (*jinja_builtin_fn)(jinja_run *run, const jinja_value *self, const jinja_value *arg,
                                 const jinja_args *all, int variant, jinja_value *out);

/* The parameters of a jinja_builtin_fn, of which most need a few. */
#define JINJA_ARGUMENTS                                                                            \
    jinja_run *run, const jinja_value *self, const jinja_value *arg, const jinja_args *all,        \
        int variant, jinja_value *out
#define JINJA_UNUSED (void)run, (void)self, (void)arg, (void)all, (void)variant, (void)out

typedef struct jinja_builtin {
    const char *name;
    jinja_builtin_fn call;
    int8_t variant;   /* tells names that share a function apart */
    uint8_t required; /* the first so many parameters must be given */
    bool variadic;    /* takes any arguments: they are in `all` only */
    const char *params[JINJA_MAX_PARAMS];
} jinja_builtin;

const jinja_builtin *bl__jinja_find_filter(const char *name, size_t len);
const jinja_builtin *bl__jinja_find_test(const char *name, size_t len);
const jinja_builtin *bl__jinja_find_function(const char *name, size_t len);
/* A method of values like self; NULL when there is none. */
const jinja_builtin *bl__jinja_find_method(const jinja_value *self, const char *name, size_t len);
const jinja_builtin *bl__jinja_find_in(const jinja_builtin *table, size_t n, const char *name,
                                       size_t len);

/* jinja_run.c: costs, memory and errors. */
bool bl__jinja_fail(jinja_run *run, bl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool bl__jinja_steps(jinja_run *run, uint64_t n);
bool bl__jinja_touch(jinja_run *run, size_t bytes); /* steps for going through so many bytes */
void *bl__jinja_alloc(jinja_run *run, size_t count, size_t size); /* NULL after a failure */
bool bl__jinja_write(jinja_run *run, const char *text, size_t len);
bool bl__jinja_write_char(jinja_run *run, uint32_t code);
/* Cuts what was written since the output had `mark` bytes off as a string. */
bool bl__jinja_take(jinja_run *run, size_t mark, jinja_value *out);
bool bl__jinja_new_list(jinja_run *run, size_t capacity, jinja_flavour flavour, jinja_value *out);
bool bl__jinja_push(jinja_run *run, jinja_list *list, const jinja_value *item);
bool bl__jinja_new_dict(jinja_run *run, jinja_kind kind, size_t capacity, jinja_value *out);
/* Adds or overwrites. */
bool bl__jinja_put(jinja_run *run, jinja_dict *dict, const jinja_value *key,
                   const jinja_value *value);
/* *found points at the value, or is NULL. */
bool bl__jinja_find(jinja_run *run, const jinja_dict *dict, const jinja_value *key,
                    jinja_value **found);
bool bl__jinja_from_json(jinja_run *run, const json_t *json, unsigned nesting, jinja_value *out);

/* jinja_ops.c: what values do. */
const char *bl__jinja_type_name(const jinja_value *v); /* with its article */
bool bl__jinja_truth(const jinja_value *v);
bool bl__jinja_equal(jinja_run *run, const jinja_value *a, const jinja_value *b, unsigned nesting,
                     bool *out);
/* *out < 0, 0, > 0. Fails on values without an order. */
bool bl__jinja_order(jinja_run *run, const jinja_value *a, const jinja_value *b, unsigned nesting,
                     int *out);
bool bl__jinja_contains(jinja_run *run, const jinja_value *item, const jinja_value *container,
                        bool *out);
bool bl__jinja_binary(jinja_run *run, jinja_op op, const jinja_value *a, const jinja_value *b,
                      jinja_value *out);
/* The items of anything that may be gone through; uses generators up. */
bool bl__jinja_items(jinja_run *run, const jinja_value *v, jinja_list **out);
bool bl__jinja_get_attr(jinja_run *run, const jinja_value *v, const jinja_value *name,
                        jinja_value *out);
bool bl__jinja_get_item(jinja_run *run, const jinja_value *v, const jinja_value *index,
                        jinja_value *out);
/* start, stop, step: integers or NONE. */
bool bl__jinja_slice(jinja_run *run, const jinja_value *v, const jinja_value bounds[3],
                     jinja_value *out);

/* jinja_print.c: values as text, written to the output. */
bool bl__jinja_print(jinja_run *run, const jinja_value *v);                  /* str() */
bool bl__jinja_repr(jinja_run *run, const jinja_value *v, unsigned nesting); /* repr() */
bool bl__jinja_to_string(jinja_run *run, const jinja_value *v, jinja_value *out);
typedef struct jinja_json_style {
    bool ascii, sort_keys, indented;
    jinja_value indent;                        /* a string, when indented */
    jinja_value item_separator, key_separator; /* strings */
} jinja_json_style;
bool bl__jinja_write_json(jinja_run *run, const jinja_value *v, const jinja_json_style *style,
                          unsigned nesting);
bool bl__jinja_write_escaped(jinja_run *run, const jinja_value *v); /* str() with HTML escapes */
/* "..." % args and "...".format(args). container: the one argument is a list or dict, which need
 * not be used. */
bool bl__jinja_percent_format(jinja_run *run, const jinja_value *format, const jinja_args *args,
                              bool container, jinja_value *out);
bool bl__jinja_brace_format(jinja_run *run, const jinja_value *format, const jinja_args *args,
                            jinja_value *out);

/* jinja_eval.c */
bool bl__jinja_eval(jinja_run *run, jinja_scope *scope, const jinja_node *node, jinja_value *out);
bool bl__jinja_call_builtin(jinja_run *run, const jinja_builtin *builtin, const jinja_value *self,
                            const jinja_args *args, jinja_value *out);
/* The CALL node; caller: what a call block passes, or NULL. */
bool bl__jinja_eval_call(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                         const jinja_value *caller, jinja_value *out);
/* Through the filters of a block, self being its text. */
bool bl__jinja_filter_chain(jinja_run *run, jinja_scope *scope, const jinja_node *filter,
                            const jinja_value *text, jinja_value *out);

/* jinja_exec.c */
bool bl__jinja_call_macro(jinja_run *run, const jinja_macro *macro, const jinja_args *args,
                          jinja_value *out);
bool bl__jinja_assign(jinja_run *run, jinja_scope *scope, uint32_t symbol,
                      const jinja_value *value);

#endif
