/* Schemas of any bytes: what is accepted leads, by the first byte that may come each time, or by
 * bytes that follow a NUL, to text that stays on the way to a value; a whole one is JSON. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "generate/grammar.h"
#include "generate/grammar_stack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { MAX_TEXT = 400 };
    char text[MAX_TEXT];
    const uint8_t *nul = size ? memchr(data, '\0', size) : NULL;
    size_t len = nul ? (size_t)(nul - data) : size, n = 0;
    bl_grammar *grammar = NULL;
    bl__states states;
    if (len > 4096 || bl_grammar_from_json_schema((const char *)data, len, &grammar, NULL) != BL_OK)
        return 0;
    if (bl__states_init(&states, grammar->net, 3) != BL_OK)
        abort();
    uint32_t at = bl__states_start(&states);
    while (n < MAX_TEXT && !states.status && !states.list[at].may_end) {
        uint32_t next = BL_STATE_DEAD;
        /* Without bytes of its own a text closes what is open where it can. */
        uint8_t wanted = len + 1 + n < size ? data[len + 1 + n] : (uint8_t) "}]\"0,"[n % 5];
        unsigned b = 0;
        for (; b < 256; b++) {
            next = bl__states_step(&states, at, (uint8_t)(wanted + b));
            if (next != BL_STATE_DEAD || states.status)
                break;
        }
        if (states.status)
            break;
        if (next == BL_STATE_DEAD)
            abort();
        text[n++] = (char)(wanted + b);
        at = next;
    }
    if (!states.status && states.list[at].may_end) {
        json_t *value = json_loadb(text, n, JSON_DECODE_ANY, NULL);
        if (!value)
            abort();
        json_decref(value);
    }
    bl__states_destroy(&states);
    bl_grammar_free(grammar);
    return 0;
}
