/* Owns what keeps a text within a grammar: its options, and the way from a file to a matcher. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine.h"
#include "input.h"
#include "terminal.h"

#define CONSTRAINT(field) offsetof(constraint_settings, field)

const option CONSTRAINT_OPTIONS[N_CONSTRAINT_OPTIONS] = {
    {0, "grammar", "--grammar-file", OPTION_TEXT, "FILE", CONSTRAINT(grammar), 0, 0, NULL,
     "write only what a grammar allows, in GBNF"},
    {0, "json-schema", "--json-schema-file", OPTION_TEXT, "FILE", CONSTRAINT(json_schema), 0, 0,
     NULL, "write one value of a JSON schema, as JSON"},
    {0, "json-object", NULL, OPTION_FLAG, NULL, CONSTRAINT(json_object), 0, 0, NULL,
     "write one JSON object of any kind"},
};

/* A grammar from a file in one of the notations; complains on failure. */
static int open_grammar(engine *e, const command *cmd, const char *path,
                        bl_status (*read)(const char *, size_t, bl_grammar **, bl_error *)) {
    char *text = NULL;
    size_t len;
    bl_error err;
    if (read_input(path, &text, &len, &err) != BL_OK)
        return fail_error(cmd->name, &err);
    bl_status status = read(text, len, &e->grammar, &err);
    bl__free(text);
    return status == BL_OK ? EXIT_SUCCESS : fail_with(cmd->name, "%s: %s", path, err.message);
}

int engine_constrain(engine *e, const command *cmd, const constraint_settings *s) {
    int status = EXIT_SUCCESS;
    bl_error err;
    if ((s->grammar != NULL) + (s->json_schema != NULL) + s->json_object > 1)
        return options_complain(cmd,
                                "--grammar, --json-schema and --json-object: expected one of them");
    if (s->grammar)
        status = open_grammar(e, cmd, s->grammar, bl_grammar_from_gbnf);
    else if (s->json_schema)
        status = open_grammar(e, cmd, s->json_schema, bl_grammar_from_json_schema);
    else if (s->json_object && bl_grammar_from_json_object(&e->grammar, &err) != BL_OK)
        status = fail_error(cmd->name, &err);
    if (status != EXIT_SUCCESS || !e->grammar)
        return status;
    if (bl_token_trie_create(e->tokenizer, bl_model_get_info(e->model)->vocab, &e->trie, &err) !=
            BL_OK ||
        bl_matcher_create(e->grammar, e->trie, &e->matcher, &err) != BL_OK)
        return fail_error(cmd->name, &err);
    e->params.matcher = e->matcher;
    return EXIT_SUCCESS;
}

void report_constraint(const engine *e) {
    if (e->matcher && !bl_matcher_may_end(e->matcher))
        note("the text is cut: more would have to follow for the grammar (-n, -c)");
}
