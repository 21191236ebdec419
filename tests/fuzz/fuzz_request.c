/* Requests from any bytes: the fields, messages, tools and constraints of every endpoint, and tool
 * calls in what a model wrote. The first byte chooses. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "server/constraint.h"
#include "server/generation.h"
#include "server/messages.h"
#include "server/response_items.h"
#include "server/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As /v1/chat/completions and /v1/responses read it. */
static void read_request(const char *text, size_t len, bool items) {
    bl__request request = {.method = "POST", .path = "/", .body = text, .body_len = len};
    bl__response response;
    bl__response_init(&response);
    json_t *root = bl__request_json(&request, &response);
    if (root) {
        bl__fields fields = bl__fields_of(root, &response);
        bl__generation generation;
        bl__tools tools;
        bl__constraint *constraint = NULL;
        bl__generation_parse(&fields, &generation);
        bl__tools_parse(&fields, &tools);
        bl__constraint_parse(&fields, "response_format", &tools, &constraint);
        json_t *messages =
            items ? bl__items_to_messages(&fields, "input", NULL)
                  : bl__messages_parse(&fields, bl__field(&fields, "messages"), "messages");
        if (messages) {
            json_t *told = bl__tools_tell(&tools, messages);
            if (!told)
                abort();
            json_decref(told);
        }
        if (fields.failed && response.status < 400)
            abort(); /* an error must say so */
        bl__constraint_release(constraint);
        bl__generation_clear(&generation);
        json_decref(tools.list);
        json_decref(messages);
        json_decref(root);
    } else if (response.status < 400) {
        abort();
    }
    bl__response_clear(&response);
}

/* A streamed text shows nothing that is later a call. */
static void read_calls(const char *text, size_t len) {
    json_t *list = json_pack("[{s:s, s:{s:s}}]", "type", "function", "function", "name", "f");
    bl__tools tools = {.list = list};
    size_t n_before = 0, shown = 0;
    json_t *calls = bl__tools_find(&tools, text, len, &n_before);
    for (size_t n = 0; n <= len && n < 200; n++) {
        size_t now = bl__tools_shown(text, n);
        if (now > n)
            abort();
        shown = now > shown ? now : shown;
    }
    if (calls && (n_before > len || (len < 200 && shown > n_before)))
        abort();
    json_decref(calls);
    json_decref(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0)
        return 0;
    char *text = bl__strndup((const char *)data + 1, size - 1);
    if (!text)
        return 0;
    if (data[0] % 3 == 2)
        read_calls(text, size - 1);
    else
        read_request(text, size - 1, data[0] % 3 == 1);
    bl__free(text);
    return 0;
}
