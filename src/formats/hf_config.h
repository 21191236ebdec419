/* The configuration of a Hugging Face checkpoint: config.json, generation_config.json,
 * tokenizer_config.json and chat_template.jinja in one struct.
 * Source: transformers' configuration classes of LLaMA and BitNet (versions 4 and 5), its BitNet
 * quantizer, and 1bitLLM's own modelling code. What is not understood is refused by name. */
#ifndef BL_FORMATS_HF_CONFIG_H
#define BL_FORMATS_HF_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"
#include "formats/names.h"

typedef enum bl__hf_architecture {
    BL_HF_LLAMA,     /* LlamaForCausalLM: no sub-norms */
    BL_HF_BITNET,    /* BitNetForCausalLM of transformers: attn_sub_norm, ffn_sub_norm */
    BL_HF_BITNET_1B, /* BitnetForCausalLM of 1bitLLM: inner_attn_ln, ffn_layernorm; float masters */
    BL_HF_ONEBIT,    /* BitLlamaForCausalLM and BitLlamaForCausalLMInf of OneBit, arXiv 2402.11295:
                        signs between vectors, LayerNorm without weights after each linear */
    BL_HF_BITNET_V1  /* BitNetV1ForCausalLM, our own: LayerNorms without weights in all places */
} bl__hf_architecture;

typedef enum bl__hf_activation { BL_HF_SILU, BL_HF_RELU2 } bl__hf_activation;

typedef enum bl__hf_rope { BL_HF_ROPE_DEFAULT, BL_HF_ROPE_LINEAR, BL_HF_ROPE_LLAMA3 } bl__hf_rope;

enum { BL_HF_MAX_END_IDS = 32, BL_HF_NO_TOKEN = -1 };

/* Texts are NUL-terminated, belong to the struct, and are NULL when the files do not give them. */
typedef struct bl__hf_config {
    bl__hf_architecture architecture;
    const char *architecture_name; /* "LlamaForCausalLM" */
    const char *model_type;        /* "llama", "bitnet" */

    uint32_t vocab, dim, ffn_dim, n_layers, n_heads;
    uint32_t n_kv_heads;          /* absent: n_heads */
    uint32_t head_dim;            /* absent: dim / n_heads; even */
    uint32_t context_length;      /* max_position_embeddings; absent: 2048 */
    bl__hf_activation activation; /* absent: relu2 for BITNET, silu for the others */
    float
        rms_norm_eps;  /* BITNET_V1: layer_norm_eps; absent: 1e-6 for LLAMA and ONEBIT, else 1e-5 */
    bool tied_head;    /* tie_word_embeddings; absent: false */
    const char *dtype; /* dtype or torch_dtype: "bfloat16" ... */

    bl__hf_rope rope;
    float rope_theta;  /* absent: 500000 for BITNET, 10000 for the others */
    float rope_factor; /* linear and llama3; 1 for the default */
    float rope_low_freq_factor, rope_high_freq_factor; /* llama3 */
    uint32_t rope_original_context;                    /* llama3 */

    /* quantization_config; quantized is false without one, and then the rest are the defaults. */
    bool quantized;
    bool scale_multiplies;     /* linear_class autobitlinear; bitlinear (the default) divides */
    bool online;               /* quantization_mode: weights are masters, ternarized on load */
    bool use_rms_norm;         /* an RMS norm in front of each quantized linear */
    float linear_rms_norm_eps; /* of that norm; absent: 1e-6 */
    const bl__string *not_converted; /* modules_to_not_convert */
    size_t n_not_converted;
    bool is_bitnet_config; /* Falcon-E: ternary, whatever else is said */

    int32_t bos_id, pad_id;             /* BL_HF_NO_TOKEN when there is none */
    int32_t end_ids[BL_HF_MAX_END_IDS]; /* of both files, config.json's first, each once */
    size_t n_end_ids;

    const char *tokenizer_class;
    const char *bos_token, *eos_token; /* their texts */
    const bool *add_bos, *add_eos;     /* NULL when not said */
    bl__string chat_template;          /* data is NULL when there is none */

    void *storage; /* private */
} bl__hf_config;

/* The files' bytes; data is NULL for one that is not there. They are not needed after parsing. */
typedef struct bl__hf_files {
    bl__string config;           /* config.json; required */
    bl__string generation;       /* generation_config.json */
    bl__string tokenizer_config; /* tokenizer_config.json */
    bl__string chat_template;    /* chat_template.jinja; goes before tokenizer_config's template */
} bl__hf_files;

/* Errors name the file and the key: BL_ERR_FORMAT (a wrong type or range, files that contradict
 * themselves), BL_ERR_UNSUPPORTED (a value that is not understood, by name), BL_ERR_NOT_FOUND (a
 * required key), BL_ERR_LIMIT, BL_ERR_MEMORY. */
bl_status bl__hf_config_parse(const bl__hf_files *files, bl__hf_config **out, bl_error *err);
/* The same from a directory. BL_ERR_NOT_FOUND when it has no config.json. */
bl_status bl__hf_config_read(const char *directory, bl__hf_config **out, bl_error *err);
void bl__hf_config_free(bl__hf_config *config);

#endif
