/* Runs with OneBit's weights and with teachers: they learn, go on bit for bit after a stop, start
 * from models and from one another, and refuse teachers that do not fit. */
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
#include <jansson.h>

#include "base/alloc.h"
#include "base/file.h"
#include "trainer_fixture.h"

static char from_teacher[160], with_teacher[160];
static double teacher_loss; /* of held-out data */

/* Exact products: what one run measures is what the next one finds. */
#define EXACT "precision=float32"

static const char *const onebit_student[] = {from_teacher, with_teacher, "weights=onebit",
                                             "rate=0.003", EXACT,        NULL};

/* A number of one line of metrics; NaN when it is not there. */
static double metric(const char *name, size_t line, const char *key) {
    char path[BL_RUN_MAX_PATH], *text;
    size_t len;
    snprintf(path, sizeof path, "%s/run.jsonl", in_root(name));
    assert_int_equal(bl__file_read(path, 1 << 20, &text, &len, NULL), BL_OK);
    const char *at = text;
    for (size_t i = 0; i < line; i++)
        at = strchr(at, '\n') + 1;
    json_t *object = json_loads(at, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *value = json_object_get(object, key);
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    json_decref(object);
    bl__free(text);
    return number;
}

static void a_teacher_is_trained(void **state) {
    (void)state;
    static const char *const settings[] = {"weights=float", EXACT, NULL};
    watch w = {0};
    bl_train_report report;
    must_train("teacher", &w, settings, false, 1, &report);
    assert_true(isnan(report.teacher));
    assert_true(isnan(metric("teacher", 3, "hidden")));
    assert_true(isnan(metric("teacher", 3, "relations")));
    teacher_loss = report.validation;
    snprintf(from_teacher, sizeof from_teacher, "from=%s", in_root("teacher"));
    snprintf(with_teacher, sizeof with_teacher, "teacher=%s", in_root("teacher"));
}

static void a_student_comes_near_its_teacher(void **state) {
    (void)state;
    watch w = {0};
    bl_train_report report;
    must_train("student", &w, onebit_student, false, 1, &report);
    assert_int_equal(w.n_steps, 21); /* and step 0 */
    assert_true(fabs(report.teacher - teacher_loss) < 1e-6);
    assert_true(fabs(metric("student", 0, "teacher") - teacher_loss) < 1e-5);
    double start = metric("student", 0, "validation");
    assert_true(start > teacher_loss && report.validation < start);
    assert_true(metric("student", 20, "hidden") < 0.8 * metric("student", 1, "hidden"));
    assert_true(fabs(report.deployed - report.validation) < 0.01);
    assert_true(report.flips[0] > 0);
}

static void svid_is_a_better_start_than_chance(void **state) {
    (void)state;
    const char *const settings[] = {with_teacher, "weights=onebit", "rate=0.003", EXACT, NULL};
    watch w = {0};
    bl_train_report random;
    must_train("random", &w, settings, false, 1, &random);
    assert_true(fabs(metric("random", 0, "teacher") - teacher_loss) < 1e-5);
    assert_true(random.validation > metric("student", 20, "validation") + 0.1);
}

static void a_stopped_student_goes_on_bit_for_bit(void **state) {
    (void)state;
    bl_error err = {0};
    watch w = {.stop_after = 9};
    bl_train_report report;
    assert_int_equal(train("parts", &w, onebit_student, false, 3, NULL, &err), BL_ERR_CANCELLED);
    w = (watch){0};
    must_train("parts", &w, onebit_student, true, 2, &report);
    assert_int_equal(w.n_steps, 11);
    assert_true(fabs(report.teacher - teacher_loss) < 1e-6);
    assert_same_checkpoints("student", "parts", 20);
}

static void students_are_models_to_start_from(void **state) {
    (void)state;
    char from[160], teacher[160];
    double loss = metric("student", 20, "validation");
    snprintf(from, sizeof from, "from=%s", in_root("student"));
    snprintf(teacher, sizeof teacher, "teacher=%s", in_root("student"));
    const char *const again[] = {from, teacher, "steps=1", EXACT, NULL};
    const char *const floats[] = {from, "weights=float", "steps=1", EXACT, NULL};
    watch w = {0};
    bl_error err = {0};
    must_train("again", &w, again, false, 1, NULL);
    assert_true(fabs(metric("again", 0, "validation") - loss) < 1e-5);
    assert_true(fabs(metric("again", 0, "teacher") - loss) < 1e-5);
    assert_int_equal(train("floats", &w, floats, false, 1, NULL, &err), BL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "input_factor"));
}

/* Any kind of weights learns, from a teacher of any kind and, without hidden states, any shape. */
static void teachers_and_students_of_all_kinds(void **state) {
    (void)state;
    static const char *const kinds[] = {"ternary", "binary", "float"};
    for (size_t i = 0; i < 3; i++) {
        char weights[32], teacher[160];
        snprintf(weights, sizeof weights, "weights=%s", kinds[i]);
        const char *const settings[] = {with_teacher,
                                        weights,
                                        EXACT,
                                        "mask_documents=true",
                                        "distill_hard=0.5",
                                        "distill_temperature=2",
                                        "steps=3",
                                        "distill_relations=1",
                                        NULL};
        watch w = {0};
        bl_train_report report;
        must_train(kinds[i], &w, settings, false, 1, &report);
        assert_true(fabs(report.teacher - teacher_loss) < 1e-6);
        assert_true(metric(kinds[i], 3, "hidden") > 0);
        assert_true(metric(kinds[i], 3, "relations") > 0);
        assert_true(metric(kinds[i], 3, "relations") < 0.1);
        char named[32];
        snprintf(named, sizeof named, "of-%s", kinds[i]);
        snprintf(teacher, sizeof teacher, "teacher=%s", in_root(kinds[i]));
        const char *const other[] = {teacher,  "weights=onebit", EXACT,     "distill_hidden=0",
                                     "dim=40", "layers=1",       "steps=3", "distill_relations=1",
                                     NULL};
        must_train(named, &w, other, false, 1, &report);
        assert_true(fabs(report.teacher - metric(kinds[i], 3, "validation")) < 1e-5);
        assert_true(isnan(metric(named, 3, "hidden")));
        assert_true(metric(named, 3, "relations") > 0);
    }
}

/* ---- exports ---- */

static void check_export(const char *name, bool masters, double expected) {
    bl_error err = {0};
    char gguf[160];
    snprintf(gguf, sizeof gguf, "%s.gguf", in_root(name));
    if (bl_train_export_gguf(in_root(name), gguf, masters, &err) != BL_OK)
        fail_msg("%s", err.message);
    double found = model_loss(gguf, "data.tok", false);
    if (!(fabs(found - expected) < 1e-5))
        fail_msg("%s: the model's loss is %.7f, the trainer's %.7f", name, found, expected);
}

/* With and without sub-norms: then rows of Q and K are permuted. */
static void exported_students_have_the_trainers_loss(void **state) {
    (void)state;
    static const char *const llama[] = {"weights=onebit", "activation=silu", "sub_norms=false",
                                        EXACT, NULL};
    watch w = {0};
    bl_error err = {0};
    bl_train_report report;
    must_train("student", &w, onebit_student, true, 1, &report);
    check_export("student", false, report.deployed);
    check_export("student", true, report.validation);
    must_train("llama", &w, llama, false, 1, &report);
    check_export("llama", false, report.deployed);
    assert_string_equal(report.sizes[0].layout, "bl_b1");
    assert_int_equal(report.n_sizes, 1);
    assert_int_equal(bl_train_export(in_root("student"), in_root("student-hf"), false, &err),
                     BL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "onebit"));
}

/* ---- what goes wrong ---- */

static void refused(const char *const *settings, bl_status status, const char *what) {
    watch w = {0};
    bl_error err = {0};
    assert_int_equal(train("refused", &w, settings, false, 1, NULL, &err), status);
    if (!strstr(err.message, what))
        fail_msg("'%s', expected '%s' in it", err.message, what);
    remove_tree(in_root("refused"));
}

static void copy_tokenizer(const char *directory) {
    char to[BL_RUN_MAX_PATH], *text;
    size_t len;
    snprintf(to, sizeof to, "%s/tokenizer.json", directory);
    assert_int_equal(bl__file_read(BITLOOM_TEST_DATA "/tokenizers/gpt2/tokenizer.json", 1 << 24,
                                   &text, &len, NULL),
                     BL_OK);
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    fclose(file);
    bl__free(text);
}

static void teachers_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const char *const larger[] = {"weights=float", "vocab=44", "steps=1", NULL};
    char teacher[192];
    const char *const settings[] = {teacher, "steps=1", NULL};
    const char *const wide[] = {teacher, "dim=40", "steps=1", NULL};
    const char *const heads[] = {teacher, "distill_relations=1", "relation_heads=7", "steps=1",
                                 NULL};
    const char *const layer[] = {teacher, "distill_relations=1", "relation_layer=9", "steps=1",
                                 NULL};
    const char *const longer[] = {teacher, "tokens=25", "context=25", "steps=1", NULL};
    const char *const grouped[] = {with_teacher, "weights=onebit", "groups=2", "steps=1", NULL};
    const char *const ramp[] = {with_teacher, "weights=onebit", "lambda_steps=1", "steps=1", NULL};
    watch w = {0};
    must_train("larger", &w, larger, false, 1, NULL);
    snprintf(teacher, sizeof teacher, "teacher=%s", in_root("nothing"));
    refused(settings, BL_ERR_NOT_FOUND, "nothing");
    snprintf(teacher, sizeof teacher, "teacher=%s", in_root("data.tok"));
    refused(settings, BL_ERR_LIMIT, "data.tok");
    snprintf(teacher, sizeof teacher, "teacher=%s", in_root("larger"));
    refused(settings, BL_ERR_ARGUMENT, "a vocabulary of 44, expected the student's, 40");
    snprintf(teacher, sizeof teacher, "teacher=%s", in_root("teacher"));
    refused(wide, BL_ERR_ARGUMENT, "distill_hidden 0 leaves it out");
    refused(heads, BL_ERR_ARGUMENT, "relation_heads 7, expected a divisor");
    refused(layer, BL_ERR_ARGUMENT, "relation_layer 9");
    refused(longer, BL_ERR_ARGUMENT, "tokens in a row 25, expected 1 to 24");
    refused(grouped, BL_ERR_ARGUMENT, "groups is 2");
    refused(ramp, BL_ERR_ARGUMENT, "lambda_steps 1");
    char directory[160];
    snprintf(directory, sizeof directory, "%s", in_root("teacher-hf"));
    assert_int_equal(bl_train_export(in_root("teacher"), directory, false, NULL), BL_OK);
    snprintf(teacher, sizeof teacher, "teacher=%s", directory);
    must_train("from-hf", &w, settings, false, 1, NULL);
    copy_tokenizer(directory);
    refused(settings, BL_ERR_ARGUMENT, "made with a vocabulary of 40 tokens, the tokenizer has");
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    const char *const settings[] = {from_teacher, with_teacher, "weights=onebit",
                                    EXACT,        "steps=1",    NULL};
    bl_status status = BL_ERR_MEMORY;
    long n = 0;
    while (status) {
        watch w = {0};
        bl_train_report report;
        remove_tree(in_root("memory"));
        bl__alloc_fail_at(++n);
        status = train("memory", &w, settings, false, 1, &report, NULL);
        if (!status)
            status = bl_train_export_gguf(in_root("memory"), in_root("memory/m.gguf"), true, NULL);
        bl__alloc_fail_at(0);
        if (status)
            assert_int_equal(status, BL_ERR_MEMORY);
        assert_true(n < 5000);
    }
    assert_true(n > 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_teacher_is_trained),
        cmocka_unit_test(a_student_comes_near_its_teacher),
        cmocka_unit_test(svid_is_a_better_start_than_chance),
        cmocka_unit_test(a_stopped_student_goes_on_bit_for_bit),
        cmocka_unit_test(students_are_models_to_start_from),
        cmocka_unit_test(teachers_and_students_of_all_kinds),
        cmocka_unit_test(exported_students_have_the_trainers_loss),
        cmocka_unit_test(teachers_that_do_not_fit_are_refused),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
