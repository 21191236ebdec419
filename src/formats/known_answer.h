/* Known answers (bitloom/verify.h) in GGUF metadata. What the keys hold is only known when the file
 * can be run, so room is made first and filled at last. */
#ifndef BL_FORMATS_KNOWN_ANSWER_H
#define BL_FORMATS_KNOWN_ANSWER_H

#include "bitloom/verify.h"
#include "formats/gguf.h"

/* Whether the key is one of a known answer's. */
bool bl__known_answer_owns(bl__string key);

/* Sets the keys, to zeros. */
bl_status bl__known_answer_reserve(bl__gguf_writer *writer, bl_error *err);
/* After bl__gguf_writer_finish(). */
bl_status bl__known_answer_fill(bl__gguf_writer *writer, const bl_known_answer *answer,
                                bl_error *err);

/* *found: false when the file has none. BL_ERR_FORMAT: keys of other types or lengths. */
bl_status bl__known_answer_read(const bl__gguf *gguf, bl_known_answer *out, bool *found,
                                bl_error *err);

#endif
