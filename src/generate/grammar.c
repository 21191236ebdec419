/* Owns bl_grammar: a finished network. */
#include "generate/grammar.h"

#include "base/alloc.h"
#include "base/error.h"

bl_status bl__grammar_finish(bl__net_builder *b, uint32_t root, bl_grammar **out, bl_error *err) {
    bl_grammar *grammar = bl__calloc(1, sizeof *grammar);
    bl_status status = grammar ? bl__net_finish(b, root, &grammar->net, err)
                               : bl__fail(err, BL_ERR_MEMORY, "grammar: out of memory");
    bl__net_builder_destroy(b);
    if (status)
        bl_grammar_free(grammar);
    else
        *out = grammar;
    return status;
}

void bl_grammar_free(bl_grammar *grammar) {
    if (!grammar)
        return;
    bl__net_free(grammar->net);
    bl__free(grammar);
}
