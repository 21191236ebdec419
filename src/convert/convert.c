/* Owns the course of a conversion: options, source, plan, output file. Must not know what either
 * kind of checkpoint looks like. */
#include "convert/convert.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "bitloom/system.h"
#include "bitloom/verify.h"
#include "formats/known_answer.h"

static bool is_one_of(bl__layout layout, const bl__layout *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (list[i] == layout)
            return true;
    return false;
}

static bl_status read_options(const bl_convert_params *params, bl__plan_options *options,
                              bl_error *err) {
    static const bl__layout types[] = {BL_LAYOUT_T2,     BL_LAYOUT_T5,     BL_LAYOUT_B1,
                                       BL_LAYOUT_I2_S,   BL_LAYOUT_TQ1_0,  BL_LAYOUT_TQ2_0,
                                       BL_LAYOUT_IQ1_BN, BL_LAYOUT_IQ2_BN, BL_LAYOUT_F16,
                                       BL_LAYOUT_BF16,   BL_LAYOUT_F32};
    static const bl__layout embed_types[] = {BL_LAYOUT_F32, BL_LAYOUT_F16, BL_LAYOUT_BF16,
                                             BL_LAYOUT_Q8_0};
    const char *type = params->type, *embed = params->embed_type;
    *options = (bl__plan_options){.native = !type || strcmp(type, "native") == 0,
                                  .embed_as_stored = !embed,
                                  .new_answer = params->known_answer,
                                  .i2_s_arm = params->i2_s_arm};
    if (!options->native && (!bl__layout_from_name(type, &options->type) ||
                             !is_one_of(options->type, types, sizeof types / sizeof *types)))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "type \"%s\", expected native, bl_t2, bl_t5, bl_b1, i2_s, tq1_0, tq2_0, "
                        "iq1_bn, iq2_bn, f16, bf16 or f32",
                        type);
    if (embed &&
        (!bl__layout_from_name(embed, &options->embed_type) ||
         !is_one_of(options->embed_type, embed_types, sizeof embed_types / sizeof *embed_types)))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "embedding type \"%s\", expected f32, f16, bf16 or q8_0", embed);
    return BL_OK;
}

/* general.file_type: the layout of most of the ternary or float weights that a plan writes. */
static bl_status set_file_type(const bl__plan *plan, bl__gguf_writer *writer, bl_error *err) {
    uint64_t count[BL_LAYOUT_COUNT] = {0};
    bl__layout most = BL_LAYOUT_F32;
    for (size_t i = 0; i < plan->n_tensors; i++)
        if (plan->tensors[i].linear)
            count[plan->tensors[i].target] += plan->tensors[i].rows * plan->tensors[i].cols;
    for (size_t i = 0; i < BL_LAYOUT_COUNT; i++)
        if (count[i] > count[most])
            most = (bl__layout)i;
    int32_t file_type = bl__layout_get(most)->file_type;
    if (file_type < 0)
        return BL_OK;
    return bl__gguf_set_u32(writer, "general.file_type", (uint32_t)file_type, err);
}

static bl_status declare_tensors(const bl__plan *plan, bl__gguf_writer *writer, bl_error *err) {
    bl_status status = set_file_type(plan, writer, err);
    for (size_t i = 0; i < plan->n_tensors && !status; i++) {
        const bl__plan_tensor *t = &plan->tensors[i];
        status = bl__gguf_add_tensor(writer, t->name, t->n_dims, t->dims, t->target, err);
    }
    return status;
}

static void fill_report(const bl__plan *plan, uint64_t output_bytes, bl_convert_report *report) {
    *report = (bl_convert_report){.n_tensors = plan->n_tensors, .output_bytes = output_bytes};
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const bl__plan_tensor *t = &plan->tensors[i];
        report->input_bytes += t->bytes;
        if (t->ternary)
            report->n_ternary_weights += (uint64_t)t->rows * t->cols;
        if (t->bytes > report->largest_tensor_bytes)
            report->largest_tensor_bytes = t->bytes;
    }
}

/* Runs the file as it will be, and keeps what the model says. */
static bl_status add_answer(bl__outfile *file, bl__gguf_writer *writer, uint32_t n_threads,
                            bl_error *err) {
    bl_known_answer answer;
    const char *path;
    bl_status status = bl__outfile_flush(file, &path, err);
    if (status || (status = bl_known_answer_make(path, n_threads, &answer, err)))
        return status;
    return bl__known_answer_fill(writer, &answer, err);
}

bl_status bl__convert_write_file(const char *output, const bl__plan *plan, bl__gguf_writer *writer,
                                 bl__pool *pool, const bl_convert_params *params, uint64_t *bytes,
                                 bl_error *err) {
    bl__outfile *file;
    bl_status status = declare_tensors(plan, writer, err);
    if (!status && params->known_answer)
        status = bl__known_answer_reserve(writer, err);
    if (status || (status = bl__gguf_writer_checksums(writer, err)) ||
        (status = bl__outfile_open(output, &file, err)))
        return status;
    if (!(status = bl__gguf_writer_begin(writer, file, err)) &&
        !(status = bl__plan_write(plan, writer, pool, params, err)) &&
        !(status = bl__gguf_writer_finish(writer, err)) && params->known_answer)
        status = add_answer(file, writer, params->n_threads, err);
    if (status) {
        bl__outfile_abort(file);
        return status;
    }
    *bytes = bl__outfile_offset(file);
    return bl__outfile_commit(file, err);
}

bl_status bl_convert(const char *input, const char *output, const bl_convert_params *params,
                     bl_convert_report *report, bl_error *err) {
    static const bl_convert_params defaults = {0};
    bl__plan plan = {0};
    bl__plan_options options;
    bl__pool *pool = NULL;
    bl__gguf_writer *writer = NULL;
    bl__hf_source *hf = NULL;
    bl__gguf_source *gguf = NULL;
    uint64_t output_bytes = 0;
    params = params ? params : &defaults;

    bl_status status = read_options(params, &options, err);
    if (status)
        return status;
    uint32_t n_threads = params->n_threads ? params->n_threads : bl_cpu_physical_cores();
    if ((status = bl__pool_create(n_threads, false, &pool, err)) ||
        (status = bl__gguf_writer_create(&writer, err)))
        goto done;
    status = bl__directory_exists(input)
                 ? bl__hf_source_open(input, &options, pool, writer, &plan, &hf, err)
                 : bl__gguf_source_open(input, &options, pool, writer, &plan, &gguf, err);
    if (!status)
        bl__plan_choose_native(&plan, pool);
    bl__plan_let_skip(&plan, &options);
    if (!status)
        status = bl__convert_write_file(output, &plan, writer, pool, params, &output_bytes, err);
    if (!status && report)
        fill_report(&plan, output_bytes, report);
done:
    bl__plan_free(&plan);
    bl__hf_source_close(hf);
    bl__gguf_source_close(gguf);
    bl__gguf_writer_free(writer);
    bl__pool_free(pool);
    return status;
}
