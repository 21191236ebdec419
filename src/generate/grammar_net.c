/* Owns the making of networks out of fragments. Must not know grammars' notations, nor how a
 * network is run. */
#include "generate/grammar_net.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "generate/grammar_check.h"
#include "tokenizer/utf8.h"

enum { FIRST_ROOM = 64 };

void bl__net_free(bl__net *net) {
    if (!net)
        return;
    bl__free(net->edges);
    bl__free(net->first);
    bl__free(net->flags);
    bl__free(net->need);
    bl__free(net->order);
    bl__free(net->sites);
    bl__free(net);
}

void bl__net_fail(bl__net_builder *b, bl_status status, const char *format, ...) {
    if (b->status)
        return;
    char text[sizeof b->error.message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    b->status = bl__fail(&b->error, status, "%s", text);
}

static void fail_memory(bl__net_builder *b) {
    bl__net_fail(b, BL_ERR_MEMORY, "grammar: no memory for its network");
}

/* Makes room for one more element; false when there is none to be had. */
static bool grow(bl__net_builder *b, void **array, size_t size, size_t n, size_t *room, size_t most,
                 const char *what) {
    if (b->status)
        return false;
    if (n == most) {
        bl__net_fail(b, BL_ERR_LIMIT, "grammar: more than %zu %s", most, what);
        return false;
    }
    if (n < *room)
        return true;
    size_t more = *room ? 2 * *room : FIRST_ROOM;
    void *larger = bl__realloc_array(*array, more, size);
    if (!larger) {
        fail_memory(b);
        return false;
    }
    *array = larger;
    *room = more;
    return true;
}

void bl__net_builder_init(bl__net_builder *b) {
    *b = (bl__net_builder){.status = BL_OK};
    b->net = bl__calloc(1, sizeof *b->net);
    if (!b->net)
        fail_memory(b);
}

void bl__net_builder_destroy(bl__net_builder *b) {
    for (size_t i = 0; i < b->n_rules; i++)
        bl__free(b->rules[i].name);
    bl__free(b->rules);
    bl__free(b->rule_table);
    bl__net_free(b->net);
    *b = (bl__net_builder){.status = BL_OK};
}

/* ---- nodes and edges ---- */

/* After a problem every node is node 0 and no edge is added. */
uint32_t bl__net_node(bl__net_builder *b) {
    if (b->status || !grow(b, (void **)&b->net->flags, sizeof *b->net->flags, b->net->n_nodes,
                           &b->node_room, BL_NET_MAX_NODES, "nodes"))
        return 0;
    b->net->flags[b->net->n_nodes] = 0;
    return (uint32_t)b->net->n_nodes++;
}

static void add_edge(bl__net_builder *b, bl__net_edge edge) {
    if (!b->status && grow(b, (void **)&b->net->edges, sizeof edge, b->net->n_edges, &b->edge_room,
                           BL_NET_MAX_EDGES, "edges"))
        b->net->edges[b->net->n_edges++] = edge;
}

void bl__net_link(bl__net_builder *b, uint32_t from, uint32_t to) {
    add_edge(b, (bl__net_edge){.from = from, .to = to, .kind = BL_EDGE_EMPTY});
}

void bl__net_link_bytes(bl__net_builder *b, uint32_t from, uint32_t to, uint8_t low, uint8_t high) {
    add_edge(
        b, (bl__net_edge){.from = from, .to = to, .kind = BL_EDGE_BYTES, .low = low, .high = high});
}

/* An edge that runs what begins at `start` min to max times. */
static void add_call(bl__net_builder *b, uint32_t from, uint32_t to, uint32_t start, uint32_t min,
                     uint32_t max) {
    if (b->status || !grow(b, (void **)&b->net->sites, sizeof *b->net->sites, b->net->n_sites,
                           &b->site_room, BL_NET_MAX_EDGES, "calls"))
        return;
    b->net->sites[b->net->n_sites] =
        (bl__net_site){.start = start, .to = to, .min = min, .max = max, .may_skip = min == 0};
    add_edge(
        b, (bl__net_edge){
               .from = from, .to = to, .kind = BL_EDGE_CALL, .site = (uint32_t)b->net->n_sites++});
}

/* ---- fragments ---- */

bl__fragment bl__net_choice(bl__net_builder *b) {
    uint32_t start = bl__net_node(b), end = bl__net_node(b);
    return (bl__fragment){start, end};
}

bl__fragment bl__net_empty(bl__net_builder *b) {
    uint32_t node = bl__net_node(b);
    return (bl__fragment){node, node};
}

bl__fragment bl__net_text(bl__net_builder *b, const char *text, size_t len) {
    bl__fragment f = bl__net_empty(b);
    for (size_t i = 0; i < len; i++) {
        uint32_t next = bl__net_node(b);
        bl__net_link_bytes(b, f.end, next, (uint8_t)text[i], (uint8_t)text[i]);
        f.end = next;
    }
    return f;
}

bl__fragment bl__net_puts(bl__net_builder *b, const char *text) {
    return bl__net_text(b, text, strlen(text));
}

bl__fragment bl__net_join(bl__net_builder *b, bl__fragment first, bl__fragment second) {
    bl__net_link(b, first.end, second.start);
    return (bl__fragment){first.start, second.end};
}

void bl__net_choose(bl__net_builder *b, bl__fragment choice, bl__fragment option) {
    bl__net_link(b, choice.start, option.start);
    bl__net_link(b, option.end, choice.end);
}

static void mark_final(bl__net_builder *b, uint32_t node) {
    if (!b->status)
        b->net->flags[node] |= BL_NODE_FINAL;
}

bl__fragment bl__net_repeat(bl__net_builder *b, bl__fragment body, uint32_t min, uint32_t max) {
    bl__fragment f = bl__net_choice(b);
    if (max == 1 || (max == BL_NET_ANY_COUNT && min <= 1)) {
        bl__net_choose(b, f, body);
        if (min == 0)
            bl__net_link(b, f.start, f.end);
        if (max != 1)
            bl__net_link(b, body.end, body.start);
        return f;
    }
    mark_final(b, body.end);
    add_call(b, f.start, f.end, body.start, min, max);
    return f;
}

/* ---- characters ---- */

/* What one character takes: the node it leads to, and those with 1, 2 or 3 bytes 0x80 ... 0xbf of
 * any kind before it. */
typedef struct char_end {
    uint32_t after[BL_UTF8_MAX]; /* [n]: n bytes before the end; BL_NET_NONE: not made yet */
} char_end;

static uint32_t node_before(bl__net_builder *b, char_end *end, size_t n) {
    if (end->after[n] == BL_NET_NONE) {
        uint32_t next = node_before(b, end, n - 1);
        end->after[n] = bl__net_node(b);
        bl__net_link_bytes(b, end->after[n], next, 0x80, 0xbf);
    }
    return end->after[n];
}

/* Matches every sequence of n bytes between low[n] and high[n], both of which are UTF-8 of that
 * length or the ends of it, beginning at `from`. */
static void link_sequences(bl__net_builder *b, uint32_t from, const uint8_t *low,
                           const uint8_t *high, size_t n, char_end *end) {
    static const uint8_t lowest[] = {0x80, 0x80, 0x80}, highest[] = {0xbf, 0xbf, 0xbf};
    if (n == 1) {
        bl__net_link_bytes(b, from, end->after[0], low[0], high[0]);
        return;
    }
    unsigned first = low[0], last = high[0];
    if (first == last) {
        uint32_t next = bl__net_node(b);
        bl__net_link_bytes(b, from, next, low[0], low[0]);
        link_sequences(b, next, low + 1, high + 1, n - 1, end);
        return;
    }
    if (memcmp(low + 1, lowest, n - 1) != 0) {
        uint32_t next = bl__net_node(b);
        bl__net_link_bytes(b, from, next, low[0], low[0]);
        link_sequences(b, next, low + 1, highest, n - 1, end);
        first++;
    }
    if (memcmp(high + 1, highest, n - 1) != 0) {
        uint32_t next = bl__net_node(b);
        bl__net_link_bytes(b, from, next, high[0], high[0]);
        link_sequences(b, next, lowest, high + 1, n - 1, end);
        last--;
    }
    if (first <= last)
        bl__net_link_bytes(b, from, node_before(b, end, n - 1), (uint8_t)first, (uint8_t)last);
}

bl__fragment bl__net_char(bl__net_builder *b, const bl__char_range *ranges, size_t n_ranges) {
    /* Characters of one length in UTF-8, without surrogates. */
    static const bl__char_range spans[] = {
        {0, 0x7f}, {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, BL_NET_MAX_CHAR}};
    bl__fragment f = bl__net_choice(b);
    char_end end = {{f.end, BL_NET_NONE, BL_NET_NONE, BL_NET_NONE}};
    for (size_t i = 0; i < n_ranges && !b->status; i++)
        for (size_t s = 0; s < sizeof spans / sizeof *spans; s++) {
            uint32_t low = ranges[i].low > spans[s].low ? ranges[i].low : spans[s].low;
            uint32_t high = ranges[i].high < spans[s].high ? ranges[i].high : spans[s].high;
            if (low > high)
                continue;
            char a[BL_UTF8_MAX], z[BL_UTF8_MAX];
            size_t n = bl__utf8_encode(low, a);
            bl__utf8_encode(high, z);
            link_sequences(b, f.start, (const uint8_t *)a, (const uint8_t *)z, n, &end);
        }
    return f;
}

static int by_low(const void *a, const void *b) {
    const bl__char_range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

size_t bl__char_ranges_negate(bl__char_range *ranges, size_t n) {
    qsort(ranges, n, sizeof *ranges, by_low);
    size_t n_out = 0;
    uint32_t next = 0; /* the first character that may be in none */
    for (size_t i = 0; i < n; i++) {
        bl__char_range range = ranges[i]; /* n_out <= i: not overwritten yet */
        if (range.low > next)
            ranges[n_out++] = (bl__char_range){next, range.low - 1};
        next = range.high >= next ? range.high + 1 : next;
    }
    if (next <= BL_NET_MAX_CHAR)
        ranges[n_out++] = (bl__char_range){next, BL_NET_MAX_CHAR};
    return n_out;
}

/* ---- rules ---- */

static uint32_t hash_name(const char *name, size_t len) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)name[i]) * 16777619u;
    return hash;
}

uint32_t bl__net_rule_new(bl__net_builder *b) {
    if (!grow(b, (void **)&b->rules, sizeof *b->rules, b->n_rules, &b->rule_room, BL_NET_MAX_RULES,
              "rules"))
        return 0;
    uint32_t start = bl__net_node(b);
    b->rules[b->n_rules] = (bl__net_rule){.start = start};
    return (uint32_t)b->n_rules++;
}

/* The place of a name in the table, or where it belongs. */
static uint32_t *find_slot(const bl__net_builder *b, const char *name, size_t len) {
    size_t mask = b->rule_table_size - 1;
    for (size_t at = hash_name(name, len) & mask;; at = (at + 1) & mask) {
        uint32_t *slot = &b->rule_table[at];
        if (*slot == 0)
            return slot;
        const char *other = b->rules[*slot - 1].name;
        if (strlen(other) == len && memcmp(other, name, len) == 0)
            return slot;
    }
}

static bool grow_table(bl__net_builder *b) {
    if (2 * (b->n_rules + 1) <= b->rule_table_size)
        return true;
    size_t size = b->rule_table_size ? 2 * b->rule_table_size : FIRST_ROOM;
    while (size < 4 * (b->n_rules + 1))
        size *= 2;
    uint32_t *table = bl__calloc(size, sizeof *table);
    if (!table) {
        fail_memory(b);
        return false;
    }
    bl__free(b->rule_table);
    b->rule_table = table;
    b->rule_table_size = size;
    for (size_t i = 0; i < b->n_rules; i++)
        if (b->rules[i].name)
            *find_slot(b, b->rules[i].name, strlen(b->rules[i].name)) = (uint32_t)i + 1;
    return true;
}

uint32_t bl__net_rule_named(bl__net_builder *b, const char *name, size_t len) {
    if (b->status || !grow_table(b))
        return 0;
    uint32_t *slot = find_slot(b, name, len);
    if (*slot)
        return *slot - 1;
    char *copy = bl__strndup(name, len);
    if (!copy) {
        fail_memory(b);
        return 0;
    }
    uint32_t rule = bl__net_rule_new(b);
    if (b->status) {
        bl__free(copy);
        return 0;
    }
    b->rules[rule].name = copy;
    *slot = rule + 1;
    return rule;
}

void bl__net_define(bl__net_builder *b, uint32_t rule, bl__fragment body) {
    if (b->status)
        return;
    b->rules[rule].is_defined = true;
    bl__net_link(b, b->rules[rule].start, body.start);
    mark_final(b, body.end);
}

bl__fragment bl__net_call(bl__net_builder *b, uint32_t rule) {
    bl__fragment f = bl__net_choice(b);
    if (!b->status)
        add_call(b, f.start, f.end, b->rules[rule].start, 1, 1);
    return f;
}

bl_status bl__net_finish(bl__net_builder *b, uint32_t root, bl__net **out, bl_error *err) {
    for (size_t i = 0; i < b->n_rules && !b->status; i++)
        if (!b->rules[i].is_defined)
            bl__net_fail(b, BL_ERR_FORMAT, "line %u, column %u: rule %.64s is not defined",
                         b->rules[i].line, b->rules[i].column,
                         b->rules[i].name ? b->rules[i].name : "");
    if (!b->status) {
        b->net->start = b->rules[root].start;
        bl__net_check(b);
    }
    if (b->status) {
        if (err)
            *err = b->error;
        return b->status;
    }
    *out = b->net;
    b->net = NULL;
    return BL_OK;
}
