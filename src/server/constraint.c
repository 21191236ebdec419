/* Owns the way from a request's fields to a grammar. Must not know how grammars work. */
#include "server/constraint.h"

#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "formats/json.h"

static bl_status from_schema(const json_t *schema, bl_grammar **out, bl_error *err) {
    size_t len = 0;
    char *text = bl__json_write(schema, JSON_COMPACT, &len);
    bl_status status = text ? bl_grammar_from_json_schema(text, len, out, err)
                            : bl__fail(err, BL_ERR_MEMORY, "out of memory");
    bl__free(text);
    return status;
}

/* The schema in a response_format, wherever the endpoint has it; NULL with the error set. */
static const json_t *find_schema(bl__fields *f, const char *name, const json_t *format) {
    const json_t *inner = json_object_get(format, "json_schema");
    const json_t *schema = json_object_get(json_is_object(inner) ? inner : format, "schema");
    if (!json_is_object(schema))
        bl__field_fail(f, name, "json_schema without a schema, which is an object");
    return f->failed ? NULL : schema;
}

static bl_status from_format(bl__fields *f, const char *name, const json_t *format,
                             bl_grammar **out, bl_error *err) {
    const char *type = json_string_value(json_object_get(format, "type"));
    if (type && strcmp(type, "text") == 0)
        return BL_OK;
    if (type && strcmp(type, "json_object") == 0) {
        const json_t *schema = json_object_get(format, "schema");
        if (json_is_object(schema))
            return from_schema(schema, out, err);
        return bl_grammar_from_json_object(out, err);
    }
    if (type && strcmp(type, "json_schema") == 0) {
        const json_t *schema = find_schema(f, name, format);
        return schema ? from_schema(schema, out, err) : BL_OK;
    }
    bl__field_fail(f, name, "type is %.40s, expected text, json_object or json_schema",
                   type ? type : "missing");
    return BL_OK;
}

static bl_status from_tools(const bl__tools *tools, bl_grammar **out, bl_error *err) {
    json_t *schema = bl__tools_schema(tools);
    bl_status status =
        schema ? from_schema(schema, out, err) : bl__fail(err, BL_ERR_MEMORY, "out of memory");
    json_decref(schema);
    return status;
}

bool bl__constraint_parse(bl__fields *f, const char *name, const bl__tools *tools,
                          bl__constraint **out) {
    const json_t *format = bl__field_object(f, name);
    const char *gbnf = bl__field_string(f, "grammar", NULL), *field = name;
    bl_grammar *grammar = NULL;
    bl_error err = {0};
    bl_status status = BL_OK;
    *out = NULL;
    if (f->failed)
        return false;
    if (tools && tools->required) {
        field = "tools";
        status = from_tools(tools, &grammar, &err);
    } else if (format) {
        status = from_format(f, name, format, &grammar, &err);
    } else if (gbnf && *gbnf) {
        field = "grammar";
        status = bl_grammar_from_gbnf(gbnf, strlen(gbnf), &grammar, &err);
    }
    if (status != BL_OK) {
        bl__respond_failure(f->response, &err, field);
        f->failed = true;
    } else if (grammar && !(*out = bl__constraint_create(grammar))) {
        bl__respond_json(f->response, 500, NULL);
        f->failed = true;
    }
    return !f->failed;
}

bool bl__constraint_set(bl__models *models, bl__served *served, bl__constraint *constraint,
                        bl__job_params *job, bl__response *response) {
    bl_error err = {0};
    job->constraint = constraint;
    if (!constraint || bl__models_trie(models, served, &job->trie, &err) == BL_OK)
        return true;
    bl__respond_failure(response, &err, NULL);
    return false;
}
