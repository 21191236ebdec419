/* Grammars in GBNF: which texts they allow, what is refused and where, and masks of tokens held to
 * a byte-by-byte check of every token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "bitloom/sampler.h"
#include "generate/grammar.h"
#include "generate/grammar_stack.h"
#include "generate/token_trie.h"

static bl_tokenizer *tokenizer; /* byte-level BPE */
static bl_token_trie *trie;

static bl_grammar *compile(const char *text) {
    bl_grammar *grammar = NULL;
    bl_error err = {.message = ""};
    if (bl_grammar_from_gbnf(text, strlen(text), &grammar, &err) != BL_OK)
        print_error("%s\n", err.message);
    assert_non_null(grammar);
    return grammar;
}

typedef enum verdict { REFUSED, BEGINS, WHOLE } verdict;

/* What a text is to a grammar, going byte by byte with `reach` bytes looked ahead. */
static verdict judge(const bl_grammar *grammar, const char *text, size_t len) {
    bl__states states;
    assert_int_equal(bl__states_init(&states, grammar->net, 4), BL_OK);
    uint32_t state = bl__states_start(&states);
    for (size_t i = 0; i < len && state != BL_STATE_DEAD; i++)
        state = bl__states_step(&states, state, (uint8_t)text[i]);
    assert_int_equal(states.status, BL_OK);
    verdict v = state == BL_STATE_DEAD ? REFUSED : states.list[state].may_end ? WHOLE : BEGINS;
    bl__states_destroy(&states);
    return v;
}

/* texts: separated by '|', the whole ones first, then after "||" beginnings, then those refused. */
static void check_texts(const char *gbnf, const char *texts) {
    bl_grammar *grammar = compile(gbnf);
    verdict expected = WHOLE;
    for (const char *at = texts;; at++) {
        size_t n = strcspn(at, "|");
        verdict found = n == 0 && expected != WHOLE ? expected : judge(grammar, at, n);
        if (found != expected)
            print_error("%s: \"%.*s\": found %d, expected %d\n", gbnf, (int)n, at, found, expected);
        assert_int_equal(found, expected);
        at += n;
        if (*at == '\0')
            break;
        if (at[1] == '|') {
            at++;
            expected--;
        }
    }
    assert_int_equal(expected, REFUSED);
    bl_grammar_free(grammar);
}

static void test_notation(void **state) {
    (void)state;
    check_texts("root ::= \"ab\" | \"cd\"", "ab|cd||a|c||abc|b|ac");
    check_texts("root ::= \"a\" | # one\n  \"b\"\n  | \"c\" # three\n\n", "a|b|c||||ab|d");
    check_texts("root ::= x y?\nx ::= [a-c_-]\ny ::= (\"1\" |\n \"2\"\n)+",
                "a|_|-|b1|c212||||d|a3|11");
    check_texts("root ::= \"x\"*", "|x|xxx||||y|xy");
    check_texts("root ::= [^a-y\\n]",
                "z|A|\xc3\xa4|\xe6\x97\xa5|\xf0\x9f\x98\x80||\xc3|\xf0\x9f\x98||"
                "a|\n|\x80|\xc0\x80|\xed\xa0\x80|\xf4\x90|\xff");
    check_texts("root ::= \"\\x41\\u00e4\\U0001F600\\t\\\"\\\\\" .",
                "A\xc3\xa4\xf0\x9f\x98\x80\t\"\\.||A|A\xc3||a|A\xc3\xa5");
}

static void test_repetition(void **state) {
    (void)state;
    check_texts("root ::= [a-z]{3}", "abc||a|ab||abcd|A");
    check_texts("root ::= (\"a\" \"b\"?){2,3} \"!\"", "aa!|aba!|aaa!|ababab!||a|ab|aab||a!|aaaa|!");
    check_texts("root ::= \"a\"{2,}", "aa|aaaaaaa||a||b|aab");
    check_texts("root ::= \"a\"{0} \"b\"", "b||||a|ab");
    check_texts("root ::= (\"a\"*){2,3} \"b\"", "b|ab|aaaaaab||a||c");
    check_texts("root ::= ((\"a\"?){2}){2} \"b\"", "b|ab|aaaab||a|aaaa||aaaaab|c");
    check_texts("root ::= (\"a\"?)* \"b\"", "b|aab||aa||c");
    check_texts("root ::= (\"a\"?){999} \"b\"", "b|aab||aa||c");
    check_texts("root ::= x{3,5} \"b\"\nx ::= y?\ny ::= \"a\"*", "b|ab|aaaaaaaaab||a||c|bb");
    check_texts("root ::= (\"a\"{1,2} \",\"){2,} \".\"", "a,aa,.|a,a,a,.||a,|a,aa,||a,.|aaa|,");
}

static void test_recursion(void **state) {
    (void)state;
    check_texts("root ::= \"(\" root \")\" | \"x\"", "x|(x)|(((x)))||(|((x)||)|()|(x))");
    check_texts("root ::= item (\",\" item)*\nitem ::= \"[\" (root)? \"]\" | [0-9]+",
                "1|12,3|[]|[1,[2,[]]],[[]]||1,|[|[[1]||]|,|1]");
    /* More than one way to read a text. */
    check_texts("root ::= a a\na ::= \"x\"* \"y\"? | \"x\" a", "|x|xy|xxyxxy|yy||||yyy");
    /* Deeper than the stack: not allowed from there on, and never a dead end. */
    bl_grammar *grammar = compile("root ::= \"(\" root \")\" | \"(\" root \"]\" | \"x\"");
    char text[2 * BL_NET_MAX_STACK + 8];
    size_t n = 0;
    bl__states states;
    assert_int_equal(bl__states_init(&states, grammar->net, 4), BL_OK);
    uint32_t at = bl__states_start(&states), next;
    while ((next = bl__states_step(&states, at, '(')) != BL_STATE_DEAD) {
        assert_true(n < BL_NET_MAX_STACK);
        text[n++] = '(';
        at = next;
    }
    bl__states_destroy(&states);
    assert_in_range(n, BL_NET_MAX_STACK - 1, BL_NET_MAX_STACK);
    text[n] = 'x';
    for (size_t i = 0; i < n; i++)
        text[n + 1 + i] = i % 2 ? ')' : ']';
    assert_int_equal(judge(grammar, text, 2 * n + 1), WHOLE);
    bl_grammar_free(grammar);
    /* A right recursion needs no stack at all. */
    grammar = compile("root ::= \"a\" root | \"b\"");
    char line[3000];
    memset(line, 'a', sizeof line);
    line[sizeof line - 1] = 'b';
    assert_int_equal(judge(grammar, line, sizeof line), WHOLE);
    bl_grammar_free(grammar);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bl_status status;
        const char *words;
    } cases[] = {
        {"", BL_ERR_FORMAT, "rule root is not defined"},
        {"a ::= \"x\"", BL_ERR_FORMAT, "rule root is not defined"},
        {"root ::= \"x\" b\n", BL_ERR_FORMAT, "line 1, column 14: rule b is not defined"},
        {"root ::= \"\xc3\xa4\" b", BL_ERR_FORMAT, "line 1, column 14: rule b"},
        {"root ::= \"x", BL_ERR_FORMAT, "line 1, column 12: found the end, expected \" at the end"},
        {"root ::= \"x\"\n= y", BL_ERR_FORMAT, "line 2, column 1: found '=', expected the name"},
        {"root = \"x\"", BL_ERR_FORMAT, "line 1, column 6: found '=', expected ::="},
        {"root ::= \"x\"\nroot ::= \"y\"", BL_ERR_FORMAT,
         "line 2, column 1: found 'r', expected a rule that is not defined"},
        {"root ::= (\"x\"", BL_ERR_FORMAT, "column 14: found the end, expected an item, | or )"},
        {"root ::= \"x\")", BL_ERR_FORMAT, "column 13: found ')'"},
        {"root ::= *", BL_ERR_FORMAT, "column 10: found '*'"},
        {"root ::= [a", BL_ERR_FORMAT, "expected ] at the end of the class"},
        {"root ::= [z-a]", BL_ERR_FORMAT, "column 11: found 'z', expected a range"},
        {"root ::= \"\\q\"", BL_ERR_FORMAT, "column 12: found 'q', expected one of"},
        {"root ::= \"\\x4g\"", BL_ERR_FORMAT, "column 14: found 'g', expected a hexadecimal digit"},
        {"root ::= \"\\ud800\"", BL_ERR_FORMAT, "no surrogate"},
        {"root ::= \"\\U00110000\"", BL_ERR_FORMAT, "Unicode"},
        {"root ::= \"\xff\"", BL_ERR_FORMAT, "expected UTF-8"},
        {"root ::= \"x\"{3,2}", BL_ERR_FORMAT, "not below the minimum"},
        {"root ::= \"x\"{x}", BL_ERR_FORMAT, "expected a count"},
        {"root ::= \"x\"{2", BL_ERR_FORMAT, "expected }"},
        {"root ::= \"x\"{99999999999}", BL_ERR_LIMIT, "at most 1048576"},
        {"root ::= <think>", BL_ERR_UNSUPPORTED, "tokens"},
        {"root ::= root \"x\" | \"y\"", BL_ERR_UNSUPPORTED, "rule root begins with itself"},
        {"root ::= a\na ::= \" \"* b\nb ::= (a)? \"x\"", BL_ERR_UNSUPPORTED, "begins with itself"},
        {"root ::= a\na ::= a", BL_ERR_UNSUPPORTED, "rule a begins with itself"},
        {"root ::= \"(\" root \")\"", BL_ERR_FORMAT, "no text"},
        {"root ::= [^\\U00000000-\\U0010FFFF]", BL_ERR_FORMAT, "no text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bl_grammar *grammar = NULL;
        bl_error err = {.message = ""};
        bl_status status =
            bl_grammar_from_gbnf(cases[i].text, strlen(cases[i].text), &grammar, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].words))
            print_error("%s: status %d, %s\n", cases[i].text, status, err.message);
        assert_int_equal(status, cases[i].status);
        assert_non_null(strstr(err.message, cases[i].words));
        assert_null(grammar);
    }
    /* Parentheses without end; a long rule of many names. */
    size_t n = 100000;
    char *deep = malloc(n);
    memset(deep, '(', n);
    memcpy(deep, "root ::= ", 9);
    bl_grammar *grammar = NULL;
    assert_int_equal(bl_grammar_from_gbnf(deep, n, &grammar, NULL), BL_ERR_LIMIT);
    free(deep);
}

/* ---- masks ---- */

static const char JSON[] =
    "root ::= object\n"
    "value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
    "object ::= \"{\" ws (pair (\",\" ws pair)*)? \"}\" ws\n"
    "pair ::= string \":\" ws value\n"
    "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
    "string ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" ([\"\\\\bfnrt/] | \"u\" [0-9a-f]{4}))* "
    "\"\\\"\" ws\n"
    "number ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15}) (\".\" [0-9]+)? ws\n"
    "ws ::= [ \\n]{0,4}\n";

/* Whether token t may come after text[len], by its bytes alone. */
static bool may_come(bl__states *states, uint32_t at, bl_token t) {
    size_t n;
    if (bl_tokenizer_is_end(tokenizer, t))
        return states->list[at].may_end;
    const char *piece = bl_tokenizer_piece(tokenizer, t, 0, &n);
    if (n == 0)
        return false;
    for (size_t i = 0; i < n && at != BL_STATE_DEAD; i++)
        at = bl__states_step(states, at, (uint8_t)piece[i]);
    return at != BL_STATE_DEAD;
}

static bl_token draw(bl__random *random, const uint64_t *mask) {
    size_t n = 0, vocab = bl_tokenizer_vocab_size(tokenizer);
    for (size_t t = 0; t < vocab; t++)
        n += bl_mask_has(mask, (bl_token)t);
    size_t pick = (size_t)bl__random_below(random, n);
    for (size_t t = 0; t < vocab; t++)
        if (bl_mask_has(mask, (bl_token)t) && pick-- == 0)
            return (bl_token)t;
    return -1;
}

static void check_masks(const char *gbnf, size_t n_texts, size_t n_checked) {
    bl_grammar *grammar = compile(gbnf);
    bl_matcher *matcher = NULL;
    bl__states states;
    bl__random random;
    bl__random_seed(&random, 3);
    size_t vocab = bl_tokenizer_vocab_size(tokenizer);
    assert_int_equal(bl_matcher_create(grammar, trie, &matcher, NULL), BL_OK);
    for (size_t i = 0; i < n_texts; i++) {
        assert_int_equal(bl__states_init(&states, grammar->net, 1 << 20), BL_OK);
        uint32_t at = bl__states_start(&states);
        bl_matcher_reset(matcher);
        for (size_t step = 0; step < 60 && !bl_matcher_must_end(matcher); step++) {
            const uint64_t *mask;
            assert_int_equal(bl_matcher_mask(matcher, &mask, NULL), BL_OK);
            assert_int_equal(bl_matcher_may_end(matcher), states.list[at].may_end);
            if (step % 7 == 0 && i < n_checked)
                for (size_t t = 0; t < vocab; t++)
                    assert_int_equal(bl_mask_has(mask, (bl_token)t),
                                     may_come(&states, at, (bl_token)t));
            bl_token token = draw(&random, mask);
            size_t n;
            const char *piece = bl_tokenizer_piece(tokenizer, token, 0, &n);
            assert_int_equal(bl_matcher_accept(matcher, token, NULL), BL_OK);
            if (bl_tokenizer_is_end(tokenizer, token))
                break;
            for (size_t k = 0; k < n; k++)
                at = bl__states_step(&states, at, (uint8_t)piece[k]);
            assert_int_not_equal(at, BL_STATE_DEAD);
        }
        bl__states_destroy(&states);
    }
    bl_matcher_free(matcher);
    bl_grammar_free(grammar);
}

static void test_masks(void **state) {
    (void)state;
    check_masks(JSON, 30, 10);
    check_masks("root ::= [^\\n]{1,40} \"\\n\" [a-z ]{300} \".\"", 10, 5);
    check_masks("root ::= (\"yes\" | \"no\" | \"yesterday\") [.!]?", 20, 20);
    check_masks("root ::= [\xe3\x81\x81-\xe3\x82\x9f]{2,9}", 10, 5); /* hiragana, by bytes */
    check_masks("root ::= .*", 5, 2);
}

static void test_matcher(void **state) {
    (void)state;
    bl_grammar *grammar = compile("root ::= \"yes\" \"!\"?");
    bl_matcher *matcher = NULL;
    bl_error err;
    const uint64_t *mask;
    bl_token eos = bl_tokenizer_eos(tokenizer), *ids = NULL;
    size_t n;
    assert_int_equal(bl_matcher_create(grammar, trie, &matcher, NULL), BL_OK);
    for (int round = 0; round < 2; round++) {
        assert_false(bl_matcher_may_end(matcher));
        assert_int_equal(bl_matcher_accept(matcher, eos, &err), BL_ERR_ARGUMENT);
        assert_int_equal(bl_matcher_accept(matcher, -1, &err), BL_ERR_ARGUMENT);
        assert_int_equal(bl_matcher_accept(matcher, 1 << 30, &err), BL_ERR_ARGUMENT);
        assert_int_equal(bl_tokenizer_encode(tokenizer, "yes", 3, 0, &ids, &n, NULL), BL_OK);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(bl_matcher_accept(matcher, ids[i], NULL), BL_OK);
        assert_int_equal(bl_matcher_accept(matcher, ids[0], &err), BL_ERR_ARGUMENT);
        bl_free(ids);
        assert_true(bl_matcher_may_end(matcher));
        assert_false(bl_matcher_must_end(matcher));
        assert_int_equal(bl_matcher_mask(matcher, &mask, NULL), BL_OK);
        assert_true(bl_mask_has(mask, eos));
        if (round == 0) {
            assert_int_equal(bl_matcher_accept(matcher, eos, NULL), BL_OK);
        } else {
            assert_int_equal(bl_tokenizer_encode(tokenizer, "!", 1, 0, &ids, &n, NULL), BL_OK);
            assert_int_equal(bl_matcher_accept(matcher, ids[0], NULL), BL_OK);
            bl_free(ids);
        }
        assert_true(bl_matcher_must_end(matcher));
        assert_int_equal(bl_matcher_mask(matcher, &mask, &err), round ? BL_OK : BL_ERR_NOT_FOUND);
        bl_matcher_reset(matcher);
    }
    bl_matcher_free(matcher);
    bl_grammar_free(grammar);
}

/* So many states that they are forgotten in between, which changes nothing. */
static void test_forgetting(void **state) {
    (void)state;
    bl_grammar *grammar = compile("root ::= (\"a\" | \"b\" \"c\"){100000}");
    bl__states states;
    assert_int_equal(bl__states_init(&states, grammar->net, 4), BL_OK);
    uint32_t at = bl__states_start(&states);
    size_t n_forgotten = 0;
    for (size_t i = 0; i < 100000; i++) {
        assert_false(states.list[at].may_end);
        at = bl__states_step(&states, at, 'a');
        assert_int_not_equal(at, BL_STATE_DEAD);
        if (bl__states_are_many(&states)) {
            at = bl__states_forget(&states, at);
            assert_int_equal(states.status, BL_OK);
            assert_false(bl__states_are_many(&states));
            n_forgotten++;
        }
    }
    assert_true(states.list[at].may_end);
    assert_int_equal(bl__states_step(&states, at, 'a'), BL_STATE_DEAD);
    assert_true(n_forgotten > 3);
    bl__states_destroy(&states);
    bl_grammar_free(grammar);
}

static void test_ambiguous(void **state) {
    (void)state;
    /* Every bracket may be of two calls: stacks share what they have in common. */
    bl_grammar *grammar = compile("root ::= a | b\na ::= \"(\" root \")\" | \"x\"\n"
                                  "b ::= \"(\" root \")\" | \"y\"");
    bl__states states;
    assert_int_equal(bl__states_init(&states, grammar->net, 4), BL_OK);
    uint32_t at = bl__states_start(&states);
    for (int i = 0; i < 200; i++)
        at = bl__states_step(&states, at, '(');
    assert_int_not_equal(at, BL_STATE_DEAD);
    assert_true(states.n_frames < 1000);
    bl__states_destroy(&states);
    bl_grammar_free(grammar);
    /* Ways to read the text that grow with its cube end in an error, neither a crash nor a wait. */
    grammar = compile("root ::= a+\na ::= \"x\" a b | \"x\"\nb ::= \"x\"* a? \"x\"?");
    assert_int_equal(bl__states_init(&states, grammar->net, 4), BL_OK);
    at = bl__states_start(&states);
    for (size_t i = 0; i < 100000 && !states.status; i++) {
        at = bl__states_step(&states, at, 'x');
        assert_true(at != BL_STATE_DEAD || states.status == BL_ERR_LIMIT);
    }
    assert_int_equal(states.status, BL_ERR_LIMIT);
    bl__states_destroy(&states);
    bl_grammar_free(grammar);
}

/* A state of very many places costs a bounded time for all tokens together. */
static void test_wide(void **state) {
    (void)state;
    static char text[1 << 19];
    size_t n = (size_t)snprintf(text, sizeof text, "root ::= (.* (");
    for (int i = 0; i < 12000; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s[a-z %d]{2} \"%d\"", i ? " | " : "",
                              i % 10, i);
    n += (size_t)snprintf(text + n, sizeof text - n, "))\n");
    bl_grammar *grammar = NULL;
    bl_matcher *matcher = NULL;
    const uint64_t *mask;
    assert_int_equal(bl_grammar_from_gbnf(text, n, &grammar, NULL), BL_OK);
    bl_status status = bl_matcher_create(grammar, trie, &matcher, NULL);
    if (status == BL_OK)
        status = bl_matcher_mask(matcher, &mask, NULL);
    assert_int_equal(status, BL_ERR_LIMIT);
    bl_matcher_free(matcher);
    bl_grammar_free(grammar);
}

static void test_allowed_draws(void **state) {
    (void)state;
    bl_sampler_params params = bl_sampler_default_params();
    enum { VOCAB = 130 };
    float logits[VOCAB];
    bl__random random;
    bl__random_seed(&random, 9);
    for (int greedy = 0; greedy <= 1; greedy++)
        for (int round = 0; round < 200; round++) {
            bl_sampler *some = NULL, *all = NULL;
            params.temperature = greedy ? 0 : 0.9f;
            params.seed = (uint64_t)round;
            assert_int_equal(bl_sampler_create(&params, VOCAB, &some, NULL), BL_OK);
            assert_int_equal(bl_sampler_create(&params, VOCAB, &all, NULL), BL_OK);
            uint64_t allowed[3] = {bl__random_u64(&random), round % 2 ? bl__random_u64(&random) : 0,
                                   bl__random_u64(&random) & 3};
            float masked[VOCAB];
            for (int t = 0; t < VOCAB; t++) {
                logits[t] = (float)(4 * bl__random_f64(&random));
                masked[t] = bl_mask_has(allowed, t) ? logits[t] : -1.0f / 0.0f;
            }
            for (int draws = 0; draws < 5; draws++)
                assert_int_equal(bl_sampler_sample_allowed(some, logits, allowed),
                                 bl_sampler_sample(all, masked));
            memset(allowed, 0, sizeof allowed);
            assert_int_equal(bl_sampler_sample_allowed(some, logits, allowed), -1);
            bl_sampler_free(some);
            bl_sampler_free(all);
        }
}

static void test_memory(void **state) {
    (void)state;
    for (long n = 1;; n++) {
        bl_grammar *grammar = NULL;
        bl_token_trie *own = NULL;
        bl_matcher *matcher = NULL;
        const uint64_t *mask;
        bl_error err = {.code = BL_OK};
        bl__alloc_fail_at(n);
        bl_status status = bl_grammar_from_gbnf(JSON, strlen(JSON), &grammar, &err);
        if (!status)
            status = bl_token_trie_create(tokenizer, 0, &own, &err);
        if (!status)
            status = bl_matcher_create(grammar, own, &matcher, &err);
        if (!status)
            status = bl_matcher_mask(matcher, &mask, &err);
        for (bl_token t = 0; !status && t < 3;
             t++) { /* as many tokens as that, whatever they are */
            bl__random random;
            bl__random_seed(&random, (uint64_t)t);
            status = bl_matcher_accept(matcher, draw(&random, mask), &err);
            if (!status)
                status = bl_matcher_mask(matcher, &mask, &err);
        }
        bl__alloc_fail_at(0);
        bl_matcher_free(matcher);
        bl_token_trie_free(own);
        bl_grammar_free(grammar);
        if (status == BL_OK)
            break;
        assert_int_equal(status, BL_ERR_MEMORY);
        assert_int_equal(err.code, BL_ERR_MEMORY);
        assert_true(n < 5000);
    }
}

static int set_up(void **state) {
    (void)state;
    return bl_tokenizer_open(BITLOOM_MODELS "/novels-6m.gguf", &tokenizer, NULL) ||
           bl_token_trie_create(tokenizer, 0, &trie, NULL);
}

static int tear_down(void **state) {
    (void)state;
    bl_token_trie_free(trie);
    bl_tokenizer_close(tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notation),      cmocka_unit_test(test_repetition),
        cmocka_unit_test(test_recursion),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_masks),         cmocka_unit_test(test_matcher),
        cmocka_unit_test(test_forgetting),    cmocka_unit_test(test_ambiguous),
        cmocka_unit_test(test_wide),          cmocka_unit_test(test_memory),
        cmocka_unit_test(test_allowed_draws),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
