/* Recipes: presets, published recipes, settings over keys, and what is refused by name. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "train/recipe.h"

static bl__recipe parse(const char *text) {
    bl__recipe r = {0};
    bl_error err = {0};
    if (bl__recipe_parse(text, strlen(text), NULL, 0, &r, &err) != BL_OK)
        fail_msg("%s: %s", text, err.message);
    return r;
}

static void refused(const char *text, const char *setting, bl_status status, const char *words) {
    bl__recipe r = {0};
    bl_error err = {0};
    bl_status found = bl__recipe_parse(text, strlen(text), &setting, setting != NULL, &r, &err);
    if (found != status || !strstr(err.message, words))
        fail_msg("%s %s: status %d, '%s', expected %d and '%s'", text, setting ? setting : "",
                 (int)found, err.message, (int)status, words);
}

static void presets_have_the_papers_sizes(void **state) {
    (void)state;
    bl__recipe r = parse("{\"preset\": \"3.9b\", \"steps\": 100000}");
    assert_int_equal(r.layers, 26);
    assert_int_equal(r.dim, 3200);
    assert_int_equal(r.ffn_dim, 12800);
    assert_int_equal(r.head_dim, 100);
    assert_true(r.rate == 1.2e-3 && r.rate2 == 8e-4 && r.decay == 0.1 && r.decay2 == 0);
    assert_int_equal(r.warmup, 375);
    assert_int_equal(r.shape, BL_DECAY_TWO_STAGE);
    assert_int_equal(r.weights, BL_WEIGHTS_TERNARY);
    bl__recipe_free(&r);
    r = parse("{\"preset\": \"125m\", \"recipe\": \"bitnet\", \"steps\": 40000}");
    assert_true(r.rate == 2.4e-3 && r.decay == 0.01 && r.decay2 == 0.01 && r.beta2 == 0.98);
    assert_true(r.clip == 0);
    assert_int_equal(r.warmup, 750);
    assert_true(bl__recipe_network(&r).layer_norm);
    assert_int_equal(r.weights, BL_WEIGHTS_BINARY);
    bl__recipe_free(&r);
}

static void settings_go_before_the_file(void **state) {
    (void)state;
    static const char text[] = "{\"steps\": 500, \"rate\": 0.001, \"data\": \"a.tok\"}";
    const char *const settings[] = {"steps=70", "weights=float", "data=b=c.tok", "sub_norms=false",
                                    "activation=silu"};
    bl__recipe r = {0};
    assert_int_equal(bl__recipe_parse(text, strlen(text), settings, 5, &r, NULL), BL_OK);
    assert_int_equal(r.steps, 70);
    assert_int_equal(r.warmup, 7); /* short runs warm up for a tenth */
    assert_int_equal(r.weights, BL_WEIGHTS_FLOAT);
    assert_string_equal(r.data, "b=c.tok");
    assert_true(r.rate == 0.001 && !bl__recipe_network(&r).sub_norms);
    bl__recipe_free(&r);
}

static void own_heads_need_no_kv_heads(void **state) {
    (void)state;
    bl__recipe r = parse("{\"dim\": 60, \"heads\": 3}");
    assert_int_equal(r.kv_heads, 3);
    assert_int_equal(r.head_dim, 20);
    bl__recipe_free(&r);
}

static void models_to_start_from_warm_up_to_quantization(void **state) {
    (void)state;
    static const char base[] = "{\"layers\": 3, \"dim\": 48, \"context\": 100, \"heads\": 6,"
                               "\"sub_norms\": false, \"activation\": \"silu\"}";
    const char *const settings[] = {"from=a.gguf", "steps=900", "layers=4"};
    bl__recipe r = parse("{\"from\": \"a.gguf\", \"steps\": 10000}");
    assert_true(r.lambda_steps == 1000 && r.rate == 1e-4 && bl__recipe_network(&r).blends);
    assert_true(bl__recipe_schedule(&r).n_lambda == 1000);
    bl__recipe_free(&r);
    r = parse("{\"from\": \"a.gguf\", \"steps\": 10000, \"weights\": \"float\", \"rate\": 0.01}");
    assert_true(bl__recipe_schedule(&r).n_lambda == 0 && r.rate == 0.01);
    bl__recipe_free(&r);
    r = parse("{\"from\": \"a.gguf\", \"steps\": 10000, \"weights\": \"onebit\"}");
    assert_true(r.weights == BL_WEIGHTS_ONEBIT && r.lambda_steps == 0);
    assert_true(!r.teacher && r.distill_hidden == 0.1 && r.distill_hard == 0.0);
    assert_true(r.distill_temperature == 1.0 && r.distill_relations == 0.0);
    assert_true(!r.relation_layer && !r.relation_heads && r.relation_temperature == 1.0);
    bl__recipe_free(&r);
    r = parse("{\"steps\": 10000}");
    assert_true(r.lambda_steps == 0 && !bl__recipe_network(&r).blends);
    bl__recipe_free(&r);
    assert_int_equal(bl__recipe_read_over(base, NULL, settings, 3, &r, NULL), BL_OK);
    assert_true(r.layers == 4 && r.dim == 48 && r.tokens == 100 && r.kv_heads == 6 && !r.sub_norms);
    assert_int_equal(r.lambda_steps, 450);
    char *text = bl__recipe_base_text(&r), *from = NULL;
    assert_non_null(strstr(text, "\"lambda_steps\": 450"));
    assert_null(strstr(text, "\"rate\""));
    bl__free(text);
    bl__recipe_free(&r);
    assert_int_equal(bl__recipe_find_from(NULL, settings, 3, &from, NULL), BL_OK);
    assert_string_equal(from, "a.gguf");
    bl__free(from);
}

static void what_is_wrong_is_named(void **state) {
    (void)state;
    refused("{\"layer\": 3}", NULL, BL_ERR_ARGUMENT, "unknown key 'layer'");
    refused("{\"layers\": 0}", NULL, BL_ERR_ARGUMENT, "layers is 0, expected 1 to 1024");
    refused("{\"layers\": 2.5}", NULL, BL_ERR_FORMAT,
            "layers is a real number, expected a whole number");
    refused("{\"rate\": \"fast\"}", NULL, BL_ERR_FORMAT, "rate is a string");
    refused("{\"weights\": \"quaternary\"}", NULL, BL_ERR_ARGUMENT,
            "expected one of: float ternary binary");
    refused("{\"preset\": \"4m\"}", NULL, BL_ERR_ARGUMENT, "expected one of: tiny-1m small-3m");
    refused("{\"heads\": 8, \"kv_heads\": 3}", NULL, BL_ERR_ARGUMENT, "multiple of kv_heads");
    refused("{\"heads\": 250}", NULL, BL_ERR_ARGUMENT, "head_dim is 1");
    refused("{\"tokens\": 300, \"context\": 200}", NULL, BL_ERR_ARGUMENT, "tokens is 300");
    refused("{\"ffn_dim\": 511}", NULL, BL_ERR_ARGUMENT, "multiples of 4");
    refused("{\"sub_norms\": false}", NULL, BL_ERR_ARGUMENT, "relu2");
    refused("{\"sub_norms\": false, \"norm\": \"layer\"}", NULL, BL_ERR_ARGUMENT, "LayerNorm");
    refused("{\"steps\": 5, \"warmup\": 6}", NULL, BL_ERR_ARGUMENT, "warmup is 6");
    refused("{\"groups\": 0}", NULL, BL_ERR_ARGUMENT, "groups is 0, expected 1 to 65536");
    refused("{\"groups\": 8, \"ffn_dim\": 512}", NULL, BL_ERR_ARGUMENT,
            "groups is 8, expected a divisor of kv_heads, 4, and ffn_dim, 512");
    refused("{\"groups\": 4, \"ffn_dim\": 510}", NULL, BL_ERR_ARGUMENT, "ffn_dim, 510");
    refused("{\"groups\": \"two\"}", NULL, BL_ERR_FORMAT, "groups is a string");
    refused("{\"steps\": 5, \"lambda_steps\": 6}", NULL, BL_ERR_ARGUMENT, "lambda_steps is 6");
    refused("{\"sub_norms\": 1}", NULL, BL_ERR_FORMAT, "true or false");
    refused("[]", NULL, BL_ERR_FORMAT, "an array");
    refused("{", NULL, BL_ERR_FORMAT, "line 1");
    refused("{\"steps\": 5, \"steps\": 6}", NULL, BL_ERR_FORMAT, "steps");
    refused("{}", "steps", BL_ERR_ARGUMENT, "KEY=VALUE");
    refused("{}", "step=5", BL_ERR_ARGUMENT, "'step=5'");
    refused("{}", "steps=many", BL_ERR_ARGUMENT, "steps: 'many'");
    refused("{}", "a_key_that_is_longer_than_any_of_ours=5", BL_ERR_ARGUMENT, "a_key_that");
}

static void text_parses_to_the_same(void **state) {
    (void)state;
    bl__recipe a = parse("{\"rate\": 0.0012345678901234567, \"data\": \"a \\\"b\\\".tok\","
                         "\"weights\": \"binary\", \"precision\": \"bf16\", \"seed\": 77}");
    char *text = bl__recipe_text(&a);
    assert_non_null(text);
    bl__recipe b = parse(text);
    char *again = bl__recipe_text(&b);
    assert_string_equal(text, again);
    assert_true(a.rate == b.rate && a.rate2 == b.rate2);
    assert_string_equal(b.data, "a \"b\".tok");
    assert_int_equal(bl__recipe_match_model(&a, &b, NULL), BL_OK);
    b.ffn_dim += 4;
    bl_error err;
    assert_int_equal(bl__recipe_match_model(&a, &b, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "a model with ffn_dim 516, expected 512");
    b.ffn_dim -= 4;
    b.groups = 2;
    assert_int_equal(bl__recipe_match_model(&a, &b, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "a model with groups 2, expected 1");
    b.groups = 1;
    b.weights = BL_WEIGHTS_TERNARY;
    assert_int_equal(bl__recipe_match_model(&a, &b, &err), BL_ERR_ARGUMENT);
    assert_string_equal(err.message, "a model with weights ternary, expected binary");
    bl__free(text);
    bl__free(again);
    bl__recipe_free(&a);
    bl__recipe_free(&b);
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    static const char text[] = "{\"data\": \"a\", \"tokenizer\": \"b\"}";
    const char *setting = "data=c";
    bl_status status = BL_ERR_MEMORY;
    long n = 0;
    while (status) {
        bl__recipe r = {0};
        bl__alloc_fail_at(++n);
        status = bl__recipe_parse(text, strlen(text), &setting, 1, &r, NULL);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        bl__recipe_free(&r);
    }
    assert_true(n > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_the_papers_sizes),
        cmocka_unit_test(settings_go_before_the_file),
        cmocka_unit_test(own_heads_need_no_kv_heads),
        cmocka_unit_test(models_to_start_from_warm_up_to_quantization),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(text_parses_to_the_same),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
