/* What the endpoints share: the server with its models and settings. Private to server/. */
#ifndef BL_SERVER_SERVER_H
#define BL_SERVER_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "bitloom/server.h"
#include "server/http.h"
#include "server/models.h"
#include "server/router.h"
#include "server/store.h"

/* Counts for /metrics: answers by the first digit of their status; [0]: clients that went away. */
typedef struct bl__counts {
    atomic_uint_fast64_t by_status[6];
    atomic_uint_fast64_t bytes_out;
} bl__counts;

typedef struct bl__limits bl__limits;
typedef struct bl__replies bl__replies;

struct bl_server {
    bl_server_params params; /* strings are the server's own */
    char **strings;          /* [n_strings] */
    size_t n_strings;
    bl__router router;
    bl__http *http;
    bl__models *models;
    bl__limits *limits;
    bl__replies *replies;
    bl__store *store; /* NULL: conversations are not kept */
    bl__counts counts;
    bool has_file_sandbox;
    atomic_bool stopping;
    double started;
    pthread_mutex_t log_mutex;
};

/* Each group of endpoints adds its routes; their handlers get the server. */
bl_status bl__api_meta_add(bl_server *server, bl_error *err);   /* models, health, metrics */
bl_status bl__api_tokens_add(bl_server *server, bl_error *err); /* tokenize, detokenize */
bl_status bl__api_chat_add(bl_server *server, bl_error *err);   /* /v1/chat/completions */
bl_status bl__api_completions_add(bl_server *server, bl_error *err);
bl_status bl__api_embeddings_add(bl_server *server, bl_error *err);
bl_status bl__api_responses_add(bl_server *server, bl_error *err);
/* All of them, for the server and for the test that compares them with the API's document. */
bl_status bl__server_add_routes(bl_server *server, bl_error *err);

/* Seconds since 1970. */
int64_t bl__unix_time(void);
/* prefix + 24 random letters and digits. */
enum { BL_ID_SIZE = 40 };
void bl__make_id(const char *prefix, char out[BL_ID_SIZE]);
/* A number for the address that a request came from, for fairness among clients. */
uint64_t bl__client_number(const bl__request *request);
/* How long an answer may take: what was asked for (0: nothing), within the server's limit. */
double bl__server_seconds(const bl_server *server, double asked);
/* Writes a line to the log. */
void bl__server_log(bl_server *server, const char *line);

#endif
