/* Renders a chat template for tools/check_chat_templates.py: `render_chat FILE` compiles it, reads
 * variables from stdin, a JSON object a line, and answers each with a line: {"text": ...} or
 * {"error": ..., "status": N}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitloom/chat.h"

enum { SOURCE_MAX = 1 << 21 };

static void answer(json_t *reply) {
    json_dumpf(reply, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(reply);
}

static void answer_error(const bl_error *err) {
    answer(json_pack("{s:s,s:i}", "error", err->message, "status", (int)err->code));
}

int main(int argc, char **argv) {
    static char source[SOURCE_MAX];
    bl_chat_template *template = NULL;
    bl_error err = {0};
    FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!file) {
        fprintf(stderr, "usage: render_chat TEMPLATE < VARIABLES\n");
        return 2;
    }
    size_t len = fread(source, 1, sizeof source, file);
    fclose(file);
    bl_status compiled = bl_chat_template_compile(source, len, &template, &err);
    char *line = NULL, *text = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        if (compiled != BL_OK ||
            bl_chat_template_render_json(template, line, &text, &len, &err) != BL_OK) {
            answer_error(&err);
            continue;
        }
        json_t *string = json_stringn(text, len);
        answer(string ? json_pack("{s:o}", "text", string)
                      : json_pack("{s:s,s:i}", "error", "not UTF-8", "status", -1));
        bl_free(text);
    }
    free(line);
    bl_chat_template_free(template);
    return 0;
}
