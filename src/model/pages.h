/* Private to model/: which pages of a cache are free, and how many texts hold each of the others.
 */
#ifndef BL_MODEL_PAGES_H
#define BL_MODEL_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"

typedef struct bl__pages {
    size_t n_pages, n_free;
    uint32_t *free;    /* uint32_t[n_pages]: the first n_free are free */
    uint32_t *place;   /* uint32_t[n_pages]: of a free page, where it is in `free` */
    uint32_t *holders; /* uint32_t[n_pages]: texts that hold the page */
} bl__pages;

/* The pages of one text: pages[n_pages], in the order of its positions. */
typedef struct bl__page_list {
    uint32_t *pages;
    size_t n_pages;
    size_t home; /* the first page that it takes, where that is free */
} bl__page_list;

/* Takes memory for n_pages pages, all of them free, from the arena (which may be measuring). */
void bl__pages_layout(bl__pages *pages, size_t n_pages, bl__arena *arena);

/* Whether others hold the last page of a list. */
bool bl__pages_shares_last(const bl__pages *pages, const bl__page_list *list);

/* Appends pages until the list has n_pages, as many of which are free: where it can be had each is
 * the one after the page before, since these are read faster. */
void bl__pages_grow(bl__pages *pages, bl__page_list *list, size_t n_pages);

/* Lets go of all pages but the first n_pages. */
void bl__pages_shrink(bl__pages *pages, bl__page_list *list, size_t n_pages);

/* `to` lets go of its own pages and holds the first n_pages of `from`, another list, too. */
void bl__pages_share(bl__pages *pages, const bl__page_list *from, bl__page_list *to,
                     size_t n_pages);

/* How many pages would be free more if a list were shrunk to n_pages. */
size_t bl__pages_freed_by(const bl__pages *pages, const bl__page_list *list, size_t n_pages);

#endif
