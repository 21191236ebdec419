/* Owns the metadata that a Hugging Face checkpoint gets in GGUF. The keys are llama.cpp's
 * (docs/gguf.md, llama-arch.cpp), so that it loads what it knows the types of, and four of ours:
 * <architecture>.hidden_act, bitloom.activation_quantization, bitloom.linear_norm_epsilon,
 * bitloom.norm. */
#include "convert/hf_metadata.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { QUANTIZATION_VERSION = 2, ALIGNMENT = 32, MAX_KEY = 96 };

const char *bl__hf_gguf_architecture(const bl__hf_config *config) {
    if (config->architecture == BL_HF_LLAMA || config->architecture == BL_HF_ONEBIT)
        return "llama";
    return config->activation == BL_HF_SILU ? "bitnet" : "bitnet-b1.58";
}

bool bl__hf_int8_activations(const bl__hf_config *config) {
    return config->quantized || config->is_bitnet_config || config->architecture == BL_HF_BITNET_1B;
}

static bl_status set_text(bl__gguf_writer *writer, const char *key, const char *text,
                          bl_error *err) {
    return bl__gguf_set_string(writer, key, text, strlen(text), err);
}

static bl_status write_general(const bl__hf_config *config, const char *path,
                               bl__gguf_writer *writer, bl_error *err) {
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    bl_status status;
    if ((status =
             set_text(writer, "general.architecture", bl__hf_gguf_architecture(config), err)) ||
        (status = set_text(writer, "general.type", "model", err)) ||
        (status = bl__gguf_set_string(writer, "general.name", path + start, end - start, err)) ||
        (status = bl__gguf_set_u32(writer, "general.alignment", ALIGNMENT, err)))
        return status;
    return bl__gguf_set_u32(writer, "general.quantization_version", QUANTIZATION_VERSION, err);
}

/* A key below the architecture's name. */
static const char *make_key(char text[MAX_KEY], const char *architecture, const char *name) {
    snprintf(text, MAX_KEY, "%s.%s", architecture, name);
    return text;
}

static bl_status write_sizes(const bl__hf_config *c, bl__gguf_writer *writer, bl_error *err) {
    const struct {
        const char *name;
        uint32_t value;
        bool wanted;
    } sizes[] = {{"vocab_size", c->vocab, true},
                 {"context_length", c->context_length, true},
                 {"embedding_length", c->dim, true},
                 {"block_count", c->n_layers, true},
                 {"feed_forward_length", c->ffn_dim, true},
                 {"attention.head_count", c->n_heads, true},
                 {"attention.head_count_kv", c->n_kv_heads, true},
                 {"attention.key_length", c->head_dim, c->head_dim * c->n_heads != c->dim},
                 {"attention.value_length", c->head_dim, c->head_dim * c->n_heads != c->dim},
                 {"rope.dimension_count", c->head_dim, true}};
    char key[MAX_KEY];
    bl_status status = BL_OK;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !status; i++)
        if (sizes[i].wanted)
            status =
                bl__gguf_set_u32(writer, make_key(key, bl__hf_gguf_architecture(c), sizes[i].name),
                                 sizes[i].value, err);
    return status;
}

/* Scaling of kind llama3 is in the tensor rope_freqs.weight alone: readers apply a scaling key on
 * top of it. */
static bl_status write_rope(const bl__hf_config *c, bl__gguf_writer *writer, bl_error *err) {
    const char *architecture = bl__hf_gguf_architecture(c);
    char key[MAX_KEY];
    bl_status status =
        bl__gguf_set_f32(writer, make_key(key, architecture, "rope.freq_base"), c->rope_theta, err);
    if (status || c->rope != BL_HF_ROPE_LINEAR)
        return status;
    if ((status =
             set_text(writer, make_key(key, architecture, "rope.scaling.type"), "linear", err)))
        return status;
    return bl__gguf_set_f32(writer, make_key(key, architecture, "rope.scaling.factor"),
                            c->rope_factor, err);
}

static bl_status write_norm(const bl__hf_config *c, bl__gguf_writer *writer, bl_error *err) {
    char key[MAX_KEY];
    bool layer = c->architecture == BL_HF_BITNET_V1;
    make_key(key, bl__hf_gguf_architecture(c),
             layer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon");
    bl_status status = bl__gguf_set_f32(writer, key, c->rms_norm_eps, err);
    return status || !layer ? status : set_text(writer, "bitloom.norm", "layer", err);
}

/* OneBit's LayerNorm after each linear, with the eps that its authors leave at PyTorch's default.
 */
static bl_status write_linear_norms(const bl__hf_config *c, bl__gguf_writer *writer,
                                    bl_error *err) {
    static const char eps[] = "bitloom.linear_norm_epsilon";
    if (c->architecture == BL_HF_ONEBIT) {
        bl_status status = bl__gguf_set_f32(writer, eps, 1e-5f, err);
        return status ? status : set_text(writer, "bitloom.linear_output_norm", "layer", err);
    }
    return c->quantized && c->use_rms_norm
               ? bl__gguf_set_f32(writer, eps, c->linear_rms_norm_eps, err)
               : BL_OK;
}

bl_status bl__hf_write_metadata(const bl__hf_config *config, const char *path,
                                bl__gguf_writer *writer, bl_error *err) {
    const char *architecture = bl__hf_gguf_architecture(config);
    char key[MAX_KEY];
    bl_status status;
    if ((status = write_general(config, path, writer, err)) ||
        (status = write_sizes(config, writer, err)) || (status = write_rope(config, writer, err)) ||
        (status = write_norm(config, writer, err)) ||
        (status = set_text(writer, make_key(key, architecture, "hidden_act"),
                           config->activation == BL_HF_SILU ? "silu" : "relu2", err)) ||
        (status = set_text(writer, "bitloom.activation_quantization",
                           bl__hf_int8_activations(config) ? "int8_token" : "none", err)))
        return status;
    return write_linear_norms(config, writer, err);
}

void bl__hf_rope_divisors(const bl__hf_config *config, float *divisors) {
    const float two_pi = 6.283185307179586f;
    float context = (float)config->rope_original_context, factor = config->rope_factor;
    float low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    for (uint32_t i = 0; i < config->head_dim / 2; i++) {
        float exponent = (float)(2 * i) / (float)config->head_dim;
        float wavelength = two_pi * powf(config->rope_theta, exponent);
        float smooth = (context / wavelength - low) / (high - low);
        if (wavelength < context / high)
            divisors[i] = 1;
        else if (wavelength > context / low)
            divisors[i] = factor;
        else
            divisors[i] = 1 / ((1 - smooth) / factor + smooth);
    }
}
