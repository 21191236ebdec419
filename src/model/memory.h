/* Private to model/: whether what a model or session takes can be had, before it is taken. */
#ifndef BL_MODEL_MEMORY_H
#define BL_MODEL_MEMORY_H

#include "model/session.h"

/* Before a file's weights are mapped to run. */
bl_status bl__memory_check_file(uint64_t file_bytes, bl_error *err);

/* Before a session's memory, laid out but not allocated, is taken. */
bl_status bl__memory_check_session(const bl_session *session, bl_error *err);

/* For tests: what is available from now on; 0 = what the system says. */
void bl__memory_pretend(uint64_t available);

#endif
