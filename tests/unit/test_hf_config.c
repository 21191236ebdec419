/* Hugging Face configurations: the families of checkpoints, both spellings, and what is refused.
 * JSON is written with ' for " here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/alloc.h"
#include "formats/hf_config.h"

/* Quotes turned; in one of four static buffers. */
static const char *json(const char *text) {
    static char buffers[4][2048];
    static int next;
    char *buffer = buffers[next++ % 4];
    size_t len = strlen(text);
    assert_true(len < sizeof buffers[0]);
    for (size_t i = 0; i <= len; i++)
        buffer[i] = text[i] == '\'' ? '"' : text[i];
    return buffer;
}

static bl__string view(const char *text) {
    return (bl__string){.data = text, .len = text ? strlen(text) : 0};
}

/* A small LLaMA configuration with the keys of patch in place of its own. */
static char *patched(const char *patch) {
    json_t *base = json_loads(
        json("{'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': 512,"
             " 'hidden_size': 256, 'intermediate_size': 512, 'num_hidden_layers': 2,"
             " 'num_attention_heads': 4, 'num_key_value_heads': 2, 'bos_token_id': 1,"
             " 'eos_token_id': 2}"),
        0, NULL);
    json_t *change = json_loads(json(patch), 0, NULL);
    assert_non_null(base);
    assert_non_null(change);
    json_object_update(base, change);
    char *text = json_dumps(base, 0);
    json_decref(base);
    json_decref(change);
    assert_non_null(text);
    return text;
}

static bl__hf_config *load(const char *patch, const char *generation, const char *tokenizer,
                           const char *jinja) {
    bl_error err = {0};
    bl__hf_config *c = NULL;
    char *config = patched(patch);
    bl__hf_files files = {.config = view(config),
                          .generation = view(generation ? json(generation) : NULL),
                          .tokenizer_config = view(tokenizer ? json(tokenizer) : NULL),
                          .chat_template = view(jinja)};
    if (bl__hf_config_parse(&files, &c, &err))
        fail_msg("%s: %s", patch, err.message);
    free(config);
    return c;
}

static void refuse_files(const char *patch, const char *generation, const char *tokenizer,
                         bl_status status, const char *text) {
    bl_error err = {0};
    bl__hf_config *c = NULL;
    char *config = patched(patch);
    bl__hf_files files = {.config = view(config),
                          .generation = view(generation ? json(generation) : NULL),
                          .tokenizer_config = view(tokenizer ? json(tokenizer) : NULL)};
    bl_status got = bl__hf_config_parse(&files, &c, &err);
    if (got != status || !strstr(err.message, text))
        fail_msg("%s: status %d, message '%s', expected '%s'", patch, (int)got, err.message, text);
    assert_null(c);
    free(config);
}

static void refuse(const char *patch, bl_status status, const char *text) {
    refuse_files(patch, NULL, NULL, status, text);
}

static void test_llama_defaults(void **state) {
    (void)state;
    bl__hf_config *c = load("{'num_key_value_heads': null}", NULL, NULL, NULL);
    assert_int_equal(c->architecture, BL_HF_LLAMA);
    assert_string_equal(c->architecture_name, "LlamaForCausalLM");
    assert_string_equal(c->model_type, "llama");
    assert_int_equal(c->vocab, 512);
    assert_int_equal(c->dim, 256);
    assert_int_equal(c->ffn_dim, 512);
    assert_int_equal(c->n_layers, 2);
    assert_int_equal(c->n_heads, 4);
    assert_int_equal(c->n_kv_heads, 4);
    assert_int_equal(c->head_dim, 64);
    assert_int_equal(c->context_length, 2048);
    assert_int_equal(c->activation, BL_HF_SILU);
    assert_true(c->rms_norm_eps == 1e-6f);
    assert_false(c->tied_head);
    assert_int_equal(c->rope, BL_HF_ROPE_DEFAULT);
    assert_true(c->rope_theta == 10000.0f);
    assert_true(c->rope_factor == 1.0f);
    assert_false(c->quantized);
    assert_false(c->is_bitnet_config);
    assert_int_equal(c->bos_id, 1);
    assert_int_equal(c->pad_id, BL_HF_NO_TOKEN);
    assert_int_equal(c->n_end_ids, 1);
    assert_int_equal(c->end_ids[0], 2);
    assert_null(c->dtype);
    assert_null(c->chat_template.data);
    assert_null(c->add_bos);
    bl__hf_config_free(c);
    bl__hf_config_free(NULL);
}

/* microsoft/bitnet-b1.58-2B-4T, packed and bf16. */
static void test_bitnet_2b4t(void **state) {
    (void)state;
    bl__hf_config *c = load(
        "{'architectures': ['BitNetForCausalLM'], 'model_type': 'bitnet', 'vocab_size': 128256,"
        " 'hidden_size': 2560, 'intermediate_size': 6912, 'num_hidden_layers': 30,"
        " 'num_attention_heads': 20, 'num_key_value_heads': 5, 'hidden_act': 'relu2',"
        " 'rms_norm_eps': 1e-05, 'rope_theta': 500000.0, 'tie_word_embeddings': true,"
        " 'max_position_embeddings': 4096, 'torch_dtype': 'bfloat16', 'bos_token_id': 128000,"
        " 'eos_token_id': 128001, 'quantization_config': {'quant_method': 'bitnet',"
        " 'linear_class': 'autobitlinear', 'quantization_mode': 'offline',"
        " 'modules_to_not_convert': ['lm_head', 'x']}}",
        NULL, NULL, NULL);
    assert_int_equal(c->architecture, BL_HF_BITNET);
    assert_int_equal(c->head_dim, 128);
    assert_int_equal(c->activation, BL_HF_RELU2);
    assert_true(c->rope_theta == 500000.0f);
    assert_true(c->tied_head);
    assert_int_equal(c->context_length, 4096);
    assert_string_equal(c->dtype, "bfloat16");
    assert_true(c->quantized);
    assert_true(c->scale_multiplies);
    assert_false(c->online);
    assert_int_equal(c->n_not_converted, 2);
    assert_true(bl__string_is(c->not_converted[0], "lm_head"));
    bl__hf_config_free(c);

    c = load("{'architectures': ['BitNetForCausalLM'], 'model_type': 'bitnet',"
             " 'quantization_config': {'quant_method': 'bitnet', 'linear_class': 'autobitlinear',"
             " 'quantization_mode': 'online'}}",
             NULL, NULL, NULL);
    assert_true(c->online);
    assert_int_equal(c->activation, BL_HF_RELU2); /* what the class has by default */
    assert_true(c->rope_theta == 500000.0f);
    assert_true(c->rms_norm_eps == 1e-5f);
    bl__hf_config_free(c);
}

static void test_1bitllm(void **state) {
    (void)state;
    bl__hf_config *c =
        load("{'architectures': ['BitnetForCausalLM'], 'model_type': 'llama', 'hidden_size': 3200,"
             " 'num_attention_heads': 32, 'num_key_value_heads': 32, 'hidden_act': 'silu',"
             " 'rms_norm_eps': 1e-05, 'rope_scaling': null, 'weight_bits': 1, 'input_bits': 8,"
             " 'pretraining_tp': 1, 'attention_bias': false}",
             NULL, NULL, NULL);
    assert_int_equal(c->architecture, BL_HF_BITNET_1B);
    assert_int_equal(c->activation, BL_HF_SILU);
    assert_int_equal(c->head_dim, 100);
    assert_true(c->rope_theta == 10000.0f);
    assert_false(c->quantized);
    bl__hf_config_free(c);
}

/* HF1BitLLM's Llama3-8B-1.58, Falcon3-1.58 and Falcon-E. */
static void test_llama_ternary(void **state) {
    (void)state;
    bl__hf_config *c = load("{'rope_scaling': {'factor': 8.0, 'low_freq_factor': 1.0,"
                            " 'high_freq_factor': 4, 'original_max_position_embeddings': 8192,"
                            " 'rope_type': 'llama3'}, 'rope_theta': 500000, 'head_dim': 128,"
                            " 'quantization_config': {'modules_to_not_convert': null,"
                            " 'quant_method': 'bitnet'}}",
                            NULL, NULL, NULL);
    assert_true(c->quantized);
    assert_false(c->scale_multiplies);
    assert_false(c->online);
    assert_false(c->use_rms_norm);
    assert_true(c->linear_rms_norm_eps == 1e-6f);
    assert_int_equal(c->n_not_converted, 0);
    assert_int_equal(c->head_dim, 128);
    assert_int_equal(c->rope, BL_HF_ROPE_LLAMA3);
    assert_true(c->rope_theta == 500000.0f);
    assert_true(c->rope_factor == 8.0f);
    assert_true(c->rope_low_freq_factor == 1.0f);
    assert_true(c->rope_high_freq_factor == 4.0f);
    assert_int_equal(c->rope_original_context, 8192);
    bl__hf_config_free(c);

    c = load("{'is_bitnet_config': true, 'hidden_act': 'swish', 'quantization_config':"
             " {'quant_method': 'bitnet', 'linear_class': 'bitlinear', 'use_rms_norm': true,"
             " 'rms_norm_eps': 1e-5}}",
             NULL, NULL, NULL);
    assert_true(c->is_bitnet_config);
    assert_int_equal(c->activation, BL_HF_SILU);
    assert_true(c->use_rms_norm);
    assert_true(c->linear_rms_norm_eps == 1e-5f);
    bl__hf_config_free(c);
}

static void test_rope_spellings(void **state) {
    (void)state;
    bl__hf_config *c =
        load("{'rope_parameters': {'rope_theta': 2e6, 'rope_type': 'default'}}", NULL, NULL, NULL);
    assert_true(c->rope_theta == 2e6f);
    assert_int_equal(c->rope, BL_HF_ROPE_DEFAULT);
    bl__hf_config_free(c);
    c = load("{'rope_theta': 7.0, 'rope_parameters': {'rope_theta': 7, 'rope_type': 'linear',"
             " 'factor': 2.5}}",
             NULL, NULL, NULL);
    assert_true(c->rope_theta == 7.0f);
    assert_int_equal(c->rope, BL_HF_ROPE_LINEAR);
    assert_true(c->rope_factor == 2.5f);
    bl__hf_config_free(c);
    c = load("{'rope_scaling': {'type': 'linear', 'factor': 4}}", NULL, NULL, NULL);
    assert_int_equal(c->rope, BL_HF_ROPE_LINEAR);
    assert_true(c->rope_factor == 4.0f);
    bl__hf_config_free(c);
    c = load("{'rope_parameters': {'rope_type': 'default'}, 'rope_theta': 3}", NULL, NULL, NULL);
    assert_true(c->rope_theta == 3.0f);
    bl__hf_config_free(c);
}

static void test_bad_rope(void **state) {
    (void)state;
    refuse("{'rope_scaling': {'rope_type': 'yarn', 'factor': 4}}", BL_ERR_UNSUPPORTED,
           "config.json: rope_scaling: rope_type is 'yarn', expected default, linear or llama3");
    refuse("{'rope_scaling': {'type': 'dynamic', 'factor': 4}}", BL_ERR_UNSUPPORTED, "'dynamic'");
    refuse("{'rope_scaling': {'type': 'linear'}}", BL_ERR_NOT_FOUND, "factor is missing");
    refuse("{'rope_scaling': {'type': 'linear', 'factor': 0.5}}", BL_ERR_FORMAT, "1 or more");
    refuse("{'rope_scaling': {'type': 'linear', 'factor': 'x'}}", BL_ERR_FORMAT, "a number");
    refuse("{'rope_scaling': 5}", BL_ERR_FORMAT, "rope_scaling is an integer, expected an object");
    refuse("{'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 1,"
           " 'high_freq_factor': 4}}",
           BL_ERR_NOT_FOUND, "original_max_position_embeddings is missing");
    refuse("{'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 4,"
           " 'high_freq_factor': 4, 'original_max_position_embeddings': 8192}}",
           BL_ERR_FORMAT, "is not below");
    refuse("{'rope_theta': 1, 'rope_parameters': {'rope_theta': 2, 'rope_type': 'default'}}",
           BL_ERR_FORMAT, "rope_theta is 1, but 2 in rope_parameters");
    refuse("{'rope_scaling': {'type': 'linear', 'factor': 4}, 'rope_parameters': {}}",
           BL_ERR_FORMAT, "rope_scaling and rope_parameters differ");
    refuse("{'rope_parameters': {'full_attention': {'rope_theta': 2}}}", BL_ERR_UNSUPPORTED,
           "'full_attention' has parameters of its own");
    refuse("{'rope_theta': -1}", BL_ERR_FORMAT, "rope_theta is -1, expected a number above 0");
    refuse("{'rope_theta': 1e300}", BL_ERR_FORMAT, "rope_theta is 1e+300");
    refuse("{'partial_rotary_factor': 0.5}", BL_ERR_UNSUPPORTED, "partial_rotary_factor is 0.5");
    refuse("{'rope_interleaved': true}", BL_ERR_UNSUPPORTED, "rope_interleaved is true");
}

static void test_refusals(void **state) {
    (void)state;
    refuse("{'architectures': ['MistralForCausalLM']}", BL_ERR_UNSUPPORTED,
           "architectures is 'MistralForCausalLM', expected LlamaForCausalLM");
    refuse("{'architectures': []}", BL_ERR_FORMAT, "a list of one name");
    refuse("{'architectures': 'LlamaForCausalLM'}", BL_ERR_FORMAT, "a list of one name");
    refuse("{'architectures': null, 'model_type': null}", BL_ERR_NOT_FOUND,
           "architectures is missing");
    refuse("{'architectures': null, 'model_type': 'gpt2'}", BL_ERR_UNSUPPORTED,
           "model_type is 'gpt2'");
    refuse("{'hidden_act': 'gelu'}", BL_ERR_UNSUPPORTED, "hidden_act is 'gelu'");
    refuse("{'attention_bias': true}", BL_ERR_UNSUPPORTED, "attention_bias is true");
    refuse("{'mlp_bias': true}", BL_ERR_UNSUPPORTED, "mlp_bias is true");
    refuse("{'input_bits': 4}", BL_ERR_UNSUPPORTED, "input_bits is 4, expected 8");
    refuse("{'vocab_size': null}", BL_ERR_NOT_FOUND, "vocab_size is missing");
    refuse("{'vocab_size': 0}", BL_ERR_FORMAT, "vocab_size is 0, expected 1 to");
    refuse("{'hidden_size': -5}", BL_ERR_FORMAT, "hidden_size is -5");
    refuse("{'hidden_size': 256.0}", BL_ERR_FORMAT, "hidden_size is a real number");
    refuse("{'hidden_size': 255}", BL_ERR_FORMAT, "not a multiple of num_attention_heads");
    refuse("{'hidden_size': 99999999}", BL_ERR_FORMAT, "hidden_size is 99999999");
    refuse("{'num_key_value_heads': 3}", BL_ERR_FORMAT, "num_key_value_heads 3");
    refuse("{'head_dim': 63}", BL_ERR_UNSUPPORTED, "heads of 63");
    refuse("{'rms_norm_eps': 0}", BL_ERR_FORMAT, "rms_norm_eps is 0");
    refuse("{'tie_word_embeddings': 'yes'}", BL_ERR_FORMAT, "expected a boolean");
    refuse("{'eos_token_id': 512}", BL_ERR_FORMAT, "eos_token_id is 512, the vocabulary has 512");
    refuse("{'bos_token_id': '<s>'}", BL_ERR_FORMAT, "bos_token_id is a string");
    refuse("{'eos_token_id': [2, 'x']}", BL_ERR_FORMAT, "eos_token_id is a string");
    refuse("{'quantization_config': {}}", BL_ERR_NOT_FOUND, "quant_method is missing");
    refuse("{'quantization_config': {'quant_method': 'gptq'}}", BL_ERR_UNSUPPORTED,
           "quantization_config: quant_method is 'gptq', expected bitnet");
    refuse("{'quantization_config': {'quant_method': 'bitnet', 'linear_class': 'z'}}",
           BL_ERR_UNSUPPORTED, "linear_class is 'z'");
    refuse("{'quantization_config': {'quant_method': 'bitnet', 'quantization_mode': 'z'}}",
           BL_ERR_UNSUPPORTED, "quantization_mode is 'z'");
    refuse("{'quantization_config': {'quant_method': 'bitnet', 'modules_to_not_convert': [1]}}",
           BL_ERR_FORMAT, "modules_to_not_convert is an integer");
    refuse_files("{}", "[]", NULL, BL_ERR_FORMAT, "generation_config.json is an array");
    refuse_files("{}", "{", NULL, BL_ERR_FORMAT, "generation_config.json: JSON, line 1");
    refuse_files("{}", "{'eos_token_id': 600}", NULL, BL_ERR_FORMAT,
                 "generation_config.json: eos_token_id is 600");
    refuse_files("{}", NULL, "{'bos_token': 3.5}", BL_ERR_FORMAT, "bos_token is a real number");
    refuse_files("{}", NULL, "{'chat_template': {}}", BL_ERR_FORMAT, "chat_template is an object");
    refuse_files("{}", NULL, "{'chat_template': [{}]}", BL_ERR_FORMAT, "name of a chat_template");
    refuse_files("{}", NULL, "{'add_bos_token': 1}", BL_ERR_FORMAT, "add_bos_token");

    bl_error err = {0};
    bl__hf_config *c = NULL;
    bl__hf_files none = {0}, twice = {.config = view(json("{'a': 1, 'a': 2}"))};
    assert_int_equal(bl__hf_config_parse(&none, &c, &err), BL_ERR_NOT_FOUND);
    assert_string_equal(err.message, "config.json is missing");
    assert_int_equal(bl__hf_config_parse(&twice, &c, &err), BL_ERR_FORMAT);
    assert_null(c);
}

static void test_token_ids(void **state) {
    (void)state;
    bl__hf_config *c = load("{'eos_token_id': [5, 6], 'bos_token_id': null, 'pad_token_id': 0}",
                            "{'eos_token_id': [6, 7, 5], 'bos_token_id': 9}", NULL, NULL);
    assert_int_equal(c->n_end_ids, 3);
    assert_int_equal(c->end_ids[0], 5);
    assert_int_equal(c->end_ids[1], 6);
    assert_int_equal(c->end_ids[2], 7);
    assert_int_equal(c->bos_id, 9);
    assert_int_equal(c->pad_id, 0);
    bl__hf_config_free(c);
    c = load("{'eos_token_id': null, 'bos_token_id': -1, 'pad_token_id': 512}", "{}", NULL, NULL);
    assert_int_equal(c->n_end_ids, 0);
    assert_int_equal(c->bos_id, BL_HF_NO_TOKEN);
    assert_int_equal(c->pad_id, BL_HF_NO_TOKEN);
    bl__hf_config_free(c);
    refuse("{'eos_token_id': [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
           "26,27,28,29,30,31,32]}",
           BL_ERR_LIMIT, "more than 32 eos_token_id");
}

static void test_tokenizer_config(void **state) {
    (void)state;
    bl__hf_config *c =
        load("{}", NULL,
             "{'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>', 'eos_token':"
             " {'content': '</s>', 'lstrip': false}, 'add_bos_token': true, 'add_eos_token': false,"
             " 'model_max_length': 1000000000000000019884624838656, 'chat_template': 'hello',"
             " 'added_tokens_decoder': {'0': {'content': '<unk>'}}}",
             NULL);
    assert_string_equal(c->tokenizer_class, "LlamaTokenizer");
    assert_string_equal(c->bos_token, "<s>");
    assert_string_equal(c->eos_token, "</s>");
    assert_true(c->add_bos && *c->add_bos);
    assert_true(c->add_eos && !*c->add_eos);
    assert_true(bl__string_is(c->chat_template, "hello"));
    bl__hf_config_free(c);

    c = load("{}", NULL,
             "{'bos_token': null, 'chat_template': [{'name': 'tool_use', 'template': 'a'},"
             " {'name': 'default', 'template': 'b'}]}",
             NULL);
    assert_null(c->bos_token);
    assert_true(bl__string_is(c->chat_template, "b"));
    bl__hf_config_free(c);
    c = load("{}", NULL, "{'chat_template': [{'name': 'rag', 'template': 'a'}]}", NULL);
    assert_null(c->chat_template.data);
    bl__hf_config_free(c);
    c = load("{}", NULL, "{'chat_template': 'inside'}", "beside");
    assert_true(bl__string_is(c->chat_template, "beside"));
    bl__hf_config_free(c);
}

static void write_text(const char *directory, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void test_directory(void **state) {
    (void)state;
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "tokenizer_config.json", "chat_template.jinja"};
    char directory[256];
    const char *folder = getenv("TMPDIR");
    bl_error err = {0};
    bl__hf_config *c = NULL;
    snprintf(directory, sizeof directory, "%s/bitloom-hf-XXXXXX", folder ? folder : "/tmp");
    assert_non_null(mkdtemp(directory));
    assert_int_equal(bl__hf_config_read(directory, &c, &err), BL_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "config.json is missing"));
    char *config = patched("{}");
    write_text(directory, names[0], config);
    free(config);
    write_text(directory, names[1], json("{'eos_token_id': 3}"));
    write_text(directory, names[2], json("{'eos_token': '</s>', 'chat_template': 'x'}"));
    write_text(directory, names[3], "the template");

    bl_status status = BL_ERR_MEMORY; /* every allocation but jansson's own fails once */
    for (long n = 1; status; n++) {
        bl__alloc_fail_at(n);
        status = bl__hf_config_read(directory, &c, &err);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        assert_true(n < 100);
    }
    assert_int_equal(c->n_end_ids, 2);
    assert_int_equal(c->end_ids[1], 3);
    assert_string_equal(c->eos_token, "</s>");
    assert_true(bl__string_is(c->chat_template, "the template"));
    bl__hf_config_free(c);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_defaults),   cmocka_unit_test(test_bitnet_2b4t),
        cmocka_unit_test(test_1bitllm),          cmocka_unit_test(test_llama_ternary),
        cmocka_unit_test(test_rope_spellings),   cmocka_unit_test(test_bad_rope),
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_token_ids),
        cmocka_unit_test(test_tokenizer_config), cmocka_unit_test(test_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
