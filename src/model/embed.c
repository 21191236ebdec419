/* Owns the way from a text to the states of its tokens, for embeddings. */
#include "base/checked.h"
#include "model/session.h"

enum { PART = 64 /* tokens at a time, on the stack */ };

bl_status bl_sequence_embed(bl_session *s, uint32_t sequence, const bl_token *tokens,
                            size_t n_tokens, float *states, bl_error *err) {
    size_t n_past = bl_sequence_n_past(s, sequence), dim = s->model->hparams.dim;
    bl_batch_item items[PART];
    for (size_t at = 0, n; at < n_tokens || at == 0; at += n) {
        n = bl__min_size(bl__min_size(PART, s->n_batch), n_tokens - at);
        for (size_t i = 0; i < n; i++)
            items[i] = (bl_batch_item){.sequence = sequence, .token = tokens[at + i]};
        bl_status status = bl_session_eval_batch(s, items, n, NULL, err);
        if (status != BL_OK) {
            bl_sequence_truncate(s, sequence, n_past);
            return status;
        }
        bl__session_states(s, n, states + at * dim);
    }
    return BL_OK;
}
