/* Opening a model from any bytes and, where that succeeds, evaluating a few tokens. */
#include <stddef.h>
#include <stdint.h>

#include "bitloom/model.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bl_model *model = NULL;
    bl_session *session = NULL;
    bl_error err;
    bl_session_params params = {.n_ctx = 8, .n_batch = 3, .n_threads = 1};
    const bl_token tokens[] = {0, 1, 2, 3, 0};
    if (bl__model_from_bytes(data, size, BL_SPARSITY_ON, NULL, &model, &err) == BL_OK &&
        bl_session_create(model, &params, &session, &err) == BL_OK)
        (void)bl_session_eval(session, tokens, 5, NULL, &err);
    bl_session_free(session);
    bl_model_close(model);
    return 0;
}
