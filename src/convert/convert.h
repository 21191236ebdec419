/* Private to convert/: what the makers of plans share with bl_convert(). */
#ifndef BL_CONVERT_CONVERT_H
#define BL_CONVERT_CONVERT_H

#include "convert/plan.h"

/* A checkpoint that is being converted: an opened source whose bytes the plan borrows. */
typedef struct bl__hf_source bl__hf_source;
typedef struct bl__gguf_source bl__gguf_source;

/* Opens the source and declares metadata and plan; the tensors are not yet declared. The source
 * must outlive the plan's use. On failure nothing is returned, and plan and writer are as good for
 * freeing as before. */
bl_status bl__hf_source_open(const char *path, const bl__plan_options *options, bl__pool *pool,
                             bl__gguf_writer *writer, bl__plan *plan, bl__hf_source **out,
                             bl_error *err);
void bl__hf_source_close(bl__hf_source *source); /* NULL is accepted */

bl_status bl__gguf_source_open(const char *path, const bl__plan_options *options, bl__pool *pool,
                               bl__gguf_writer *writer, bl__plan *plan, bl__gguf_source **out,
                               bl_error *err);
void bl__gguf_source_close(bl__gguf_source *source);

/* Declares the plan's tensors and general.file_type and writes the whole file. *bytes: its size. */
bl_status bl__convert_write_file(const char *output, const bl__plan *plan, bl__gguf_writer *writer,
                                 bl__pool *pool, const bl_convert_params *params, uint64_t *bytes,
                                 bl_error *err);

#endif
