/* tokenizer.json from arbitrary bytes; what follows a NUL byte is its tokenizer_config.json. A
 * vocabulary that is accepted must make a tokenizer that encodes and decodes, and must be writable.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const bl_tokenizer *tokenizer) {
    static const char text[] = "a b  ab\n12 <s>\xe2\x96\x81\xff \xc3\xa9";
    bl_token *ids;
    char *back;
    size_t n, len;
    bl_error err;
    if (bl_tokenizer_encode(tokenizer, text, sizeof text - 1, 3, &ids, &n, &err))
        return;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= bl_tokenizer_vocab_size(tokenizer))
            abort();
    if (!bl_tokenizer_decode(tokenizer, ids, n, 1, &back, &len, &err))
        bl_free(back);
    bl_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    bl__string json = {(const char *)data, nul ? (size_t)(nul - data) : size};
    bl__vocab_companions companions = {.added_tokens = {NULL, 0}};
    if (nul)
        companions.tokenizer_config =
            (bl__string){(const char *)nul + 1, size - (size_t)(nul - data) - 1};
    bl__vocab *vocab;
    bl_tokenizer *tokenizer;
    bl__gguf_writer *writer;
    bl_error err;
    if (bl__vocab_from_json(json, &companions, &vocab, &err))
        return 0;
    if (vocab->n_tokens < 1 << 16 && !bl__gguf_writer_create(&writer, &err)) {
        bl__vocab_write_gguf(vocab, writer, 0, &err);
        bl__gguf_writer_free(writer);
    }
    if (bl__tokenizer_create(vocab, &tokenizer, &err))
        return 0;
    use(tokenizer);
    bl_tokenizer_close(tokenizer);
    return 0;
}
