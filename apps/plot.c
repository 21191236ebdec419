/* Owns `bitloom plot`: metrics of runs in, one SVG of their losses out. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/file.h"
#include "bitloom/bitloom.h"
#include "commands.h"
#include "terminal.h"

enum {
    MAX_RUNS = 32,
    MAX_METRICS = 1 << 30,
    MAX_SVG = 64 << 20,
    MAX_POINTS = 1500, /* of a line: more than it has pixels */
    WIDTH = 860,
    HEIGHT = 520,
    LEFT = 64,
    RIGHT = 24,
    TOP = 44,
    BOTTOM = 52,
    LEGEND_LINE = 18,
    MAX_TICKS = 9
};

typedef struct plot_settings {
    const char *output, *title, *x;
    double top;
    bool quiet;
} plot_settings;

#define PLOT(field) offsetof(plot_settings, field)

static const option OPTIONS[] = {
    {'o', "output", NULL, OPTION_TEXT, "FILE", PLOT(output), 0, 0, NULL, "the SVG file to write"},
    {0, "title", NULL, OPTION_TEXT, "TEXT", PLOT(title), 0, 0, NULL, "heading of the plot"},
    {0, "x", NULL, OPTION_CHOICE, "KEY", PLOT(x), 0, 0, "tokens step seconds",
     "what the horizontal axis counts (default tokens); one of:"},
    {0, "top", NULL, OPTION_NUMBER, "LOSS", PLOT(top), DBL_MIN, 1e6, NULL,
     "highest loss shown (default: all of it)"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, PLOT(quiet), 0, 0, NULL, "print errors only"},
};
static const option_group GROUPS[] = {{"Options", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0}};

/* Told apart also by people who see few colours (Okabe and Ito). */
static const char *const COLOURS[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000"};
enum { N_COLOURS = sizeof COLOURS / sizeof *COLOURS };

/* One line of metrics; NaN where it says nothing. */
typedef struct point {
    double x, loss, smoothed, validation;
} point;

typedef struct series {
    char name[64];
    point *points;
    size_t n;
} series;

/* From data to pixels. */
typedef struct frame {
    double x_end, y_low, y_high;
} frame;

/* ---- reading ---- */

/* "DIR" of DIR/run.jsonl, else the file's name without its end. */
static void name_series(const char *path, char name[64]) {
    const char *end = path + strlen(path), *start;
    const char *slash = strrchr(path, '/');
    if (slash && slash > path && strcmp(slash, "/run.jsonl") == 0)
        end = slash;
    for (start = end; start > path && start[-1] != '/';)
        start--;
    if (end - start > 6 && strncmp(end - 6, ".jsonl", 6) == 0)
        end -= 6;
    snprintf(name, 64, "%.*s", (int)(end - start), start);
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* A last line that is cut short belongs to a run that is being written. */
static bool read_line(const char *line, size_t len, const char *x, point *out) {
    json_t *object = json_loadb(line, len, 0, NULL);
    *out = (point){number(object, x), number(object, "loss"), number(object, "smoothed"),
                   number(object, "validation")};
    json_decref(object);
    return isfinite(out->x) && out->x >= 0;
}

static int read_series(const char *path, const char *x, series *out) {
    char *text = NULL;
    size_t len = 0, n_lines = 0, n_bad = 0;
    bl_error err;
    if (bl__file_read(path, MAX_METRICS, &text, &len, &err) != BL_OK)
        return fail_error("plot", &err);
    for (size_t i = 0; i < len; i++)
        n_lines += text[i] == '\n';
    out->points = bl__malloc_array(n_lines + 1, sizeof *out->points);
    if (!out->points) {
        bl__free(text);
        return fail_with("plot", "out of memory");
    }
    name_series(path, out->name);
    const char *line = text;
    for (const char *end; line && (end = memchr(line, '\n', len - (size_t)(line - text)));
         line = end + 1) {
        if (read_line(line, (size_t)(end - line), x, &out->points[out->n]))
            out->n++;
        else
            n_bad++;
    }
    bl__free(text);
    if (!out->n)
        return fail_with("plot",
                         "%s: no line with \"%s\" in %zu lines; expected the run.jsonl of "
                         "bitloom train",
                         path, x, n_lines);
    if (n_bad)
        note("%s: %zu of %zu lines are no metrics, left out", path, n_bad, n_lines);
    return EXIT_SUCCESS;
}

/* ---- drawing ---- */

static void put_escaped(bl__buffer *svg, const char *text) {
    for (; *text; text++) {
        if (*text == '&' || *text == '<' || *text == '>')
            bl__buffer_printf(svg, "&#%d;", *text);
        else
            bl__buffer_putc(svg, (unsigned char)*text < ' ' ? '?' : *text);
    }
}

static double pixel_x(const frame *f, double x) {
    return LEFT + x / f->x_end * (WIDTH - LEFT - RIGHT);
}
static double pixel_y(const frame *f, double y) {
    double share = (fmin(y, f->y_high) - f->y_low) / (f->y_high - f->y_low);
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
}

/* The least of 1, 2, 5, 10, 20 ... that gives at most MAX_TICKS over a span. */
static double tick_step(double span) {
    double step = pow(10, floor(log10(span)) - 1);
    static const double factors[] = {2, 2.5, 2};
    for (size_t i = 0; span / step > MAX_TICKS; i++)
        step *= factors[i % 3];
    return step;
}

static frame measure(const series *runs, size_t n, double top) {
    frame f = {.x_end = 0, .y_low = DBL_MAX, .y_high = -DBL_MAX};
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < runs[i].n; k++) {
            const point *p = &runs[i].points[k];
            const double values[] = {p->loss, p->smoothed, p->validation};
            f.x_end = fmax(f.x_end, p->x);
            for (size_t j = 0; j < 3; j++)
                if (isfinite(values[j])) {
                    f.y_low = fmin(f.y_low, values[j]);
                    f.y_high = fmax(f.y_high, values[j]);
                }
        }
    if (f.y_low > f.y_high)
        f.y_low = f.y_high = 0;
    if (top > f.y_low)
        f.y_high = top;
    if (!(f.y_high - f.y_low > 1e-9))
        f.y_high = f.y_low + 1;
    double step = tick_step(f.y_high - f.y_low);
    f.y_low = floor(f.y_low / step) * step;
    if (!(top > f.y_low))
        f.y_high = ceil(f.y_high / step) * step;
    f.x_end = f.x_end > 0 ? f.x_end : 1;
    return f;
}

/* 2,500,000 as 2.5 M; steps of an axis share one unit. */
static void put_count(bl__buffer *svg, double value, double largest) {
    if (value == 0)
        bl__buffer_putc(svg, '0');
    else if (largest >= 2e9)
        bl__buffer_printf(svg, "%g G", value * 1e-9);
    else if (largest >= 2e6)
        bl__buffer_printf(svg, "%g M", value * 1e-6);
    else if (largest >= 2e4)
        bl__buffer_printf(svg, "%g k", value * 1e-3);
    else
        bl__buffer_printf(svg, "%g", value);
}

static void draw_axes(bl__buffer *svg, const frame *f, const char *x) {
    double step = tick_step(f->x_end), bottom = HEIGHT - BOTTOM;
    for (double at = 0; at <= f->x_end * 1.0001; at += step) {
        double px = pixel_x(f, at);
        bl__buffer_printf(svg, "<path class=\"grid\" d=\"M%.1f %dV%.1f\"/>\n", px, TOP, bottom);
        bl__buffer_printf(svg, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", px,
                          bottom + 18);
        put_count(svg, at, f->x_end);
        bl__buffer_puts(svg, "</text>\n");
    }
    step = tick_step(f->y_high - f->y_low);
    for (double i = 0; f->y_low + i * step <= f->y_high + step * 1e-4; i++) {
        double y = f->y_low + i * step, py = pixel_y(f, y);
        bl__buffer_printf(svg, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, py,
                          WIDTH - RIGHT);
        bl__buffer_printf(svg, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n",
                          LEFT - 8, py + 4, y);
    }
    bl__buffer_printf(svg, "<path class=\"axis\" d=\"M%d %dV%.1fH%d\"/>\n", LEFT, TOP, bottom,
                      WIDTH - RIGHT);
    bl__buffer_printf(svg, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                      (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12,
                      strcmp(x, "step") == 0      ? "steps"
                      : strcmp(x, "seconds") == 0 ? "seconds of training"
                                                  : "tokens trained on");
    bl__buffer_printf(svg,
                      "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">"
                      "loss, nats a token</text>\n",
                      (TOP + HEIGHT - BOTTOM) / 2);
}

/* One line through the values at an offset in point; long ones are thinned out. */
static void draw_line(bl__buffer *svg, const frame *f, const series *s, size_t offset,
                      const char *colour, const char *style) {
    size_t every = s->n / MAX_POINTS + 1, n_drawn = 0;
    bl__buffer_printf(svg, "<path fill=\"none\" stroke=\"%s\" %s d=\"", colour, style);
    for (size_t i = 0; i < s->n; i++) {
        double y;
        memcpy(&y, (const char *)&s->points[i] + offset, sizeof y);
        if (!isfinite(y) || (offset != offsetof(point, validation) && i % every && i + 1 < s->n))
            continue;
        bl__buffer_printf(svg, "%s%.1f %.1f", n_drawn++ ? "L" : "M", pixel_x(f, s->points[i].x),
                          pixel_y(f, y));
    }
    bl__buffer_puts(svg, "\"/>\n");
}

static void draw_series(bl__buffer *svg, const frame *f, const series *s, const char *colour) {
    draw_line(svg, f, s, offsetof(point, loss), colour, "stroke-width=\"1\" opacity=\"0.25\"");
    draw_line(svg, f, s, offsetof(point, smoothed), colour, "stroke-width=\"1.5\"");
    draw_line(svg, f, s, offsetof(point, validation), colour,
              "stroke-width=\"1\" stroke-dasharray=\"4 3\"");
    for (size_t i = 0; i < s->n; i++)
        if (isfinite(s->points[i].validation))
            bl__buffer_printf(
                svg,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#fff\" stroke=\"%s\" "
                "stroke-width=\"1.5\"><title>%.4f</title></circle>\n",
                pixel_x(f, s->points[i].x), pixel_y(f, s->points[i].validation), colour,
                s->points[i].validation);
}

static void draw_legend(bl__buffer *svg, const series *runs, size_t n) {
    size_t longest = 0;
    for (size_t i = 0; i < n; i++)
        longest = strlen(runs[i].name) > longest ? strlen(runs[i].name) : longest;
    int width = 84 + 8 * (int)(longest + 8), left = WIDTH - RIGHT - 10 - width;
    int height = (int)n * LEGEND_LINE + 30;
    bl__buffer_printf(svg,
                      "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\" fill=\"#fff\" "
                      "stroke=\"#ccc\" fill-opacity=\"0.9\"/>\n",
                      left, TOP + 8, width, height);
    for (size_t i = 0; i < n; i++) {
        const char *colour = COLOURS[i % N_COLOURS];
        int y = TOP + 26 + (int)i * LEGEND_LINE;
        double last = NAN;
        for (size_t k = 0; k < runs[i].n; k++)
            if (isfinite(runs[i].points[k].validation))
                last = runs[i].points[k].validation;
        bl__buffer_printf(svg,
                          "<path stroke=\"%s\" stroke-width=\"2\" d=\"M%d %dh26\"/>"
                          "<text x=\"%d\" y=\"%d\">",
                          colour, left + 10, y - 4, left + 44, y);
        put_escaped(svg, runs[i].name);
        if (isfinite(last))
            bl__buffer_printf(svg, ": %.3f", last);
        bl__buffer_puts(svg, "</text>\n");
    }
    int y = TOP + 26 + (int)n * LEGEND_LINE;
    bl__buffer_printf(svg,
                      "<circle cx=\"%d\" cy=\"%d\" r=\"3.5\" fill=\"#fff\" stroke=\"#555\" "
                      "stroke-width=\"1.5\"/><text x=\"%d\" y=\"%d\">validation</text>\n",
                      left + 23, y - 4, left + 44, y);
}

static void draw(bl__buffer *svg, const plot_settings *s, const series *runs, size_t n) {
    frame f = measure(runs, n, s->top);
    bl__buffer_printf(svg,
                      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                      "width=\"%d\" height=\"%d\">\n"
                      "<style>text{font:13px sans-serif;fill:#333}.grid{stroke:#e4e4e4;fill:none}"
                      ".axis{stroke:#555;fill:none}</style>\n"
                      "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                      WIDTH, HEIGHT, WIDTH, HEIGHT);
    if (s->title) {
        bl__buffer_printf(svg, "<text x=\"%d\" y=\"26\" style=\"font-size:16px\">", LEFT);
        put_escaped(svg, s->title);
        bl__buffer_puts(svg, "</text>\n");
    }
    draw_axes(svg, &f, s->x);
    for (size_t i = 0; i < n; i++)
        draw_series(svg, &f, &runs[i], COLOURS[i % N_COLOURS]);
    draw_legend(svg, runs, n);
    bl__buffer_puts(svg, "</svg>\n");
}

static int write_svg(const char *path, const bl__buffer *svg) {
    bl__outfile *file = NULL;
    bl_error err;
    if (svg->failed)
        return fail_with("plot", "a plot of more than %d bytes, or out of memory", MAX_SVG);
    bl_status status = bl__outfile_open(path, &file, &err);
    if (!status && (status = bl__outfile_write(file, svg->data, svg->len, &err)))
        bl__outfile_abort(file);
    else if (!status)
        status = bl__outfile_commit(file, &err);
    return status ? fail_error("plot", &err) : EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    plot_settings s = {.x = "tokens"};
    const char *paths[MAX_RUNS] = {NULL};
    series runs[MAX_RUNS] = {{.n = 0}};
    size_t n = 0;
    int status = EXIT_SUCCESS;
    switch (options_parse(&PLOT_COMMAND, argc, argv, &s, paths)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    if (!s.output)
        return options_complain(&PLOT_COMMAND, "-o FILE is missing");
    for (; n < MAX_RUNS && paths[n] && status == EXIT_SUCCESS; n++)
        status = read_series(paths[n], s.x, &runs[n]);
    if (status == EXIT_SUCCESS) {
        bl__buffer svg = bl__buffer_make(MAX_SVG);
        draw(&svg, &s, runs, n);
        status = write_svg(s.output, &svg);
        bl__buffer_free(&svg);
    }
    for (size_t i = 0; i < n; i++)
        bl__free(runs[i].points);
    if (status == EXIT_SUCCESS && !s.quiet)
        note("wrote            %s", s.output);
    return status;
}

const command PLOT_COMMAND = {
    .name = "plot",
    .summary = "draw the losses of training runs",
    .operands = "RUN.jsonl ...",
    .min_operands = 1,
    .max_operands = MAX_RUNS,
    .description =
        "Draws the metrics that bitloom train writes, several runs over each other, as one SVG:\n"
        "losses faint, their running mean over them, validation as circles.",
    .examples = "  bitloom plot run/run.jsonl -o loss.svg\n"
                "  bitloom plot ternary/run.jsonl float/run.jsonl -o twins.svg --top 6\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
