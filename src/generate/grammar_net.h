/* Private to generate/: a grammar as it runs, a network of nodes joined by bytes, and its making.
 *
 * Text goes through the network byte by byte; characters are their UTF-8. An edge is a range of
 * bytes, nothing, or a call: a site enters another part of the network, min to max times, and goes
 * on at the edge's end when that part has reached a final node. What calls leave open is a stack,
 * so the network is a pushdown automaton; who runs it keeps the stacks (grammar_match.c).
 *
 * The builder's functions never fail visibly: the first problem is kept, and bl__net_finish() tells
 * of it. A fragment is a piece of network with one way in and one way out, and is used once. */
#ifndef BL_GENERATE_GRAMMAR_NET_H
#define BL_GENERATE_GRAMMAR_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

enum {
    BL_NET_MAX_NODES = 1 << 20,
    BL_NET_MAX_EDGES = 1 << 21,
    BL_NET_MAX_RULES = 1 << 16,
    BL_NET_MAX_REPEAT = 1 << 20, /* of a counted repetition */
    BL_NET_MAX_STACK = 256,      /* calls open at once; deeper text is not allowed by any grammar */
    BL_NET_MAX_CHAR = 0x10ffff
};

#define BL_NET_ANY_COUNT (UINT32_MAX - 1) /* as max: no bound */
#define BL_NET_NONE      UINT32_MAX

typedef struct bl__fragment {
    uint32_t start, end; /* nodes */
} bl__fragment;

/* Code points low ... high. */
typedef struct bl__char_range {
    uint32_t low, high;
} bl__char_range;

typedef enum bl__net_edge_kind { BL_EDGE_EMPTY, BL_EDGE_BYTES, BL_EDGE_CALL } bl__net_edge_kind;

typedef struct bl__net_edge {
    uint32_t from, to;
    uint32_t site;     /* of a call */
    uint8_t kind;      /* bl__net_edge_kind */
    uint8_t low, high; /* of bytes */
} bl__net_edge;

/* A part of the network that is run min to max times. */
typedef struct bl__net_site {
    uint32_t start; /* node */
    uint32_t to;    /* node where it goes on */
    uint32_t min, max;
    bool may_skip; /* nothing has to be read for it */
} bl__net_site;

enum {
    BL_NODE_FINAL = 1,     /* the part it belongs to may end here */
    BL_NODE_HAS_BYTES = 2, /* an edge of bytes leaves it */
    BL_NODE_LAST = 4,      /* final, and no edge leaves it */
};

typedef struct bl__net_rule {
    char *name;
    uint32_t start;        /* node */
    uint32_t line, column; /* where it is first used, 0 when it is not */
    bool is_defined;
} bl__net_rule;

/* Immutable once finished. */
typedef struct bl__net {
    size_t n_nodes, n_edges, n_sites;
    bl__net_edge *edges; /* [n_edges]; once finished sorted by `from`, bytes first */
    uint32_t *first;     /* [n_nodes + 1]: edges first[n] ... first[n + 1] - 1 leave node n */
    uint8_t *flags;      /* [n_nodes]: BL_NODE_ */
    uint16_t *need;  /* [n_nodes]: calls that must at least be open at once, on the way from here
                        to a final node; above BL_NET_MAX_STACK: there is no way */
    uint32_t *order; /* [n_nodes]: larger than that of nodes that are reached without a byte, and
                        the same where they reach each other */
    bl__net_site *sites; /* [n_sites] */
    uint32_t start;      /* of the root */
    size_t n_classes;    /* bytes that no edge tells apart are one class */
    uint8_t class_of[256];
} bl__net;

void bl__net_free(bl__net *net); /* NULL is accepted */

/* A call with nothing to do after it leaves nothing on the stack. */
static inline bool bl__net_is_tail(const bl__net *net, const bl__net_site *site) {
    return site->min == 1 && site->max == 1 && (net->flags[site->to] & BL_NODE_LAST);
}

typedef struct bl__net_builder {
    bl__net *net;
    size_t node_room, edge_room, site_room;
    bl__net_rule *rules; /* [n_rules] */
    size_t n_rules, rule_room;
    uint32_t *rule_table; /* hash of names -> rule + 1; [rule_table_size], a power of 2 */
    size_t rule_table_size;
    bl_status status; /* the first problem, in `error` */
    bl_error error;
} bl__net_builder;

void bl__net_builder_init(bl__net_builder *b);
void bl__net_builder_destroy(bl__net_builder *b);

/* Keeps a problem, unless there is one already. */
void bl__net_fail(bl__net_builder *b, bl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

uint32_t bl__net_node(bl__net_builder *b);
void bl__net_link(bl__net_builder *b, uint32_t from, uint32_t to); /* by nothing */
void bl__net_link_bytes(bl__net_builder *b, uint32_t from, uint32_t to, uint8_t low, uint8_t high);

bl__fragment bl__net_empty(bl__net_builder *b);
/* Matches text[len]. */
bl__fragment bl__net_text(bl__net_builder *b, const char *text, size_t len);
bl__fragment bl__net_puts(bl__net_builder *b, const char *text);
/* Matches one character of ranges[n_ranges], in any order; surrogates are left out. No range:
 * nothing matches. */
bl__fragment bl__net_char(bl__net_builder *b, const bl__char_range *ranges, size_t n_ranges);
/* The characters that are in none of ranges[n]: written there, room for n + 1; returns how many.
 * Ranges come out in order and apart. */
size_t bl__char_ranges_negate(bl__char_range *ranges, size_t n);
/* One, then the other. */
bl__fragment bl__net_join(bl__net_builder *b, bl__fragment first, bl__fragment second);
/* A fragment without a way through, and one way more through such a fragment. */
bl__fragment bl__net_choice(bl__net_builder *b);
void bl__net_choose(bl__net_builder *b, bl__fragment choice, bl__fragment option);
/* min to max times; max BL_NET_ANY_COUNT: any number of times. */
bl__fragment bl__net_repeat(bl__net_builder *b, bl__fragment body, uint32_t min, uint32_t max);

/* The rule of that name, made when there is none. */
uint32_t bl__net_rule_named(bl__net_builder *b, const char *name, size_t len);
/* A rule without a name; NULL for the message when it cannot end. */
uint32_t bl__net_rule_new(bl__net_builder *b);
void bl__net_define(bl__net_builder *b, uint32_t rule, bl__fragment body);
bl__fragment bl__net_call(bl__net_builder *b, uint32_t rule);

/* Ends the building: the network whose text is what `root` matches. *out belongs to the caller.
 * Errors: the first problem kept; BL_ERR_FORMAT for rules that are not defined or begin with
 * themselves, and when no text matches. */
bl_status bl__net_finish(bl__net_builder *b, uint32_t root, bl__net **out, bl_error *err);

#endif
