/* Owns the way from the path of a teacher to its network. */
#include "train/teacher.h"

#include "base/error.h"
#include "bitloom/tokenizer.h"
#include "train/source.h"

/* Logits of two vocabularies cannot be compared, not even of the same size. A run may outlive the
 * tokenizer that it was made with; then its held-out loss must tell. */
static bl_status match_tokenizer(const bl__recipe *found, const bl__tokens *tokens, bl_error *err) {
    bl_tokenizer *tokenizer = NULL;
    if (!found->tokenizer)
        return BL_OK;
    bl_status status = bl_tokenizer_open(found->tokenizer, &tokenizer, err);
    if (status == BL_ERR_NOT_FOUND)
        return BL_OK;
    if (!status)
        status = bl__tokens_match(tokens, tokenizer, err);
    bl_tokenizer_close(tokenizer);
    return status;
}

static bl_status make_network(const bl__source *source, const bl__recipe *recipe,
                              const bl__recipe *found, size_t n_rows, bl__pool *pool,
                              bl__network **out, bl_error *err) {
    bl__network_config config = bl__recipe_network(found);
    bl__network *net = NULL;
    size_t n;
    config.precision = (bl__precision)recipe->precision;
    config.blends = false;
    config.frozen = true;
    bl_status status = BL_OK;
    if (found->vocab != recipe->vocab)
        status =
            bl__fail(err, BL_ERR_ARGUMENT, "a vocabulary of %lld, expected the student's, %lld",
                     (long long)found->vocab, (long long)recipe->vocab);
    if (status ||
        (status = bl__network_create(&config, n_rows, (size_t)recipe->tokens, pool, &net, err))) {
        bl__error_prefix(err, recipe->teacher);
        return status;
    }
    bl__param *params = bl__network_params(net, &n);
    bl__network_initialize(net, 0, 1); /* sub-norms that it lacks stay ones */
    if ((status = bl__source_read(source, params, n, err))) { /* names the path */
        bl__network_free(net);
        return status;
    }
    bl__network_quantize(net);
    *out = net;
    return BL_OK;
}

bl_status bl__teacher_open(const bl__recipe *recipe, const bl__tokens *tokens, size_t n_rows,
                           bl__pool *pool, bl__network **out, bl_error *err) {
    bl__source *source = NULL;
    bl__recipe found;
    bl_status status = bl__source_open(recipe->teacher, &source, err); /* names the path */
    if (!status && !(status = bl__recipe_parse_model(bl__source_recipe(source), &found, err))) {
        if ((status = match_tokenizer(&found, tokens, err)))
            bl__error_prefix(err, recipe->teacher);
        else
            status = make_network(source, recipe, &found, n_rows, pool, out, err);
        bl__recipe_free(&found);
    }
    bl__source_close(source);
    if (status)
        bl__error_prefix(err, "teacher");
    return status;
}
