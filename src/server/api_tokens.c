/* Owns /tokenize and /detokenize. */
#include <string.h>

#include "base/alloc.h"
#include "server/fields.h"
#include "server/format.h"
#include "server/server.h"

enum { MAX_TOKENS = 1 << 20 };

static json_t *tokens_json(const bl__served *served, const bl_token *ids, size_t n,
                           bool with_pieces) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, with_pieces ? json_pack("{s:I, s:o}", "id", (json_int_t)ids[i],
                                                            "piece", bl__token_json(served, ids[i]))
                                                : json_integer(ids[i]));
    return list;
}

static void tokenize(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    bl__fields f = bl__fields_of(root, response);
    if (!root)
        return;
    json_t *content = bl__field(&f, "content");
    bool add_special = bl__field_bool(&f, "add_special", false);
    bool parse_special = bl__field_bool(&f, "parse_special", true);
    bool with_pieces = bl__field_bool(&f, "with_pieces", false);
    const char *model = bl__field_string(&f, "model", NULL);
    if (!json_is_string(content))
        bl__field_fail(&f, "content", "expected a string");
    bl__served *served = f.failed ? NULL : bl__models_acquire(server->models, model, response);
    if (served) {
        bl_token *ids = NULL;
        size_t n = 0;
        bl_error err = {0};
        unsigned flags =
            (add_special ? BL_TOKENIZE_EXTRA : 0u) | (parse_special ? BL_TOKENIZE_SPECIAL : 0u);
        if (bl_tokenizer_encode(served->tokenizer, json_string_value(content),
                                json_string_length(content), flags, &ids, &n, &err) == BL_OK)
            bl__respond_json(
                response, 200,
                json_pack("{s:o}", "tokens", tokens_json(served, ids, n, with_pieces)));
        else
            bl__respond_failure(response, &err, "content");
        bl_free(ids);
        bl__models_release(server->models, served);
    }
    json_decref(root);
}

/* Reads ids out of an array; false with the error set. */
static bool read_ids(bl__fields *f, const json_t *list, size_t vocab, bl_token *ids) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || (uint64_t)id >= vocab) {
            bl__field_fail(f, "tokens", "item %zu is no token, expected 0 to %zu", i, vocab - 1);
            return false;
        }
        ids[i] = (bl_token)id;
    }
    return true;
}

static void respond_text(const bl__served *served, const bl_token *ids, size_t n,
                         bl__response *response) {
    bl_decoder *decoder = NULL;
    bl_error err = {0};
    bl__buffer text = bl__buffer_make(BL_MAX_RESPONSE);
    if (bl_decoder_create(served->tokenizer, BL_DETOKENIZE_SPECIAL, false, &decoder, &err)) {
        bl__respond_failure(response, &err, NULL);
        return;
    }
    for (size_t i = 0; i <= n; i++) {
        size_t len;
        const char *piece =
            i < n ? bl_decoder_push(decoder, ids[i], &len) : bl_decoder_finish(decoder, &len);
        bl__buffer_append(&text, piece, len);
    }
    bl__respond_json(
        response, 200,
        text.failed ? NULL : json_pack("{s:s%}", "content", text.len ? text.data : "", text.len));
    bl__buffer_free(&text);
    bl_decoder_free(decoder);
}

static void detokenize(void *user, bl__request *request, bl__response *response) {
    bl_server *server = user;
    json_t *root = bl__request_json(request, response);
    bl__fields f = bl__fields_of(root, response);
    if (!root)
        return;
    json_t *list = bl__field(&f, "tokens");
    const char *model = bl__field_string(&f, "model", NULL);
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > MAX_TOKENS)
        bl__field_fail(&f, "tokens", "expected an array of at most %d tokens", MAX_TOKENS);
    bl__served *served = f.failed ? NULL : bl__models_acquire(server->models, model, response);
    bl_token *ids = served ? bl__malloc_array(n, sizeof *ids) : NULL;
    if (served && !ids)
        bl__respond_json(response, 500, NULL);
    else if (served && read_ids(&f, list, bl_tokenizer_vocab_size(served->tokenizer), ids))
        respond_text(served, ids, n, response);
    bl__models_release(server->models, served);
    bl__free(ids);
    json_decref(root);
}

bl_status bl__api_tokens_add(bl_server *server, bl_error *err) {
    static const bl__route routes[] = {
        {"POST", "/tokenize", tokenize, 0},
        {"POST", "/detokenize", detokenize, 0},
    };
    return bl__router_add(&server->router, routes, sizeof routes / sizeof *routes, server, err);
}
