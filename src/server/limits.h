/* Who may ask, and how often: keys, origins, rates. Knows requests, not sockets. */
#ifndef BL_SERVER_LIMITS_H
#define BL_SERVER_LIMITS_H

#include "bitloom/server.h"
#include "server/router.h"

typedef struct bl__limits bl__limits;

/* Strings of params are borrowed. */
bl_status bl__limits_create(const bl_server_params *params, bl__limits **out, bl_error *err);
void bl__limits_free(bl__limits *limits); /* NULL is accepted */

/* Whether the request may go on; fills the response when not: 204 for the question of a browser
 * that may, 401, 403, 429. Any thread. */
bool bl__limits_admit(bl__limits *limits, const bl__request *request, const bl__match *match,
                      bl__response *response);
/* The headers that let a page of another origin read the response. */
void bl__limits_allow_origin(const bl__limits *limits, const bl__request *request,
                             bl__response *response);

/* Whether a == b, in a time that depends on b, the stranger's, alone. */
bool bl__same_secret(const char *a, const char *b);

#endif
