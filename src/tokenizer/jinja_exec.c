/* Owns statements, scopes, macros, and a rendering from its start to its end. */
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "tokenizer/jinja_run.h"

enum {
    MAX_STEPS = 20 * 1000 * 1000,
    MAX_DEPTH = 800, /* at most about 400 KB of the C stack */
    MAX_OUTPUT = 16 * 1024 * 1024,
    MAX_MEMORY = 256 * 1024 * 1024,
    FIRST_BINDINGS = 8,
};

/* How a statement ended. */
typedef enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL } flow;

static flow exec_body(jinja_run *run, jinja_scope *scope, const jinja_node *node);

static jinja_scope *new_scope(jinja_run *run, jinja_scope *parent) {
    jinja_scope *scope = bl__jinja_alloc(run, 1, sizeof *scope);
    if (scope)
        *scope = (jinja_scope){.parent = parent};
    return scope;
}

bool bl__jinja_assign(jinja_run *run, jinja_scope *scope, uint32_t symbol,
                      const jinja_value *value) {
    if (!bl__jinja_steps(run, 1 + scope->count / 16))
        return false;
    for (uint32_t i = 0; i < scope->count; i++)
        if (scope->bindings[i].symbol == symbol) {
            scope->bindings[i].value = *value;
            return true;
        }
    if (scope->count == scope->capacity) {
        uint32_t capacity = scope->capacity ? 2 * scope->capacity : FIRST_BINDINGS;
        jinja_binding *grown = bl__jinja_alloc(run, capacity, sizeof *grown);
        if (!grown)
            return false;
        if (scope->count)
            memcpy(grown, scope->bindings, scope->count * sizeof *grown);
        scope->bindings = grown;
        scope->capacity = capacity;
    }
    scope->bindings[scope->count++] = (jinja_binding){.symbol = symbol, .value = *value};
    return true;
}

static bool assign_target(jinja_run *run, jinja_scope *scope, const jinja_node *target,
                          const jinja_value *value) {
    if (target->type == JINJA_N_NAME)
        return bl__jinja_assign(run, scope, target->symbol, value);
    if (target->type == JINJA_N_NSREF) {
        jinja_node name = *target;
        jinja_value space;
        name.type = JINJA_N_NAME;
        if (!bl__jinja_eval(run, scope, &name, &space))
            return false;
        if (space.kind != JINJA_NAMESPACE)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT,
                                  "attributes can be set on namespaces, not on %s",
                                  bl__jinja_type_name(&space));
        return bl__jinja_put(run, space.as.dict, &target->value, value);
    }
    jinja_list *items;
    size_t i = 0;
    if (!bl__jinja_items(run, value, &items))
        return false;
    const jinja_node *child = target->a;
    for (; child && i < items->count; child = child->next, i++)
        if (!assign_target(run, scope, child, &items->items[i]))
            return false;
    if (child || i < items->count)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%zu values to unpack into %s", items->count,
                              child ? "more names" : "fewer names");
    return true;
}

/* Runs a body in a scope and cuts the text that it wrote off the output. */
static flow capture(jinja_run *run, jinja_scope *scope, const jinja_node *body, jinja_value *out) {
    size_t mark = run->out.len;
    flow end = scope ? exec_body(run, scope, body) : FLOW_FAIL;
    if (end == FLOW_FAIL || !bl__jinja_take(run, mark, out))
        return FLOW_FAIL;
    return end;
}

/* The items of `items` for which the condition of a FOR holds. */
static bool filter_items(jinja_run *run, jinja_scope *outer, const jinja_node *node,
                         jinja_list **items) {
    jinja_value kept, truth;
    jinja_scope *scope = new_scope(run, outer);
    if (!scope || !bl__jinja_new_list(run, 0, JINJA_PLAIN, &kept))
        return false;
    for (size_t i = 0; i < (*items)->count; i++) {
        scope->count = 0;
        if (!assign_target(run, scope, node->a, &(*items)->items[i]) ||
            !bl__jinja_eval(run, scope, node->e, &truth) ||
            (bl__jinja_truth(&truth) && !bl__jinja_push(run, kept.as.list, &(*items)->items[i])))
            return false;
    }
    *items = kept.as.list;
    return true;
}

/* Every round has a scope of its own, whose memory serves again unless a macro holds on to it. */
static flow run_loop(jinja_run *run, jinja_scope *outer, const jinja_node *node,
                     jinja_list *items) {
    jinja_loop *loop = bl__jinja_alloc(run, 1, sizeof *loop);
    jinja_scope *scope = NULL;
    if (!loop)
        return FLOW_FAIL;
    *loop = (jinja_loop){.items = items, .depth = 1};
    jinja_value loop_value = {.kind = JINJA_LOOP, .as.loop = loop};
    for (size_t i = 0; i < items->count; i++) {
        if (!scope || scope->captured)
            scope = new_scope(run, outer);
        if (!scope)
            return FLOW_FAIL;
        scope->count = 0;
        loop->index = i;
        if (!bl__jinja_assign(run, scope, run->template->loop_symbol, &loop_value) ||
            !assign_target(run, scope, node->a, &items->items[i]))
            return FLOW_FAIL;
        flow end = exec_body(run, scope, node->c);
        if (end == FLOW_FAIL)
            return FLOW_FAIL;
        if (end == FLOW_BREAK)
            break;
    }
    return FLOW_NEXT;
}

static flow exec_for(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    jinja_value iterable;
    jinja_list *items;
    if (!bl__jinja_eval(run, scope, node->b, &iterable))
        return FLOW_FAIL;
    run->line = node->line;
    if (!bl__jinja_items(run, &iterable, &items) ||
        (node->e && !filter_items(run, scope, node, &items)))
        return FLOW_FAIL;
    if (items->count > 0)
        return run_loop(run, scope, node, items);
    if (!node->d)
        return FLOW_NEXT;
    jinja_scope *inner = new_scope(run, scope);
    return inner ? exec_body(run, inner, node->d) : FLOW_FAIL;
}

static flow exec_if(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    for (;; node = node->d) {
        jinja_value truth;
        if (!bl__jinja_eval(run, scope, node->a, &truth))
            return FLOW_FAIL;
        if (bl__jinja_truth(&truth))
            return exec_body(run, scope, node->b);
        if (!node->d)
            return exec_body(run, scope, node->c);
    }
}

/* Text of a block, filtered, to its target or the output. */
static flow exec_text_block(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    jinja_value text;
    flow end = capture(run, new_scope(run, scope), node->c, &text);
    if (end != FLOW_NEXT)
        return end;
    if (node->b && !bl__jinja_filter_chain(run, scope, node->b, &text, &text))
        return FLOW_FAIL;
    bool ok = node->type == JINJA_N_SETBLOCK ? assign_target(run, scope, node->a, &text)
                                             : bl__jinja_print(run, &text);
    return ok ? FLOW_NEXT : FLOW_FAIL;
}

static bool new_macro(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    jinja_macro *macro = bl__jinja_alloc(run, 1, sizeof *macro);
    if (!macro)
        return false;
    *macro = (jinja_macro){.node = node, .scope = scope};
    for (; scope && !scope->captured; scope = scope->parent)
        scope->captured = true;
    *out = (jinja_value){.kind = JINJA_MACRO, .as.macro = macro};
    return true;
}

static flow exec_scope(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    jinja_scope *inner = new_scope(run, scope);
    if (!inner)
        return FLOW_FAIL;
    for (const jinja_node *set = node->a; set; set = set->next) {
        jinja_value v;
        if (!bl__jinja_eval(run, scope, set->b, &v) || !assign_target(run, inner, set->a, &v))
            return FLOW_FAIL;
    }
    return exec_body(run, inner, node->c);
}

static flow exec_node(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    jinja_value v;
    bool ok;
    switch ((jinja_node_type)node->type) {
    case JINJA_N_TEXT:
        ok = bl__jinja_write(run, node->value.as.text, node->value.len);
        break;
    case JINJA_N_PRINT:
        ok = bl__jinja_eval(run, scope, node->a, &v) && bl__jinja_print(run, &v);
        break;
    case JINJA_N_IF:
        return exec_if(run, scope, node);
    case JINJA_N_FOR:
        return exec_for(run, scope, node);
    case JINJA_N_SET:
        ok = bl__jinja_eval(run, scope, node->b, &v) && assign_target(run, scope, node->a, &v);
        break;
    case JINJA_N_SETBLOCK:
    case JINJA_N_FILTERBLOCK:
        return exec_text_block(run, scope, node);
    case JINJA_N_MACRO:
        ok = new_macro(run, scope, node, &v) && bl__jinja_assign(run, scope, node->symbol, &v);
        break;
    case JINJA_N_CALLBLOCK:
        ok = new_macro(run, scope, node, &v) && bl__jinja_eval_call(run, scope, node->d, &v, &v) &&
             bl__jinja_print(run, &v);
        break;
    case JINJA_N_SCOPE:
        return exec_scope(run, scope, node);
    case JINJA_N_BREAK:
        return FLOW_BREAK;
    case JINJA_N_CONTINUE:
        return FLOW_CONTINUE;
    default:
        ok = bl__jinja_fail(run, BL_ERR_FORMAT, "not a statement");
        break;
    }
    return ok ? FLOW_NEXT : FLOW_FAIL;
}

static flow exec_body(jinja_run *run, jinja_scope *scope, const jinja_node *node) {
    flow end = FLOW_NEXT;
    if (run->depth >= run->limits.max_depth) {
        bl__jinja_fail(run, BL_ERR_LIMIT, "nested deeper than %u levels", run->limits.max_depth);
        return FLOW_FAIL;
    }
    run->depth++;
    for (; node && end == FLOW_NEXT; node = node->next) {
        run->line = node->line;
        end = bl__jinja_steps(run, 1) ? exec_node(run, scope, node) : FLOW_FAIL;
    }
    run->depth--;
    return end;
}

/* Surplus positional arguments go to `varargs`, surplus named ones to `kwargs`, where the macro
 * uses these names; otherwise they are errors. */
static bool bind_surplus(jinja_run *run, const jinja_macro *macro, jinja_scope *scope,
                         const jinja_args *args, size_t n_params) {
    const jinja_node *node = macro->node;
    jinja_value varargs, kwargs;
    if (args->count > n_params && !(node->flags & JINJA_USES_VARARGS))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%.*s(): %zu arguments, at most %zu",
                              (int)node->value.len, node->value.as.text, args->count, n_params);
    if (node->flags & JINJA_USES_VARARGS) {
        if (!bl__jinja_new_list(run, 0, JINJA_TUPLE, &varargs))
            return false;
        for (size_t i = n_params; i < args->count; i++)
            if (!bl__jinja_push(run, varargs.as.list, &args->values[i]))
                return false;
        if (!bl__jinja_assign(run, scope, run->template->varargs_symbol, &varargs))
            return false;
    }
    if (!bl__jinja_new_dict(run, JINJA_DICT, 0, &kwargs))
        return false;
    for (size_t i = 0; i < args->n_named; i++) {
        const jinja_value *name = &args->named[2 * i], *value = name + 1;
        const jinja_node *param = node->a;
        if (!bl__jinja_steps(run, 1 + n_params / 4))
            return false;
        while (param && (param->value.len != name->len ||
                         memcmp(param->value.as.text, name->as.text, name->len) != 0))
            param = param->next;
        if (param) /* bound before */
            continue;
        if (bl__jinja_text_is(name, "caller")) {
            if (!bl__jinja_assign(run, scope, run->template->caller_symbol, value))
                return false;
        } else if (!(node->flags & JINJA_USES_KWARGS)) {
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%.*s(): argument '%.*s' is unknown",
                                  (int)node->value.len, node->value.as.text,
                                  name->len < 60 ? (int)name->len : 60, name->as.text);
        } else if (!bl__jinja_put(run, kwargs.as.dict, name, value)) {
            return false;
        }
    }
    return !(node->flags & JINJA_USES_KWARGS) ||
           bl__jinja_assign(run, scope, run->template->kwargs_symbol, &kwargs);
}

bool bl__jinja_call_macro(jinja_run *run, const jinja_macro *macro, const jinja_args *args,
                          jinja_value *out) {
    jinja_scope *scope = new_scope(run, macro->scope);
    size_t n_params = 0;
    if (!scope)
        return false;
    for (const jinja_node *param = macro->node->a; param; param = param->next, n_params++) {
        jinja_value v = bl__jinja_undefined(param->value.as.text, param->value.len);
        bool given = n_params < args->count;
        if (!bl__jinja_steps(run, 1 + args->n_named / 4))
            return false;
        if (given)
            v = args->values[n_params];
        for (size_t i = 0; i < args->n_named; i++) {
            const jinja_value *name = &args->named[2 * i];
            if (param->value.len != name->len ||
                memcmp(param->value.as.text, name->as.text, name->len) != 0)
                continue;
            if (given)
                return bl__jinja_fail(run, BL_ERR_ARGUMENT, "argument '%.*s' given twice",
                                      name->len < 60 ? (int)name->len : 60, name->as.text);
            v = name[1];
            given = true;
        }
        if (!given && param->a && !bl__jinja_eval(run, scope, param->a, &v))
            return false;
        if (!bl__jinja_assign(run, scope, param->symbol, &v))
            return false;
    }
    if (!bind_surplus(run, macro, scope, args, n_params))
        return false;
    return capture(run, scope, macro->node->c, out) != FLOW_FAIL;
}

jinja_limits bl__jinja_default_limits(void) {
    return (jinja_limits){.max_steps = MAX_STEPS,
                          .max_depth = MAX_DEPTH,
                          .max_output = MAX_OUTPUT,
                          .max_memory = MAX_MEMORY};
}

/* Gives every name of the template its variable or global function. */
static bool bind_globals(jinja_run *run, const json_t *variables) {
    const jinja_template *t = run->template;
    if (!(run->globals = bl__jinja_alloc(run, t->n_symbols, sizeof *run->globals)))
        return false;
    for (uint32_t i = 0; i < t->n_symbols; i++) {
        const jinja_symbol *s = &t->symbols[i];
        const json_t *json = json_object_getn(variables, s->name, s->len);
        const jinja_builtin *function = bl__jinja_find_function(s->name, s->len);
        jinja_value *v = &run->globals[i];
        *v = (jinja_value){0};
        if (json && json_is_number(json) && strcmp(s->name, "strftime_now") == 0) {
            double time = json_number_value(json);
            run->has_time = true;
            run->time = fabs(time) < 0x1p53 ? (int64_t)time : 0;
            json = NULL;
        }
        if (json) {
            if (!bl__jinja_from_json(run, json, 0, v))
                return false;
        } else if (function) {
            *v = (jinja_value){.kind = JINJA_FUNCTION, .as.function = function};
        }
    }
    return true;
}

bl_status bl__jinja_render(const jinja_template *template, const json_t *variables,
                           const jinja_limits *limits, char **text, size_t *len, bl_error *err) {
    jinja_run run = {.template = template, .limits = *limits, .line = 1, .err = err};
    run.pool = bl__jinja_pool_make(limits->max_memory);
    run.out = bl__buffer_make(limits->max_output);
    run.stack = bl__malloc_array(JINJA_STACK_MAX, sizeof *run.stack);
    if (!run.stack) {
        bl__jinja_fail(&run, BL_ERR_MEMORY, "out of memory");
        goto fail;
    }
    jinja_scope top = {0};
    if (!bind_globals(&run, variables) || exec_body(&run, &top, template->body) == FLOW_FAIL)
        goto fail;
    size_t n;
    char *rendered = bl__buffer_take(&run.out, &n);
    if (!rendered) {
        bl__jinja_fail(&run, BL_ERR_MEMORY, "out of memory");
        goto fail;
    }
    *text = rendered;
    *len = n;
fail:
    bl__buffer_free(&run.out);
    bl__jinja_pool_free(&run.pool);
    bl__free(run.stack);
    return run.status;
}
