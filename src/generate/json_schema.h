/* Private to generate/: JSON schemas as parts of a network. */
#ifndef BL_GENERATE_JSON_SCHEMA_H
#define BL_GENERATE_JSON_SCHEMA_H

#include <jansson.h>

#include "formats/json.h"
#include "generate/json_text.h"

enum {
    BL_SCHEMA_MAX_DEPTH = 64,       /* of schemas in each other, references not counted */
    BL_SCHEMA_MAX_VISITS = 1 << 15, /* schemas in all, those that merging makes counted too */
    BL_SCHEMA_MAX_WORK = 20000000,
    BL_SCHEMA_MAX_PATH = 160 /* bytes of a JSON pointer in messages */
};

/* What text of schemas is read with. */
extern const bl__json_limits BL_SCHEMA_LIMITS;

/* A schema that is referred to, and the rule that it becomes. */
typedef struct bl__schema_rule {
    const json_t *schema, *root; /* root: of the document that its references are looked up in */
    uint32_t rule;
    char path[BL_SCHEMA_MAX_PATH];
} bl__schema_rule;

typedef struct bl__schemas {
    bl__net_builder *b;
    bl__json_text text;
    bl__schema_rule *rules; /* [n_rules]; the first n_done are compiled */
    size_t n_rules, rule_room, n_done;
    json_t *made; /* an array that keeps schemas made by merging */
    /* The schema at hand. */
    const json_t *root;
    char path[BL_SCHEMA_MAX_PATH];
    unsigned depth, n_visits;
    uint64_t n_work; /* steps of merging and comparing */
} bl__schemas;

bool bl__schemas_init(bl__schemas *s, bl__net_builder *b); /* false: the builder tells why */
void bl__schemas_destroy(bl__schemas *s);

/* A value of a schema, which is the root of its document and must live until
 * bl__schemas_compile(). where: begins the JSON pointers of complaints. */
bl__fragment bl__schemas_call(bl__schemas *s, const json_t *schema, const char *where);
/* Makes rules of all schemas that were called, and of those that they refer to. */
void bl__schemas_compile(bl__schemas *s);

/* ---- shared by the files of the compiler ---- */

bl__fragment bl__schema_value(bl__schemas *s, const json_t *schema);
bl__fragment bl__schema_string(bl__schemas *s, const json_t *schema);
bl__fragment bl__schema_number(bl__schemas *s, const json_t *schema, bool is_integer);
bl__fragment bl__schema_array(bl__schemas *s, const json_t *schema);
bl__fragment bl__schema_object(bl__schemas *s, const json_t *schema);

/* Complains of the schema at hand, its pointer first. */
void bl__schema_fail(bl__schemas *s, bl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Counts steps of work, which are bounded. */
void bl__schema_charge(bl__schemas *s, uint64_t n_steps);
/* Complains when the schema has one of these keywords, separated by blanks. */
void bl__schema_refuse(bl__schemas *s, const json_t *schema, const char *keywords);
/* A key is gone into; bl__schema_leave() with what it returned comes back. */
size_t bl__schema_enter(bl__schemas *s, const char *key);
void bl__schema_leave(bl__schemas *s, size_t length);
/* A count that a keyword gives; `otherwise` without it. */
uint32_t bl__schema_count(bl__schemas *s, const json_t *schema, const char *keyword,
                          uint32_t otherwise);

/* A schema for what both allow; NULL after a complaint. It belongs to s. */
const json_t *bl__schema_merge(bl__schemas *s, const json_t *a, const json_t *b);
/* Keeps a schema that was made (NULL: no memory) and returns it. */
const json_t *bl__schema_keep(bl__schemas *s, json_t *made);
/* The schema that a $ref names; NULL after a complaint. */
const json_t *bl__schema_find(bl__schemas *s, const json_t *ref);
/* Whether no value can be of both. */
bool bl__schema_are_apart(bl__schemas *s, const json_t *a, const json_t *b, unsigned depth);

/* Types of JSON, as bits. */
enum {
    BL_JSON_NULL = 1,
    BL_JSON_BOOLEAN = 2,
    BL_JSON_STRING = 4,
    BL_JSON_INTEGER = 8,
    BL_JSON_NUMBER = 16, /* goes with BL_JSON_INTEGER */
    BL_JSON_ARRAY = 32,
    BL_JSON_OBJECT = 64,
    BL_JSON_ANY = 127
};
/* The types that a schema names; BL_JSON_ANY when it names none. */
unsigned bl__schema_types(bl__schemas *s, const json_t *schema);
unsigned bl__json_type_bits(const json_t *value);

#endif
