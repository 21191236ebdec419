/* Requests from any bytes to the routes of conversations, on a store of its own: a line with
 * method, path and query, then the body. "ID" in the path stands for a conversation that is there.
 * What is stored can be read again, and every answer is JSON or Markdown. */
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/conversations.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bl__store *store;
static bl__router router;

/* A fresh store now and then, since what is posted stays; its files lose their names at once, as
 * libFuzzer ends without a last call. In memory where that can be had: it is ten times as fast. */
static void open_store(void) {
    char folder[40], path[64];
    snprintf(folder, sizeof folder, "%s/bitloom-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        abort();
    snprintf(path, sizeof path, "%s/a.db", folder);
    bl__store_close(store);
    router.n = 0;
    if (bl__store_open(path, 1000, &store, NULL) || bl__conversations_add(&router, store, NULL))
        abort();
    static const char *const endings[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/a.db%s", folder, endings[i]);
        unlink(path);
    }
    rmdir(folder);
}

/* Sends a request and checks its answer; gives its status. */
static int ask(const char *method, char *where, const char *body, size_t body_len) {
    bl__pair query[4];
    bl__request request = {
        .method = method, .path = where, .body = body, .body_len = body_len, .query = query};
    for (char *rest = strchr(where, '?'); rest && request.n_query < 4; request.n_query++) {
        *rest++ = '\0';
        char *value = strchr(rest, '=');
        if (!value)
            break;
        *value++ = '\0';
        query[request.n_query] = (bl__pair){rest, value};
        rest = strchr(value, '&');
    }
    bl__response response;
    bl__response_init(&response);
    bl__router_dispatch(&router, &request, &response);
    if (strcmp(response.content_type, "application/json") == 0) {
        json_t *answer = json_loadb(response.body.data, response.body.len, 0, NULL);
        if (!answer)
            abort();
        json_decref(answer);
    }
    int status = response.status;
    bl__response_clear(&response);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
    const bl__store_message first = {.role = "user", .content = {"How?", 4}};
    bl__store_mark mark;
    char where[400], own[64];
    static unsigned n_runs;
#ifndef BITLOOM_HAVE_SQLITE
    return 0; /* there is nothing to try */
#endif
    if (n_runs++ % 500 == 0)
        open_store();
    const uint8_t *end = size < 3 ? NULL : memchr(data + 1, '\n', size - 1);
    if (!end || end - data > 200)
        return 0;
    if (bl__store_create(store, &(bl__store_fields){0}, &first, 1, &mark, NULL))
        abort();
    size_t line = (size_t)(end - data) - 1;
    char text[256];
    memcpy(text, data + 1, line);
    text[line] = '\0';
    char *id = strstr(text, "ID");
    snprintf(where, sizeof where, "%.*s%s%s", id ? (int)(id - text) : (int)strlen(text), text,
             id ? mark.id : "", id ? id + 2 : "");
    char *body = malloc(size - line);
    memcpy(body, end + 1, size - line - 2);
    body[size - line - 2] = '\0';
    ask(methods[data[0] % 5], where, body, size - line - 2);
    free(body);
    snprintf(own, sizeof own, "/api/conversations/%s", mark.id);
    int status = ask("GET", own, "", 0);
    if (status != 200 && status != 404)
        abort();
    if (status == 200 && bl__store_delete(store, mark.id, NULL))
        abort();
    return 0;
}
