/* tokenizer.model from arbitrary bytes; a vocabulary that is accepted must make a tokenizer that
 * encodes and decodes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "tokenizer/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = " the  theme\n\xe2\x96\x81 \xff\xc3\xa9";
    bl__vocab *vocab;
    bl_tokenizer *tokenizer;
    bl_token *ids;
    char *back;
    size_t n, len;
    bl_error err;
    if (bl__vocab_from_sentencepiece((bl__string){(const char *)data, size}, NULL, &vocab, &err) ||
        bl__tokenizer_create(vocab, &tokenizer, &err))
        return 0;
    if (!bl_tokenizer_encode(tokenizer, text, sizeof text - 1, 3, &ids, &n, &err)) {
        for (size_t i = 0; i < n; i++)
            if (ids[i] < 0 || (size_t)ids[i] >= bl_tokenizer_vocab_size(tokenizer))
                abort();
        if (!bl_tokenizer_decode(tokenizer, ids, n, 1, &back, &len, &err))
            bl_free(back);
        bl_free(ids);
    }
    bl_tokenizer_close(tokenizer);
    return 0;
}
