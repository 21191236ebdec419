/* Bitloom: 1-bit large language models on ordinary CPUs. Includes every public header. */
#ifndef BITLOOM_H
#define BITLOOM_H

#include "bitloom/bench.h"
#include "bitloom/chat.h"
#include "bitloom/compare.h"
#include "bitloom/compress.h"
#include "bitloom/convert.h"
#include "bitloom/cost.h"
#include "bitloom/data.h"
#include "bitloom/dummy.h"
#include "bitloom/energy.h"
#include "bitloom/eval.h"
#include "bitloom/generate.h"
#include "bitloom/grammar.h"
#include "bitloom/inspect.h"
#include "bitloom/model.h"
#include "bitloom/perplexity.h"
#include "bitloom/sampler.h"
#include "bitloom/server.h"
#include "bitloom/speculate.h"
#include "bitloom/status.h"
#include "bitloom/system.h"
#include "bitloom/tokenizer.h"
#include "bitloom/train.h"
#include "bitloom/verify.h"

#endif
