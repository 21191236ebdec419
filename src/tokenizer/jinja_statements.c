/* Owns the grammar of tags, and compiling as a whole. Tags outside the subset (include, import,
 * block, extends ...) are refused by name. */
#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/jinja.h"
#include "tokenizer/jinja_parse.h"

enum {
    TEMPLATE_MAX = 1024 * 1024, /* bytes of source; published templates have up to 100 KB */
    COMPILED_MAX = 64 * 1024 * 1024,
};

/* Statements until a tag named in `ends` (separated by spaces), which is left at its name. At the
 * top, where ends is NULL, until the end of the source. */
static bool parse_body(jinja_parser *p, const char *ends, jinja_node **tail);

static bool at_one_of(const jinja_parser *p, const char *names) {
    while (names && p->token.type == JINJA_T_NAME && *names) {
        size_t n = strcspn(names, " ");
        if (p->token.len == n && memcmp(p->token.text, names, n) == 0)
            return true;
        names += n + (names[n] == ' ');
    }
    return false;
}

static bool expect_block_end(jinja_parser *p) {
    return bl__jinja_expect_type(p, JINJA_T_BLOCK_END, "'%}'");
}

/* "%}", statements, and the name of the tag that ends them. */
static bool parse_block(jinja_parser *p, const char *ends, jinja_node **body) {
    return expect_block_end(p) && parse_body(p, ends, body);
}

static jinja_node *parse_targets(jinja_parser *p, bool namespaces);

/* One target of an assignment: a name, namespace.attribute where allowed, or targets in
 * parentheses. */
static jinja_node *parse_target(jinja_parser *p, bool namespaces) {
    bool found;
    if (!bl__jinja_skip_operator(p, "(", &found))
        return NULL;
    if (found) {
        jinja_node *node = bl__jinja_enter(p) ? parse_targets(p, false) : NULL;
        p->depth--;
        return node && bl__jinja_expect_operator(p, ")") ? node : NULL;
    }
    jinja_node *node = bl__jinja_node(p, JINJA_N_NAME);
    const char *name = p->token.text;
    size_t len = p->token.len;
    if (at_one_of(p, "true false none True False None"))
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "cannot assign to '%.*s'", (int)len, name);
    if (!node || !bl__jinja_expect_type(p, JINJA_T_NAME, "a name to assign to") ||
        !bl__jinja_intern(p, name, len, &node->symbol))
        return NULL;
    node->value = bl__jinja_string(name, len);
    if (!namespaces)
        return node;
    if (!bl__jinja_skip_operator(p, ".", &found))
        return NULL;
    if (found) {
        node->type = JINJA_N_NSREF;
        node->value = bl__jinja_string(p->token.text, p->token.len);
        if (!bl__jinja_expect_type(p, JINJA_T_NAME, "the name of an attribute"))
            return NULL;
    }
    return node;
}

static jinja_node *parse_targets(jinja_parser *p, bool namespaces) {
    jinja_node *tuple = NULL, **tail = NULL;
    for (;;) {
        bool comma;
        jinja_node *target = parse_target(p, namespaces);
        if (!target || !bl__jinja_skip_operator(p, ",", &comma))
            return NULL;
        if (!comma && !tuple)
            return target;
        if (!tuple) {
            if (!(tuple = bl__jinja_node(p, JINJA_N_TUPLE)))
                return NULL;
            tail = &tuple->a;
        }
        *tail = target;
        tail = &target->next;
        if (!comma || bl__jinja_at_name(p, "in") || bl__jinja_at_operator(p, "=") ||
            bl__jinja_at_operator(p, ")") || p->token.type == JINJA_T_BLOCK_END)
            return tuple;
    }
}

static bool parse_if(jinja_parser *p, jinja_node *node) {
    bool was_soft = p->soft;
    p->soft = true;
    for (jinja_node *branch = node;; branch = branch->d) {
        bool found;
        if (!(branch->a = bl__jinja_parse_tuple(p, false)) ||
            !parse_block(p, "elif else endif", &branch->b) ||
            !bl__jinja_skip_name(p, "elif", &found))
            return false;
        if (found) {
            if (!(branch->d = bl__jinja_node(p, JINJA_N_IF)))
                return false;
            continue;
        }
        if (!bl__jinja_skip_name(p, "else", &found) ||
            (found && !parse_block(p, "endif", &branch->c)))
            return false;
        break;
    }
    p->soft = was_soft;
    return bl__jinja_next(p); /* endif */
}

static bool parse_for(jinja_parser *p, jinja_node *node) {
    bool found, was_soft = p->soft;
    if (!(node->a = parse_targets(p, false)) || !bl__jinja_skip_name(p, "in", &found))
        return false;
    if (!found)
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "for: expected 'in'") != NULL;
    if (!(node->b = bl__jinja_parse_tuple(p, false)) || !bl__jinja_skip_name(p, "if", &found))
        return false;
    p->soft = false;
    if (found && !(node->e = bl__jinja_parse_expression(p)))
        return false;
    if (bl__jinja_at_name(p, "recursive"))
        return bl__jinja_parse_fail(p, BL_ERR_UNSUPPORTED, "unsupported: recursive loops") != NULL;
    p->loop_depth++;
    if (!parse_block(p, "else endfor", &node->c))
        return false;
    p->loop_depth--;
    if (!bl__jinja_skip_name(p, "else", &found) || (found && !parse_block(p, "endfor", &node->d)))
        return false;
    p->soft = was_soft;
    return bl__jinja_next(p); /* endfor */
}

static bool parse_set(jinja_parser *p, jinja_node *node) {
    bool found;
    if (!(node->a = parse_targets(p, true)) || !bl__jinja_skip_operator(p, "=", &found))
        return false;
    if (found)
        return (node->b = bl__jinja_parse_tuple(p, true)) != NULL;
    node->type = JINJA_N_SETBLOCK;
    if (bl__jinja_at_operator(p, "|") && !(node->b = bl__jinja_parse_filters(p, NULL, false)))
        return false;
    return parse_block(p, "endset", &node->c) && bl__jinja_next(p);
}

/* "(name, name=default ...)" */
static bool parse_params(jinja_parser *p, jinja_node **tail) {
    bool has_defaults = false, found;
    if (!bl__jinja_expect_operator(p, "("))
        return false;
    for (bool first = true; !bl__jinja_at_operator(p, ")"); first = false) {
        if (!first && !bl__jinja_expect_operator(p, ","))
            return false;
        jinja_node *param = bl__jinja_node(p, JINJA_N_PARAM);
        const char *name = p->token.text;
        size_t len = p->token.len;
        if (!param || !bl__jinja_expect_type(p, JINJA_T_NAME, "the name of a parameter") ||
            !bl__jinja_intern(p, name, len, &param->symbol) ||
            !bl__jinja_skip_operator(p, "=", &found))
            return false;
        param->value = bl__jinja_string(name, len);
        if (found && !(param->a = bl__jinja_parse_expression(p)))
            return false;
        if (has_defaults && !found)
            return bl__jinja_parse_fail(p, BL_ERR_FORMAT,
                                        "parameter without a default after one that has it") !=
                   NULL;
        has_defaults = found;
        *tail = param;
        tail = &param->next;
    }
    return bl__jinja_next(p);
}

/* The body of a macro or call block: what it names decides which arguments it takes. */
static bool parse_macro_body(jinja_parser *p, const char *end, jinja_node *node) {
    uint8_t outer_flags = p->macro_flags;
    uint32_t outer_loops = p->loop_depth;
    bool was_soft = p->soft;
    p->macro_flags = 0;
    p->loop_depth = 0;
    p->soft = false;
    if (!parse_block(p, end, &node->c))
        return false;
    node->flags = p->macro_flags;
    p->macro_flags = outer_flags;
    p->loop_depth = outer_loops;
    p->soft = was_soft;
    return bl__jinja_next(p);
}

static bool parse_macro(jinja_parser *p, jinja_node *node) {
    node->value = bl__jinja_string(p->token.text, p->token.len);
    return bl__jinja_expect_type(p, JINJA_T_NAME, "the name of the macro") &&
           bl__jinja_intern(p, node->value.as.text, node->value.len, &node->symbol) &&
           parse_params(p, &node->a) && parse_macro_body(p, "endmacro", node);
}

static bool parse_call_block(jinja_parser *p, jinja_node *node) {
    node->value = bl__jinja_literal("caller");
    if (bl__jinja_at_operator(p, "(") && !parse_params(p, &node->a))
        return false;
    if (!(node->d = bl__jinja_parse_expression(p)))
        return false;
    if (node->d->type != JINJA_N_CALL)
        return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "call: expected a call") != NULL;
    return parse_macro_body(p, "endcall", node);
}

static bool parse_filter_block(jinja_parser *p, jinja_node *node) {
    bool was_soft = p->soft;
    p->soft = false;
    if (!(node->b = bl__jinja_parse_filters(p, NULL, true)) ||
        !parse_block(p, "endfilter", &node->c))
        return false;
    p->soft = was_soft;
    return bl__jinja_next(p);
}

/* with and generation, which differ in what may stand before "%}". */
static bool parse_scope(jinja_parser *p, jinja_node *node, bool with) {
    jinja_node **tail = &node->a;
    bool was_soft = p->soft;
    p->soft = false;
    while (with && p->token.type != JINJA_T_BLOCK_END) {
        jinja_node *set = bl__jinja_node(p, JINJA_N_SET);
        if ((node->a && !bl__jinja_expect_operator(p, ",")) || !set ||
            !(set->a = parse_target(p, false)) || !bl__jinja_expect_operator(p, "=") ||
            !(set->b = bl__jinja_parse_expression(p)))
            return false;
        *tail = set;
        tail = &set->next;
    }
    if (!parse_block(p, with ? "endwith" : "endgeneration", &node->c))
        return false;
    p->soft = was_soft;
    return bl__jinja_next(p);
}

/* At the name of a tag. */
static jinja_node *parse_tag(jinja_parser *p) {
    static const struct {
        const char *name;
        jinja_node_type type;
    } tags[] = {
        {"if", JINJA_N_IF},       {"for", JINJA_N_FOR},          {"set", JINJA_N_SET},
        {"macro", JINJA_N_MACRO}, {"call", JINJA_N_CALLBLOCK},   {"filter", JINJA_N_FILTERBLOCK},
        {"with", JINJA_N_SCOPE},  {"generation", JINJA_N_SCOPE}, {"print", JINJA_N_PRINT},
        {"break", JINJA_N_BREAK}, {"continue", JINJA_N_CONTINUE}};
    size_t n_tags = sizeof tags / sizeof *tags, i = 0;
    while (i < n_tags && !bl__jinja_at_name(p, tags[i].name))
        i++;
    if (i == n_tags) {
        int len = p->token.len < 60 ? (int)p->token.len : 60;
        if (p->token.type != JINJA_T_NAME)
            return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "expected the name of a tag");
        return bl__jinja_parse_fail(p, BL_ERR_UNSUPPORTED, "unknown tag '%.*s'", len,
                                    p->token.text);
    }
    jinja_node *node = bl__jinja_node(p, tags[i].type);
    bool ok = node && bl__jinja_next(p);
    if (!ok)
        return NULL;
    switch (tags[i].type) {
    case JINJA_N_IF:
        ok = parse_if(p, node);
        break;
    case JINJA_N_FOR:
        ok = parse_for(p, node);
        break;
    case JINJA_N_SET:
        ok = parse_set(p, node);
        break;
    case JINJA_N_MACRO:
        ok = parse_macro(p, node);
        break;
    case JINJA_N_CALLBLOCK:
        ok = parse_call_block(p, node);
        break;
    case JINJA_N_FILTERBLOCK:
        ok = parse_filter_block(p, node);
        break;
    case JINJA_N_SCOPE:
        ok = parse_scope(p, node, tags[i].name[0] == 'w');
        break;
    case JINJA_N_PRINT:
        ok = (node->a = bl__jinja_parse_tuple(p, true)) != NULL;
        break;
    default: /* break and continue */
        if (p->loop_depth == 0)
            return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "'%s' outside a loop", tags[i].name);
        break;
    }
    return ok ? node : NULL;
}

static bool parse_body(jinja_parser *p, const char *ends, jinja_node **tail) {
    if (!bl__jinja_enter(p))
        return false;
    for (;;) {
        jinja_node *node = NULL;
        if (p->token.type == JINJA_T_END) {
            if (ends)
                return bl__jinja_parse_fail(p, BL_ERR_FORMAT, "the end; expected one of: %s",
                                            ends) != NULL;
            break;
        } else if (p->token.type == JINJA_T_DATA) {
            if (p->token.len && !(node = bl__jinja_node(p, JINJA_N_TEXT)))
                return false;
            if (node)
                node->value = bl__jinja_string(p->token.text, p->token.len);
            if (!bl__jinja_next(p))
                return false;
        } else if (p->token.type == JINJA_T_PRINT_BEGIN) {
            if (!(node = bl__jinja_node(p, JINJA_N_PRINT)) || !bl__jinja_next(p) ||
                !(node->a = bl__jinja_parse_tuple(p, true)) ||
                !bl__jinja_expect_type(p, JINJA_T_PRINT_END, "'}}'"))
                return false;
        } else {
            if (!bl__jinja_next(p))
                return false;
            if (at_one_of(p, ends))
                break;
            if (!(node = parse_tag(p)) || !expect_block_end(p))
                return false;
        }
        if (node) {
            *tail = node;
            tail = &node->next;
        }
    }
    p->depth--;
    return true;
}

bool bl__jinja_parse_template(jinja_parser *p) {
    jinja_template *t = p->template;
    if (!bl__jinja_intern(p, "loop", 4, &t->loop_symbol) ||
        !bl__jinja_intern(p, "caller", 6, &t->caller_symbol) ||
        !bl__jinja_intern(p, "varargs", 7, &t->varargs_symbol) ||
        !bl__jinja_intern(p, "kwargs", 6, &t->kwargs_symbol) || !bl__jinja_next(p) ||
        !parse_body(p, NULL, &t->body))
        return false;
    if (!p->unknown)
        return true;
    p->token.line = p->unknown->line;
    return bl__jinja_parse_fail(p, BL_ERR_UNSUPPORTED, "unknown %s '%.*s'",
                                p->unknown->type == JINJA_N_TEST ? "test" : "filter",
                                p->unknown->value.len < 60 ? (int)p->unknown->value.len : 60,
                                p->unknown->value.as.text) != NULL;
}

/* source[len] with \n for every line end and without one line end at the end. */
static char *normalize_lines(jinja_pool *pool, const char *source, size_t len, size_t *out_len) {
    char *text = bl__jinja_pool_alloc(pool, len, 1);
    size_t n = 0;
    for (size_t i = 0; text && i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            continue;
        text[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    *out_len = n > 0 && text[n - 1] == '\n' ? n - 1 : n;
    return text;
}

bl_status bl__jinja_compile(const char *source, size_t len, jinja_template **out, bl_error *err) {
    jinja_parser parser = {.err = err};
    uint32_t *buckets = NULL;
    bl_status status = BL_ERR_MEMORY;
    if (len > TEMPLATE_MAX)
        return bl__fail(err, BL_ERR_LIMIT, "chat template: %zu bytes, at most %d", len,
                        TEMPLATE_MAX);
    jinja_template *template = bl__calloc(1, sizeof *template);
    if (!template)
        return bl__fail(err, BL_ERR_MEMORY, "chat template: out of memory");
    template->pool = bl__jinja_pool_make(COMPILED_MAX);
    size_t text_len;
    char *text = normalize_lines(&template->pool, source, len, &text_len);
    buckets = bl__calloc(JINJA_SYMBOL_BUCKETS, sizeof *buckets);
    if (!text || !buckets) {
        bl__fail(err, BL_ERR_MEMORY, "chat template: out of memory");
        goto fail;
    }
    parser.template = template;
    parser.symbol_buckets = buckets;
    bl__jinja_lexer_init(&parser.lexer, &template->pool, text, text_len, err);
    if (!bl__jinja_parse_template(&parser)) {
        status = parser.status;
        goto fail;
    }
    bl__free(buckets);
    *out = template;
    return BL_OK;
fail:
    bl__free(buckets);
    bl__jinja_free(template);
    return status;
}

void bl__jinja_free(jinja_template *template) {
    if (!template)
        return;
    bl__jinja_pool_free(&template->pool);
    bl__free(template);
}
