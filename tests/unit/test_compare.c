/* Comparing models: a model with itself on other kernels is the same to the bit; sums over a
 * changed copy against others made here in double precision; what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/compare.h"
#include "bitloom/system.h"
#include "tiny_model.h"

enum { CTX = 16, VOCAB = 4096 };

static const char PATH[] = BITLOOM_MODELS "/novels-6m.gguf";
static const char TEXT[] =
    "Mrs. Medlock stood with her arm upon the stone; the moor was dark, and the wind went over it "
    "with a low, wild sound, and nobody spoke a word until the carriage had stopped at the door.";

typedef struct fixture {
    bl_model *model, *changed;
    bl_tokenizer *tokenizer;
    char path[256];
} fixture;

/* A copy with other bytes in the middle of its last tensors. */
static void write_changed(const char *path) {
    FILE *in = fopen(PATH, "rb"), *out = fopen(path, "wb");
    assert_non_null(in);
    assert_non_null(out);
    assert_int_equal(fseek(in, 0, SEEK_END), 0);
    size_t len = (size_t)ftell(in);
    char *bytes = malloc(len);
    assert_non_null(bytes);
    rewind(in);
    assert_int_equal(fread(bytes, 1, len, in), len);
    for (size_t i = 0; i < 4096; i += 8) /* codes 0 and 1 stay codes */
        bytes[len - len / 8 + i] &= 0x11;
    assert_int_equal(fwrite(bytes, 1, len, out), len);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    free(bytes);
}

static int set_up(void **state) {
    static fixture f;
    bl_error err;
    snprintf(f.path, sizeof f.path, "/tmp/bitloom_compare_%ld.gguf", (long)getpid());
    write_changed(f.path);
    if (bl_model_open(PATH, NULL, &f.model, &err) ||
        bl_model_open(f.path, NULL, &f.changed, &err) ||
        bl_tokenizer_open(PATH, &f.tokenizer, &err))
        fail_msg("%s", err.message);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    bl_tokenizer_close(f->tokenizer);
    bl_model_close(f->changed);
    bl_model_close(f->model);
    return unlink(f->path);
}

static const bl_perplexity_params PARAMS = {.n_ctx = CTX,
                                            .bos = BL_PERPLEXITY_BOS_OFF,
                                            .protocol = BL_PERPLEXITY_WHOLE,
                                            .session = {.n_threads = 1}};

static bl_compare_result compare(const fixture *f, const bl_model *b, const char *kernels) {
    bl_session_params second = PARAMS.session;
    second.kernels = kernels;
    bl_compare_result r;
    bl_error err;
    if (bl_compare_run(f->model, f->tokenizer, b, f->tokenizer, TEXT, strlen(TEXT), &PARAMS,
                       &second, NULL, NULL, &r, &err))
        fail_msg("%s", err.message);
    return r;
}

static void test_kernels(void **state) {
    const fixture *f = *state;
    bl_compare_result r = compare(f, f->model, "ref");
    assert_true(r.identical && r.agreement == 1 && r.kl == 0 && r.kl_max == 0);
    assert_true(r.largest_difference == 0 && r.log_ratio == 0);
    assert_true(r.perplexity_a == r.perplexity_b && r.n_scored == r.n_windows * (CTX - 1));
}

static void all_logits(const bl_model *model, const bl_token *tokens, float *out) {
    bl_session *session;
    bl_error err;
    assert_int_equal(bl_session_create(model, &(bl_session_params){.n_ctx = CTX, .n_threads = 1},
                                       &session, &err),
                     BL_OK);
    assert_int_equal(bl_session_eval(session, tokens, CTX - 1, out, &err), BL_OK);
    bl_session_free(session);
}

static double log_sum(const float *logits) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < VOCAB; i++)
        max = fmax(max, (double)logits[i]);
    for (size_t i = 0; i < VOCAB; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

static int ascending(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void test_sums(void **state) {
    static float a[(CTX - 1) * VOCAB], b[(CTX - 1) * VOCAB];
    static double kls[1024];
    const fixture *f = *state;
    bl_compare_result r = compare(f, f->changed, NULL);
    bl_token *ids;
    size_t n_ids, n = 0, agreed = 0;
    bl_error err;
    double kl_sum = 0, ratio_sum = 0, nats = 0, largest = 0;
    assert_int_equal(bl_tokenizer_encode(f->tokenizer, TEXT, strlen(TEXT), 0, &ids, &n_ids, &err),
                     BL_OK);
    for (size_t w = 0; w < n_ids / CTX; w++) {
        const bl_token *tokens = ids + w * CTX;
        all_logits(f->model, tokens, a);
        all_logits(f->changed, tokens, b);
        for (size_t at = 0; at < CTX - 1; at++, n++) {
            const float *x = a + at * VOCAB, *y = b + at * VOCAB;
            double sum_x = log_sum(x), sum_y = log_sum(y), difference = 0, scale = 0;
            size_t best_x = 0, best_y = 0;
            kls[n] = 0;
            for (size_t i = 0; i < VOCAB; i++) {
                double p = (double)x[i] - sum_x, q = (double)y[i] - sum_y;
                kls[n] += exp(p) * (p - q);
                best_x = x[i] > x[best_x] ? i : best_x;
                best_y = y[i] > y[best_y] ? i : best_y;
                difference = fmax(difference, fabs((double)(x[i] - y[i])));
                scale = fmax(scale, fabs((double)x[i]));
            }
            largest = fmax(largest, difference / scale);
            agreed += best_x == best_y;
            kl_sum += kls[n];
            nats += sum_x - (double)x[tokens[at + 1]];
            ratio_sum += (double)x[tokens[at + 1]] - sum_x - (double)y[tokens[at + 1]] + sum_y;
        }
    }
    bl_free(ids);
    qsort(kls, n, sizeof *kls, ascending);
    assert_int_equal(r.n_scored, n);
    assert_true(!r.identical && r.kl > 1e-6);
    assert_true(fabs(r.kl - kl_sum / (double)n) < 1e-6);
    assert_true(fabs(r.kl_max - kls[n - 1]) < 1e-5 && fabs(r.kl_median - kls[n / 2]) < 1e-5);
    assert_true(r.kl_median <= r.kl_99 && r.kl_99 <= r.kl_max);
    assert_true(fabs(r.agreement - (double)agreed / (double)n) < 1e-12);
    assert_true(fabs(r.log_ratio - ratio_sum / (double)n) < 1e-6);
    assert_true(fabs(r.perplexity_a / exp(nats / (double)n) - 1) < 1e-5);
    assert_true(fabs(log(r.perplexity_b / r.perplexity_a) - r.log_ratio) < 1e-9);
    assert_true(fabs(r.largest_difference - largest) < 1e-6);
}

static void test_refusals(void **state) {
    const fixture *f = *state;
    bl_compare_result r;
    bl_error err;
    char path[256];
    bl_model *tiny;
    tiny_model m = tiny_model_default();
    snprintf(path, sizeof path, "/tmp/bitloom_compare_%ld_tiny.gguf", (long)getpid());
    tiny_model_write(&m, 7, path);
    assert_int_equal(bl_model_open(path, NULL, &tiny, &err), BL_OK);
    assert_int_equal(bl_compare_run(f->model, f->tokenizer, tiny, NULL, TEXT, strlen(TEXT), &PARAMS,
                                    NULL, NULL, NULL, &r, &err),
                     BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "has 4096 tokens, the second's 50"));
    bl_model_close(tiny);
    unlink(path);
    const bl_session_params wrong = {.kernels = "abacus"};
    assert_int_equal(bl_compare_run(f->model, f->tokenizer, f->model, NULL, TEXT, strlen(TEXT),
                                    &PARAMS, &wrong, NULL, NULL, &r, &err),
                     BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "kernels \"abacus\", expected one of: ref"));
}

static void test_memory(void **state) {
    const fixture *f = *state;
    bl_compare_result r;
    bl_error err;
    bl_status status = BL_ERR_MEMORY;
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        assert_true(nth < 1000);
        bl__alloc_fail_at(nth);
        status = bl_compare_run(f->model, f->tokenizer, f->changed, f->tokenizer, TEXT,
                                strlen(TEXT), &PARAMS, NULL, NULL, NULL, &r, &err);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
