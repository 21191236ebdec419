/* Private to generate/: sets of places in a network, with what is open at each, as numbered states.
 *
 * A place is a node and a stack of calls. Stacks are linked frames, each made once, so that equal
 * stacks are one number; sets of places are made once too, and the state that a byte leads to is
 * remembered. So the pushdown automaton runs as a finite one that grows as it is used. */
#ifndef BL_GENERATE_GRAMMAR_STACK_H
#define BL_GENERATE_GRAMMAR_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "generate/grammar_net.h"

#define BL_STATE_DEAD    0u         /* no text goes on like that */
#define BL_STATE_UNKNOWN UINT32_MAX /* not computed yet */

typedef struct bl__frame {
    uint32_t site, count; /* a call of the network, and how often its part has been run */
    uint32_t below;       /* frame; 0 = the bottom */
    uint32_t depth;
    uint32_t seen; /* the frame that stands for it in bl__states_as_seen() */
} bl__frame;

typedef struct bl__place {
    uint32_t node, frame;
} bl__place;

typedef struct bl__state {
    uint32_t first, n; /* places, sorted; only those that a byte can leave */
    uint32_t seen;     /* bl__states_as_seen(), or BL_STATE_UNKNOWN */
    int32_t mask;      /* for whoever keeps masks; -1 at first */
    bool may_end;      /* the text is whole here */
} bl__state;

typedef struct bl__states {
    const bl__net *net;
    uint32_t reach; /* bytes that are looked ahead at most */
    bl__frame *frames;
    size_t n_frames, frame_room;
    uint32_t *frame_table; /* hash -> frame, 0 = free; a power of 2 */
    size_t frame_table_size;
    bl__place *places;
    size_t n_places, place_room;
    bl__state *list;
    size_t n_states, state_room;
    uint32_t *next; /* [state_room][n_classes]: the state a byte leads to, or BL_STATE_UNKNOWN */
    uint32_t *state_table; /* hash -> state, 0 = free; a power of 2 */
    size_t state_table_size;
    /* The set in the making: places in the order they are found, and their hash. */
    bl__place *found;
    size_t n_found, found_room;
    uint32_t *found_table; /* hash -> found, where the stamp is that of this set */
    uint32_t *found_stamp;
    size_t found_table_size;
    uint32_t stamp;
    bool finds_end;
    bl_status status; /* of the last call: BL_ERR_MEMORY, BL_ERR_LIMIT */
} bl__states;

/* reach: no more bytes than these are looked ahead before bl__states_as_seen() is asked again. */
bl_status bl__states_init(bl__states *s, const bl__net *net, uint32_t reach);
void bl__states_destroy(bl__states *s);

/* The state at the beginning of a text; BL_STATE_DEAD with s->status when memory is short. */
uint32_t bl__states_start(bl__states *s);

/* Computes what bl__states_step() does not know yet. */
uint32_t bl__states_find_step(bl__states *s, uint32_t state, uint8_t byte);

/* The state after one more byte. BL_STATE_DEAD: the byte may not come, or s->status says what went
 * wrong. */
static inline uint32_t bl__states_step(bl__states *s, uint32_t state, uint8_t byte) {
    uint32_t next = s->next[(size_t)state * s->net->n_classes + s->net->class_of[byte]];
    return next != BL_STATE_UNKNOWN ? next : bl__states_find_step(s, state, byte);
}

/* A state from which the same texts of `reach` bytes may come: counts of repetitions that the bytes
 * cannot exhaust are alike. */
uint32_t bl__states_as_seen(bl__states *s, uint32_t state);

/* Whether it is time to forget. */
bool bl__states_are_many(const bl__states *s);
/* Forgets all states but one; returns its new number. With s->status set nothing is forgotten. */
uint32_t bl__states_forget(bl__states *s, uint32_t state);

#endif
