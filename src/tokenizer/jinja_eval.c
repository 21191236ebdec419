/* Owns the evaluation of expressions and calls. */
#include "base/error.h"
#include "tokenizer/jinja_run.h"

static bool push_argument(jinja_run *run, const jinja_value *v) {
    if (run->stack_used == JINJA_STACK_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "more than %d arguments at a time",
                              JINJA_STACK_MAX);
    run->stack[run->stack_used++] = *v;
    return true;
}

/* Evaluates the arguments of a CALL, FILTER or TEST onto the stack; the caller takes them off.
 * caller: what a call block passes, or NULL. */
static bool eval_arguments(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                           const jinja_value *caller, jinja_args *args) {
    jinja_value v;
    *args = (jinja_args){.values = run->stack + run->stack_used};
    for (const jinja_node *arg = node->b; arg; arg = arg->next, args->count++)
        if (!bl__jinja_eval(run, scope, arg, &v) || !push_argument(run, &v))
            return false;
    args->named = run->stack + run->stack_used;
    for (const jinja_node *arg = node->c; arg; arg = arg->next, args->n_named++)
        if (!bl__jinja_eval(run, scope, arg->a, &v) || !push_argument(run, &arg->value) ||
            !push_argument(run, &v))
            return false;
    if (caller) {
        v = bl__jinja_literal("caller");
        if (!push_argument(run, &v) || !push_argument(run, caller))
            return false;
        args->n_named++;
    }
    return true;
}

static int find_parameter(const jinja_builtin *builtin, const jinja_value *name) {
    for (int i = 0; i < JINJA_MAX_PARAMS && builtin->params[i]; i++)
        if (bl__jinja_text_is(name, builtin->params[i]))
            return i;
    return -1;
}

bool bl__jinja_call_builtin(jinja_run *run, const jinja_builtin *builtin, const jinja_value *self,
                            const jinja_args *args, jinja_value *out) {
    jinja_value slots[JINJA_MAX_PARAMS] = {{0}};
    size_t n_params = 0;
    if (builtin->variadic)
        return builtin->call(run, self, slots, args, builtin->variant, out);
    while (n_params < JINJA_MAX_PARAMS && builtin->params[n_params])
        n_params++;
    if (args->count > n_params)
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s: %zu arguments, at most %zu", builtin->name,
                              args->count, n_params);
    for (size_t i = 0; i < args->count; i++)
        slots[i] = args->values[i];
    for (size_t i = 0; i < args->n_named; i++) {
        int at = find_parameter(builtin, &args->named[2 * i]);
        if (at < 0 || slots[at].kind != JINJA_MISSING)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s: argument '%.*s' %s", builtin->name,
                                  args->named[2 * i].len < 60 ? (int)args->named[2 * i].len : 60,
                                  args->named[2 * i].as.text,
                                  at < 0 ? "is unknown" : "given twice");
        slots[at] = args->named[2 * i + 1];
    }
    for (size_t i = 0; i < builtin->required; i++)
        if (slots[i].kind == JINJA_MISSING)
            return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s: argument '%s' is missing",
                                  builtin->name, builtin->params[i]);
    return builtin->call(run, self, slots, args, builtin->variant, out);
}

static bool call_value(jinja_run *run, const jinja_value *callee, const jinja_args *args,
                       jinja_value *out) {
    switch ((jinja_kind)callee->kind) {
    case JINJA_FUNCTION:
        return bl__jinja_call_builtin(run, callee->as.function, NULL, args, out);
    case JINJA_METHOD:
        return bl__jinja_call_builtin(run, callee->as.method->builtin, &callee->as.method->self,
                                      args, out);
    case JINJA_MACRO:
        return bl__jinja_call_macro(run, callee->as.macro, args, out);
    case JINJA_UNDEFINED:
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "'%.*s' is undefined or may not be called",
                              callee->len < 80 ? (int)callee->len : 80, callee->as.text);
    default:
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s cannot be called",
                              bl__jinja_type_name(callee));
    }
}

bool bl__jinja_eval_call(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                         const jinja_value *caller, jinja_value *out) {
    jinja_value callee;
    jinja_args args;
    size_t mark = run->stack_used;
    if (!bl__jinja_eval(run, scope, node->a, &callee) ||
        !eval_arguments(run, scope, node, caller, &args))
        return false;
    run->line = node->line;
    if (!call_value(run, &callee, &args, out))
        return false;
    run->stack_used = mark;
    return true;
}

/* A filter or test of `operand`. */
static bool eval_builtin(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                         const jinja_value *operand, jinja_value *out) {
    jinja_args args;
    size_t mark = run->stack_used;
    if (!node->builtin)
        return bl__jinja_fail(run, BL_ERR_UNSUPPORTED, "unknown %s '%.*s'",
                              node->type == JINJA_N_TEST ? "test" : "filter",
                              node->value.len < 60 ? (int)node->value.len : 60,
                              node->value.as.text);
    if (!eval_arguments(run, scope, node, NULL, &args))
        return false;
    run->line = node->line;
    if (!bl__jinja_call_builtin(run, node->builtin, operand, &args, out))
        return false;
    run->stack_used = mark;
    return true;
}

bool bl__jinja_filter_chain(jinja_run *run, jinja_scope *scope, const jinja_node *filter,
                            const jinja_value *text, jinja_value *out) {
    jinja_value operand = *text;
    if (run->depth >= run->limits.max_depth)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "nested deeper than %u", run->limits.max_depth);
    run->depth++;
    if (filter->a && !bl__jinja_filter_chain(run, scope, filter->a, text, &operand))
        return false;
    run->depth--;
    return eval_builtin(run, scope, filter, &operand, out);
}

static bool eval_name(jinja_run *run, const jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    for (; scope; scope = scope->parent) {
        if (!bl__jinja_steps(run, 1 + scope->count / 16))
            return false;
        for (uint32_t i = scope->count; i-- > 0;)
            if (scope->bindings[i].symbol == node->symbol) {
                *out = scope->bindings[i].value;
                return true;
            }
    }
    *out = run->globals[node->symbol];
    if (out->kind == JINJA_MISSING)
        *out = bl__jinja_undefined(node->value.as.text, node->value.len);
    return true;
}

static bool eval_list(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    jinja_value list, item;
    if (!bl__jinja_new_list(run, 0, node->type == JINJA_N_TUPLE ? JINJA_TUPLE : JINJA_PLAIN, &list))
        return false;
    for (const jinja_node *child = node->a; child; child = child->next)
        if (!bl__jinja_eval(run, scope, child, &item) || !bl__jinja_push(run, list.as.list, &item))
            return false;
    *out = list;
    return true;
}

static bool eval_dict(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    jinja_value dict, key, value;
    if (!bl__jinja_new_dict(run, JINJA_DICT, 0, &dict))
        return false;
    for (const jinja_node *child = node->a; child; child = child->next->next)
        if (!bl__jinja_eval(run, scope, child, &key) ||
            !bl__jinja_eval(run, scope, child->next, &value) ||
            !bl__jinja_put(run, dict.as.dict, &key, &value))
            return false;
    *out = dict;
    return true;
}

static bool eval_item(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    jinja_value object, index;
    if (!bl__jinja_eval(run, scope, node->a, &object))
        return false;
    if (node->b->type != JINJA_N_SLICE) {
        if (!bl__jinja_eval(run, scope, node->b, &index))
            return false;
        run->line = node->line;
        return bl__jinja_get_item(run, &object, &index, out);
    }
    const jinja_node *parts[3] = {node->b->a, node->b->b, node->b->c};
    jinja_value bounds[3];
    for (int i = 0; i < 3; i++) {
        bounds[i] = bl__jinja_none();
        if (parts[i] && !bl__jinja_eval(run, scope, parts[i], &bounds[i]))
            return false;
    }
    run->line = node->line;
    return bl__jinja_slice(run, &object, bounds, out);
}

static bool eval_concat(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                        jinja_value *out) {
    /* The parts may write to the output themselves (macros), but leave it as it was. */
    size_t mark = run->out.len;
    jinja_value part;
    for (const jinja_node *child = node->a; child; child = child->next)
        if (!bl__jinja_eval(run, scope, child, &part) || !bl__jinja_print(run, &part))
            return false;
    return bl__jinja_take(run, mark, out);
}

static bool compare_pair(jinja_run *run, jinja_op op, const jinja_value *a, const jinja_value *b,
                         bool *out) {
    int order;
    switch (op) {
    case JINJA_EQ:
        return bl__jinja_equal(run, a, b, 0, out);
    case JINJA_NE:
        if (!bl__jinja_equal(run, a, b, 0, out))
            return false;
        *out = !*out;
        return true;
    case JINJA_IN:
        return bl__jinja_contains(run, a, b, out);
    case JINJA_NOT_IN:
        if (!bl__jinja_contains(run, a, b, out))
            return false;
        *out = !*out;
        return true;
    default:
        if (!bl__jinja_order(run, a, b, 0, &order))
            return false;
        *out = op == JINJA_LT   ? order < 0
               : op == JINJA_LE ? order <= 0
               : op == JINJA_GT ? order > 0
                                : order >= 0;
        return true;
    }
}

static bool eval_compare(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                         jinja_value *out) {
    jinja_value left, right;
    bool holds = true;
    if (!bl__jinja_eval(run, scope, node->a, &left))
        return false;
    for (const jinja_node *operand = node->b; operand && holds; operand = operand->next) {
        if (!bl__jinja_eval(run, scope, operand->a, &right))
            return false;
        run->line = node->line;
        if (!compare_pair(run, (jinja_op)operand->op, &left, &right, &holds))
            return false;
        left = right;
    }
    *out = bl__jinja_bool(holds);
    return true;
}

static bool eval_sign(jinja_run *run, const jinja_node *node, const jinja_value *v,
                      jinja_value *out) {
    jinja_value zero = bl__jinja_int(0);
    if (v->kind == JINJA_FLOAT) {
        *out = bl__jinja_float(node->type == JINJA_N_NEGATE ? -v->as.number : v->as.number);
        return true;
    }
    return bl__jinja_binary(run, node->type == JINJA_N_NEGATE ? JINJA_SUB : JINJA_ADD, &zero, v,
                            out);
}

/* and, or, not, if: what decides is evaluated first, and the rest only when needed. */
static bool eval_choice(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                        jinja_value *out) {
    if (!bl__jinja_eval(run, scope, node->a, out))
        return false;
    bool truth = bl__jinja_truth(out);
    switch (node->type) {
    case JINJA_N_NOT:
        *out = bl__jinja_bool(!truth);
        return true;
    case JINJA_N_AND:
        return !truth || bl__jinja_eval(run, scope, node->b, out);
    case JINJA_N_OR:
        return truth || bl__jinja_eval(run, scope, node->b, out);
    default:
        break;
    }
    if (truth || node->c)
        return bl__jinja_eval(run, scope, truth ? node->b : node->c, out);
    *out = bl__jinja_undefined("the else of an inline if", 24);
    return true;
}

static bool eval_node(jinja_run *run, jinja_scope *scope, const jinja_node *node,
                      jinja_value *out) {
    jinja_value a, b;
    switch ((jinja_node_type)node->type) {
    case JINJA_N_CONST:
        *out = node->value;
        return true;
    case JINJA_N_NAME:
        return eval_name(run, scope, node, out);
    case JINJA_N_LIST:
    case JINJA_N_TUPLE:
        return eval_list(run, scope, node, out);
    case JINJA_N_DICT:
        return eval_dict(run, scope, node, out);
    case JINJA_N_ATTR:
        if (!bl__jinja_eval(run, scope, node->a, &a))
            return false;
        run->line = node->line;
        return bl__jinja_get_attr(run, &a, &node->value, out);
    case JINJA_N_ITEM:
        return eval_item(run, scope, node, out);
    case JINJA_N_CALL:
        return bl__jinja_eval_call(run, scope, node, NULL, out);
    case JINJA_N_FILTER:
    case JINJA_N_TEST:
        return bl__jinja_eval(run, scope, node->a, &a) && eval_builtin(run, scope, node, &a, out);
    case JINJA_N_NEGATE:
    case JINJA_N_PLUS:
        return bl__jinja_eval(run, scope, node->a, &a) && eval_sign(run, node, &a, out);
    case JINJA_N_BINARY:
        if (!bl__jinja_eval(run, scope, node->a, &a) || !bl__jinja_eval(run, scope, node->b, &b))
            return false;
        run->line = node->line;
        return bl__jinja_binary(run, (jinja_op)node->op, &a, &b, out);
    case JINJA_N_CONCAT:
        return eval_concat(run, scope, node, out);
    case JINJA_N_COMPARE:
        return eval_compare(run, scope, node, out);
    case JINJA_N_NOT:
    case JINJA_N_AND:
    case JINJA_N_OR:
    case JINJA_N_COND:
        return eval_choice(run, scope, node, out);
    default:
        return bl__jinja_fail(run, BL_ERR_FORMAT, "not an expression");
    }
}

bool bl__jinja_eval(jinja_run *run, jinja_scope *scope, const jinja_node *node, jinja_value *out) {
    if (!bl__jinja_steps(run, 1))
        return false;
    if (run->depth >= run->limits.max_depth)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "nested deeper than %u levels",
                              run->limits.max_depth);
    run->depth++;
    bool ok = eval_node(run, scope, node, out);
    run->depth--;
    return ok;
}
