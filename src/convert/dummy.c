/* Owns the making of random models: which tensors there are, what is in them. Must not know how
 * rows are packed and written.
 *
 * A row depends on the seed, the tensor's name and its own number alone, so threads may make them
 * in any order. */
#include "bitloom/dummy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/random.h"
#include "bitloom/system.h"
#include "convert/convert.h"
#include "convert/hf_metadata.h"
#include "tokenizer/vocab_build.h"

enum {
    N_BYTES = 256,
    FIRST_BYTE = 3, /* after unknown, BOS and EOS */
    SPACE = FIRST_BYTE + N_BYTES,
    N_TOKENS = SPACE + 1,
    TOKEN_BYTES = 32,  /* of metadata that a token takes, at most */
    TENSOR_BYTES = 160 /* of description and padding that a tensor takes, at most */
};

/* A dummy on its way. */
typedef struct dummy {
    const bl_dummy_params *params;
    bl__layout type, embed_type;
    bl__hf_config config;
    bl__plan plan;
} dummy;

/* ---- weights ---- */

/* Random bits of one row; FNV-1a over the tensor's name. */
static bl__random start_row(const bl__plan_tensor *tensor, size_t row) {
    const dummy *d = tensor->origin;
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = tensor->name; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    bl__random random;
    bl__random_seed(&random, d->params->seed ^ hash ^ (uint64_t)row << 20);
    return random;
}

/* The magnitude that keeps the variance of what goes through the matrix, with so few digits that
 * bfloat16 and float16 hold it. share: of the weights that are not 0. */
static float magnitude(size_t cols, double share) {
    return bl__bf16_to_f32(bl__f32_to_bf16((float)(1 / sqrt((double)cols * share))));
}

static float ternary_magnitude(size_t cols) {
    return magnitude(cols, 2.0 / 3);
}

/* A byte gives a weight: 86 of 256 are negative, 85 zero, 85 positive. */
static void make_ternary(const bl__plan_tensor *tensor, size_t row, float *out) {
    const float of_code[3] = {-tensor->tensor_scale, 0, tensor->tensor_scale};
    bl__random random = start_row(tensor, row);
    for (size_t i = 0; i < tensor->cols;) {
        uint64_t bits = bl__random_u64(&random);
        for (size_t end = bl__min_size(i + 8, tensor->cols); i < end; i++, bits >>= 8)
            out[i] = of_code[(bits & 255) * 3 >> 8];
    }
}

static void make_binary(const bl__plan_tensor *tensor, size_t row, float *out) {
    bl__random random = start_row(tensor, row);
    for (size_t i = 0; i < tensor->cols;) {
        uint64_t bits = bl__random_u64(&random);
        for (size_t end = bl__min_size(i + 64, tensor->cols); i < end; i++, bits >>= 1)
            out[i] = bits & 1 ? tensor->tensor_scale : -tensor->tensor_scale;
    }
}

/* Uniform, of the same variance. */
static void make_uniform(const bl__plan_tensor *tensor, size_t row, float *out) {
    float unit = sqrtf(3.0f / (float)tensor->cols) / 32768;
    bl__random random = start_row(tensor, row);
    for (size_t i = 0; i < tensor->cols;) {
        uint64_t bits = bl__random_u64(&random);
        for (size_t end = bl__min_size(i + 4, tensor->cols); i < end; i++, bits >>= 16)
            out[i] = (float)((int)(bits & 65535) - 32768) * unit;
    }
}

static void make_ones(const bl__plan_tensor *tensor, size_t row, float *out) {
    (void)row;
    for (size_t i = 0; i < tensor->cols; i++)
        out[i] = 1;
}

/* ---- the list of tensors ---- */

static bl_status add_tensor(dummy *d, const char *name, size_t rows, size_t cols, bl__layout layout,
                            bl__plan_tensor **out, bl_error *err) {
    const uint64_t dims[] = {cols, rows};
    size_t bytes;
    bl_status status = bl__layout_bytes(layout, rows, cols, &bytes, err);
    if (status) {
        bl__error_prefix(err, name);
        return status;
    }
    bl__string text = {.data = name, .len = strlen(name)};
    status =
        bl__plan_add(&d->plan, text, rows > 1 ? 2 : 1, dims, BL_LAYOUT_F32, NULL, bytes, out, err);
    if (status)
        return status;
    (*out)->origin = d;
    (*out)->target = layout;
    (*out)->make = rows > 1 ? make_uniform : make_ones;
    return BL_OK;
}

static bool is_binary(bl__layout layout) {
    return layout == BL_LAYOUT_Q1_0 || layout == BL_LAYOUT_B1;
}

static bl_status add_linear(dummy *d, const char *name, size_t rows, size_t cols, bl_error *err) {
    bl__plan_tensor *t;
    bl_status status = add_tensor(d, name, rows, cols, d->type, &t, err);
    if (status)
        return status;
    t->linear = true;
    if (bl__layout_get(d->type)->ternary) {
        t->ternary = true;
        t->make = is_binary(d->type) ? make_binary : make_ternary;
        t->tensor_scale = is_binary(d->type) ? magnitude(cols, 1) : ternary_magnitude(cols);
    }
    return BL_OK;
}

static bl_status add_layer(dummy *d, uint32_t layer, bl_error *err) {
    const bl_dummy_shape *s = &d->params->shape;
    size_t dim = s->dim, kv_dim = (size_t)s->dim / s->n_heads * s->n_kv_heads, ffn = s->ffn_dim;
    const struct {
        const char *name;
        size_t rows, cols;
        bool norm, sub_norm;
    } tensors[] = {
        {"attn_norm", 1, dim, true, false},    {"attn_q", dim, dim, false, false},
        {"attn_k", kv_dim, dim, false, false}, {"attn_v", kv_dim, dim, false, false},
        {"attn_sub_norm", 1, dim, true, true}, {"attn_output", dim, dim, false, false},
        {"ffn_norm", 1, dim, true, false},     {"ffn_gate", ffn, dim, false, false},
        {"ffn_up", ffn, dim, false, false},    {"ffn_sub_norm", 1, ffn, true, true},
        {"ffn_down", dim, ffn, false, false},
    };
    bl__plan_tensor *t;
    bl_status status = BL_OK;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0] && !status; i++) {
        char name[BL_PLAN_MAX_NAME];
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, tensors[i].name);
        if (!tensors[i].norm)
            status = add_linear(d, name, tensors[i].rows, tensors[i].cols, err);
        else if (!tensors[i].sub_norm || d->config.architecture == BL_HF_BITNET)
            status = add_tensor(d, name, 1, tensors[i].cols, BL_LAYOUT_F32, &t, err);
    }
    return status;
}

static bl_status make_plan(dummy *d, bl_error *err) {
    const bl_dummy_shape *s = &d->params->shape;
    bl__plan_tensor *t;
    bl_status status = add_tensor(d, "token_embd.weight", s->vocab, s->dim, d->embed_type, &t, err);
    for (uint32_t i = 0; i < s->n_layers && !status; i++)
        status = add_layer(d, i, err);
    if (!status)
        status = add_tensor(d, "output_norm.weight", 1, s->dim, BL_LAYOUT_F32, &t, err);
    return status;
}

/* Weights of the linears. */
static uint64_t count_linear(const bl_dummy_shape *s) {
    uint64_t dim = s->dim, kv_dim = dim / s->n_heads * s->n_kv_heads;
    return s->n_layers * dim * (2 * dim + 2 * kv_dim + 3 * (uint64_t)s->ffn_dim);
}

/* ---- metadata ---- */

static bl_status write_vocab(uint32_t n_rows, bl__gguf_writer *writer, bl_error *err) {
    static const char *const specials[] = {"<unk>", "<s>", "</s>"};
    static const char space[] = "\xe2\x96\x81"; /* U+2581, as SentencePiece writes spaces */
    bl__vocab *vocab = NULL;
    bl_status status = bl__vocab_create(N_TOKENS, &vocab, err);
    for (size_t i = 0; i < N_TOKENS && !status; i++) {
        char text[8];
        int type = i == 0 ? BL_TOKEN_UNKNOWN : i < FIRST_BYTE ? BL_TOKEN_CONTROL : BL_TOKEN_BYTE;
        int len = i < FIRST_BYTE
                      ? snprintf(text, sizeof text, "%s", specials[i])
                      : snprintf(text, sizeof text, "<0x%02X>", (unsigned)(i - FIRST_BYTE) & 255);
        if (i == SPACE) {
            len = snprintf(text, sizeof text, "%s", space);
            type = BL_TOKEN_NORMAL;
        }
        status =
            bl__vocab_set_token(vocab, i, (bl__string){text, (size_t)len}, -(double)i, type, err);
    }
    if (!status)
        status = bl__vocab_index(vocab, err);
    if (!status) {
        vocab->kind = BL_VOCAB_SPM;
        vocab->has_scores = true;
        vocab->unk = 0;
        vocab->bos = 1;
        vocab->eos = 2;
        vocab->add_bos = true;
        if (!(status = bl__vocab_finish(vocab, err)))
            status = bl__vocab_write_gguf(vocab, writer, n_rows, err);
    }
    bl__vocab_free(vocab);
    return status;
}

/* The configuration that the checkpoint of such a model would have. */
static bl__hf_config make_config(const bl_dummy_shape *s, bool ternary) {
    bool relu2 = ternary && strcmp(s->name, "2B4T") == 0;
    return (bl__hf_config){.architecture = ternary ? BL_HF_BITNET : BL_HF_LLAMA,
                           .vocab = s->vocab,
                           .dim = s->dim,
                           .ffn_dim = s->ffn_dim,
                           .n_layers = s->n_layers,
                           .n_heads = s->n_heads,
                           .n_kv_heads = s->n_kv_heads,
                           .head_dim = s->dim / s->n_heads,
                           .context_length = s->context,
                           .activation = relu2 ? BL_HF_RELU2 : BL_HF_SILU,
                           .rms_norm_eps = 1e-5f,
                           .tied_head = true,
                           .rope = BL_HF_ROPE_DEFAULT,
                           .rope_theta = relu2 ? 500000.0f : 10000.0f,
                           .rope_factor = 1,
                           .quantized = ternary};
}

/* ---- the whole ---- */

/* A layout that GGUF knows and that there is a packer for. */
static bl_status find_layout(const char *name, const char *what, bl__layout *out, bl_error *err) {
    if (!bl__layout_from_name(name, out) || bl__layout_get(*out)->type_id == BL_TYPE_ID_NONE)
        return bl__fail(err, BL_ERR_ARGUMENT, "%s \"%.40s\", expected a type such as bl_t2 or f16",
                        what, name);
    return bl__layout_pack_rows(*out, NULL, 0, bl__layout_get(*out)->block_cols, 0, 0, 0, NULL,
                                err);
}

static bl_status check_room(const dummy *d, const char *output, bl_error *err) {
    uint64_t needed = (uint64_t)d->params->shape.vocab * TOKEN_BYTES, room;
    for (size_t i = 0; i < d->plan.n_tensors; i++)
        needed += d->plan.tensors[i].bytes + TENSOR_BYTES;
    bl_status status = bl__file_room(output, &room, err);
    if (!status && room < needed)
        status = bl__fail(err, BL_ERR_IO, "%s: needs %.1f MB, its file system has room for %.1f MB",
                          output, (double)needed * 1e-6, (double)room * 1e-6);
    return status;
}

static void fill_report(const dummy *d, uint64_t bytes, bl_dummy_report *report) {
    *report = (bl_dummy_report){.n_tensors = d->plan.n_tensors, .output_bytes = bytes};
    for (size_t i = 0; i < d->plan.n_tensors; i++)
        report->n_weights += (uint64_t)d->plan.tensors[i].rows * d->plan.tensors[i].cols;
}

bl_status bl_dummy_write(const char *output, const bl_dummy_params *params, bl_dummy_report *report,
                         bl_error *err) {
    const bl_dummy_shape *shape = &params->shape;
    dummy d = {.params = params};
    bl_convert_params convert = {.progress = params->progress, .user = params->user};
    bl__gguf_writer *writer = NULL;
    bl__pool *pool = NULL;
    uint64_t bytes = 0;
    char name[sizeof shape->name + 8];
    bl_status status;
    if (shape->vocab < N_TOKENS || shape->vocab > BL_VOCAB_MAX_TOKENS)
        return bl__fail(err, BL_ERR_ARGUMENT, "a vocabulary of %u tokens, expected %d to %d",
                        shape->vocab, N_TOKENS, BL_VOCAB_MAX_TOKENS);
    d.type = bl__layout_choose_native(false, count_linear(shape));
    if ((params->type && strcmp(params->type, "native") != 0 &&
         (status = find_layout(params->type, "type", &d.type, err))) ||
        (status = find_layout(params->embed_type ? params->embed_type : "f16", "embedding type",
                              &d.embed_type, err)))
        return status;
    d.config = make_config(shape, bl__layout_get(d.type)->ternary);
    snprintf(name, sizeof name, "dummy-%s", shape->name);
    uint32_t n_threads = params->n_threads ? params->n_threads : bl_cpu_physical_cores();
    if ((status = make_plan(&d, err)) || (status = check_room(&d, output, err)) ||
        (status = bl__pool_create(n_threads, false, &pool, err)) ||
        (status = bl__gguf_writer_create(&writer, err)) ||
        (status = bl__hf_write_metadata(&d.config, name, writer, err)) ||
        (status = write_vocab(shape->vocab, writer, err)))
        goto done;
    status = bl__convert_write_file(output, &d.plan, writer, pool, &convert, &bytes, err);
    if (!status && report)
        fill_report(&d, bytes, report);
done:
    bl__plan_free(&d.plan);
    bl__gguf_writer_free(writer);
    bl__pool_free(pool);
    return status;
}
