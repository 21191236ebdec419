/* Owns the way from states to masks of tokens: a walk over the tree of tokens for each state that
 * is asked for, once, and the place of one text. Must not know how a state comes about. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "generate/grammar.h"
#include "generate/grammar_stack.h"
#include "generate/token_trie.h"

enum { MAX_MASK_BYTES = 1 << 25 /* of all masks that are kept */, MIN_MASKS = 4 };

struct bl_matcher {
    const bl_token_trie *trie;
    bl__states states;
    uint32_t start, at; /* states */
    bool has_ended;     /* an end token was accepted */
    uint32_t *path;     /* [max_depth + 1]: states on the way to a node of the tree */
    uint64_t *masks;    /* [n_masks][n_words] */
    size_t n_masks, mask_room, max_masks;
};

static bl_status fail(const bl_matcher *m, bl_error *err) {
    if (m->states.status == BL_ERR_LIMIT)
        return bl__fail(err, BL_ERR_LIMIT,
                        "grammar: too many ways to read the text; make it less ambiguous");
    return bl__fail(err, BL_ERR_MEMORY, "grammar: no memory for its states");
}

bl_status bl_matcher_create(const bl_grammar *grammar, const bl_token_trie *trie, bl_matcher **out,
                            bl_error *err) {
    bl_matcher *m = bl__calloc(1, sizeof *m);
    if (!m)
        return bl__fail(err, BL_ERR_MEMORY, "grammar: out of memory");
    m->trie = trie;
    m->max_masks = MAX_MASK_BYTES / (trie->n_words * sizeof *m->masks + 1);
    m->max_masks = m->max_masks > MIN_MASKS ? m->max_masks : MIN_MASKS;
    m->path = bl__malloc_array(trie->max_depth + 1, sizeof *m->path);
    bl_status status = bl__states_init(&m->states, grammar->net, (uint32_t)trie->max_depth);
    if (!m->path)
        status = m->states.status = BL_ERR_MEMORY;
    if (!status) {
        m->start = m->at = bl__states_start(&m->states);
        status = m->states.status;
    }
    if (status) {
        fail(m, err);
        bl_matcher_free(m);
        return status;
    }
    *out = m;
    return BL_OK;
}

void bl_matcher_free(bl_matcher *m) {
    if (!m)
        return;
    bl__states_destroy(&m->states);
    bl__free(m->path);
    bl__free(m->masks);
    bl__free(m);
}

void bl_matcher_reset(bl_matcher *m) {
    m->at = m->start;
    m->has_ended = false;
}

/* ---- memory ---- */

static void forget_masks(bl_matcher *m) {
    for (size_t i = 0; i < m->states.n_states; i++)
        m->states.list[i].mask = -1;
    m->n_masks = 0;
}

/* Keeps what has been learnt within bounds, at a time when nothing is under way. */
static bl_status tidy(bl_matcher *m, bl_error *err) {
    if (m->n_masks == m->max_masks)
        forget_masks(m);
    if (!bl__states_are_many(&m->states))
        return BL_OK;
    m->at = bl__states_forget(&m->states, m->at);
    if (m->states.status)
        return fail(m, err);
    m->n_masks = 0;
    m->start = bl__states_start(&m->states);
    return m->states.status ? fail(m, err) : BL_OK;
}

/* Room for one more mask, set to zeros. */
static uint64_t *add_mask(bl_matcher *m) {
    size_t n_words = m->trie->n_words;
    if (m->n_masks == m->mask_room) {
        size_t room = m->mask_room ? 2 * m->mask_room : MIN_MASKS;
        room = room < m->max_masks ? room : m->max_masks;
        uint64_t *masks = bl__realloc_array(m->masks, room, n_words * sizeof *masks);
        if (!masks)
            return NULL;
        m->masks = masks;
        m->mask_room = room;
    }
    uint64_t *mask = m->masks + m->n_masks * n_words;
    memset(mask, 0, n_words * sizeof *mask);
    return mask;
}

/* ---- masks ---- */

static void set_token(const bl_token_trie *trie, uint64_t *mask, const bl__trie_node *node) {
    int32_t t = node->token;
    mask[t / 64] |= (uint64_t)1 << (t % 64);
    if (node->has_twins)
        while ((t = trie->twins[t]) >= 0)
            mask[t / 64] |= (uint64_t)1 << (t % 64);
}

/* Sets the tokens whose bytes lead from a state to a live one. */
static bl_status walk(bl_matcher *m, uint32_t state, uint64_t *mask) {
    const bl_token_trie *trie = m->trie;
    m->path[0] = state;
    for (size_t i = 0; i < trie->n_nodes;) {
        const bl__trie_node *node = &trie->nodes[i];
        uint32_t next = bl__states_step(&m->states, m->path[node->depth - 1], node->byte);
        if (next == BL_STATE_DEAD) {
            if (m->states.status)
                return m->states.status;
            i = node->end;
            continue;
        }
        m->path[node->depth] = next;
        if (node->token >= 0)
            set_token(trie, mask, node);
        i++;
    }
    return BL_OK;
}

static bool is_empty(const uint64_t *mask, size_t n_words) {
    for (size_t i = 0; i < n_words; i++)
        if (mask[i])
            return false;
    return true;
}

bl_status bl_matcher_mask(bl_matcher *m, const uint64_t **mask, bl_error *err) {
    bl_status status = tidy(m, err);
    if (status)
        return status;
    if (m->has_ended)
        return bl__fail(err, BL_ERR_NOT_FOUND, "grammar: the text has ended");
    uint32_t state = bl__states_as_seen(&m->states, m->at);
    if (m->states.status)
        return fail(m, err);
    if (m->states.list[state].mask < 0) {
        uint64_t *made = add_mask(m);
        if (!made)
            return bl__fail(err, BL_ERR_MEMORY, "grammar: no memory for a mask");
        m->states.status = BL_OK;
        m->states.work = 0;
        if (walk(m, state, made))
            return fail(m, err);
        if (m->states.list[state].may_end)
            for (size_t i = 0; i < m->trie->n_ends; i++)
                made[m->trie->ends[i] / 64] |= (uint64_t)1 << (m->trie->ends[i] % 64);
        m->states.list[state].mask = (int32_t)m->n_masks++;
    }
    const uint64_t *found = m->masks + (size_t)m->states.list[state].mask * m->trie->n_words;
    if (is_empty(found, m->trie->n_words))
        return bl__fail(err, BL_ERR_NOT_FOUND, "grammar: no token of the vocabulary may come next");
    *mask = found;
    return BL_OK;
}

/* ---- the text ---- */

static bool is_end(const bl_token_trie *trie, bl_token token) {
    for (size_t i = 0; i < trie->n_ends; i++)
        if (trie->ends[i] == token)
            return true;
    return false;
}

bl_status bl_matcher_accept(bl_matcher *m, bl_token token, bl_error *err) {
    const bl_token_trie *trie = m->trie;
    bool may_come = token >= 0 && (size_t)token < trie->vocab && !m->has_ended;
    if (may_come && is_end(trie, token)) {
        may_come = bl_matcher_may_end(m);
        m->has_ended = may_come;
    } else if (may_come) {
        uint32_t state, i = trie->bytes_first[token], end = trie->bytes_first[token + 1];
        bl_status status = tidy(m, err);
        if (status)
            return status;
        m->states.status = BL_OK;
        m->states.work = 0;
        may_come = i < end;
        for (state = m->at; i < end && state != BL_STATE_DEAD; i++)
            state = bl__states_step(&m->states, state, trie->bytes[i]);
        if (m->states.status)
            return fail(m, err);
        may_come = may_come && state != BL_STATE_DEAD;
        m->at = may_come ? state : m->at;
    }
    if (!may_come)
        return bl__fail(err, BL_ERR_ARGUMENT, "grammar: token %d may not come next", (int)token);
    return BL_OK;
}

bool bl_matcher_may_end(const bl_matcher *m) {
    return m->states.list[m->at].may_end;
}

bool bl_matcher_must_end(const bl_matcher *m) {
    const bl__state *state = &m->states.list[m->at];
    return m->has_ended || (state->may_end && state->n == 0);
}
