/* Owns the figures of `bitloom compress` as JSON and as a page. Must not know how they came about.
 */
#include "compress_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/buffer.h"
#include "base/file.h"
#include "terminal.h"

enum {
    MAX_PAGE = 16 << 20,
    WIDTH = 820,
    HEIGHT = 460,
    LEFT = 72,
    RIGHT = 130,
    TOP = 40,
    BOTTOM = 52,
    MAX_TICKS = 12
};

/* Told apart also by people who see few colours (Okabe and Ito). */
static const char *const COLOURS[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000"};
enum { N_COLOURS = sizeof COLOURS / sizeof *COLOURS };

/* ---- JSON ---- */

static json_t *matrices_json(const bl_compress_report *r) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < r->n_matrices; i++) {
        const bl_compress_matrix *m = &r->matrices[i];
        json_t *row =
            json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I}", "name", m->name, "rows",
                      (json_int_t)m->rows, "cols", (json_int_t)m->cols, "error", m->error,
                      "nominal_bits", m->nominal_bits, "true_bits", m->true_bits, "salient",
                      m->salient, "dead", (json_int_t)m->dead, "damped", (json_int_t)m->damped);
        if (!row || json_array_append_new(list, row) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *result_json(const compress_result *c) {
    const bl_compress_report *r = &c->report;
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:o}",
        "method", c->method, "output", c->path, "weights", (json_int_t)r->n_weights, "error",
        r->error, "nominal_bits", r->nominal_bits, "true_bits", r->true_bits, "model_bits",
        r->model_bits, "tokens", (json_int_t)r->n_tokens, "file_bytes", (json_int_t)r->file_bytes,
        "seconds", r->seconds, "forward_seconds", r->forward_seconds, "factor_seconds",
        r->factor_seconds, "method_seconds", r->method_seconds, "product_seconds",
        r->product_seconds, "peak_memory_bytes", c->peak_memory, "resumed_layers",
        (json_int_t)r->n_resumed, "matrices", matrices_json(r));
    if (object && c->measured &&
        (json_object_set_new(object, "perplexity", json_real(c->test.perplexity)) != 0 ||
         json_object_set_new(object, "perplexity_error", json_real(c->test.perplexity_error)) !=
             0)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

int compress_print_json(const compress_page *p) {
    json_t *root = json_pack("{s:s, s:s, s:s, s:[]}", "version", bl_version(), "model", p->model,
                             "calibration", p->calibration, "results");
    bool whole = root != NULL;
    if (whole && p->measured)
        whole = json_object_set_new(root, "perplexity", json_real(p->float_test.perplexity)) == 0;
    for (size_t i = 0; whole && i < p->n; i++)
        whole = json_array_append_new(json_object_get(root, "results"),
                                      result_json(&p->results[i])) == 0;
    whole = whole && json_dumpf(root, stdout, JSON_INDENT(2)) == 0;
    json_decref(root);
    if (!whole)
        return fail_with("compress", "a name that is not UTF-8, or memory is short");
    putchar('\n');
    return EXIT_SUCCESS;
}

/* ---- drawings ---- */

/* From data to pixels; y is drawn by its logarithm. */
typedef struct frame {
    double x_low, x_high, y_low, y_high;
} frame;

static double pixel_x(const frame *f, double x) {
    return LEFT + (x - f->x_low) / (f->x_high - f->x_low) * (WIDTH - LEFT - RIGHT);
}

static double pixel_y(const frame *f, double y) {
    double share = (log(y) - log(f->y_low)) / (log(f->y_high) - log(f->y_low));
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
}

static void put_escaped(bl__buffer *svg, const char *text) {
    for (; *text; text++) {
        if (*text == '&' || *text == '<' || *text == '>')
            bl__buffer_printf(svg, "&#%d;", *text);
        else
            bl__buffer_putc(svg, (unsigned char)*text < ' ' ? '?' : *text);
    }
}

static void draw_frame(bl__buffer *svg, const frame *f, double x_step, const char *x_name,
                       const char *title) {
    bl__buffer_printf(svg,
                      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                      "width=\"%d\" height=\"%d\">\n"
                      "<style>text{font:13px sans-serif;fill:#333}.grid{stroke:#e4e4e4;fill:none}"
                      ".axis{stroke:#555;fill:none}</style>\n"
                      "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
                      "<text x=\"%d\" y=\"24\" style=\"font-size:16px\">",
                      WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    put_escaped(svg, title);
    bl__buffer_puts(svg, "</text>\n");
    for (double decade = pow(10, floor(log10(f->y_low))); decade <= f->y_high; decade *= 10)
        for (double k = 1; k < 10; k += k < 2 ? 1 : k < 5 ? 3 : 5) {
            double y = decade * k;
            if (y < f->y_low || y > f->y_high)
                continue;
            bl__buffer_printf(svg,
                              "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
                              "text-anchor=\"end\">%g</text>\n",
                              LEFT, pixel_y(f, y), WIDTH - RIGHT, LEFT - 8, pixel_y(f, y) + 4, y);
        }
    for (double x = ceil(f->x_low / x_step) * x_step; x <= f->x_high + 1e-9; x += x_step)
        bl__buffer_printf(svg,
                          "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
                          "text-anchor=\"middle\">%g</text>\n",
                          pixel_x(f, x), TOP, HEIGHT - BOTTOM, pixel_x(f, x), HEIGHT - BOTTOM + 18,
                          x);
    bl__buffer_printf(svg,
                      "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>"
                      "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                      LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2,
                      HEIGHT - 12, x_name);
}

static void grow(frame *f, double y) {
    if (!(y > 0 && isfinite(y)))
        return;
    f->y_low = y < f->y_low ? y : f->y_low;
    f->y_high = y > f->y_high ? y : f->y_high;
}

/* Perplexity against true bits a weight, a point for each method; the model as a line. */
static void draw_perplexity(bl__buffer *svg, const compress_page *p) {
    double level = p->float_test.perplexity;
    frame f = {.x_low = 0, .x_high = 4, .y_low = level, .y_high = level};
    for (size_t i = 0; i < p->n; i++) {
        grow(&f, p->results[i].test.perplexity);
        f.x_high = fmax(f.x_high, ceil(p->results[i].report.true_bits));
    }
    f.y_low *= 0.8;
    f.y_high *= 1.25;
    draw_frame(svg, &f, 0.5, "true bits a weight of the linears", "Perplexity");
    bl__buffer_printf(svg,
                      "<path stroke=\"#555\" stroke-dasharray=\"5 4\" d=\"M%d %.1fH%d\"/>"
                      "<text x=\"%d\" y=\"%.1f\">as it was: %.2f</text>\n",
                      LEFT, pixel_y(&f, level), WIDTH - RIGHT, WIDTH - RIGHT + 6,
                      pixel_y(&f, level) + 4, level);
    for (size_t i = 0; i < p->n; i++) {
        const compress_result *c = &p->results[i];
        double x = pixel_x(&f, c->report.true_bits), y = pixel_y(&f, c->test.perplexity);
        bl__buffer_printf(svg,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>"
                          "<text x=\"%.1f\" y=\"%.1f\">",
                          x, y, COLOURS[i % N_COLOURS], x + 9, y + 4);
        put_escaped(svg, c->method);
        bl__buffer_printf(svg, ": %.4g</text>\n", c->test.perplexity);
    }
    bl__buffer_puts(svg, "</svg>\n");
}

/* The error of each layer, its matrices' by weights. */
static double layer_error(const bl_compress_report *r, size_t layer, size_t each) {
    double sum = 0, n = 0;
    for (size_t i = layer * each; i < (layer + 1) * each; i++) {
        double size = (double)r->matrices[i].rows * (double)r->matrices[i].cols;
        sum += size * r->matrices[i].error;
        n += size;
    }
    return sum / n;
}

static void draw_layers(bl__buffer *svg, const compress_page *p) {
    enum { EACH = 7 }; /* matrices of a layer */
    size_t n_layers = p->results[0].report.n_matrices / EACH;
    frame f = {.x_high = n_layers > 1 ? (double)n_layers - 1 : 1, .y_low = INFINITY, .y_high = 0};
    for (size_t i = 0; i < p->n; i++)
        for (size_t l = 0; l < n_layers; l++)
            grow(&f, layer_error(&p->results[i].report, l, EACH));
    if (!(f.y_high > 0))
        f.y_low = f.y_high = 1;
    f.y_low *= 0.8;
    f.y_high *= 1.25;
    double step = fmax(1, ceil((double)n_layers / MAX_TICKS));
    draw_frame(svg, &f, step, "layer", "Error of the linears' outputs, relative");
    for (size_t i = 0; i < p->n; i++) {
        const compress_result *c = &p->results[i];
        bl__buffer_printf(svg, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" d=\"",
                          COLOURS[i % N_COLOURS]);
        double last = f.y_low;
        for (size_t l = 0; l < n_layers; l++) {
            last = fmax(layer_error(&c->report, l, EACH), f.y_low);
            bl__buffer_printf(svg, "%s%.1f %.1f", l ? "L" : "M", pixel_x(&f, (double)l),
                              pixel_y(&f, last));
        }
        bl__buffer_printf(svg, "\"/><text x=\"%d\" y=\"%.1f\" style=\"fill:%s\">",
                          WIDTH - RIGHT + 6, pixel_y(&f, last) + 4, COLOURS[i % N_COLOURS]);
        put_escaped(svg, c->method);
        bl__buffer_puts(svg, "</text>\n");
    }
    bl__buffer_puts(svg, "</svg>\n");
}

/* ---- the page ---- */

static void put_table(bl__buffer *md, const compress_page *p) {
    bl__buffer_puts(md, "| method | nominal bits | true bits | whole model | ");
    bl__buffer_puts(md, p->measured ? "perplexity | " : "");
    bl__buffer_puts(md, "layer error | minutes | in products | peak memory | file |\n|---|");
    for (int i = 0; i < (p->measured ? 9 : 8); i++)
        bl__buffer_puts(md, "---:|");
    bl__buffer_puts(md, "\n");
    if (p->measured)
        bl__buffer_printf(md, "| as it was | | | | %.3f ± %.3f | | | | | |\n",
                          p->float_test.perplexity, p->float_test.perplexity_error);
    for (size_t i = 0; i < p->n; i++) {
        const compress_result *c = &p->results[i];
        const bl_compress_report *r = &c->report;
        bl__buffer_printf(md, "| %s | %.2f | %.3f | %.3f | ", c->method, r->nominal_bits,
                          r->true_bits, r->model_bits);
        if (p->measured)
            bl__buffer_printf(md, "%.4g ± %.2g | ", c->test.perplexity, c->test.perplexity_error);
        bl__buffer_printf(md, "%.4f | %.1f | %.0f %% | %s | %s |\n", r->error, r->seconds / 60,
                          r->seconds > 0 ? 100 * r->product_seconds / r->seconds : 0,
                          format_bytes(c->peak_memory), format_bytes((double)r->file_bytes));
    }
    bl__buffer_puts(md, "\n");
}

static void put_page(bl__buffer *md, const compress_page *p, const char *stem) {
    const bl_compress_report *r = &p->results[0].report;
    bl__buffer_printf(
        md, "# %s, compressed\n\nbitloom %s, kernels %s. Calibration: %s, %llu tokens. ", p->model,
        bl_version(), bl_kernel_level(), p->calibration, (unsigned long long)r->n_tokens);
    if (p->measured)
        bl__buffer_printf(md, "Perplexity: %s, %llu windows of %lld tokens, all scored. ", p->test,
                          (unsigned long long)p->float_test.n_windows, (long long)p->ctx);
    bl__buffer_printf(
        md,
        "%.1f M weights are compressed. Nominal bits count signs, as papers do; true bits count "
        "everything that is stored of the linears; the last of the three counts embeddings, head "
        "and norms too, which stay as they were. A layer's error is the energy of what its linears "
        "give wrongly on the calibration text, over that of what they should give. Time is "
        "that of compressing; peak memory is the process's, the methods run one after the "
        "other.\n\n",
        (double)r->n_weights * 1e-6);
    put_table(md, p);
    const char *name = strrchr(stem, '/');
    name = name ? name + 1 : stem;
    if (p->measured)
        bl__buffer_printf(md, "![Perplexity against true bits](%s-perplexity.svg)\n\n", name);
    bl__buffer_printf(md, "![Error of each layer](%s-layers.svg)\n", name);
}

static int write_file(const char *path, bl__buffer *text) {
    bl__outfile *file = NULL;
    bl_error err;
    if (text->failed) {
        bl__buffer_free(text);
        return fail_with("compress", "%s: more than %d bytes, or out of memory", path, MAX_PAGE);
    }
    bl_status status = bl__outfile_open(path, &file, &err);
    if (!status && (status = bl__outfile_write(file, text->data, text->len, &err)))
        bl__outfile_abort(file);
    else if (!status)
        status = bl__outfile_commit(file, &err);
    bl__buffer_free(text);
    return status ? fail_error("compress", &err) : EXIT_SUCCESS;
}

int compress_write_report(const char *path, const compress_page *p) {
    char stem[4000], svg_path[4096];
    size_t len = strlen(path);
    if (len >= sizeof stem)
        return fail_with("compress", "%.60s...: a path that is too long", path);
    if (len > 3 && strcmp(path + len - 3, ".md") == 0)
        len -= 3;
    snprintf(stem, sizeof stem, "%.*s", (int)len, path);
    bl__buffer text = bl__buffer_make(MAX_PAGE);
    put_page(&text, p, stem);
    int status = write_file(path, &text);
    if (!status) {
        text = bl__buffer_make(MAX_PAGE);
        draw_layers(&text, p);
        snprintf(svg_path, sizeof svg_path, "%s-layers.svg", stem);
        status = write_file(svg_path, &text);
    }
    if (!status && p->measured) {
        text = bl__buffer_make(MAX_PAGE);
        draw_perplexity(&text, p);
        snprintf(svg_path, sizeof svg_path, "%s-perplexity.svg", stem);
        status = write_file(svg_path, &text);
    }
    return status;
}
