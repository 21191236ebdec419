/* Hugging Face configurations from arbitrary bytes: up to four files, parted by a zero byte. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "formats/hf_config.h"

static volatile size_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl__hf_config *config = NULL;
    bl_error err;
    bl__string parts[4] = {0};
    for (size_t i = 0; i < 4 && size; i++) {
        const uint8_t *zero = memchr(data, 0, size);
        size_t len = zero ? (size_t)(zero - data) : size;
        parts[i] = (bl__string){.data = (const char *)data, .len = len};
        data += zero ? len + 1 : len;
        size -= zero ? len + 1 : len;
    }
    bl__hf_files files = {.config = parts[0],
                          .generation = parts[1],
                          .tokenizer_config = parts[2],
                          .chat_template = parts[3]};
    if (bl__hf_config_parse(&files, &config, &err) != BL_OK)
        return 0;
    if (config->n_heads % config->n_kv_heads || config->head_dim % 2 || !config->architecture_name)
        abort();
    for (size_t i = 0; i < config->n_not_converted; i++)
        sink += config->not_converted[i].len;
    for (size_t i = 0; i < config->n_end_ids; i++)
        if (config->end_ids[i] < 0 || (uint32_t)config->end_ids[i] >= config->vocab)
            abort();
    if (config->eos_token)
        sink += strlen(config->eos_token);
    if (config->chat_template.len)
        sink += (size_t)config->chat_template.data[config->chat_template.len - 1];
    bl__hf_config_free(config);
    return 0;
}
