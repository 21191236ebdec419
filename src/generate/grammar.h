/* Private to generate/: what a bl_grammar is, and how notations become networks. */
#ifndef BL_GENERATE_GRAMMAR_H
#define BL_GENERATE_GRAMMAR_H

#include "bitloom/grammar.h"
#include "generate/grammar_net.h"

enum { BL_GRAMMAR_MAX_TEXT = 1 << 20 };

struct bl_grammar {
    bl__net *net;
};

/* Takes the builder's network over when all went well; the builder is destroyed in any case. */
bl_status bl__grammar_finish(bl__net_builder *b, uint32_t root, bl_grammar **out, bl_error *err);

#endif
