/* Owns what a GGUF file becomes: the same metadata and tensors, the linear weights in another
 * layout. Must not know how tensors are packed. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "convert/convert.h"
#include "formats/checksum.h"
#include "formats/gguf.h"
#include "formats/known_answer.h"

struct bl__gguf_source {
    bl__filemap map;
    bl__gguf *gguf;
};

void bl__gguf_source_close(bl__gguf_source *source) {
    if (!source)
        return;
    bl__gguf_free(source->gguf);
    bl__filemap_close(&source->map);
    bl__free(source);
}

/* Matches "blk.<number>.<linear>.weight", and "blk.<number>.<linear>.<group>.weight". */
static bool is_linear(bl__string name) {
    static const char *const linears[] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                          "ffn_gate", "ffn_up", "ffn_down"};
    static const char suffix[] = ".weight";
    size_t i = 4, n_suffix = sizeof suffix - 1;
    if (name.len < 5 + n_suffix || memcmp(name.data, "blk.", 4) != 0 ||
        memcmp(name.data + name.len - n_suffix, suffix, n_suffix) != 0)
        return false;
    while (i < name.len && name.data[i] >= '0' && name.data[i] <= '9')
        i++;
    if (i == 4 || i >= name.len - n_suffix || name.data[i++] != '.')
        return false;
    bl__string linear = {.data = name.data + i, .len = name.len - n_suffix - i};
    size_t stem = linear.len;
    while (stem > 0 && linear.data[stem - 1] >= '0' && linear.data[stem - 1] <= '9')
        stem--;
    if (stem > 0 && stem < linear.len && linear.data[stem - 1] == '.')
        linear.len = stem - 1;
    for (size_t k = 0; k < sizeof linears / sizeof *linears; k++)
        if (bl__string_is(linear, linears[k]))
            return true;
    return false;
}

static bl_status plan_tensor(const bl__gguf_tensor *from, const bl__plan_options *options,
                             bl__pool *pool, bl__plan *plan, bl_error *err) {
    if (from->layout == BL_LAYOUT_COUNT)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%.*s: type %s can not be read or copied",
                        (int)(from->name.len < 100 ? from->name.len : 100), from->name.data,
                        from->type_name);
    bl__plan_tensor *tensor;
    bl__layout layout =
        from->layout == BL_LAYOUT_I2_S && options->i2_s_arm ? BL_LAYOUT_I2_S_ARM : from->layout;
    bl_status status = bl__plan_add(plan, from->name, from->n_dims, from->dims, layout, from->data,
                                    from->bytes, &tensor, err);
    if (status || from->n_dims != 2)
        return status;
    if (is_linear(from->name))
        return bl__plan_linear(tensor, options, true, pool, err);
    if (bl__string_is(from->name, "token_embd.weight") ||
        bl__string_is(from->name, "output.weight"))
        return bl__plan_embedding(tensor, options, err);
    return BL_OK;
}

/* Whether the source's linears were trained with int8 activations although no key says so: i2_s is
 * bitnet.cpp's layout, and its architectures have nothing else. */
static bool implies_int8(const bl__gguf *gguf) {
    bl__string architecture = {0};
    bl__gguf_get_string(gguf, "general.architecture", false, &architecture, NULL);
    if (architecture.len >= 6 && memcmp(architecture.data, "bitnet", 6) == 0)
        return true;
    for (size_t i = 0; i < gguf->n_tensors; i++)
        if (gguf->tensors[i].layout == BL_LAYOUT_I2_S && is_linear(gguf->tensors[i].name))
            return true;
    return false;
}

static bl_status copy_metadata(const bl__gguf *gguf, const bl__plan_options *options,
                               bl__gguf_writer *writer, bl_error *err) {
    static const char int8[] = "bitloom.activation_quantization";
    bl_status status = BL_OK;
    for (size_t i = 0; i < gguf->n_pairs && !status; i++) {
        const bl__gguf_pair *pair = &gguf->pairs[i];
        if (bl__string_is(pair->key, "general.file_type") ||
            bl__string_is(pair->key, BL_CHECKSUM_KIND_KEY) ||
            bl__string_is(pair->key, BL_CHECKSUM_KEY) ||
            (options->new_answer && bl__known_answer_owns(pair->key)))
            continue; /* set anew */
        char *key = bl__strndup(pair->key.data, pair->key.len);
        if (!key)
            return bl__fail(err, BL_ERR_MEMORY, "cannot allocate a key");
        status = bl__gguf_set_value(writer, key, &pair->value, err);
        bl__free(key);
    }
    if (!status && !bl__gguf_find(gguf, int8) && implies_int8(gguf))
        status = bl__gguf_set_string(writer, int8, "int8_token", strlen("int8_token"), err);
    return status;
}

static bool text_is(const bl__gguf *gguf, const char *key, const char *text, bool absent) {
    bl__string value = {0};
    bl__gguf_get_string(gguf, key, false, &value, NULL);
    return value.data ? bl__string_is(value, text) : absent;
}

/* Whether rows of ffn_up and columns of ffn_down can be left out: model/skip.h. */
static bool may_skip(const bl__gguf *gguf) {
    bl__string name = {0};
    uint32_t groups = 1;
    bl__gguf_get_string(gguf, "general.architecture", false, &name, NULL);
    bl__gguf_get_u32(gguf, "bitloom.groups", false, &groups, NULL);
    bool relu2 =
        name.data && (bl__string_is(name, "bitnet-b1.58") || bl__string_is(name, "bitnet-25"));
    char key[64] = "";
    if (name.data && name.len < 32)
        snprintf(key, sizeof key, "%.*s.hidden_act", (int)name.len, name.data);
    return text_is(gguf, key, "relu2", relu2) &&
           text_is(gguf, "bitloom.activation_quantization", "int8_token", implies_int8(gguf)) &&
           groups == 1 && !bl__gguf_find_tensor(gguf, "blk.0.ffn_down_norm_in.weight");
}

/* Readers of other layouts know nothing of groups, and would not sum them. */
static bl_status check_groups(const char *path, const bl__gguf *gguf,
                              const bl__plan_options *options, bl_error *err) {
    uint32_t groups = 1;
    bl_status status = bl__gguf_get_u32(gguf, "bitloom.groups", false, &groups, err);
    if (status || groups == 1 || options->native || bl__layout_is_native(options->type))
        return status;
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%s: linears in %u groups, which only Bitloom reads; expected type native",
                    path, groups);
}

bl_status bl__gguf_source_open(const char *path, const bl__plan_options *options, bl__pool *pool,
                               bl__gguf_writer *writer, bl__plan *plan, bl__gguf_source **out,
                               bl_error *err) {
    bl__gguf_source *source = bl__calloc(1, sizeof *source);
    bl_status status;
    if (!source)
        return bl__fail(err, BL_ERR_MEMORY, "%s: cannot allocate", path);
    if ((status = bl__filemap_open(path, &source->map, err)))
        goto fail;
    if ((status = bl__gguf_parse(source->map.data, source->map.len, &source->gguf, err))) {
        bl__error_prefix(err, path);
        goto fail;
    }
    if ((status = check_groups(path, source->gguf, options, err)) ||
        (status = copy_metadata(source->gguf, options, writer, err)))
        goto fail;
    for (size_t i = 0; i < source->gguf->n_tensors; i++)
        if ((status = plan_tensor(&source->gguf->tensors[i], options, pool, plan, err)))
            goto fail;
    plan->may_skip = may_skip(source->gguf);
    *out = source;
    return BL_OK;
fail:
    bl__gguf_source_close(source);
    return status;
}
