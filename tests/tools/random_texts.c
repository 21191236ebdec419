/* Texts that a JSON schema allows, drawn at random: what tools/check_json_schemas.py holds to
 * another validator.
 *
 * usage: random_texts MODEL SCHEMA COUNT [SEED], prints texts with a NUL after each */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitloom/bitloom.h"

enum { MAX_SCHEMA = 1 << 20, MAX_TOKENS = 500 };

static unsigned long long seed = 1;

/* 0 ... n - 1, by a linear congruence (Knuth's MMIX). */
static size_t below(size_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(seed >> 33) % n;
}

static int complain(const bl_error *err) {
    fprintf(stderr, "random_texts: %s\n", err->message);
    return EXIT_FAILURE;
}

/* A token of the mask; often one that ends or closes something, or texts would not end. */
static bl_token draw(const bl_tokenizer *tokenizer, const uint64_t *mask) {
    size_t vocab = bl_tokenizer_vocab_size(tokenizer);
    for (bool only_closers = below(3) == 0;; only_closers = false) {
        bl_token chosen = -1;
        size_t n_met = 0, n;
        for (bl_token t = 0; t < (bl_token)vocab; t++) {
            const char *piece = bl_tokenizer_piece(tokenizer, t, 0, &n);
            bool closes = bl_tokenizer_is_end(tokenizer, t) || (n == 1 && strchr("\"]}", *piece));
            if (bl_mask_has(mask, t) && (closes || !only_closers) && below(++n_met) == 0)
                chosen = t;
        }
        if (chosen >= 0 || !only_closers)
            return chosen;
    }
}

/* Writes one text; false when it did not end. */
static bool write_text(const bl_tokenizer *tokenizer, bl_matcher *matcher, FILE *out) {
    bl_error err;
    bl_matcher_reset(matcher);
    for (int i = 0; i < MAX_TOKENS && !bl_matcher_must_end(matcher); i++) {
        const uint64_t *mask;
        size_t n;
        if (bl_matcher_mask(matcher, &mask, &err) != BL_OK)
            exit(complain(&err));
        bl_token token = draw(tokenizer, mask);
        if (bl_matcher_accept(matcher, token, &err) != BL_OK)
            exit(complain(&err));
        const char *piece = bl_tokenizer_piece(tokenizer, token, 0, &n);
        fwrite(piece, 1, n, out);
    }
    return bl_matcher_must_end(matcher);
}

int main(int argc, char **argv) {
    static char schema[MAX_SCHEMA];
    bl_tokenizer *tokenizer;
    bl_token_trie *trie;
    bl_grammar *grammar;
    bl_matcher *matcher;
    bl_error err;
    if (argc < 4) {
        fputs("usage: random_texts MODEL SCHEMA COUNT [SEED]\n", stderr);
        return 2;
    }
    FILE *file = fopen(argv[2], "rb");
    if (!file) {
        perror(argv[2]);
        return EXIT_FAILURE;
    }
    size_t len = fread(schema, 1, sizeof schema, file);
    fclose(file);
    seed += argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
    if (bl_tokenizer_open(argv[1], &tokenizer, &err) != BL_OK ||
        bl_token_trie_create(tokenizer, 0, &trie, &err) != BL_OK ||
        bl_grammar_from_json_schema(schema, len, &grammar, &err) != BL_OK ||
        bl_matcher_create(grammar, trie, &matcher, &err) != BL_OK)
        return complain(&err);
    for (long wanted = strtol(argv[3], NULL, 10), tries = 20 * wanted; wanted > 0 && tries > 0;
         tries--) {
        char *text = NULL;
        size_t n = 0;
        FILE *out = open_memstream(&text, &n);
        if (!out)
            return EXIT_FAILURE;
        bool whole = write_text(tokenizer, matcher, out);
        fclose(out);
        if (whole) {
            fwrite(text, 1, n + 1, stdout);
            wanted--;
        }
        free(text);
    }
    bl_matcher_free(matcher);
    bl_grammar_free(grammar);
    bl_token_trie_free(trie);
    bl_tokenizer_close(tokenizer);
    return EXIT_SUCCESS;
}
