/* Templates and variables of any bytes: a template, a NUL, and variables as JSON. The limits are
 * lower than a user's, so that one input stays quick. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "bitloom/chat.h"
#include "tokenizer/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char fallback[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", "
        "\"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": "
        "{\"a\": [1, 2.5, true]}}}]}], \"tools\": null, \"x\": -3, \"s\": \"a\\u00e9 b\"}";
    const uint8_t *nul = size ? memchr(data, '\0', size) : NULL;
    size_t source_len = nul ? (size_t)(nul - data) : size;
    jinja_limits limits = {
        .max_steps = 20000, .max_depth = 200, .max_output = 1 << 20, .max_memory = 1 << 22};
    jinja_template *template = NULL;
    bl_error err;
    char *text = NULL;
    size_t len = 0;
    if (bl__jinja_compile((const char *)data, source_len, &template, &err) != BL_OK)
        return 0;
    json_t *variables = NULL;
    if (nul)
        variables = json_loadb((const char *)nul + 1, size - source_len - 1, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(variables)) {
        json_decref(variables);
        variables = json_loads(fallback, 0, NULL);
    }
    if (bl__jinja_render(template, variables, &limits, &text, &len, &err) == BL_OK)
        bl__free(text);
    json_decref(variables);
    bl__jinja_free(template);
    return 0;
}
