/* Owns the fields of each task: which task a line is of, and how its fields become contexts and
 * continuations. Must not know tokens or models.
 *
 * Source: lm_eval/tasks of EleutherAI/lm-evaluation-harness, read in August 2026: doc_to_text,
 * doc_to_choice and doc_to_target of each task, joined by the default target delimiter, a space. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "formats/json.h"
#include "measure/eval_set.h"
#include "tokenizer/jinja_text.h"

enum { MAX_LINE = 1 << 24, MAX_ITEMS = 1 << 26, MAX_DEPTH = 16, MAX_VALUES = 1 << 16 };
static const size_t MAX_TEXTS = (size_t)1 << 33;

static const char *const NAMES[BL_EVAL_N_TASKS] = {[BL_EVAL_AUTO] = "auto",
                                                   [BL_EVAL_ARC] = "arc",
                                                   [BL_EVAL_BOOLQ] = "boolq",
                                                   [BL_EVAL_HELLASWAG] = "hellaswag",
                                                   [BL_EVAL_OPENBOOKQA] = "openbookqa",
                                                   [BL_EVAL_PIQA] = "piqa",
                                                   [BL_EVAL_WINOGRANDE] = "winogrande"};

const char *bl_eval_task_name(bl_eval_task task) {
    return (size_t)task < BL_EVAL_N_TASKS ? NAMES[task] : "";
}

/* A line under way. The first failure stays in `status`; what comes after it does nothing. */
typedef struct reader {
    bl_eval_set *set;
    bl__eval_record record;
    const json_t *root;
    bl_status status;
    bl_error *err;
} reader;

static void complain(reader *r, const char *field, const json_t *found, const char *expected) {
    if (!r->status)
        r->status = bl__fail(r->err, BL_ERR_FORMAT, "line %zu: \"%s\" is %s, expected %s",
                             r->record.line, field, bl__json_type_name(found), expected);
}

/* The string under a field of an object; "" after a failure. */
static const char *text_of(reader *r, const json_t *object, const char *field) {
    const json_t *value = json_object_get(object, field);
    if (json_is_string(value))
        return json_string_value(value);
    complain(r, field, value, "a string");
    return "";
}

/* ---- texts of the set ---- */

static void check_room(reader *r) {
    if (r->set->texts.failed && !r->status)
        r->status = r->set->texts.too_large
                        ? bl__fail(r->err, BL_ERR_LIMIT, "line %zu: texts of more than %zu bytes",
                                   r->record.line, MAX_TEXTS)
                        : bl__fail(r->err, BL_ERR_MEMORY, "line %zu: cannot allocate its texts",
                                   r->record.line);
}

/* Ends the text that was appended from `begin` on, and returns begin. */
static size_t end_text(reader *r, size_t begin) {
    bl__buffer_putc(&r->set->texts, '\0');
    check_room(r);
    return begin;
}

static size_t begin_text(const reader *r) {
    return r->set->texts.len;
}
static void put(reader *r, const char *text) {
    bl__buffer_puts(&r->set->texts, text);
}

/* Cleans what was appended from `begin` on. */
static void clean_text(reader *r, size_t begin) {
    bl__buffer *texts = &r->set->texts;
    check_room(r);
    if (!r->status)
        texts->len = begin + bl__eval_clean(texts->data + begin, texts->len - begin);
}

/* ---- choices ---- */

/* A choice: the context, and a continuation that was appended from `begin` on, its first byte the
 * space between them. */
static void add_choice(reader *r, size_t context, size_t begin) {
    bl__eval_record *record = &r->record;
    size_t end = r->set->texts.len;
    end_text(r, begin);
    if (r->status)
        return;
    if (record->n_choices == BL_EVAL_MAX_CHOICES) {
        r->status = bl__fail(r->err, BL_ERR_LIMIT, "line %zu: more than %d choices", record->line,
                             BL_EVAL_MAX_CHOICES);
        return;
    }
    uint32_t c = record->n_choices++;
    const char *choice = r->set->texts.data + begin + 1;
    record->contexts[c] = context;
    record->continuations[c] = begin;
    record->n_bytes[c] = (uint32_t)(end - begin - 1);
    record->n_chars[c] = (uint32_t)bl__jinja_count_chars(choice, end - begin - 1);
}

static void add_plain_choice(reader *r, size_t context, const char *choice) {
    size_t begin = begin_text(r);
    put(r, " ");
    put(r, choice);
    add_choice(r, context, begin);
}

/* The answer as a number from `first` on, written as a number, as its digits, or as a boolean. */
static void read_label(reader *r, const char *field, const json_t *value, uint32_t first) {
    double number = -1;
    if (json_is_number(value))
        number = json_number_value(value);
    else if (json_is_boolean(value))
        number = json_is_true(value) ? first + 1 : first;
    else if (json_is_string(value) && json_string_length(value) == 1)
        number = json_string_value(value)[0] - '0';
    number -= first;
    if (number >= 0 && number < r->record.n_choices && number == floor(number)) {
        r->record.gold = (uint32_t)number;
        return;
    }
    char expected[48];
    snprintf(expected, sizeof expected, "a number from %u to %u", first,
             first + r->record.n_choices - 1);
    if (!r->status && (json_is_number(value) || json_is_string(value)))
        r->status = bl__fail(r->err, BL_ERR_FORMAT, "line %zu: \"%s\" is no choice, expected %s",
                             r->record.line, field, expected);
    complain(r, field, value, expected);
}

/* ---- tasks ---- */

static void read_hellaswag(reader *r) {
    const char *after = text_of(r, r->root, "ctx_b");
    size_t context = begin_text(r);
    put(r, text_of(r, r->root, "activity_label"));
    put(r, ": ");
    put(r, text_of(r, r->root, "ctx_a"));
    put(r, " ");
    bl__eval_append_capitalized(&r->set->texts, after, strlen(after));
    clean_text(r, context);
    end_text(r, context);
    const json_t *endings = json_object_get(r->root, "endings"), *ending;
    if (!json_is_array(endings))
        complain(r, "endings", endings, "an array of strings");
    size_t i;
    json_array_foreach(endings, i, ending) {
        if (!json_is_string(ending))
            complain(r, "endings", ending, "strings only");
        if (r->status)
            return;
        size_t begin = begin_text(r);
        put(r, " ");
        put(r, json_string_value(ending));
        clean_text(r, begin + 1);
        add_choice(r, context, begin);
    }
    read_label(r, "label", json_object_get(r->root, "label"), 0);
}

/* Takes one of the choices of ARC and OpenBookQA; key: the label of the right one. */
static void add_labelled(reader *r, size_t context, const json_t *text, const json_t *label,
                         const char *key, bool *found) {
    if (!json_is_string(text))
        complain(r, "text", text, "a string");
    if (!json_is_string(label))
        complain(r, "label", label, "a string");
    if (r->status)
        return;
    if (!*found && strcmp(json_string_value(label), key) == 0) {
        r->record.gold = r->record.n_choices;
        *found = true;
    }
    add_plain_choice(r, context, json_string_value(text));
}

/* choices: {"text": [...], "label": [...]} or [{"text": ..., "label": ...}, ...] */
static void read_labelled(reader *r, size_t context, const json_t *choices, const char *key) {
    bool found = false;
    const json_t *texts = json_object_get(choices, "text");
    const json_t *labels = json_object_get(choices, "label");
    if (json_is_array(choices)) {
        for (size_t i = 0; i < json_array_size(choices) && !r->status; i++) {
            const json_t *choice = json_array_get(choices, i);
            if (!json_is_object(choice))
                complain(r, "choices", choice, "objects only");
            add_labelled(r, context, json_object_get(choice, "text"),
                         json_object_get(choice, "label"), key, &found);
        }
    } else if (!json_is_object(choices)) {
        complain(r, "choices", choices, "an object or an array");
    } else if (!json_is_array(texts)) {
        complain(r, "text", texts, "an array of strings");
    } else {
        for (size_t i = 0; i < json_array_size(texts) && !r->status; i++)
            add_labelled(r, context, json_array_get(texts, i), json_array_get(labels, i), key,
                         &found);
    }
    if (!r->status && !found)
        r->status =
            bl__fail(r->err, BL_ERR_FORMAT,
                     "line %zu: \"answerKey\" is \"%.20s\", expected a label of the choices",
                     r->record.line, key);
}

/* The authors' own files nest stem and choices in "question". */
static void read_arc(reader *r) {
    const json_t *question = json_object_get(r->root, "question");
    bool nested = json_is_object(question);
    const char *text = nested ? text_of(r, question, "stem") : text_of(r, r->root, "question");
    size_t context = begin_text(r);
    put(r, "Question: ");
    put(r, text);
    put(r, "\nAnswer:");
    end_text(r, context);
    read_labelled(r, context, json_object_get(nested ? question : r->root, "choices"),
                  text_of(r, r->root, "answerKey"));
}

static void read_openbookqa(reader *r) {
    const json_t *question = json_object_get(r->root, "question");
    bool nested = json_is_object(question);
    const char *key = text_of(r, r->root, "answerKey");
    size_t len = strlen(key), context = begin_text(r);
    bl__jinja_trim(&key, &len, true, false);
    put(r, nested ? text_of(r, question, "stem") : text_of(r, r->root, "question_stem"));
    end_text(r, context);
    read_labelled(r, context, json_object_get(nested ? question : r->root, "choices"), key);
}

static void read_piqa(reader *r) {
    size_t context = begin_text(r);
    put(r, "Question: ");
    put(r, text_of(r, r->root, "goal"));
    put(r, "\nAnswer:");
    end_text(r, context);
    add_plain_choice(r, context, text_of(r, r->root, "sol1"));
    add_plain_choice(r, context, text_of(r, r->root, "sol2"));
    read_label(r, "label", json_object_get(r->root, "label"), 0);
}

/* Contexts are the sentence up to its gap with either option in it; asked for is what follows. */
static void read_winogrande(reader *r) {
    const char *sentence = text_of(r, r->root, "sentence");
    const char *options[] = {text_of(r, r->root, "option1"), text_of(r, r->root, "option2")};
    const char *gap = strchr(sentence, '_');
    if (!gap && !r->status)
        r->status = bl__fail(r->err, BL_ERR_FORMAT,
                             "line %zu: \"sentence\" has no gap, expected a \"_\"", r->record.line);
    if (r->status)
        return;
    const char *rest = gap + 1;
    size_t len = strlen(rest);
    bl__jinja_trim(&rest, &len, true, true);
    for (size_t c = 0; c < 2; c++) {
        size_t context = begin_text(r);
        bl__buffer_append(&r->set->texts, sentence, (size_t)(gap - sentence));
        put(r, options[c]);
        end_text(r, context);
        size_t begin = begin_text(r);
        put(r, " ");
        bl__buffer_append(&r->set->texts, rest, len);
        add_choice(r, context, begin);
        if (!r->status) { /* what the harness calls the choice */
            const char *choice = r->set->texts.data + context;
            r->record.n_bytes[c] = (uint32_t)strlen(choice);
            r->record.n_chars[c] = (uint32_t)bl__jinja_count_chars(choice, strlen(choice));
        }
    }
    read_label(r, "answer", json_object_get(r->root, "answer"), 1);
}

static void read_boolq(reader *r) {
    const json_t *label = json_object_get(r->root, "label");
    size_t context = begin_text(r);
    put(r, text_of(r, r->root, "passage"));
    put(r, "\nQuestion: ");
    put(r, text_of(r, r->root, "question"));
    put(r, "?\nAnswer:");
    end_text(r, context);
    add_plain_choice(r, context, "no");
    add_plain_choice(r, context, "yes");
    if (label)
        read_label(r, "label", label, 0);
    else
        read_label(r, "answer", json_object_get(r->root, "answer"), 0);
}

/* ---- lines ---- */

static bool has(const json_t *root, const char *field) {
    return json_object_get(root, field) != NULL;
}

static bl_status recognise(const json_t *root, size_t line, bl_eval_task *task, bl_error *err) {
    const json_t *question = json_object_get(root, "question");
    if (has(root, "endings"))
        *task = BL_EVAL_HELLASWAG;
    else if (has(root, "goal"))
        *task = BL_EVAL_PIQA;
    else if (has(root, "sentence") && has(root, "option1"))
        *task = BL_EVAL_WINOGRANDE;
    else if (has(root, "passage"))
        *task = BL_EVAL_BOOLQ;
    else if (has(root, "question_stem"))
        *task = BL_EVAL_OPENBOOKQA;
    else if (json_is_string(question) && has(root, "choices"))
        *task = BL_EVAL_ARC;
    else if (json_is_object(question))
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "line %zu: the task must be named: \"question\" is an object with ARC and "
                        "with OpenBookQA",
                        line);
    else
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "line %zu: fields of no task; expected \"endings\" (HellaSwag), \"goal\" "
                        "(PIQA), \"sentence\" (WinoGrande), \"passage\" (BoolQ), \"question_stem\" "
                        "(OpenBookQA) or \"question\" and \"choices\" (ARC)",
                        line);
    return BL_OK;
}

static bl_status keep_record(bl_eval_set *set, const bl__eval_record *record, bl_error *err) {
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 64;
        void *larger =
            set->n < MAX_ITEMS ? bl__realloc_array(set->records, cap, sizeof *set->records) : NULL;
        if (!larger)
            return bl__fail(err, set->n < MAX_ITEMS ? BL_ERR_MEMORY : BL_ERR_LIMIT,
                            "line %zu: cannot keep more than %zu items", record->line, set->n);
        set->records = larger;
        set->cap = cap;
    }
    set->records[set->n++] = *record;
    return BL_OK;
}

static bl_status read_item(bl_eval_set *set, size_t line, const json_t *root, bl_error *err) {
    static void (*const readers[BL_EVAL_N_TASKS])(reader *) = {
        [BL_EVAL_ARC] = read_arc,
        [BL_EVAL_BOOLQ] = read_boolq,
        [BL_EVAL_HELLASWAG] = read_hellaswag,
        [BL_EVAL_OPENBOOKQA] = read_openbookqa,
        [BL_EVAL_PIQA] = read_piqa,
        [BL_EVAL_WINOGRANDE] = read_winogrande};
    reader r = {.set = set, .record.line = line, .root = root, .err = err};
    if (!json_is_object(root))
        return bl__fail(err, BL_ERR_FORMAT, "line %zu: %s, expected an object", line,
                        bl__json_type_name(root));
    if (set->task == BL_EVAL_AUTO)
        r.status = recognise(root, line, &set->task, err);
    if (!r.status)
        readers[set->task](&r);
    if (!r.status && r.record.n_choices < 2)
        r.status = bl__fail(err, BL_ERR_FORMAT, "line %zu: %u choices, expected at least 2", line,
                            r.record.n_choices);
    return r.status ? r.status : keep_record(set, &r.record, err);
}

static bl_status read_line(bl_eval_set *set, size_t line, const char *text, size_t len,
                           bl_error *err) {
    static const bl__json_limits limits = {
        .depth = MAX_DEPTH, .values = MAX_VALUES, .as_reals = true};
    bl_error inner;
    json_t *root;
    if (len > MAX_LINE)
        return bl__fail(err, BL_ERR_LIMIT, "line %zu: %zu bytes, at most %d allowed", line, len,
                        MAX_LINE);
    bl_status status = bl__json_parse(text, len, limits, &root, &inner);
    if (status)
        return bl__fail(err, status, "line %zu: %.200s", line, inner.message);
    status = read_item(set, line, root, err);
    json_decref(root);
    return status;
}

bl_status bl_eval_set_read(const char *text, size_t len, bl_eval_task task, bl_eval_set **out,
                           bl_error *err) {
    if ((size_t)task >= BL_EVAL_N_TASKS)
        return bl__fail(err, BL_ERR_ARGUMENT, "task %d, expected 0 to %d", (int)task,
                        BL_EVAL_N_TASKS - 1);
    bl_eval_set *set = bl__calloc(1, sizeof *set);
    if (!set)
        return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a set of items");
    set->task = task;
    set->texts = bl__buffer_make(MAX_TEXTS);
    bl_status status = BL_OK;
    const char *end = text + len;
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3; /* a byte order mark is not text */
    for (size_t line = 1; text < end && !status; line++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline ? newline : end, *from = text;
        size_t n = (size_t)(line_end - text);
        bl__jinja_trim(&from, &n, true, true);
        if (n)
            status = read_line(set, line, from, n, err);
        text = newline ? newline + 1 : end;
    }
    if (!status && !set->n)
        status = bl__fail(err, BL_ERR_ARGUMENT, "no items: the text is empty");
    if (status)
        bl_eval_set_free(set);
    else
        *out = set;
    return status;
}

void bl_eval_set_free(bl_eval_set *set) {
    if (!set)
        return;
    bl__buffer_free(&set->texts);
    bl__free(set->records);
    bl__free(set);
}

bl_eval_task bl_eval_set_task(const bl_eval_set *set) {
    return set->task;
}
size_t bl_eval_set_size(const bl_eval_set *set) {
    return set->n;
}
bool bl_eval_set_has_lengths(const bl_eval_set *set) {
    return set->task != BL_EVAL_WINOGRANDE && set->task != BL_EVAL_BOOLQ;
}

void bl_eval_set_get(const bl_eval_set *set, size_t i, bl_eval_item *out) {
    const bl__eval_record *r = &set->records[i];
    *out = (bl_eval_item){.line = r->line, .n_choices = r->n_choices, .gold = r->gold};
    for (uint32_t c = 0; c < r->n_choices; c++) {
        out->contexts[c] = set->texts.data + r->contexts[c];
        out->continuations[c] = set->texts.data + r->continuations[c];
        out->n_chars[c] = r->n_chars[c];
        out->n_bytes[c] = r->n_bytes[c];
    }
}
