/* Grammars of any bytes, run over bytes that follow a NUL: whatever is accepted can be followed,
 * and every state that is not dead leads on or ends. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "generate/grammar.h"
#include "generate/grammar_stack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { MAX_STEPS = 200 };
    const uint8_t *nul = size ? memchr(data, '\0', size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size;
    bl_grammar *grammar = NULL;
    bl__states states;
    if (len > 4096 || bl_grammar_from_gbnf((const char *)data, len, &grammar, NULL) != BL_OK)
        return 0;
    if (bl__states_init(&states, grammar->net, 3) != BL_OK)
        abort();
    uint32_t at = bl__states_start(&states);
    for (size_t i = 0; i < MAX_STEPS && !states.status; i++) {
        uint32_t next = BL_STATE_DEAD;
        uint8_t wanted = len + 1 + i < size ? data[len + 1 + i] : (uint8_t)(37 * i);
        for (unsigned b = 0; b < 256 && next == BL_STATE_DEAD && !states.status; b++)
            next = bl__states_step(&states, at, (uint8_t)(wanted + b));
        if (states.status)
            break;
        if (next == BL_STATE_DEAD && !states.list[at].may_end)
            abort();
        if (next == BL_STATE_DEAD)
            break;
        at = next;
        bl__states_as_seen(&states, at);
        if (i % 50 == 49)
            at = bl__states_forget(&states, at);
    }
    bl__states_destroy(&states);
    bl_grammar_free(grammar);
    return 0;
}
