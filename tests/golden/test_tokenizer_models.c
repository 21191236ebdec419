/* Whole texts through the tokenizers of two real checkpoints: number and hash of the ids that the
 * Hugging Face (tokenizers 0.22) and SentencePiece (0.2) libraries give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "assets.h"
#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/tokenizer.h"

enum { MAX_TEXT = 1 << 24 };

static const struct {
    const char *model, *text;
    size_t n_ids;
    uint64_t hash; /* FNV-1a, one step for each id */
} FIGURES[] = {
    {"novels-3m", "novels-valid.txt", 301366, 0xa2d77779a6b61dacu},
    {"novels-3m", "tinyshakespeare.txt", 376289, 0x015bd01b965972fcu},
    {"novels-3m", "tinystories-sample.txt", 269029, 0xdfeff3366511d004u},
    {"novels-3m", "wikitext-2-raw-test.txt", 450086, 0xdafa4153b9b6c564u},
    {"tinystories-3m-hf", "novels-valid.txt", 603832, 0xb851f00ac52c7066u},
    {"tinystories-3m-hf", "tinyshakespeare.txt", 693347, 0xa977e35ba971879bu},
    {"tinystories-3m-hf", "tinystories-sample.txt", 477157, 0xb6db5ee99d981099u},
    {"tinystories-3m-hf", "wikitext-2-raw-test.txt", 809284, 0xf0b0b69c153e27d9u},
};

static void test_whole_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof FIGURES / sizeof *FIGURES; i++) {
        char name[128], *text;
        size_t len, n = 0;
        bl_tokenizer *tokenizer;
        bl_token *ids = NULL;
        bl_error err;
        snprintf(name, sizeof name, "models/%s", FIGURES[i].model);
        if (bl_tokenizer_open(require_asset(name), &tokenizer, &err))
            fail_msg("%s", err.message);
        snprintf(name, sizeof name, "corpus/%s", FIGURES[i].text);
        if (bl__file_read(require_asset(name), MAX_TEXT, &text, &len, &err) ||
            bl_tokenizer_encode(tokenizer, text, len, 0, &ids, &n, &err))
            fail_msg("%s", err.message);
        uint64_t hash = 0xcbf29ce484222325u;
        for (size_t k = 0; k < n; k++)
            hash = (hash ^ (uint64_t)ids[k]) * 0x100000001b3u;
        if (n != FIGURES[i].n_ids || hash != FIGURES[i].hash)
            fail_msg("%s, %s: %zu ids, hash %016llx", FIGURES[i].model, FIGURES[i].text, n,
                     (unsigned long long)hash);
        bl_free(ids);
        bl__free(text);
        bl_tokenizer_close(tokenizer);
    }
}

/* The prompts that the checkpoints' reference figures begin with, BOS included. */
static void test_prompt(void **state) {
    (void)state;
    static const char prompt[] = "Once upon a time, there was a little girl named Lily.";
    static const bl_token expected[] = {1,   403, 407, 261, 378, 432, 383, 286,
                                        261, 376, 298, 315, 421, 395, 317, 426};
    bl_tokenizer *tokenizer;
    bl_token *ids = NULL;
    size_t n = 0;
    bl_error err;
    if (bl_tokenizer_open(require_asset("models/tinystories-3m-hf"), &tokenizer, &err) ||
        bl_tokenizer_encode(tokenizer, prompt, strlen(prompt), BL_TOKENIZE_EXTRA, &ids, &n, &err))
        fail_msg("%s", err.message);
    assert_int_equal(n, 16);
    assert_memory_equal(ids, expected, sizeof expected);
    bl_free(ids);
    bl_tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole_texts),
                                       cmocka_unit_test(test_prompt)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
