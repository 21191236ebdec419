/* Owns finding and loading the plug-in, and what is made of plain messages: ordered sums, shares,
 * agreement. */
#include "train/processes.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "kernels/train_kernels.h"

enum {
    PIECE = 1 << 16 /* floats summed at a time: what is received lies in a second-level cache */
};
static const char PLUGIN[] = "bitloom_mpi.so";

struct bl__processes {
    bl__transport transport;
    bl__processes *whole;   /* NULL, or what this is a group of: */
    uint32_t first, stride; /* whose member i is number first + i * stride there */
    bl__message *out, *in;  /* [size] */
    float *pieces;          /* float[size][PIECE] */
    double *sums;           /* double[size][BL_MAX_SUMS] */
    int32_t *statuses;      /* int32[size] */
    size_t *bounds;         /* [size + 1]: an item each */
    size_t *shares;         /* [size + 1]: of bl__processes_sum_all() */
};

/* ---- the plug-in ---- */

/* Beside the program, as in a build folder, or where it is installed. */
static bool find_plugin(char path[4096]) {
    char program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n > 0) {
        program[n] = '\0';
        char *slash = strrchr(program, '/');
        snprintf(path, 4096, "%.*s/%s", slash ? (int)(slash - program) : 0, program, PLUGIN);
        if (bl__file_exists(path))
            return true;
    }
    snprintf(path, 4096, "%s/%s", BITLOOM_PLUGINS, PLUGIN);
    return bl__file_exists(path);
}

/* Open MPI's own plug-ins look for its symbols among the global ones. It stays loaded. */
static bl_status load_plugin(const bl__mpi_plugin **out, bl_error *err) {
    char path[4096];
    if (!find_plugin(path))
        return bl__fail(err, BL_ERR_UNSUPPORTED,
                        "this build has no MPI: %s is neither beside the program nor in %s", PLUGIN,
                        BITLOOM_PLUGINS);
    void *handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!handle)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s", dlerror());
    const bl__mpi_plugin *(*get)(void);
    void *symbol = dlsym(handle, "bitloom_mpi_plugin");
    memcpy(&get, &symbol, sizeof get); /* C has no cast from objects to functions */
    if (!symbol || get()->interface != BL_MPI_INTERFACE)
        return bl__fail(err, BL_ERR_UNSUPPORTED, "%s: of another version of bitloom", path);
    *out = get();
    return BL_OK;
}

const char *bl__mpi_library(bl_error *reason) {
    const bl__mpi_plugin *plugin;
    return load_plugin(&plugin, reason) == BL_OK ? plugin->library() : NULL;
}

/* How many processes were started, by what Open MPI's and MPICH's mpirun set. */
static unsigned long started_processes(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strtoul(value, NULL, 10);
    }
    return 1;
}

bl_status bl__processes_open(bl__processes **out, bl_error *err) {
    unsigned long n = started_processes();
    const bl__mpi_plugin *plugin;
    *out = NULL;
    if (n <= 1)
        return BL_OK;
    bl_status status = load_plugin(&plugin, err);
    if (status) {
        char what[64];
        snprintf(what, sizeof what, "one of %lu processes", n);
        bl__error_prefix(err, what);
        return status;
    }
    bl__transport transport = plugin->start();
    if (transport.size == n)
        return bl__processes_create(&transport, out, err);
    transport.stop(transport.self);
    return bl__fail(err, BL_ERR_UNSUPPORTED,
                    "%lu processes were started, %s knows of %u: is mpirun of another MPI?", n,
                    plugin->library(), transport.size);
}

bl_status bl__processes_create(const bl__transport *transport, bl__processes **out, bl_error *err) {
    bl__processes *p = bl__calloc(1, sizeof *p);
    size_t size = transport->size;
    if (!p || size > BL_MAX_PROCESSES)
        goto fail;
    p->transport = *transport;
    p->out = bl__calloc(size, sizeof *p->out);
    p->in = bl__calloc(size, sizeof *p->in);
    p->pieces = bl__calloc(size, PIECE * sizeof *p->pieces);
    p->sums = bl__calloc(size, BL_MAX_SUMS * sizeof *p->sums);
    p->statuses = bl__calloc(size, sizeof *p->statuses);
    p->bounds = bl__calloc(size + 1, sizeof *p->bounds);
    p->shares = bl__calloc(size + 1, sizeof *p->shares);
    if (!p->out || !p->in || !p->pieces || !p->sums || !p->statuses || !p->bounds || !p->shares)
        goto fail;
    for (size_t i = 0; i <= size; i++)
        p->bounds[i] = i;
    *out = p;
    return BL_OK;
fail:
    if (p)
        p->transport = *transport;
    else
        transport->stop(transport->self);
    bl__processes_close(p);
    return size > BL_MAX_PROCESSES
               ? bl__fail(err, BL_ERR_LIMIT, "%zu processes, expected at most %d", size,
                          BL_MAX_PROCESSES)
               : bl__fail(err, BL_ERR_MEMORY, "cannot allocate for %zu processes", size);
}

void bl__processes_close(bl__processes *p) {
    if (!p)
        return;
    p->transport.stop(p->transport.self);
    bl__free(p->out);
    bl__free(p->in);
    bl__free(p->pieces);
    bl__free(p->sums);
    bl__free(p->statuses);
    bl__free(p->bounds);
    bl__free(p->shares);
    bl__free(p);
}

static void exchange_in_group(void *self, const bl__message *out, const bl__message *in) {
    const bl__processes *p = self, *whole = p->whole;
    memset(whole->out, 0, whole->transport.size * sizeof *whole->out);
    memset(whole->in, 0, whole->transport.size * sizeof *whole->in);
    for (uint32_t i = 0; i < p->transport.size; i++) {
        whole->out[p->first + i * p->stride] = out[i];
        whole->in[p->first + i * p->stride] = in[i];
    }
    whole->transport.exchange(whole->transport.self, whole->out, whole->in);
}

static void leave_group(void *self) {
    (void)self;
}

bl_status bl__processes_group(bl__processes *p, uint32_t first, uint32_t stride, uint32_t size,
                              bl__processes **out, bl_error *err) {
    *out = NULL;
    if (!p || size == 1)
        return BL_OK;
    bl__transport transport = {.rank = (p->transport.rank - first) / stride,
                               .size = size,
                               .exchange = exchange_in_group,
                               .stop = leave_group};
    bl_status status = bl__processes_create(&transport, out, err);
    if (status)
        return status;
    (*out)->transport.self = *out;
    (*out)->whole = p;
    (*out)->first = first;
    (*out)->stride = stride;
    return BL_OK;
}

uint32_t bl__processes_rank(const bl__processes *p) {
    return p ? p->transport.rank : 0;
}
uint32_t bl__processes_size(const bl__processes *p) {
    return p ? p->transport.size : 1;
}
uint32_t bl__processes_threads(const bl__processes *p, uint32_t cores) {
    uint32_t sharers = p && p->transport.sharers ? p->transport.sharers : 1;
    return cores > sharers ? cores / sharers : 1;
}
uint64_t bl__share(uint64_t n, uint32_t rank, uint32_t size) {
    /* n rank / size without the product's overflow */
    return n / size * rank + n % size * rank / size;
}

/* ---- messages ---- */

static void exchange(const bl__processes *p) {
    p->transport.exchange(p->transport.self, p->out, p->in);
}

/* The part of process i's share that round number `round` carries, in items. */
static size_t piece_of(const size_t *bounds, size_t i, size_t round, size_t piece, size_t *first) {
    size_t n = bounds[i + 1] - bounds[i], done = bl__min_size(round * piece, n);
    *first = bounds[i] + done;
    return bl__min_size(piece, n - done);
}

static size_t count_rounds(const bl__processes *p, const size_t *bounds, size_t piece) {
    size_t longest = 0;
    for (size_t i = 0; i < p->transport.size; i++)
        if (bounds[i + 1] - bounds[i] > longest)
            longest = bounds[i + 1] - bounds[i];
    return longest / piece + (longest % piece != 0);
}

/* to[n] = what every process has there, in their order. */
static void add_pieces(const bl__processes *p, float *to, size_t n) {
    const bl__train_kernels *loops = bl__train_kernels_get();
    float *own = p->pieces + (size_t)p->transport.rank * PIECE;
    memcpy(own, to, n * sizeof *own);
    memcpy(to, p->pieces, n * sizeof *to);
    for (size_t i = 1; i < p->transport.size; i++)
        loops->add(to, p->pieces + i * PIECE, n);
}

void bl__processes_sum_shares(bl__processes *p, float *data, const size_t *bounds) {
    size_t first, n_rounds = p ? count_rounds(p, bounds, PIECE) : 0;
    for (size_t round = 0; round < n_rounds; round++) {
        size_t own, n_own = piece_of(bounds, p->transport.rank, round, PIECE, &own);
        for (size_t i = 0; i < p->transport.size; i++) {
            size_t n = piece_of(bounds, i, round, PIECE, &first);
            p->out[i] = (bl__message){data + first, n * sizeof *data};
            p->in[i] = (bl__message){p->pieces + i * PIECE, n_own * sizeof *data};
        }
        exchange(p);
        add_pieces(p, data + own, n_own);
    }
}

/* To all processes, or to process 0 alone. */
static void gather(bl__processes *p, void *data, const size_t *bounds, size_t size, bool all) {
    size_t first, piece = BL_MAX_MESSAGE / size;
    size_t n_rounds = p ? count_rounds(p, bounds, piece) : 0;
    for (size_t round = 0; round < n_rounds; round++) {
        size_t rank = p->transport.rank, own, n_own = piece_of(bounds, rank, round, piece, &own);
        for (size_t i = 0; i < p->transport.size; i++) {
            size_t n = piece_of(bounds, i, round, piece, &first);
            bool sends = all || i == 0, receives = all || rank == 0;
            p->out[i] = (bl__message){(char *)data + own * size, sends ? n_own * size : 0};
            p->in[i] = (bl__message){(char *)data + first * size, receives ? n * size : 0};
        }
        exchange(p);
    }
}

void bl__processes_gather(bl__processes *p, void *data, const size_t *bounds, size_t size) {
    gather(p, data, bounds, size, true);
}
void bl__processes_collect(bl__processes *p, void *data, const size_t *bounds, size_t size) {
    gather(p, data, bounds, size, false);
}

void bl__processes_sum_all(bl__processes *p, float *data, size_t n) {
    if (!p)
        return;
    for (uint32_t i = 0; i <= p->transport.size; i++)
        p->shares[i] = (size_t)bl__share(n, i, p->transport.size);
    bl__processes_sum_shares(p, data, p->shares);
    gather(p, data, p->shares, sizeof *data, true);
}

void bl__processes_sum(bl__processes *p, double *values, size_t n) {
    if (!p)
        return;
    double *own = p->sums + (size_t)p->transport.rank * BL_MAX_SUMS;
    memcpy(own, values, n * sizeof *own);
    gather(p, p->sums, p->bounds, BL_MAX_SUMS * sizeof *p->sums, true);
    for (size_t k = 0; k < n; k++) {
        values[k] = 0;
        for (size_t i = 0; i < p->transport.size; i++)
            values[k] += p->sums[i * BL_MAX_SUMS + k];
    }
}

/* From process `from` to process `to`, or to all when `to` is `from`. */
static void send(bl__processes *p, uint32_t from, uint32_t to, void *data, size_t bytes) {
    for (size_t done = 0, n; p && done < bytes; done += n) {
        n = bl__min_size(BL_MAX_MESSAGE, bytes - done);
        for (uint32_t i = 0; i < p->transport.size; i++) {
            bool sends = p->transport.rank == from && (i == to || to == from);
            bool receives = i == from && (p->transport.rank == to || to == from);
            p->out[i] = (bl__message){(char *)data + done, sends ? n : 0};
            p->in[i] = (bl__message){(char *)data + done, receives ? n : 0};
        }
        exchange(p);
    }
}

void bl__processes_broadcast(bl__processes *p, void *data, size_t bytes) {
    send(p, 0, 0, data, bytes);
}

bl_status bl__processes_agree(bl__processes *p, bl_status status, bl_error *err) {
    char message[sizeof err->message] = "";
    uint32_t first = 0;
    if (!p)
        return status;
    p->statuses[p->transport.rank] = (int32_t)status;
    gather(p, p->statuses, p->bounds, sizeof *p->statuses, true);
    while (first < p->transport.size && p->statuses[first] == BL_OK)
        first++;
    if (first == p->transport.size)
        return BL_OK;
    if (first == p->transport.rank && err)
        memcpy(message, err->message, sizeof message);
    if (first > 0)
        send(p, first, 0, message, sizeof message);
    message[sizeof message - 1] = '\0';
    status = (bl_status)p->statuses[first];
    if (p->transport.rank > 0)
        return bl__fail(err, status, "%s", "");
    return first ? bl__fail(err, status, "process %u: %s", first, message)
                 : bl__fail(err, status, "%s", message);
}
