/* Owns what a run's figures are made of. */
#include "train/report.h"

#include <math.h>
#include <string.h>

#include <jansson.h>

#include "quant/quant.h"

/* ---- sizes ---- */

/* 0: some linear does not fit the layout. Groups of columns are tensors of their own, which only
 * the native layouts and floats are written in. */
static uint64_t size_in(const bl__param *params, size_t n_params, bl__layout layout) {
    uint64_t total = 0; /* vectors of outputs are in the linears' scales */
    bool is_float = layout == BL_LAYOUT_F32;
    for (size_t i = 0; i < n_params; i++) {
        const bl__param *p = &params[i];
        bl__layout own = p->linear                 ? layout
                         : p->vector               ? BL_LAYOUT_F16
                         : is_float || p->rows < 2 ? BL_LAYOUT_F32
                                                   : BL_LAYOUT_BF16;
        size_t bytes = 0, groups = p->col_groups ? p->col_groups : 1;
        if (groups > 1 && !bl__layout_is_native(layout) && layout != BL_LAYOUT_F32)
            return 0;
        if (p->vector == BL_VECTOR_OUT)
            continue;
        if (p->rows && bl__layout_bytes(own, p->rows, p->cols / groups, &bytes, NULL) != BL_OK)
            return 0;
        total += bytes * groups;
    }
    return total;
}

void bl__report_sizes(const bl__param *params, size_t n_params, bl__weight_mode weights,
                      bl_train_report *report) {
    static const bl__layout ternary[] = {BL_LAYOUT_B1,    BL_LAYOUT_T2,    BL_LAYOUT_T5,
                                         BL_LAYOUT_TQ1_0, BL_LAYOUT_TQ2_0, BL_LAYOUT_I2_S,
                                         BL_LAYOUT_F32};
    bool quantized = weights != BL_WEIGHTS_FLOAT;
    size_t n = sizeof ternary / sizeof *ternary;
    report->n_sizes = 0;
    size_t first = weights == BL_WEIGHTS_TERNARY ? 1 : quantized ? 0 : n - 1;
    for (size_t i = first; i < (weights == BL_WEIGHTS_ONEBIT ? 1 : n); i++) {
        uint64_t bytes = size_in(params, n_params, ternary[i]);
        if (bytes)
            report->sizes[report->n_sizes++] =
                (bl_train_size){.layout = bl__layout_get(ternary[i])->name, .bytes = bytes};
    }
}

/* ---- flips ---- */

/* A mean over some steps; while none of them is there, what is nearest to a place. */
typedef struct stretch {
    uint64_t from, to, place, distance;
    double sum, nearest;
    size_t n;
} stretch;

static void take_flips(stretch *s, uint64_t step, double flips) {
    uint64_t distance = step > s->place ? step - s->place : s->place - step;
    if (step >= s->from && step <= s->to) {
        s->sum += flips;
        s->n++;
    }
    if (isnan(s->nearest) || distance < s->distance) {
        s->nearest = flips;
        s->distance = distance;
    }
}

void bl__report_flips(const char *metrics, size_t len, uint64_t n_steps, double flips[3]) {
    uint64_t tenth = n_steps / 10, middle = n_steps / 2;
    stretch parts[3] = {
        {.from = 2, .to = 1 + tenth, .place = 2, .nearest = NAN},
        {.from = middle - tenth / 2, .to = middle + tenth / 2, .place = middle, .nearest = NAN},
        {.from = n_steps - tenth, .to = n_steps, .place = n_steps, .nearest = NAN}};
    for (const char *line = metrics, *end;
         (end = memchr(line, '\n', len - (size_t)(line - metrics))); line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        const json_t *share = json_object_get(object, "flips");
        json_int_t step = json_integer_value(json_object_get(object, "step"));
        for (size_t i = 0; i < 3 && step > 1 && json_is_number(share); i++)
            take_flips(&parts[i], (uint64_t)step, json_number_value(share));
        json_decref(object);
    }
    for (size_t i = 0; i < 3; i++)
        flips[i] = parts[i].n ? parts[i].sum / (double)parts[i].n : parts[i].nearest;
}

/* ---- bytes ---- */

bl_status bl__report_text_bytes(const bl__windows *windows, const bl_tokenizer *tokenizer, size_t n,
                                int32_t *inputs, int32_t *targets, double *bytes, size_t *n_targets,
                                bl_error *err) {
    size_t counted = 0, len, sum = 0;
    for (size_t row = 0; row < n; row++) {
        bl_status status = bl__windows_valid(windows, row, 1, inputs, targets, NULL, err);
        if (status)
            return status;
        for (size_t i = 0; i < windows->row_tokens; i++) {
            if (targets[i] < 0)
                continue;
            counted++;
            if (tokenizer) {
                bl_tokenizer_piece(tokenizer, targets[i], 0, &len);
                sum += len;
            }
        }
    }
    const bl__tokens *tokens = windows->tokens;
    *bytes = tokenizer ? (double)sum
                       : (double)counted * (double)tokens->text_bytes / (double)tokens->n_tokens;
    *n_targets = counted;
    return BL_OK;
}
