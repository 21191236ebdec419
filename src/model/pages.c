/* Owns the count of who holds a page. Must not know what is in it. */
#include "model/pages.h"

void bl__pages_layout(bl__pages *pages, size_t n_pages, bl__arena *arena) {
    *pages = (bl__pages){.n_pages = n_pages, .n_free = n_pages};
    pages->free = bl__arena_alloc(arena, n_pages, sizeof *pages->free);
    pages->place = bl__arena_alloc(arena, n_pages, sizeof *pages->place);
    pages->holders = bl__arena_alloc(arena, n_pages, sizeof *pages->holders);
    for (size_t i = 0; pages->free && i < n_pages; i++)
        pages->free[i] = pages->place[i] = (uint32_t)i;
}

bool bl__pages_shares_last(const bl__pages *pages, const bl__page_list *list) {
    return list->n_pages > 0 && pages->holders[list->pages[list->n_pages - 1]] > 1;
}

void bl__pages_grow(bl__pages *pages, bl__page_list *list, size_t n_pages) {
    while (list->n_pages < n_pages) {
        size_t wish = list->n_pages ? (size_t)list->pages[list->n_pages - 1] + 1 : list->home;
        bool granted = wish < pages->n_pages && pages->holders[wish] == 0;
        uint32_t page = granted ? (uint32_t)wish : pages->free[pages->n_free - 1];
        uint32_t last = pages->free[--pages->n_free]; /* takes the place of what is taken */
        pages->free[pages->place[page]] = last;
        pages->place[last] = pages->place[page];
        pages->holders[page] = 1;
        list->pages[list->n_pages++] = page;
    }
}

void bl__pages_shrink(bl__pages *pages, bl__page_list *list, size_t n_pages) {
    while (list->n_pages > n_pages) {
        uint32_t page = list->pages[--list->n_pages];
        if (--pages->holders[page] > 0)
            continue;
        pages->place[page] = (uint32_t)pages->n_free;
        pages->free[pages->n_free++] = page;
    }
}

void bl__pages_share(bl__pages *pages, const bl__page_list *from, bl__page_list *to,
                     size_t n_pages) {
    bl__pages_shrink(pages, to, 0);
    for (; to->n_pages < n_pages; to->n_pages++) {
        to->pages[to->n_pages] = from->pages[to->n_pages];
        pages->holders[to->pages[to->n_pages]]++;
    }
}

size_t bl__pages_freed_by(const bl__pages *pages, const bl__page_list *list, size_t n_pages) {
    size_t n = 0;
    for (size_t i = n_pages; i < list->n_pages; i++)
        n += pages->holders[list->pages[i]] == 1;
    return n;
}
