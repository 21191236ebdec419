/* The routes below /api/conversations: what the page, or any other program, keeps in the store. */
#ifndef BL_SERVER_CONVERSATIONS_H
#define BL_SERVER_CONVERSATIONS_H

#include "server/router.h"
#include "server/store.h"

/* The store outlives the router. NULL: conversations are off; the list is then empty and says so
 * ("stored": false), and all else is refused with 404. */
bl_status bl__conversations_add(bl__router *router, bl__store *store, bl_error *err);

#endif
