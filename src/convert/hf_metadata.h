/* Private to convert/: GGUF metadata of a Hugging Face checkpoint. */
#ifndef BL_CONVERT_HF_METADATA_H
#define BL_CONVERT_HF_METADATA_H

#include "formats/gguf.h"
#include "formats/hf_config.h"

/* "llama", "bitnet" (SiLU) or "bitnet-b1.58" (squared ReLU): what readers of GGUF call it. */
const char *bl__hf_gguf_architecture(const bl__hf_config *config);
/* Whether the linears take int8 activations per token, as trained. */
bool bl__hf_int8_activations(const bl__hf_config *config);

/* Declares everything but the tokenizer and general.file_type. path: of the checkpoint, whose last
 * part names the model. */
bl_status bl__hf_write_metadata(const bl__hf_config *config, const char *path,
                                bl__gguf_writer *writer, bl_error *err);

/* What each RoPE frequency is divided by under llama3 scaling: divisors[head_dim / 2], the tensor
 * rope_freqs.weight. Source: transformers, _compute_llama3_parameters. */
void bl__hf_rope_divisors(const bl__hf_config *config, float *divisors);

#endif
