/* Every tokenizer case of the five vocabularies that llama.cpp is tested with: the same ids, by the
 * tokenizer itself, by one rebuilt from a GGUF that we wrote, and back to the same text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assets.h"
#include "base/alloc.h"
#include "base/file.h"
#include "bitloom/tokenizer.h"

static const char *const VOCABULARIES[] = {"llama-bpe", "llama-spm", "gpt-2", "qwen2", "falcon"};
static const char SEPARATOR[] = "\n__ggml_vocab_test__\n";
enum { N_VOCABULARIES = 5, MAX_FILE = 1 << 20, N_CASES = 46 };

static char *read_asset(const char *vocabulary, const char *suffix, size_t *len) {
    char name[128];
    snprintf(name, sizeof name, "vocabs/ggml-vocab-%s.gguf%s", vocabulary, suffix);
    char *data;
    bl_error err;
    if (bl__file_read(require_asset(name), MAX_FILE, &data, len, &err))
        fail_msg("%s", err.message);
    return data;
}

static bl_tokenizer *open_vocabulary(const char *vocabulary) {
    char name[128];
    bl_error err;
    bl_tokenizer *tokenizer;
    snprintf(name, sizeof name, "vocabs/ggml-vocab-%s.gguf", vocabulary);
    if (bl_tokenizer_open(require_asset(name), &tokenizer, &err))
        fail_msg("%s", err.message);
    return tokenizer;
}

/* Compares the ids of one case with a line such as " 878 204 31". */
static void check_case(const bl_tokenizer *tokenizer, const char *vocabulary, int number,
                       const char *text, size_t len, const char *line) {
    bl_token *ids;
    size_t n;
    bl_error err;
    if (bl_tokenizer_encode(tokenizer, text, len, 0, &ids, &n, &err))
        fail_msg("%s", err.message);
    const char *at = line;
    for (size_t i = 0; i < n; i++) {
        char *end;
        long expected = strtol(at, &end, 10);
        if (end == at || memchr(at, '\n', (size_t)(end - at)) || expected != ids[i])
            fail_msg("%s, case %d, token %zu: %d, expected line%.60s", vocabulary, number, i,
                     (int)ids[i], line);
        at = end;
    }
    if (*at && *at != '\n')
        fail_msg("%s, case %d: %zu tokens, expected more:%.60s", vocabulary, number, n, line);

    char *back;
    size_t back_len;
    if (bl_tokenizer_decode(tokenizer, ids, n, 0, &back, &back_len, &err))
        fail_msg("%s", err.message);
    if (back_len != len || memcmp(back, text, len) != 0)
        fail_msg("%s, case %d: decodes to \"%s\"", vocabulary, number, back);
    bl_free(back);
    bl_free(ids);
}

static void test_all_cases(void **state) {
    (void)state;
    for (int v = 0; v < N_VOCABULARIES; v++) {
        size_t inp_len, out_len;
        char *inp = read_asset(VOCABULARIES[v], ".inp", &inp_len);
        char *out = read_asset(VOCABULARIES[v], ".out", &out_len);
        bl_tokenizer *tokenizer = open_vocabulary(VOCABULARIES[v]);
        int n_cases = 0;
        const char *line = out;
        for (char *text = inp; text;) {
            char *end = strstr(text, SEPARATOR);
            if (!end && !*text) /* the file ends with a separator */
                break;
            size_t len = end ? (size_t)(end - text) : strlen(text);
            check_case(tokenizer, VOCABULARIES[v], n_cases, text, len, line);
            line = strchr(line, '\n');
            line = line ? line + 1 : "";
            n_cases++;
            text = end ? end + strlen(SEPARATOR) : NULL;
        }
        printf("%s: %d cases\n", bl_tokenizer_kind(tokenizer), n_cases);
        assert_int_equal(n_cases, N_CASES);
        bl_tokenizer_close(tokenizer);
        bl__free(inp);
        bl__free(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
