/* Owns the shapes of dummy models: those of papers, and the reading of sizes. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/buffer.h"
#include "base/error.h"
#include "bitloom/dummy.h"

enum {
    VOCAB_LLAMA = 32000,
    VOCAB_BITNET = 16000, /* "16K", arXiv 2310.11453 */
    VOCAB_B158 = 32002,   /* of the published reproductions */
    CONTEXT = 2048,
    MAX_LAYERS = 4096,
    MAX_SIZE = 1 << 20,
    MAX_HEADS = 1 << 14,
    MAX_SIZES = 5
};

/* Layers, dim, ffn_dim, heads, heads of keys and values. The feed-forward sizes of 760M, 2.7B and
 * 6.7B are eight thirds of dim in multiples of 16: the paper has layers without a gate, four times
 * as wide as dim. */
static const bl_dummy_shape shapes[] = {
    {"125M", 11, 768, 3072, 12, 12, VOCAB_LLAMA, CONTEXT},
    {"350M", 24, 1024, 3072, 16, 16, VOCAB_LLAMA, CONTEXT},
    {"700M", 24, 1536, 4096, 16, 16, VOCAB_LLAMA, CONTEXT},
    {"760M", 24, 1536, 4096, 16, 16, VOCAB_BITNET, CONTEXT},
    {"1B", 24, 2048, 3584, 32, 32, VOCAB_LLAMA, CONTEXT},
    {"1.3B", 24, 2048, 5460, 32, 32, VOCAB_B158, CONTEXT},
    {"1.5B", 28, 1536, 9216, 32, 32, VOCAB_LLAMA, CONTEXT},
    {"2B4T", 30, 2560, 6912, 20, 5, 128256, 4096},
    {"2.5B", 30, 2560, 6912, 20, 20, VOCAB_LLAMA, CONTEXT},
    {"2.7B", 32, 2560, 6832, 32, 32, VOCAB_BITNET, CONTEXT},
    {"3B", 26, 3200, 8640, 32, 32, VOCAB_B158, CONTEXT},
    {"3.8B", 24, 3840, 8192, 32, 32, VOCAB_LLAMA, CONTEXT},
    {"3.9B", 26, 3200, 12800, 32, 32, VOCAB_B158, CONTEXT},
    {"6.7B", 32, 4096, 10928, 32, 32, VOCAB_BITNET, CONTEXT},
    {"7B", 32, 4096, 12032, 32, 32, VOCAB_LLAMA, CONTEXT},
    {"13B", 40, 5120, 13824, 40, 40, VOCAB_LLAMA, CONTEXT},
    {"30B", 60, 6656, 16384, 52, 52, VOCAB_LLAMA, CONTEXT},
    {"70B", 80, 8192, 24576, 64, 64, VOCAB_LLAMA, CONTEXT},
    {"100B", 72, 8192, 45568, 64, 64, VOCAB_LLAMA, CONTEXT},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

const bl_dummy_shape *bl_dummy_shapes(size_t *n) {
    *n = N_SHAPES;
    return shapes;
}

static bl_status fail_unknown(const char *text, bl_error *err) {
    bl__buffer names = bl__buffer_make(1024);
    for (size_t i = 0; i < N_SHAPES; i++)
        bl__buffer_printf(&names, "%s, ", shapes[i].name);
    bl_status status =
        names.failed ? bl__fail(err, BL_ERR_MEMORY, "cannot allocate the names of shapes")
                     : bl__fail(err, BL_ERR_ARGUMENT,
                                "shape \"%.40s\", expected %sor LAYERSxDIMxFFN[xHEADS[xKV_HEADS]]",
                                text, names.data);
    bl__buffer_free(&names);
    return status;
}

/* Reads numbers with an x between them; returns how many there are, 0 when it is anything else. */
static size_t read_sizes(const char *text, uint32_t sizes[MAX_SIZES]) {
    for (size_t n = 0; n < MAX_SIZES; n++) {
        uint32_t value = 0;
        size_t digits = strspn(text, "0123456789");
        if (digits < 1 || digits > 7) /* no size is that large */
            return 0;
        for (size_t i = 0; i < digits; i++)
            value = value * 10 + (uint32_t)(text[i] - '0');
        sizes[n] = value;
        text += digits;
        if (!*text)
            return n + 1;
        if (*text++ != 'x')
            return 0;
    }
    return 0;
}

static bl_status check_shape(const bl_dummy_shape *s, bl_error *err) {
    const struct {
        const char *name;
        uint32_t value, most;
    } sizes[] = {{"layers", s->n_layers, MAX_LAYERS},
                 {"the model's dimension", s->dim, MAX_SIZE},
                 {"the feed-forward size", s->ffn_dim, MAX_SIZE},
                 {"heads", s->n_heads, MAX_HEADS},
                 {"heads of keys and values", s->n_kv_heads, MAX_HEADS}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return bl__fail(err, BL_ERR_ARGUMENT, "shape %s: %s: %u, expected 1 to %u", s->name,
                            sizes[i].name, sizes[i].value, sizes[i].most);
    if (s->dim % (2 * s->n_heads) != 0)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "shape %s: %u elements do not divide into %u heads of an even size",
                        s->name, s->dim, s->n_heads);
    if (s->n_heads % s->n_kv_heads != 0)
        return bl__fail(err, BL_ERR_ARGUMENT,
                        "shape %s: %u heads do not divide into %u of keys and values", s->name,
                        s->n_heads, s->n_kv_heads);
    return BL_OK;
}

bl_status bl_dummy_shape_read(const char *text, bl_dummy_shape *out, bl_error *err) {
    uint32_t sizes[MAX_SIZES] = {0};
    for (size_t i = 0; i < N_SHAPES; i++)
        if (strcasecmp(shapes[i].name, text) == 0) {
            *out = shapes[i];
            return BL_OK;
        }
    size_t n = read_sizes(text, sizes);
    if (n < 3)
        return fail_unknown(text, err);
    bl_dummy_shape s = {.n_layers = sizes[0],
                        .dim = sizes[1],
                        .ffn_dim = sizes[2],
                        .n_heads = sizes[3],
                        .n_kv_heads = n > 4 ? sizes[4] : sizes[3],
                        .vocab = VOCAB_LLAMA,
                        .context = CONTEXT};
    snprintf(s.name, sizeof s.name, "%s", text);
    if (n == 3) {
        uint32_t head_dim = 128;
        while (head_dim > 2 && s.dim % head_dim != 0)
            head_dim /= 2;
        s.n_heads = s.n_kv_heads = s.dim / head_dim;
    }
    bl_status status = check_shape(&s, err);
    if (!status)
        *out = s;
    return status;
}
