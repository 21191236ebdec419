/* Owns the grammar of expressions and its precedence, which is jinja2's: filters and tests bind
 * tighter than every operator, `~` tighter than + and -. */
#include "tokenizer/jinja_parse.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "tokenizer/jinja_run.h"

/* Names may all be made to fall into one bucket, so their number bounds the time too. */
enum { PARSE_DEPTH_MAX = 300, MESSAGE_MAX = 200, SYMBOLS_MAX = 4096 };

void *bl__jinja_parse_fail(jinja_parser *p, bl_status status, const char *format, ...) {
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    p->status = bl__fail(p->err, status, "chat template: line %u: %s", p->token.line, message);
    return NULL;
}

static void *parse_no_memory(jinja_parser *p) {
    if (p->template->pool.too_large)
        return bl__jinja_parse_fail(p, BL_ERR_LIMIT, "the template needs more than %zu bytes",
                                    p->template->pool.max);
    return bl__jinja_parse_fail(p, BL_ERR_MEMORY, "out of memory");
}

bool bl__jinja_next(jinja_parser *p) {
    if (p->has_ahead) {
        p->token = p->ahead;
        p->has_ahead = false;
        return true;
    }
    if (bl__jinja_lexer_next(&p->lexer, &p->token))
        return true;
    p->status = p->lexer.status;
    return false;
}

/* The token after the current one; NULL on failure. */
static const jinja_token *look_ahead(jinja_parser *p) {
    if (!p->has_ahead) {
        if (!bl__jinja_lexer_next(&p->lexer, &p->ahead)) {
            p->status = p->lexer.status;
            return NULL;
        }
        p->has_ahead = true;
    }
    return &p->ahead;
}

bool bl__jinja_skip_name(jinja_parser *p, const char *name, bool *found) {
    *found = bl__jinja_at_name(p, name);
    return !*found || bl__jinja_next(p);
}
bool bl__jinja_skip_operator(jinja_parser *p, const char *op, bool *found) {
    *found = bl__jinja_at_operator(p, op);
    return !*found || bl__jinja_next(p);
}

static void *fail_expected(jinja_parser *p, const char *what) {
    static const char *const names[] = {"the end", "text", "'{%'", "'%}'", "'{{'", "'}}'"};
    int len = p->token.len < 40 ? (int)p->token.len : 40;
    if (p->token.type <= JINJA_T_PRINT_END)
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "found %s, expected %s", names[p->token.type],
                                    what);
    if (p->token.type == JINJA_T_INT || p->token.type == JINJA_T_FLOAT)
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "found a number, expected %s", what);
    return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "found '%.*s', expected %s", len, p->token.text,
                                what);
}

bool bl__jinja_expect_operator(jinja_parser *p, const char *op) {
    if (!bl__jinja_at_operator(p, op)) {
        char what[8];
        snprintf(what, sizeof what, "'%s'", op);
        return fail_expected(p, what) != NULL;
    }
    return bl__jinja_next(p);
}
bool bl__jinja_expect_type(jinja_parser *p, jinja_token_type type, const char *what) {
    if (p->token.type != type)
        return fail_expected(p, what) != NULL;
    return bl__jinja_next(p);
}

bool bl__jinja_enter(jinja_parser *p) {
    if (p->depth == PARSE_DEPTH_MAX)
        return bl__jinja_parse_fail(p, BL_ERR_LIMIT, "nested deeper than %d levels",
                                    PARSE_DEPTH_MAX) != NULL;
    p->depth++;
    return true;
}

jinja_node *bl__jinja_node(jinja_parser *p, jinja_node_type type) {
    jinja_node *node = bl__jinja_pool_alloc(&p->template->pool, 1, sizeof *node);
    if (!node)
        return parse_no_memory(p);
    *node = (jinja_node){.type = (uint8_t)type, .line = p->token.line};
    return node;
}

bool bl__jinja_intern(jinja_parser *p, const char *name, size_t len, uint32_t *symbol) {
    jinja_template *t = p->template;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    uint32_t *bucket = &p->symbol_buckets[hash % JINJA_SYMBOL_BUCKETS];
    for (uint32_t i = *bucket; i; i = t->symbols[i - 1].hash_next) {
        const jinja_symbol *s = &t->symbols[i - 1];
        if (s->len == len && memcmp(s->name, name, len) == 0) {
            *symbol = i - 1;
            return true;
        }
    }
    if (t->n_symbols == SYMBOLS_MAX)
        return bl__jinja_parse_fail(p, BL_ERR_LIMIT, "more than %d names", SYMBOLS_MAX) != NULL;
    if (t->n_symbols == p->symbol_capacity) {
        uint32_t capacity = p->symbol_capacity ? 2 * p->symbol_capacity : 64;
        jinja_symbol *grown = bl__jinja_pool_alloc(&t->pool, capacity, sizeof *grown);
        if (!grown)
            return parse_no_memory(p) != NULL;
        if (t->n_symbols)
            memcpy(grown, t->symbols, t->n_symbols * sizeof *grown);
        t->symbols = grown;
        p->symbol_capacity = capacity;
    }
    char *copy = bl__jinja_pool_alloc(&t->pool, len + 1, 1);
    if (!copy)
        return parse_no_memory(p) != NULL;
    memcpy(copy, name, len);
    copy[len] = '\0';
    t->symbols[t->n_symbols] =
        (jinja_symbol){.name = copy, .len = (uint32_t)len, .hash_next = *bucket};
    *symbol = t->n_symbols++;
    *bucket = t->n_symbols;
    return true;
}

static jinja_node *parse_or(jinja_parser *p);
static jinja_node *parse_unary(jinja_parser *p, bool with_filters);

static jinja_node *new_const(jinja_parser *p, jinja_value value) {
    jinja_node *node = bl__jinja_node(p, JINJA_N_CONST);
    if (node)
        node->value = value;
    return node;
}

/* "(" was not yet passed. Fills b... and c... of node. */
static bool parse_arguments(jinja_parser *p, jinja_node *node) {
    jinja_node **positional = &node->b, **keyword = &node->c;
    bool first = true;
    if (!bl__jinja_expect_operator(p, "("))
        return false;
    for (; !bl__jinja_at_operator(p, ")"); first = false) {
        if (!first && !bl__jinja_expect_operator(p, ","))
            return false;
        if (!first && bl__jinja_at_operator(p, ")"))
            break;
        if (bl__jinja_at_operator(p, "*") || bl__jinja_at_operator(p, "**"))
            return bl__jinja_parse_fail(p, BL_ERR_UNSUPPORTED,
                                        "arguments with * and ** are unsupported") != NULL;
        const jinja_token *ahead = NULL;
        if (p->token.type == JINJA_T_NAME && !(ahead = look_ahead(p)))
            return false;
        if (ahead && ahead->op == '=') {
            jinja_node *named = bl__jinja_node(p, JINJA_N_KEYWORD);
            if (!named)
                return false;
            named->value = bl__jinja_string(p->token.text, p->token.len);
            if (!bl__jinja_next(p) || !bl__jinja_next(p) ||
                !(named->a = bl__jinja_parse_expression(p)))
                return false;
            *keyword = named;
            keyword = &named->next;
        } else {
            if (node->c)
                return fail_expected(p, "an argument with a name") != NULL;
            if (!(*positional = bl__jinja_parse_expression(p)))
                return false;
            positional = &(*positional)->next;
        }
    }
    return bl__jinja_expect_operator(p, ")");
}

/* A name with dots, as filters and tests may have, into *node's builtin. */
static bool parse_builtin_name(jinja_parser *p, jinja_node *node, bool test) {
    const char *name = p->token.text;
    size_t len = p->token.len;
    if (!bl__jinja_expect_type(p, JINJA_T_NAME,
                               test ? "the name of a test" : "the name of a filter"))
        return false;
    node->value = bl__jinja_string(name, len);
    node->builtin = test ? bl__jinja_find_test(name, len) : bl__jinja_find_filter(name, len);
    if (!node->builtin && !p->soft && !p->unknown)
        p->unknown = node;
    return true;
}

jinja_node *bl__jinja_parse_filters(jinja_parser *p, jinja_node *operand, bool inline_start) {
    while (inline_start || bl__jinja_at_operator(p, "|")) {
        if (!inline_start && !bl__jinja_next(p))
            return NULL;
        jinja_node *node = bl__jinja_node(p, JINJA_N_FILTER);
        if (!node || !parse_builtin_name(p, node, false))
            return NULL;
        node->a = operand;
        if (bl__jinja_at_operator(p, "(") && !parse_arguments(p, node))
            return NULL;
        operand = node;
        inline_start = false;
    }
    return operand;
}

static jinja_node *parse_call(jinja_parser *p, jinja_node *callee) {
    jinja_node *node = bl__jinja_node(p, JINJA_N_CALL);
    if (!node || !parse_arguments(p, node))
        return NULL;
    node->a = callee;
    return node;
}

/* What stands between brackets: an expression or a slice. */
static jinja_node *parse_index(jinja_parser *p) {
    jinja_node *part[3] = {NULL, NULL, NULL};
    int n = 0; /* colons passed */
    for (;;) {
        bool colon;
        if (!bl__jinja_at_operator(p, ":") && !bl__jinja_at_operator(p, "]"))
            if (!(part[n] = bl__jinja_parse_expression(p)))
                return NULL;
        if (n == 2)
            break;
        if (!bl__jinja_skip_operator(p, ":", &colon))
            return NULL;
        if (!colon)
            break;
        n++;
    }
    if (n == 0)
        return part[0] ? part[0] : fail_expected(p, "a subscript");
    jinja_node *node = bl__jinja_node(p, JINJA_N_SLICE);
    if (node) {
        node->a = part[0];
        node->b = part[1];
        node->c = part[2];
    }
    return node;
}

static jinja_node *parse_subscript(jinja_parser *p, jinja_node *object) {
    if (bl__jinja_at_operator(p, "[")) {
        jinja_node *node = bl__jinja_node(p, JINJA_N_ITEM);
        if (!node || !bl__jinja_next(p) || !(node->b = parse_index(p)) ||
            !bl__jinja_expect_operator(p, "]"))
            return NULL;
        node->a = object;
        return node;
    }
    if (!bl__jinja_next(p)) /* the dot */
        return NULL;
    bool is_name = p->token.type == JINJA_T_NAME;
    if (!is_name && p->token.type != JINJA_T_INT)
        return fail_expected(p, "a name or number after '.'");
    jinja_node *node = bl__jinja_node(p, is_name ? JINJA_N_ATTR : JINJA_N_ITEM);
    if (!node)
        return NULL;
    node->a = object;
    if (is_name)
        node->value = bl__jinja_string(p->token.text, p->token.len);
    else if (!(node->b = new_const(p, bl__jinja_int(p->token.integer))))
        return NULL;
    return bl__jinja_next(p) ? node : NULL;
}

static jinja_node *parse_postfix(jinja_parser *p, jinja_node *node) {
    while (node) {
        if (bl__jinja_at_operator(p, ".") || bl__jinja_at_operator(p, "["))
            node = parse_subscript(p, node);
        else if (bl__jinja_at_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    return node;
}

/* Items up to the closing bracket, a comma at the end allowed. pairs: "key: value". */
static bool parse_items(jinja_parser *p, const char *close, bool pairs, jinja_node **tail) {
    for (bool first = true; !bl__jinja_at_operator(p, close); first = false) {
        if (!first && !bl__jinja_expect_operator(p, ","))
            return false;
        if (!first && bl__jinja_at_operator(p, close))
            break;
        if (!(*tail = bl__jinja_parse_expression(p)))
            return false;
        tail = &(*tail)->next;
        if (!pairs)
            continue;
        if (!bl__jinja_expect_operator(p, ":") || !(*tail = bl__jinja_parse_expression(p)))
            return false;
        tail = &(*tail)->next;
    }
    return bl__jinja_expect_operator(p, close);
}

static jinja_node *parse_name(jinja_parser *p) {
    static const struct {
        const char *name;
        jinja_value value;
    } constants[] = {
        {"true", {.kind = JINJA_BOOL, .as.boolean = true}},
        {"True", {.kind = JINJA_BOOL, .as.boolean = true}},
        {"false", {.kind = JINJA_BOOL, .as.boolean = false}},
        {"False", {.kind = JINJA_BOOL, .as.boolean = false}},
        {"none", {.kind = JINJA_NONE}},
        {"None", {.kind = JINJA_NONE}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (bl__jinja_at_name(p, constants[i].name)) {
            jinja_node *node = new_const(p, constants[i].value);
            return node && bl__jinja_next(p) ? node : NULL;
        }
    jinja_node *node = bl__jinja_node(p, JINJA_N_NAME);
    if (!node || !bl__jinja_intern(p, p->token.text, p->token.len, &node->symbol))
        return NULL;
    node->value = bl__jinja_string(p->token.text, p->token.len);
    if (bl__jinja_at_name(p, "varargs"))
        p->macro_flags |= JINJA_USES_VARARGS;
    if (bl__jinja_at_name(p, "kwargs"))
        p->macro_flags |= JINJA_USES_KWARGS;
    return bl__jinja_next(p) ? node : NULL;
}

/* Strings side by side are one string. */
static jinja_node *parse_string(jinja_parser *p) {
    jinja_node *node = new_const(p, bl__jinja_string(p->token.text, p->token.len));
    if (!node || !bl__jinja_next(p))
        return NULL;
    while (p->token.type == JINJA_T_STRING) {
        size_t len = node->value.len;
        char *joined = bl__jinja_pool_alloc(&p->template->pool, len + p->token.len, 1);
        if (!joined)
            return parse_no_memory(p);
        memcpy(joined, node->value.as.text, len);
        memcpy(joined + len, p->token.text, p->token.len);
        node->value = bl__jinja_string(joined, len + p->token.len);
        if (!bl__jinja_next(p))
            return NULL;
    }
    return node;
}

static jinja_node *parse_primary(jinja_parser *p) {
    jinja_node *node = NULL;
    switch (p->token.type) {
    case JINJA_T_NAME:
        return parse_name(p);
    case JINJA_T_STRING:
        return parse_string(p);
    case JINJA_T_INT:
        node = new_const(p, bl__jinja_int(p->token.integer));
        return node && bl__jinja_next(p) ? node : NULL;
    case JINJA_T_FLOAT:
        node = new_const(p, bl__jinja_float(p->token.number));
        return node && bl__jinja_next(p) ? node : NULL;
    default:
        break;
    }
    if (bl__jinja_at_operator(p, "(")) {
        if (!bl__jinja_next(p))
            return NULL;
        if (bl__jinja_at_operator(p, ")"))
            node = bl__jinja_node(p, JINJA_N_TUPLE);
        else
            node = bl__jinja_parse_tuple(p, true);
        return node && bl__jinja_expect_operator(p, ")") ? node : NULL;
    }
    bool list = bl__jinja_at_operator(p, "[");
    if (!list && !bl__jinja_at_operator(p, "{"))
        return fail_expected(p, "an expression");
    node = bl__jinja_node(p, list ? JINJA_N_LIST : JINJA_N_DICT);
    if (!node || !bl__jinja_next(p) || !parse_items(p, list ? "]" : "}", !list, &node->a))
        return NULL;
    return node;
}

/* After "is". */
static jinja_node *parse_test(jinja_parser *p, jinja_node *operand) {
    bool negated;
    jinja_node *node = bl__jinja_node(p, JINJA_N_TEST);
    if (!node || !bl__jinja_skip_name(p, "not", &negated) || !parse_builtin_name(p, node, true))
        return NULL;
    node->a = operand;
    bool starts = bl__jinja_at_operator(p, "[") || bl__jinja_at_operator(p, "{") ||
                  (p->token.type >= JINJA_T_NAME && p->token.type <= JINJA_T_FLOAT);
    if (bl__jinja_at_operator(p, "(")) {
        if (!parse_arguments(p, node))
            return NULL;
    } else if (bl__jinja_at_name(p, "is")) {
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "tests with 'is' cannot be chained");
    } else if (starts && !bl__jinja_at_name(p, "else") && !bl__jinja_at_name(p, "or") &&
               !bl__jinja_at_name(p, "and")) {
        if (!(node->b = parse_postfix(p, parse_primary(p))))
            return NULL;
    }
    if (!negated)
        return node;
    jinja_node *negation = bl__jinja_node(p, JINJA_N_NOT);
    if (negation)
        negation->a = node;
    return negation;
}

static jinja_node *parse_unary(jinja_parser *p, bool with_filters) {
    jinja_node *node;
    if (!bl__jinja_enter(p))
        return NULL;
    bool minus = bl__jinja_at_operator(p, "-");
    if (minus || bl__jinja_at_operator(p, "+")) {
        node = bl__jinja_node(p, minus ? JINJA_N_NEGATE : JINJA_N_PLUS);
        if (!node || !bl__jinja_next(p) || !(node->a = parse_unary(p, false)))
            return NULL;
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (node && with_filters) {
        bool is;
        if (bl__jinja_at_operator(p, "|")) {
            node = bl__jinja_parse_filters(p, node, false);
        } else if (bl__jinja_at_operator(p, "(")) {
            node = parse_call(p, node);
        } else {
            if (!bl__jinja_skip_name(p, "is", &is))
                return NULL;
            if (!is)
                break;
            node = parse_test(p, node);
        }
    }
    p->depth--;
    return node;
}

static jinja_node *new_pair(jinja_parser *p, jinja_node_type type, jinja_op op, jinja_node *a,
                            jinja_node *b) {
    jinja_node *node = a && b ? bl__jinja_node(p, type) : NULL;
    if (node) {
        node->op = (uint8_t)op;
        node->a = a;
        node->b = b;
    }
    return node;
}

typedef struct operator_name {
    const char *name;
    jinja_op op;
} operator_name;

/* The operator at the current token among names[n]; -1 when there is none of them. */
static int match_operator(const jinja_parser *p, const operator_name *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bl__jinja_at_operator(p, names[i].name))
            return (int)names[i].op;
    return -1;
}

static jinja_node *parse_power(jinja_parser *p) {
    jinja_node *left = parse_unary(p, true);
    while (left && bl__jinja_at_operator(p, "**"))
        left = bl__jinja_next(p)
                   ? new_pair(p, JINJA_N_BINARY, JINJA_POW, left, parse_unary(p, true))
                   : NULL;
    return left;
}

static jinja_node *parse_product(jinja_parser *p) {
    static const operator_name names[] = {
        {"*", JINJA_MUL}, {"/", JINJA_DIV}, {"//", JINJA_FLOORDIV}, {"%", JINJA_MOD}};
    jinja_node *left = parse_power(p);
    int op;
    while (left && (op = match_operator(p, names, 4)) >= 0)
        left = bl__jinja_next(p) ? new_pair(p, JINJA_N_BINARY, (jinja_op)op, left, parse_power(p))
                                 : NULL;
    return left;
}

static jinja_node *parse_concat(jinja_parser *p) {
    jinja_node *first = parse_product(p);
    if (!first || !bl__jinja_at_operator(p, "~"))
        return first;
    jinja_node *node = bl__jinja_node(p, JINJA_N_CONCAT);
    if (!node)
        return NULL;
    node->a = first;
    jinja_node **tail = &first->next;
    while (bl__jinja_at_operator(p, "~")) {
        if (!bl__jinja_next(p) || !(*tail = parse_product(p)))
            return NULL;
        tail = &(*tail)->next;
    }
    return node;
}

static jinja_node *parse_sum(jinja_parser *p) {
    static const operator_name names[] = {{"+", JINJA_ADD}, {"-", JINJA_SUB}};
    jinja_node *left = parse_concat(p);
    int op;
    while (left && (op = match_operator(p, names, 2)) >= 0)
        left = bl__jinja_next(p) ? new_pair(p, JINJA_N_BINARY, (jinja_op)op, left, parse_concat(p))
                                 : NULL;
    return left;
}

/* Moves past a comparison operator, "in" and "not in" included; *op is -1 when there is none. */
static bool skip_comparison(jinja_parser *p, int *op) {
    static const operator_name names[] = {{"==", JINJA_EQ}, {"!=", JINJA_NE}, {"<", JINJA_LT},
                                          {"<=", JINJA_LE}, {">", JINJA_GT},  {">=", JINJA_GE}};
    *op = match_operator(p, names, 6);
    if (bl__jinja_at_name(p, "in"))
        *op = JINJA_IN;
    if (bl__jinja_at_name(p, "not")) {
        const jinja_token *ahead = look_ahead(p);
        if (!ahead)
            return false;
        if (bl__jinja_token_is_name(ahead, "in")) {
            *op = JINJA_NOT_IN;
            if (!bl__jinja_next(p))
                return false;
        }
    }
    return *op < 0 || bl__jinja_next(p);
}

static jinja_node *parse_comparison(jinja_parser *p) {
    jinja_node *first = parse_sum(p), *node = NULL, **tail = NULL;
    if (!first)
        return NULL;
    for (;;) {
        int op;
        if (!skip_comparison(p, &op))
            return NULL;
        if (op < 0)
            return node ? node : first;
        if (!node) {
            if (!(node = bl__jinja_node(p, JINJA_N_COMPARE)))
                return NULL;
            node->a = first;
            tail = &node->b;
        }
        jinja_node *operand = bl__jinja_node(p, JINJA_N_OPERAND);
        if (!operand || !(operand->a = parse_sum(p)))
            return NULL;
        operand->op = (uint8_t)op;
        *tail = operand;
        tail = &operand->next;
    }
}

static jinja_node *parse_not(jinja_parser *p) {
    if (!bl__jinja_at_name(p, "not"))
        return parse_comparison(p);
    jinja_node *node = bl__jinja_node(p, JINJA_N_NOT);
    if (!node || !bl__jinja_enter(p) || !bl__jinja_next(p) || !(node->a = parse_not(p)))
        return NULL;
    p->depth--;
    return node;
}

static jinja_node *parse_and(jinja_parser *p) {
    jinja_node *left = parse_not(p);
    while (left && bl__jinja_at_name(p, "and"))
        left = bl__jinja_next(p) ? new_pair(p, JINJA_N_AND, 0, left, parse_not(p)) : NULL;
    return left;
}

static jinja_node *parse_or(jinja_parser *p) {
    jinja_node *left = parse_and(p);
    while (left && bl__jinja_at_name(p, "or"))
        left = bl__jinja_next(p) ? new_pair(p, JINJA_N_OR, 0, left, parse_and(p)) : NULL;
    return left;
}

/* An or-expression or an inline if, whose else may be absent. Only when "if" comes is it known
 * that unknown filters before it are inside one. */
jinja_node *bl__jinja_parse_expression(jinja_parser *p) {
    if (!bl__jinja_enter(p))
        return NULL;
    const jinja_node *unknown = p->unknown;
    jinja_node *node = parse_or(p);
    while (node && bl__jinja_at_name(p, "if")) {
        p->unknown = unknown;
        jinja_node *condition = bl__jinja_node(p, JINJA_N_COND);
        bool has_else, was_soft = p->soft;
        p->soft = true;
        if (!condition || !bl__jinja_next(p) || !(condition->a = parse_or(p)) ||
            !bl__jinja_skip_name(p, "else", &has_else))
            return NULL;
        condition->b = node;
        if (has_else && !(condition->c = bl__jinja_parse_expression(p)))
            return NULL;
        p->soft = was_soft;
        node = condition;
    }
    p->depth--;
    return node;
}

static bool at_tuple_end(const jinja_parser *p) {
    return p->token.type == JINJA_T_BLOCK_END || p->token.type == JINJA_T_PRINT_END ||
           bl__jinja_at_operator(p, ")") || bl__jinja_at_name(p, "recursive");
}

jinja_node *bl__jinja_parse_tuple(jinja_parser *p, bool with_condition) {
    jinja_node *tuple = NULL, **tail = NULL;
    for (;;) {
        jinja_node *item = with_condition ? bl__jinja_parse_expression(p) : parse_or(p);
        bool comma;
        if (!item || !bl__jinja_skip_operator(p, ",", &comma))
            return NULL;
        if (!comma && !tuple)
            return item;
        if (!tuple) {
            if (!(tuple = bl__jinja_node(p, JINJA_N_TUPLE)))
                return NULL;
            tail = &tuple->a;
        }
        *tail = item;
        tail = &item->next;
        if (!comma || at_tuple_end(p))
            return tuple;
    }
}
