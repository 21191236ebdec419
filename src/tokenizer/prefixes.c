/* Owns prefix search in a sorted set of strings. Must not know tokens. */
#include "tokenizer/prefixes.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

static int compare(const void *a, const void *b) {
    const bl__prefix *x = a, *y = b;
    int order = memcmp(x->text.data, y->text.data, bl__min_size(x->text.len, y->text.len));
    return order ? order : (x->text.len > y->text.len) - (x->text.len < y->text.len);
}

void bl__prefixes_init(bl__prefixes *out, bl__prefix *items, size_t n_items) {
    if (n_items)
        qsort(items, n_items, sizeof *items, compare);
    *out = (bl__prefixes){.items = items, .n_items = n_items};
    size_t i = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        out->first[byte] = (uint32_t)i;
        while (i < n_items && (uint8_t)items[i].text.data[0] == byte)
            i++;
    }
    out->first[256] = (uint32_t)n_items;
}

void bl__prefixes_destroy(bl__prefixes *prefixes) {
    bl__free(prefixes->items);
    *prefixes = (bl__prefixes){0};
}

bool bl__prefix_step(const bl__prefixes *prefixes, bl__prefix_walk *walk, uint8_t byte) {
    size_t depth = walk->depth++;
    if (depth == 0) {
        walk->low = prefixes->first[byte];
        walk->high = prefixes->first[byte + 1];
        return walk->low < walk->high;
    }
    const bl__prefix *items = prefixes->items;
    size_t low = walk->low, high = walk->high;
    if (low < high && items[low].text.len == depth) /* it ended one byte ago */
        low++;
    /* All of low ... high - 1 share their first `depth` bytes and are longer than that. */
    size_t a = low, b = high;
    while (a < b) {
        size_t middle = a + (b - a) / 2;
        if ((uint8_t)items[middle].text.data[depth] < byte)
            a = middle + 1;
        else
            b = middle;
    }
    size_t end = high;
    for (size_t from = a; from < end;) {
        size_t middle = from + (end - from) / 2;
        if ((uint8_t)items[middle].text.data[depth] <= byte)
            from = middle + 1;
        else
            end = middle;
    }
    walk->low = a;
    walk->high = end;
    return a < end;
}
