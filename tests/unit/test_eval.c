/* Multiple choice: the prompts that each task's fields become; sums against others made here, each
 * choice alone in a session of its own; batches that change nothing; lines that are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/eval.h"

enum { VOCAB = 4096 };

typedef struct fixture {
    bl_model *model;
    bl_tokenizer *tokenizer;
} fixture;

static int set_up(void **state) {
    static fixture f;
    static const char path[] = BITLOOM_MODELS "/novels-6m.gguf";
    bl_error err;
    if (bl_model_open(path, NULL, &f.model, &err) || bl_tokenizer_open(path, &f.tokenizer, &err))
        fail_msg("%s", err.message);
    *state = &f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    bl_tokenizer_close(f->tokenizer);
    bl_model_close(f->model);
    return 0;
}

static bl_eval_set *read_set(const char *text, bl_eval_task task) {
    bl_eval_set *set;
    bl_error err;
    if (bl_eval_set_read(text, strlen(text), task, &set, &err))
        fail_msg("%s", err.message);
    return set;
}

/* ---- prompts ---- */

static void check_item(const char *line, bl_eval_task task, bl_eval_task found, uint32_t gold,
                       const char *context, const char *first, const char *second) {
    bl_eval_set *set = read_set(line, task);
    bl_eval_item item;
    assert_int_equal(bl_eval_set_task(set), found);
    assert_int_equal(bl_eval_set_size(set), 1);
    bl_eval_set_get(set, 0, &item);
    assert_int_equal(item.gold, gold);
    assert_string_equal(item.contexts[0], context);
    assert_string_equal(item.continuations[0], first);
    assert_string_equal(item.continuations[1], second);
    assert_int_equal(item.n_bytes[0],
                     found == BL_EVAL_WINOGRANDE ? strlen(context) : strlen(first) - 1);
    bl_eval_set_free(set);
}

static void test_prompts(void **state) {
    (void)state;
    check_item("{\"activity_label\":\"  Baking\",\"ctx_a\":\"A man [step] stands.  He\",\"ctx_b\":"
               "\"\\u00e9l AND Bo\",\"endings\":[\" a [x] b\",\"c [title] d [\",\"e\",\"f\"],"
               "\"label\":\"2\"}",
               BL_EVAL_AUTO, BL_EVAL_HELLASWAG, 2, "Baking: A man stands. He \xc3\x89l and bo",
               " a b", " c. d [");
    check_item("{\"question\":\"Why?\",\"choices\":{\"text\":[\"x\",\"y\"],\"label\":[\"1\",\"2\"]}"
               ",\"answerKey\":\"2\"}",
               BL_EVAL_AUTO, BL_EVAL_ARC, 1, "Question: Why?\nAnswer:", " x", " y");
    check_item("{\"question\":{\"stem\":\"Why?\",\"choices\":[{\"text\":\"x\",\"label\":\"A\"},"
               "{\"text\":\"y\",\"label\":\"B\"}]},\"answerKey\":\"A\"}",
               BL_EVAL_OPENBOOKQA, BL_EVAL_OPENBOOKQA, 0, "Why?", " x", " y");
    check_item("{\"question_stem\":\"The sun\",\"choices\":{\"text\":[\"x\",\"y\",\"z\"],\"label\":"
               "[\"A\",\"B\",\"C\"]},\"answerKey\":\" C\"}",
               BL_EVAL_AUTO, BL_EVAL_OPENBOOKQA, 2, "The sun", " x", " y");
    check_item("{\"goal\":\"To fly\",\"sol1\":\"wings\",\"sol2\":\"legs\",\"label\":0}",
               BL_EVAL_AUTO, BL_EVAL_PIQA, 0, "Question: To fly\nAnswer:", " wings", " legs");
    check_item("{\"sentence\":\"Ann hid from _ since he was _ .  \",\"option1\":\"Bo\",\"option2\":"
               "\"Cy\",\"answer\":\"2\"}",
               BL_EVAL_AUTO, BL_EVAL_WINOGRANDE, 1, "Ann hid from Bo", " since he was _ .",
               " since he was _ .");
    check_item("{\"passage\":\"P.\",\"question\":\"is it\",\"label\":1}", BL_EVAL_AUTO,
               BL_EVAL_BOOLQ, 1, "P.\nQuestion: is it?\nAnswer:", " no", " yes");
    check_item("{\"passage\":\"P.\",\"question\":\"is it\",\"answer\":false}", BL_EVAL_AUTO,
               BL_EVAL_BOOLQ, 0, "P.\nQuestion: is it?\nAnswer:", " no", " yes");
}

static void test_lengths(void **state) {
    (void)state;
    bl_eval_set *set = read_set(
        "\xef\xbb\xbf\n \r\n{\"goal\":\"\",\"sol1\":\"caf\xc3\xa9\",\"sol2\":\"\",\"label\":1}\n",
        BL_EVAL_AUTO);
    bl_eval_item item;
    bl_eval_set_get(set, 0, &item);
    assert_int_equal(item.line, 3);
    assert_int_equal(item.n_chars[0], 4);
    assert_int_equal(item.n_bytes[0], 5);
    assert_int_equal(item.n_chars[1], 0);
    bl_eval_set_free(set);
}

/* ---- lines that are refused ---- */

static void refuse(const char *text, bl_eval_task task, bl_status expected, const char *words) {
    bl_eval_set *set = NULL;
    bl_error err = {0};
    assert_int_equal(bl_eval_set_read(text, strlen(text), task, &set, &err), expected);
    assert_null(set);
    if (!strstr(err.message, words))
        fail_msg("said %s, expected %s", err.message, words);
}

#define PIQA_LINE "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":0}\n"

static void test_refusals(void **state) {
    (void)state;
    refuse("", BL_EVAL_AUTO, BL_ERR_ARGUMENT, "no items");
    refuse(" \n\n", BL_EVAL_PIQA, BL_ERR_ARGUMENT, "no items");
    refuse(PIQA_LINE "{\"goal\"", BL_EVAL_AUTO, BL_ERR_FORMAT, "line 2: JSON");
    refuse(PIQA_LINE "\n[]", BL_EVAL_AUTO, BL_ERR_FORMAT, "line 3: an array, expected an object");
    refuse("{\"text\":\"\"}", BL_EVAL_AUTO, BL_ERR_ARGUMENT, "line 1: fields of no task");
    refuse("{\"question\":{}}", BL_EVAL_AUTO, BL_ERR_ARGUMENT, "the task must be named");
    refuse("{\"goal\":\"g\",\"sol1\":\"a\",\"label\":0}", BL_EVAL_AUTO, BL_ERR_FORMAT,
           "line 1: \"sol2\" is nothing, expected a string");
    refuse(PIQA_LINE "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":2}", BL_EVAL_AUTO,
           BL_ERR_FORMAT, "line 2: \"label\" is no choice, expected a number from 0 to 1");
    refuse("{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":0.5}", BL_EVAL_AUTO,
           BL_ERR_FORMAT, "\"label\" is no choice");
    refuse("{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":null}", BL_EVAL_AUTO,
           BL_ERR_FORMAT, "\"label\" is null");
    refuse("{\"sentence\":\"a b\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"1\"}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "\"sentence\" has no gap");
    refuse("{\"sentence\":\"a _ b\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"\"}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "\"answer\" is no choice, expected a number from 1 to 2");
    refuse("{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\"]},"
           "\"answerKey\":\"A\"}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "\"label\" is nothing");
    refuse("{\"question\":\"q\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\",\"B\"]},"
           "\"answerKey\":\"C\"}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "\"answerKey\" is \"C\"");
    refuse("{\"question\":\"q\",\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]},"
           "\"answerKey\":\"A\"}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "line 1: 1 choices, expected at least 2");
    refuse("{\"question\":\"q\",\"choices\":3,\"answerKey\":\"A\"}", BL_EVAL_AUTO, BL_ERR_FORMAT,
           "\"choices\" is a real number, expected an object or an array");
    refuse("{\"activity_label\":\"\",\"ctx_a\":\"\",\"ctx_b\":\"\",\"endings\":[\"a\",1],"
           "\"label\":0}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "\"endings\" is a real number, expected strings only");
    refuse("{\"activity_label\":\"\",\"ctx_a\":\"\",\"ctx_b\":\"\",\"endings\":[0,0,0,0,0,0,0,0,0,"
           "0,0,0,0,0,0,0,0]}",
           BL_EVAL_AUTO, BL_ERR_FORMAT, "expected strings only");
    refuse("{\"goal\":\"\xff\"}", BL_EVAL_AUTO, BL_ERR_FORMAT, "line 1: JSON");
    refuse(PIQA_LINE, (bl_eval_task)99, BL_ERR_ARGUMENT, "task 99");
    char many[400];
    int n = snprintf(many, sizeof many,
                     "{\"activity_label\":\"\",\"ctx_a\":\"\",\"ctx_b\":\"\",\"endings\":[\"a\"");
    for (int i = 0; i < BL_EVAL_MAX_CHOICES; i++)
        n += snprintf(many + n, sizeof many - (size_t)n, ",\"a\"");
    snprintf(many + n, sizeof many - (size_t)n, "]}");
    refuse(many, BL_EVAL_AUTO, BL_ERR_LIMIT, "line 1: more than 16 choices");
}

/* ---- sums ---- */

static const char ITEMS[] =
    "{\"activity_label\":\"Sailing\",\"ctx_a\":\"The captain came down to the inn.\",\"ctx_b\":\"he"
    "\",\"endings\":[\"sat by the fire\",\"sat by the sea and sang\",\"was a horse\",\"x\"],"
    "\"label\":0}\n"
    "{\"activity_label\":\"Riding\",\"ctx_a\":\"Holmes took his hat. \",\"ctx_b\":\"\",\"endings\":"
    "[\"Then he went away.\",\"Then he went.\"],\"label\":\"1\"}\n"
    "{\"activity_label\":\"Tea\",\"ctx_a\":\"\",\"ctx_b\":\"\",\"endings\":[\"caf\xc3\xa9\",\"of "
    "the afternoon\",\"\"],\"label\":1}\n";

/* ln p of a continuation: one token at a time in a session of its own, in double precision. */
static double sum_alone(const fixture *f, const char *context, const char *continuation,
                        size_t n_ctx) {
    char text[512];
    bl_token *ids, *kept;
    size_t n, n_kept, len = strlen(context);
    bl_session *session;
    bl_error err;
    double total = 0;
    while (len && context[len - 1] == ' ')
        len--;
    snprintf(text, sizeof text, "%s%s", context, continuation);
    assert_false(
        bl_tokenizer_encode(f->tokenizer, text, strlen(text), BL_TOKENIZE_EXTRA, &ids, &n, &err));
    assert_false(
        bl_tokenizer_encode(f->tokenizer, context, len, BL_TOKENIZE_EXTRA, &kept, &n_kept, &err));
    assert_false(bl_session_create(f->model, &(bl_session_params){.n_threads = 1}, &session, &err));
    size_t begin = n - 1 > n_ctx ? n - 1 - n_ctx : 0;
    for (size_t at = begin; at + 1 < n; at++) {
        assert_false(bl_session_eval(session, ids + at, 1, NULL, &err));
        const float *logits = bl_session_logits(session);
        double sum = 0;
        for (size_t i = 0; i < VOCAB; i++)
            sum += exp((double)logits[i] - (double)logits[ids[at + 1]]);
        if (at + 1 >= n_kept)
            total -= log(sum);
    }
    bl_session_free(session);
    bl_free(ids);
    bl_free(kept);
    return total;
}

typedef struct sums {
    double of[3][BL_EVAL_MAX_CHOICES];
    uint32_t chosen[3];
    size_t n, stop_at;
} sums;

static bool keep_sums(void *user, const bl_eval_answer *answer, const bl_eval_result *so_far,
                      uint64_t n_items) {
    sums *s = user;
    assert_int_equal(answer->item, s->n);
    assert_true(so_far->n_items == s->n + 1 && n_items <= 3);
    memcpy(s->of[s->n], answer->log_likelihoods, sizeof s->of[0]);
    s->chosen[s->n++] = answer->chosen;
    return s->n != s->stop_at;
}

static sums run_items(const fixture *f, const bl_eval_set *set, bl_session_params session,
                      bl_eval_result *result) {
    const bl_eval_params params = {.session = session};
    sums s = {.n = 0};
    bl_error err;
    if (bl_eval_run(f->model, f->tokenizer, set, &params, keep_sums, &s, result, &err))
        fail_msg("%s", err.message);
    assert_int_equal(s.n, 3);
    return s;
}

static void test_sums(void **state) {
    const fixture *f = *state;
    bl_eval_set *set = read_set(ITEMS, BL_EVAL_AUTO);
    for (uint32_t n_ctx = 0; n_ctx <= 12; n_ctx += 12) {
        bl_eval_result r;
        sums s = run_items(f, set, (bl_session_params){.n_threads = 1, .n_ctx = n_ctx}, &r);
        size_t n_right = 0;
        assert_true(n_ctx ? r.n_cut > 0 : r.n_cut == 0);
        for (size_t i = 0; i < s.n; i++) {
            bl_eval_item item;
            bl_eval_set_get(set, i, &item);
            uint32_t best = 0;
            for (uint32_t c = 0; c < item.n_choices; c++) {
                double alone =
                    sum_alone(f, item.contexts[c], item.continuations[c], n_ctx ? n_ctx : SIZE_MAX);
                assert_true(fabs(s.of[i][c] - alone) < 1e-5 * (1 + fabs(alone)));
                best = s.of[i][c] > s.of[i][best] ? c : best;
            }
            assert_int_equal(s.chosen[i], best);
            n_right += best == item.gold;
        }
        double mean = (double)n_right / 3;
        assert_true(fabs(r.acc.mean - mean) < 1e-12);
        assert_true(fabs(r.acc.error - sqrt(mean * (1 - mean) / 2)) < 1e-12);
    }
    bl_eval_set_free(set);
}

/* Whatever is evaluated together, the sums have the same bits. */
static void test_batches(void **state) {
    const fixture *f = *state;
    bl_eval_set *set = read_set(ITEMS, BL_EVAL_AUTO);
    bl_eval_result whole, r;
    sums expected = run_items(f, set, (bl_session_params){.n_threads = 1}, &whole);
    const bl_session_params others[] = {{.n_threads = 2, .n_batch = 1},
                                        {.n_threads = 1, .n_batch = 7, .n_sequences = 1},
                                        {.n_threads = 2, .n_sequences = 7}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        sums s = run_items(f, set, others[i], &r);
        assert_memory_equal(&s, &expected, sizeof s);
        assert_int_equal(r.n_evaluated, whole.n_evaluated);
    }
    bl_eval_set_free(set);
}

static void test_limits(void **state) {
    const fixture *f = *state;
    bl_eval_set *set = read_set(ITEMS, BL_EVAL_AUTO);
    bl_eval_params params = {.max_items = 2, .session = {.n_threads = 1}};
    bl_eval_result r = {.n_items = 99};
    sums s = {.stop_at = 1};
    bl_error err;
    assert_int_equal(bl_eval_run(f->model, f->tokenizer, set, &params, keep_sums, &s, &r, &err),
                     BL_ERR_CANCELLED);
    assert_non_null(strstr(err.message, "after 1 of 2 items"));
    assert_int_equal(r.n_items, 99); /* written on success only */
    assert_int_equal(bl_eval_run(f->model, f->tokenizer, set, &params, NULL, NULL, &r, &err),
                     BL_OK);
    assert_int_equal(r.n_items, 2);
    params.session.n_ctx = 2;
    assert_int_equal(bl_eval_run(f->model, f->tokenizer, set, &params, NULL, NULL, &r, &err),
                     BL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "line 1: a continuation of"));
    bl_eval_set_free(set);
    set = read_set("{\"sentence\":\"So _\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"1\"}",
                   BL_EVAL_AUTO);
    assert_int_equal(bl_eval_run(f->model, f->tokenizer, set, NULL, NULL, NULL, &r, &err), BL_OK);
    bl_eval_set_free(set);
}

static void test_memory(void **state) {
    const fixture *f = *state;
    const bl_eval_params params = {.max_items = 1, .session = {.n_threads = 1}};
    bl_status status = BL_ERR_MEMORY;
    for (long nth = 1; status == BL_ERR_MEMORY; nth++) {
        bl_eval_set *set = NULL;
        bl_eval_result r;
        bl_error err;
        assert_true(nth < 2000);
        bl__alloc_fail_at(nth);
        status = bl_eval_set_read(ITEMS, strlen(ITEMS), BL_EVAL_AUTO, &set, &err);
        if (!status)
            status = bl_eval_run(f->model, f->tokenizer, set, &params, NULL, NULL, &r, &err);
        bl_eval_set_free(set);
    }
    bl__alloc_fail_at(0);
    assert_int_equal(status, BL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompts),  cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_sums),
        cmocka_unit_test(test_batches),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
