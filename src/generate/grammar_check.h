/* Private to generate/: what is found out of a network before it runs. */
#ifndef BL_GENERATE_GRAMMAR_CHECK_H
#define BL_GENERATE_GRAMMAR_CHECK_H

#include "generate/grammar_net.h"

/* Sorts b->net and fills in everything about it, from edges, sites, final nodes and the start. What
 * cannot be run (a rule that begins with itself, a root that never ends) is the builder's problem,
 * as is memory. */
void bl__net_check(bl__net_builder *b);

#endif
