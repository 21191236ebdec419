/* Owns numbers between bounds as fragments of a network: digits are compared with those of the
 * bounds from the first one on, so that every number in the range, to so many digits, and no other
 * is matched. Bounds are compared as decimals, not as doubles. Must not know schemas. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generate/json_text.h"

enum { MAX_DIGITS = BL_JSON_MAX_DIGITS, MAX_FRACTION = 24 /* of a bound */ };

static const double LARGEST = 1e15; /* numbers have at most MAX_DIGITS digits before the point */

/* A number that is not negative: digits before and after the point. */
typedef struct decimal {
    unsigned n_whole, n_fraction;
    char whole[MAX_DIGITS + 1], fraction[MAX_FRACTION + 1]; /* no zeros in front or behind */
    bool strict; /* the number itself is not in the range */
    bool exists;
} decimal;

/* The decimal of |value|; false when it has too many digits. */
static bool read_decimal(const json_t *value, decimal *out) {
    char text[64];
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    } else { /* the shortest that reads back as the same number */
        double x = json_real_value(value), back = 0;
        if (!(fabs(x) < LARGEST))
            return false;
        for (int digits = 0; digits <= MAX_FRACTION; digits++) {
            snprintf(text, sizeof text, "%.*f", digits, x);
            back = strtod(text, NULL);
            if (back == x)
                break;
        }
        if (back != x)
            return false;
    }
    const char *at = text + (text[0] == '-'), *point = strchr(at, '.');
    size_t n_whole = point ? (size_t)(point - at) : strlen(at);
    size_t n_fraction = point ? strlen(point + 1) : 0;
    while (n_fraction > 0 && point[n_fraction] == '0')
        n_fraction--;
    if (n_whole > MAX_DIGITS)
        return false;
    memcpy(out->whole, at, n_whole);
    if (n_fraction)
        memcpy(out->fraction, point + 1, n_fraction);
    out->n_whole = (unsigned)n_whole;
    out->n_fraction = (unsigned)n_fraction;
    out->exists = true;
    return true;
}

static bool is_zero(const decimal *d) {
    return d->n_whole == 1 && d->whole[0] == '0' && d->n_fraction == 0;
}

/* Numbers of one length before the point, from low to high. */
typedef struct span {
    bl__net_builder *b;
    decimal low, high; /* those that do not matter at this length do not exist */
    unsigned n_whole, n_fraction;
    uint32_t end;                     /* node */
    uint32_t free[MAX_DIGITS + 1];    /* node with so many digits to come before the point */
    uint32_t tail[MAX_FRACTION + 16]; /* node with so many more allowed behind it */
} span;

static uint32_t *unset(uint32_t *nodes, size_t n) {
    for (size_t i = 0; i < n; i++)
        nodes[i] = BL_NET_NONE;
    return nodes;
}

/* Where at most n more digits of the fraction may come, and none must. */
static uint32_t tail_node(span *s, unsigned n) {
    if (s->tail[n] == BL_NET_NONE) {
        uint32_t node = bl__net_node(s->b);
        s->tail[n] = node;
        bl__net_link(s->b, node, s->end);
        if (n > 0)
            bl__net_link_bytes(s->b, node, tail_node(s, n - 1), '0', '9');
    }
    return s->tail[n];
}

/* Behind the last digit before the point, with nothing left to compare. */
static void link_free_fraction(span *s, uint32_t from) {
    bl__net_link(s->b, from, s->end);
    if (s->n_fraction == 0)
        return;
    uint32_t point = bl__net_node(s->b);
    bl__net_link_bytes(s->b, from, point, '.', '.');
    bl__net_link_bytes(s->b, point, tail_node(s, s->n_fraction - 1), '0', '9');
}

/* Where n more digits must come before the point, with nothing left to compare. */
static uint32_t free_node(span *s, unsigned n) {
    if (s->free[n] == BL_NET_NONE) {
        s->free[n] = bl__net_node(s->b);
        if (n == 0)
            link_free_fraction(s, s->free[n]);
        else
            bl__net_link_bytes(s->b, s->free[n], free_node(s, n - 1), '0', '9');
    }
    return s->free[n];
}

static char digit_at(const char *digits, unsigned n, unsigned at) {
    return at < n ? digits[at] : '0';
}

/* The fraction's digits from number `at` on; what came before equals low's digits (on_low), high's,
 * or both. */
static void link_fraction(span *s, uint32_t from, unsigned at, bool on_low, bool on_high) {
    const decimal *low = &s->low, *high = &s->high;
    if (on_low && at >= low->n_fraction && !low->strict)
        on_low = false; /* whatever follows is not below it */
    if (!on_low && !on_high) {
        if (at == 0)
            link_free_fraction(s, from);
        else
            bl__net_link(s->b, from, tail_node(s, s->n_fraction - at));
        return;
    }
    if (!on_low && (at < high->n_fraction || !high->strict))
        bl__net_link(s->b, from, s->end);
    if (at == s->n_fraction || (on_high && at >= high->n_fraction))
        return;
    if (at == 0) {
        uint32_t point = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, point, '.', '.');
        from = point;
    }
    char first = on_low ? digit_at(low->fraction, low->n_fraction, at) : '0';
    char last = on_high ? digit_at(high->fraction, high->n_fraction, at) : '9';
    if (on_low && on_high && first == last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)first, (uint8_t)first);
        link_fraction(s, next, at + 1, true, true);
        return;
    }
    if (on_low && first <= last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)first, (uint8_t)first);
        link_fraction(s, next, at + 1, true, false);
        first++;
    }
    if (on_high && first <= last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)last, (uint8_t)last);
        link_fraction(s, next, at + 1, false, true);
        last--;
    }
    if (first <= last)
        bl__net_link_bytes(s->b, from, tail_node(s, s->n_fraction - at - 1), (uint8_t)first,
                           (uint8_t)last);
}

/* The digits before the point from number `at` on, likewise. */
static void link_whole(span *s, uint32_t from, unsigned at, bool on_low, bool on_high) {
    if (!on_low && !on_high) {
        bl__net_link(s->b, from, free_node(s, s->n_whole - at));
        return;
    }
    if (at == s->n_whole) {
        link_fraction(s, from, 0, on_low, on_high);
        return;
    }
    char lowest = at == 0 && s->n_whole > 1 ? '1' : '0';
    char first = on_low ? s->low.whole[at] : lowest, last = on_high ? s->high.whole[at] : '9';
    if (on_low && on_high && first == last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)first, (uint8_t)first);
        link_whole(s, next, at + 1, true, true);
        return;
    }
    if (on_low && first <= last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)first, (uint8_t)first);
        link_whole(s, next, at + 1, true, false);
        first++;
    }
    if (on_high && first <= last) {
        uint32_t next = bl__net_node(s->b);
        bl__net_link_bytes(s->b, from, next, (uint8_t)last, (uint8_t)last);
        link_whole(s, next, at + 1, false, true);
        last--;
    }
    if (first <= last)
        bl__net_link_bytes(s->b, from, free_node(s, s->n_whole - at - 1), (uint8_t)first,
                           (uint8_t)last);
}

/* Numbers without a sign from low to high. Those of one length before the point after the other:
 * the longer ones have fewer digits behind it, so that all are exact as doubles. */
static bl__fragment between(bl__net_builder *b, decimal low, decimal high, unsigned n_fraction) {
    bl__fragment f = bl__net_choice(b);
    unsigned last = high.exists ? high.n_whole : MAX_DIGITS;
    for (unsigned n = low.exists ? low.n_whole : 1; n <= last; n++) {
        unsigned room = MAX_DIGITS - n, of_bounds = 0;
        span s = {.b = b, .low = low, .high = high, .n_whole = n, .end = f.end};
        s.low.exists = low.exists && low.n_whole == n;
        s.high.exists = high.exists && high.n_whole == n;
        if (s.low.exists)
            of_bounds = low.n_fraction + low.strict;
        if (s.high.exists && high.n_fraction + high.strict > of_bounds)
            of_bounds = high.n_fraction + high.strict;
        s.n_fraction = room > of_bounds ? room : of_bounds;
        s.n_fraction = s.n_fraction < n_fraction ? s.n_fraction : n_fraction;
        unset(s.free, sizeof s.free / sizeof *s.free);
        unset(s.tail, sizeof s.tail / sizeof *s.tail);
        if (!s.low.exists && !s.high.exists) {
            char first = n > 1 ? '1' : '0';
            bl__net_link_bytes(b, f.start, free_node(&s, n - 1), (uint8_t)first, '9');
        } else {
            link_whole(&s, f.start, 0, s.low.exists, s.high.exists);
        }
    }
    return f;
}

/* Sign of a bound: that of the number. */
static int sign_of(const json_t *value) {
    double x = json_number_value(value);
    return (x > 0) - (x < 0);
}

bl__fragment bl__json_number_in(bl__json_text *t, const bl__json_range *range) {
    /* Bounds beyond all numbers that are written bound nothing. */
    bl__json_range own = *range, *r = &own;
    if (r->low && json_number_value(r->low) <= -LARGEST)
        r->low = NULL;
    if (r->high && json_number_value(r->high) >= LARGEST)
        r->high = NULL;
    bl__fragment f = bl__net_choice(t->b);
    decimal low = {.strict = r->low_strict}, high = {.strict = r->high_strict};
    const decimal zero = {.n_whole = 1, .whole = "0", .exists = true};
    int low_sign = r->low ? sign_of(r->low) : -1, high_sign = r->high ? sign_of(r->high) : 1;
    if ((r->low && !read_decimal(r->low, &low)) || (r->high && !read_decimal(r->high, &high))) {
        bl__net_fail(t->b, BL_ERR_UNSUPPORTED,
                     "a bound of more than %d digits before or %d behind the point", MAX_DIGITS,
                     MAX_FRACTION);
        return f;
    }
    if (high_sign >= 0 && !(high_sign == 0 && high.strict)) {
        decimal from = low_sign >= 0 ? low : zero;
        bl__net_choose(t->b, f, between(t->b, from, high, r->n_fraction));
    }
    if (low_sign < 0) { /* the mirror image, without 0 */
        decimal from = high_sign < 0 ? high : zero;
        if (is_zero(&from))
            from.strict = true;
        bl__fragment minus = bl__net_puts(t->b, "-");
        bl__net_choose(t->b, f, bl__net_join(t->b, minus, between(t->b, from, low, r->n_fraction)));
    }
    return f;
}
