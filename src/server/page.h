/* The page to chat in: a few files inside the program, and the routes that serve them. */
#ifndef BL_SERVER_PAGE_H
#define BL_SERVER_PAGE_H

#include "server/router.h"

/* A file of src/server/page/, turned into C at build time by cmake/embed.cmake. */
typedef struct bl__page_file {
    const char *name, *tag; /* the tag stands for the content in If-None-Match */
    const unsigned char *data;
    size_t len;
} bl__page_file;

extern const bl__page_file bl__page_files[];
extern const size_t bl__page_n_files;

/* GET / and /page/NAME; public, since the page itself asks for the API key. */
bl_status bl__page_add(bl__router *router, bl_error *err);

#endif
