/* Owns the costs of a rendering: steps, memory, output; and the making of values. */
#include "tokenizer/jinja_run.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/error.h"
#include "tokenizer/jinja_text.h"

enum { MESSAGE_MAX = 200, BYTES_PER_STEP = 16, FIRST_ITEMS = 4 };

bool bl__jinja_fail(jinja_run *run, bl_status status, const char *format, ...) {
    char message[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    run->status = bl__fail(run->err, status, "chat template: line %u: %s", run->line, message);
    return false;
}

bool bl__jinja_steps(jinja_run *run, uint64_t n) {
    if (n > run->limits.max_steps - run->steps)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "rendering takes more than %llu steps",
                              (unsigned long long)run->limits.max_steps);
    run->steps += n;
    return true;
}

bool bl__jinja_touch(jinja_run *run, size_t bytes) {
    return bl__jinja_steps(run, bytes / BYTES_PER_STEP);
}

void *bl__jinja_alloc(jinja_run *run, size_t count, size_t size) {
    void *memory = bl__jinja_pool_alloc(&run->pool, count, size);
    if (memory)
        return memory;
    if (run->pool.too_large)
        bl__jinja_fail(run, BL_ERR_LIMIT, "values take more than %zu bytes",
                       run->limits.max_memory);
    else
        bl__jinja_fail(run, BL_ERR_MEMORY, "out of memory");
    return NULL;
}

bool bl__jinja_write(jinja_run *run, const char *text, size_t len) {
    if (!bl__jinja_touch(run, len))
        return false;
    if (bl__buffer_append(&run->out, text, len))
        return true;
    if (run->out.too_large)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "more than %zu bytes of text", run->out.max);
    return bl__jinja_fail(run, BL_ERR_MEMORY, "out of memory");
}

bool bl__jinja_write_char(jinja_run *run, uint32_t code) {
    char bytes[4];
    size_t n = 1;
    if (code < 0x80)
        bytes[0] = (char)code;
    else
        n = bl__jinja_encode(code, bytes);
    return bl__jinja_write(run, bytes, n);
}

bool bl__jinja_take(jinja_run *run, size_t mark, jinja_value *out) {
    size_t len = run->out.len - mark;
    char *copy = bl__jinja_alloc(run, len, 1);
    if (!copy)
        return false;
    if (len)
        memcpy(copy, run->out.data + mark, len);
    run->out.len = mark;
    *out = bl__jinja_string(copy, len);
    return true;
}

bool bl__jinja_new_list(jinja_run *run, size_t capacity, jinja_flavour flavour, jinja_value *out) {
    jinja_list *list = bl__jinja_alloc(run, 1, sizeof *list);
    if (!list)
        return false;
    *list = (jinja_list){.capacity = capacity};
    if (capacity && !(list->items = bl__jinja_alloc(run, capacity, sizeof *list->items)))
        return false;
    *out = (jinja_value){.kind = JINJA_LIST, .flavour = (uint8_t)flavour, .as.list = list};
    return bl__jinja_steps(run, capacity / 4);
}

bool bl__jinja_push(jinja_run *run, jinja_list *list, const jinja_value *item) {
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : FIRST_ITEMS;
        jinja_value *items = bl__jinja_alloc(run, capacity, sizeof *items);
        if (!items)
            return false;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *item;
    return true;
}

bool bl__jinja_new_dict(jinja_run *run, jinja_kind kind, size_t capacity, jinja_value *out) {
    jinja_dict *dict = bl__jinja_alloc(run, 1, sizeof *dict);
    if (!dict)
        return false;
    *dict = (jinja_dict){.capacity = capacity};
    if (capacity && !(dict->entries = bl__jinja_alloc(run, capacity, sizeof *dict->entries)))
        return false;
    *out = (jinja_value){.kind = (uint8_t)kind, .as.dict = dict};
    return bl__jinja_steps(run, capacity / 4);
}

bool bl__jinja_find(jinja_run *run, const jinja_dict *dict, const jinja_value *key,
                    jinja_value **found) {
    *found = NULL;
    if (key->kind == JINJA_DICT || (key->kind == JINJA_LIST && key->flavour != JINJA_TUPLE))
        return bl__jinja_fail(run, BL_ERR_ARGUMENT, "%s cannot be a key", bl__jinja_type_name(key));
    if (!bl__jinja_steps(run, dict->count / 4))
        return false;
    for (size_t i = 0; i < dict->count; i++) {
        jinja_value *other = &dict->entries[i].key;
        bool equal;
        if (key->kind == JINJA_STRING && other->kind == JINJA_STRING)
            equal = key->len == other->len && memcmp(key->as.text, other->as.text, key->len) == 0;
        else if (!bl__jinja_equal(run, key, other, 0, &equal))
            return false;
        if (equal) {
            *found = &dict->entries[i].value;
            return true;
        }
    }
    return true;
}

/* Appends without looking whether the key is there. */
static bool append_entry(jinja_run *run, jinja_dict *dict, const jinja_value *key,
                         const jinja_value *value) {
    if (dict->count == dict->capacity) {
        size_t capacity = dict->capacity ? 2 * dict->capacity : FIRST_ITEMS;
        jinja_entry *entries = bl__jinja_alloc(run, capacity, sizeof *entries);
        if (!entries)
            return false;
        if (dict->count)
            memcpy(entries, dict->entries, dict->count * sizeof *entries);
        dict->entries = entries;
        dict->capacity = capacity;
    }
    dict->entries[dict->count++] = (jinja_entry){.key = *key, .value = *value};
    return true;
}

bool bl__jinja_put(jinja_run *run, jinja_dict *dict, const jinja_value *key,
                   const jinja_value *value) {
    jinja_value *found;
    if (!bl__jinja_find(run, dict, key, &found))
        return false;
    if (!found)
        return append_entry(run, dict, key, value);
    *found = *value;
    return true;
}

static bool json_string_value_of(jinja_run *run, const char *text, size_t len, jinja_value *out) {
    if (len > UINT32_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "a string of more than 4 GiB");
    *out = bl__jinja_string(text, len); /* the JSON value outlives the rendering */
    return true;
}

static bool json_container(jinja_run *run, const json_t *json, unsigned nesting, jinja_value *out) {
    jinja_value item, key;
    if (nesting == JINJA_NESTING_MAX)
        return bl__jinja_fail(run, BL_ERR_LIMIT, "variables nested deeper than %d levels",
                              JINJA_NESTING_MAX);
    if (json_is_array(json)) {
        size_t n = json_array_size(json);
        if (!bl__jinja_new_list(run, n, JINJA_PLAIN, out))
            return false;
        for (size_t i = 0; i < n; i++)
            if (!bl__jinja_from_json(run, json_array_get(json, i), nesting + 1, &item) ||
                !bl__jinja_push(run, out->as.list, &item))
                return false;
        return true;
    }
    json_t *object = (json_t *)(uintptr_t)json; /* jansson's iterators are not const */
    if (!bl__jinja_new_dict(run, JINJA_DICT, json_object_size(json), out))
        return false;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it))
        if (!json_string_value_of(run, json_object_iter_key(it), json_object_iter_key_len(it),
                                  &key) ||
            !bl__jinja_from_json(run, json_object_iter_value(it), nesting + 1, &item) ||
            !append_entry(run, out->as.dict, &key, &item))
            return false;
    return true;
}

bool bl__jinja_from_json(jinja_run *run, const json_t *json, unsigned nesting, jinja_value *out) {
    switch (json_typeof(json)) {
    case JSON_STRING:
        return json_string_value_of(run, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER:
        *out = bl__jinja_int(json_integer_value(json));
        return true;
    case JSON_REAL:
        *out = bl__jinja_float(json_real_value(json));
        return true;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = bl__jinja_bool(json_is_true(json));
        return true;
    case JSON_NULL:
        *out = bl__jinja_none();
        return true;
    default:
        return json_container(run, json, nesting, out);
    }
}
