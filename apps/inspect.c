/* Owns `bitloom inspect`: lays the library's JSON out as a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

typedef struct inspect_settings {
    bool json, tensors;
} inspect_settings;

static const option OPTIONS[] = {
    {0, "json", NULL, OPTION_FLAG, NULL, offsetof(inspect_settings, json), 0, 0, NULL,
     "print everything as one JSON object"},
    {0, "tensors", NULL, OPTION_FLAG, NULL, offsetof(inspect_settings, tensors), 0, 0, NULL,
     "list every tensor"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

enum { MAX_SHOWN = 100 };

/* One value on one line, long texts cut. The file is not trusted: dumping as JSON escapes what
 * could steer a terminal. */
static void print_value(const json_t *value) {
    if (json_is_object(value)) {
        const char *type = json_string_value(json_object_get(value, "type"));
        json_int_t length = json_integer_value(json_object_get(value, "length"));
        if (type) {
            printf("%lld x %s\n", (long long)length, type);
            return;
        }
    }
    if (json_is_real(value)) {
        printf("%g\n", json_real_value(value));
        return;
    }
    char text[4 * MAX_SHOWN];
    size_t n = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (n <= MAX_SHOWN)
        printf("%.*s\n", (int)n, text);
    else if (json_is_string(value))
        printf("text of %zu bytes\n", json_string_length(value));
    else
        printf("%.*s...\n", MAX_SHOWN, n <= sizeof text ? text : "(long)");
}

/* Keys come from the file too. */
static void print_key(const char *key, int width) {
    json_t *text = json_string(key);
    char dump[2 * MAX_SHOWN];
    size_t n = json_dumpb(text, dump, sizeof dump, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    json_decref(text);
    if (n < 2 || n > sizeof dump)
        printf("  %-*s  ", width, "(long name)");
    else
        printf("  %-*.*s  ", width, (int)(n - 2), dump + 1);
}

static int longest_key(const json_t *object) {
    size_t longest = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        size_t len = strlen(key);
        longest = len > longest && len <= 48 ? len : longest;
    }
    return (int)longest;
}

static void print_object(const char *title, const json_t *object) {
    if (!json_object_size(object))
        return;
    printf("\n%s%s%s\n", bold_on(STDOUT_FILENO), title, style_off(STDOUT_FILENO));
    int width = longest_key(object);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        print_key(key, width);
        print_value(value);
    }
}

/* {"tensors", "weights", "bytes", "bits_per_weight", "zeros"} on one line. */
static void print_group(const char *name, const json_t *group) {
    printf("  %-16s %lld tensors, %lld weights, %s, %.3f bits each", name,
           (long long)json_integer_value(json_object_get(group, "tensors")),
           (long long)json_integer_value(json_object_get(group, "weights")),
           format_bytes(json_number_value(json_object_get(group, "bytes"))),
           json_number_value(json_object_get(group, "bits_per_weight")));
    const json_t *zeros = json_object_get(group, "zeros");
    if (json_is_number(zeros))
        printf(", %.1f %% zeros", 100 * json_number_value(zeros));
    putchar('\n');
}

static void print_totals(const json_t *totals) {
    printf("\n%sTOTALS%s\n", bold_on(STDOUT_FILENO), style_off(STDOUT_FILENO));
    printf("  %-16s %.3f bits for each weight, metadata and padding counted\n", "file",
           json_number_value(json_object_get(totals, "file_bits_per_weight")));
    print_group("all", totals);
    const json_t *linears = json_object_get(totals, "linears");
    if (linears)
        print_group("linears", linears);
    const json_t *ternary = json_object_get(totals, "ternary");
    if (json_integer_value(json_object_get(ternary, "tensors")) > 0)
        print_group("ternary", ternary);
    const char *name;
    json_t *group;
    json_object_foreach(json_object_get(totals, "types"), name, group) print_group(name, group);
}

static void print_tensors(const json_t *tensors) {
    printf("\n%s%-42s %-8s %16s %12s %7s %7s%s\n", bold_on(STDOUT_FILENO), "TENSOR", "TYPE",
           "ROWS x COLS", "BYTES", "BITS/W", "ZEROS", style_off(STDOUT_FILENO));
    size_t i;
    json_t *tensor;
    json_array_foreach(tensors, i, tensor) {
        const json_t *shape = json_object_get(tensor, "shape"), *zeros;
        char dims[40], share[16] = "";
        int n = snprintf(dims, sizeof dims, "%lld",
                         (long long)json_integer_value(json_array_get(shape, 0)));
        if (json_array_size(shape) > 1)
            snprintf(dims + n, sizeof dims - (size_t)n, " x %lld",
                     (long long)json_integer_value(json_array_get(shape, 1)));
        zeros = json_object_get(tensor, "zeros");
        if (json_is_number(zeros))
            snprintf(share, sizeof share, "%.1f %%", 100 * json_number_value(zeros));
        const char *type = json_string_value(json_object_get(tensor, "type"));
        const char *name = json_string_value(json_object_get(tensor, "name"));
        print_key(name ? name : "", 40);
        printf("%-7s %16s %12lld %7.3f %7s\n", type ? type : "?", dims,
               (long long)json_integer_value(json_object_get(tensor, "bytes")),
               json_number_value(json_object_get(tensor, "bits_per_weight")), share);
    }
}

static void print_table(const json_t *root, bool list_tensors) {
    const json_t *tensors = json_object_get(root, "tensors");
    printf("%s\n", json_string_value(json_object_get(root, "path")));
    printf("  GGUF version %lld, %s, %zu tensors, alignment %lld\n",
           (long long)json_integer_value(json_object_get(root, "version")),
           format_bytes(json_number_value(json_object_get(root, "bytes"))),
           json_array_size(tensors),
           (long long)json_integer_value(json_object_get(root, "alignment")));
    print_object("METADATA", json_object_get(root, "metadata"));
    if (list_tensors)
        print_tensors(tensors);
    print_totals(json_object_get(root, "totals"));
}

static int run(int argc, char **argv) {
    inspect_settings s = {0};
    const char *path;
    switch (options_parse(&INSPECT_COMMAND, argc, argv, &s, &path)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    char *text;
    size_t len;
    bl_error err;
    if (bl_inspect(path, &text, &len, &err) != BL_OK)
        return fail_error("inspect", &err);
    int status = EXIT_SUCCESS;
    if (s.json) {
        output_write(text, len);
        output_write("\n", 1);
    } else {
        json_error_t problem;
        json_t *root = json_loadb(text, len, JSON_ALLOW_NUL, &problem);
        if (root)
            print_table(root, s.tensors);
        else
            status = fail_with("inspect", "%s", problem.text);
        json_decref(root);
    }
    bl_free(text);
    return status;
}

const command INSPECT_COMMAND = {
    .name = "inspect",
    .summary = "show what is in a model file",
    .operands = "MODEL.gguf",
    .min_operands = 1,
    .max_operands = 1,
    .description =
        "Shows metadata, tensors, true bits per weight and the share of zeros of a GGUF file.",
    .examples = "  bitloom inspect model.gguf\n"
                "  bitloom inspect --tensors model.gguf\n"
                "  bitloom inspect --json model.gguf | jq .totals\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
