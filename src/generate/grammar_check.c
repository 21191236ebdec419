/* Owns the analysis of a finished network: short cuts, order, which nodes lead to an end and with
 * how deep a stack, rules that begin with themselves, classes of bytes. Time and memory are linear
 * in the network. Must not know where the network came from. */
#include "generate/grammar_check.h"

#include <string.h>

#include "base/alloc.h"

static void fail_memory(bl__net_builder *b) {
    bl__net_fail(b, BL_ERR_MEMORY, "grammar: no memory to check its network");
}

/* ---- order ---- */

/* Sorts edges by the node they leave, bytes before others, and fills first[] and flags[]. */
static void sort_edges(bl__net_builder *b) {
    bl__net *net = b->net;
    size_t n = net->n_nodes;
    bl__net_edge *sorted = bl__malloc_array(net->n_edges, sizeof *sorted);
    bl__free(net->first);
    net->first = bl__calloc(n + 1, sizeof *net->first);
    if (!sorted || !net->first) {
        bl__free(sorted);
        fail_memory(b);
        return;
    }
    for (size_t e = 0; e < net->n_edges; e++)
        net->first[net->edges[e].from + 1]++;
    for (size_t i = 0; i < n; i++)
        net->first[i + 1] += net->first[i];
    for (int others = 0; others <= 1; others++)
        for (size_t e = 0; e < net->n_edges; e++)
            if ((net->edges[e].kind != BL_EDGE_BYTES) == others)
                sorted[net->first[net->edges[e].from]++] = net->edges[e];
    memmove(net->first + 1, net->first, n * sizeof *net->first);
    net->first[0] = 0;
    bl__free(net->edges);
    net->edges = sorted;
    for (size_t i = 0; i < n; i++) {
        net->flags[i] &= BL_NODE_FINAL;
        if (net->first[i] == net->first[i + 1])
            net->flags[i] |= net->flags[i] ? BL_NODE_LAST : 0;
        else if (net->edges[net->first[i]].kind == BL_EDGE_BYTES)
            net->flags[i] |= BL_NODE_HAS_BYTES;
    }
}

/* Nodes from which nothing but one edge of nothing leads on are left out of all ways. */
static void take_short_cuts(bl__net_builder *b) {
    bl__net *net = b->net;
    size_t n = net->n_nodes;
    uint32_t *ahead = bl__malloc_array(n, sizeof *ahead);
    if (!ahead) {
        fail_memory(b);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const bl__net_edge *edge = &net->edges[net->first[i]];
        bool is_plain = net->first[i + 1] - net->first[i] == 1 && edge->kind == BL_EDGE_EMPTY &&
                        !(net->flags[i] & BL_NODE_FINAL);
        ahead[i] = is_plain ? edge->to : (uint32_t)i;
    }
    /* Each jump halves the way; a ring of such nodes, which leads nowhere, stays a ring. */
    for (int i = 0; i < 20; i++)
        for (size_t node = 0; node < n; node++)
            ahead[node] = ahead[ahead[node]];
    for (size_t e = 0; e < net->n_edges; e++)
        net->edges[e].to = ahead[net->edges[e].to];
    for (size_t s = 0; s < net->n_sites; s++) {
        net->sites[s].start = ahead[net->sites[s].start];
        net->sites[s].to = ahead[net->sites[s].to];
    }
    for (size_t r = 0; r < b->n_rules; r++)
        b->rules[r].start = ahead[b->rules[r].start];
    net->start = ahead[net->start];
    bl__free(ahead);
}

/* ---- ways to the end ---- */

/* Which edges lead to each node, or run a part that begins with it. */
typedef struct arrivals {
    uint32_t *head; /* [n_nodes]: entry + 1 */
    uint32_t *next; /* [2 * n_edges]: entry + 1; entry e < n_edges: edge e leads here, else the
                       edge e - n_edges runs what begins here */
} arrivals;

static void add_arrival(arrivals *in, uint32_t node, size_t entry) {
    in->next[entry] = in->head[node];
    in->head[node] = (uint32_t)entry + 1;
}

static bool find_arrivals(const bl__net *net, arrivals *in) {
    in->head = bl__calloc(net->n_nodes, sizeof *in->head);
    in->next = bl__calloc(net->n_edges, 2 * sizeof *in->next);
    if (!in->head || !in->next)
        return false;
    for (size_t e = 0; e < net->n_edges; e++) {
        const bl__net_edge *edge = &net->edges[e];
        add_arrival(in, edge->to, e);
        if (edge->kind == BL_EDGE_CALL)
            add_arrival(in, net->sites[edge->site].start, net->n_edges + e);
    }
    return true;
}

enum { NO_WAY = UINT16_MAX };

/* What the way over an edge needs, given what is known of the nodes after it. */
static uint32_t need_over(const bl__net *net, const bl__net_edge *edge, const uint16_t *need,
                          bool by_bytes) {
    if (edge->kind == BL_EDGE_BYTES && !by_bytes)
        return NO_WAY;
    uint32_t after = need[edge->to];
    if (edge->kind != BL_EDGE_CALL || after == NO_WAY)
        return after;
    const bl__net_site *site = &net->sites[edge->site];
    if (site->may_skip)
        return after;
    if (site->max == 0 || need[site->start] == NO_WAY)
        return NO_WAY;
    uint32_t inside = need[site->start] + !bl__net_is_tail(net, site);
    return inside > after ? inside : after;
}

/* need[node] = the least number of calls open at once on a way from the node to a final node, over
 * edges of bytes too or not; NO_WAY when there is none of at most BL_NET_MAX_STACK. Nodes are
 * settled in the order of what they need (Knuth's generalization of Dijkstra's algorithm): list
 * holds those settled, and those that need one more wait in another. */
static bool find_needs(const bl__net *net, const arrivals *in, bool by_bytes, uint16_t *need) {
    uint32_t *list = bl__malloc_array(net->n_nodes, sizeof *list);
    uint32_t *waiting = bl__malloc_array(net->n_edges, 2 * sizeof *waiting);
    size_t n_list = 0, done = 0, n_waiting = 0;
    bool has_memory = list && waiting;
    if (!has_memory)
        goto fail;
    for (size_t i = 0; i < net->n_nodes; i++) {
        bool is_final = net->flags[i] & BL_NODE_FINAL;
        need[i] = is_final ? 0 : NO_WAY;
        if (is_final)
            list[n_list++] = (uint32_t)i;
    }
    for (uint32_t level = 0; level <= BL_NET_MAX_STACK; level++) {
        for (size_t i = 0, n = n_waiting; i < n; i++) { /* what waited for this level */
            uint32_t node = waiting[i];
            if (need[node] == NO_WAY) {
                need[node] = (uint16_t)level;
                list[n_list++] = node;
            }
        }
        n_waiting = 0;
        for (; done < n_list; done++)
            for (uint32_t at = in->head[list[done]]; at; at = in->next[at - 1]) {
                const bl__net_edge *edge = &net->edges[(at - 1) % net->n_edges];
                if (need[edge->from] != NO_WAY)
                    continue;
                uint32_t value = need_over(net, edge, need, by_bytes);
                if (value <= level) {
                    need[edge->from] = (uint16_t)level;
                    list[n_list++] = edge->from;
                } else if (value != NO_WAY) { /* a call into what was settled now: one more */
                    waiting[n_waiting++] = edge->from;
                }
            }
        if (n_waiting == 0)
            break;
    }
fail:
    bl__free(list);
    bl__free(waiting);
    return has_memory;
}

/* ---- rules that begin with themselves ---- */

/* Strongly connected components (Tarjan) over the steps that take no bytes. */
typedef struct components {
    const bl__net *net;
    uint32_t *index, *low; /* [n_nodes]: 0 = not seen */
    uint32_t *component;   /* [n_nodes]: 0 = not known yet */
    uint32_t *stack;       /* [n_nodes]: of nodes whose component is open */
    uint32_t *path;        /* [n_nodes]: nodes being visited ... */
    uint32_t *step;        /* [n_nodes]: ... and how many of their steps were taken */
    size_t n_stack, n_path;
    uint32_t n_seen, n_components;
} components;

/* The node that step number `step` from a node leads to; BL_NET_NONE: this is no such step; each
 * edge has two. *more: whether there are others after it. */
static uint32_t step_from(const components *c, uint32_t node, uint32_t step, bool *more) {
    size_t e = c->net->first[node] + step / 2;
    *more = e < c->net->first[node + 1];
    if (!*more)
        return BL_NET_NONE;
    const bl__net_edge *edge = &c->net->edges[e];
    if (edge->kind == BL_EDGE_BYTES)
        return BL_NET_NONE;
    if (edge->kind == BL_EDGE_EMPTY)
        return step % 2 ? BL_NET_NONE : edge->to;
    const bl__net_site *site = &c->net->sites[edge->site];
    if (step % 2)
        return site->max > 0 ? site->start : BL_NET_NONE;
    return site->may_skip ? site->to : BL_NET_NONE;
}

static void enter_node(components *c, uint32_t node) {
    c->index[node] = c->low[node] = ++c->n_seen;
    c->stack[c->n_stack++] = node;
    c->path[c->n_path] = node;
    c->step[c->n_path++] = 0;
}

static void visit_from(components *c, uint32_t start) {
    enter_node(c, start);
    while (c->n_path > 0) {
        uint32_t node = c->path[c->n_path - 1];
        bool more;
        uint32_t next = step_from(c, node, c->step[c->n_path - 1]++, &more);
        if (more) {
            if (next == BL_NET_NONE)
                continue;
            if (c->index[next] == 0)
                enter_node(c, next);
            else if (c->component[next] == 0 && c->index[next] < c->low[node])
                c->low[node] = c->index[next];
            continue;
        }
        c->n_path--;
        if (c->n_path > 0 && c->low[node] < c->low[c->path[c->n_path - 1]])
            c->low[c->path[c->n_path - 1]] = c->low[node];
        if (c->low[node] != c->index[node])
            continue;
        c->n_components++;
        for (uint32_t last = BL_NET_NONE; last != node;) {
            last = c->stack[--c->n_stack];
            c->component[last] = c->n_components;
        }
    }
}

/* The name of a rule in a component; NULL when none of its rules has one. */
static const char *name_in(const bl__net_builder *b, uint32_t component) {
    for (size_t r = 0; r < b->n_rules; r++)
        if (b->rules[r].name && b->net->order[b->rules[r].start] == component)
            return b->rules[r].name;
    return NULL;
}

/* Fills order[] and complains of a call that comes back to itself without a byte in between. */
static void find_order(bl__net_builder *b) {
    bl__net *net = b->net;
    size_t n = net->n_nodes;
    uint32_t *memory = bl__calloc(n, 5 * sizeof *memory);
    net->order = bl__calloc(n, sizeof *net->order);
    if (!memory || !net->order) {
        bl__free(memory);
        fail_memory(b);
        return;
    }
    components c = {.net = net,
                    .index = memory,
                    .low = memory + n,
                    .component = net->order,
                    .stack = memory + 2 * n,
                    .path = memory + 3 * n,
                    .step = memory + 4 * n};
    for (size_t i = 0; i < n; i++)
        if (c.index[i] == 0)
            visit_from(&c, (uint32_t)i);
    bl__free(memory);
    for (size_t e = 0; e < net->n_edges; e++) {
        const bl__net_edge *edge = &net->edges[e];
        if (edge->kind != BL_EDGE_CALL || net->sites[edge->site].max == 0)
            continue;
        uint32_t component = net->order[edge->from];
        if (component != net->order[net->sites[edge->site].start])
            continue;
        const char *name = name_in(b, component);
        bl__net_fail(b, BL_ERR_UNSUPPORTED,
                     "rule %.64s begins with itself (left recursion); write it as a repetition",
                     name ? name : "without a name");
        return;
    }
}

/* ---- repetitions of what may be empty ---- */

/* Runs without bytes may stand in for those that must come, so none must. */
static void find_skips(bl__net *net, const uint16_t *empty) {
    for (size_t i = 0; i < net->n_sites; i++) {
        bl__net_site *site = &net->sites[i];
        if (empty[site->start] == NO_WAY)
            continue;
        site->may_skip = true;
        if (site->max != 1)
            site->min = 0;
    }
}

/* ---- classes of bytes ---- */

static void find_classes(bl__net *net) {
    bool begins[257] = {true};
    for (size_t e = 0; e < net->n_edges; e++)
        if (net->edges[e].kind == BL_EDGE_BYTES) {
            begins[net->edges[e].low] = true;
            begins[net->edges[e].high + 1] = true;
        }
    net->n_classes = 0;
    for (size_t byte = 0; byte < 256; byte++) {
        net->n_classes += begins[byte];
        net->class_of[byte] = (uint8_t)(net->n_classes - 1);
    }
}

void bl__net_check(bl__net_builder *b) {
    bl__net *net = b->net;
    arrivals in = {0};
    uint16_t *empty = NULL;
    sort_edges(b);
    if (!b->status)
        take_short_cuts(b);
    if (b->status)
        return;
    empty = bl__malloc_array(net->n_nodes, sizeof *empty);
    net->need = bl__malloc_array(net->n_nodes, sizeof *net->need);
    if (!empty || !net->need || !find_arrivals(net, &in) || !find_needs(net, &in, false, empty)) {
        fail_memory(b);
        goto fail;
    }
    find_skips(net, empty);
    if (!find_needs(net, &in, true, net->need))
        fail_memory(b);
    if (!b->status)
        find_order(b);
    if (!b->status && net->need[net->start] == NO_WAY)
        bl__net_fail(b, BL_ERR_FORMAT, "grammar: no text of any length matches it");
    find_classes(net);
fail:
    bl__free(in.head);
    bl__free(in.next);
    bl__free(empty);
}
