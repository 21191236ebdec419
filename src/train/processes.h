/* The processes of one run: how many there are, which one this is, and the few exchanges that
 * training needs. Sums are taken in the order of processes, so the same number of them gives the
 * same bits every time. Must not know what is exchanged, nor MPI: that is a plug-in
 * (mpi/plugin.c), which carries messages and nothing else.
 *
 * NULL stands for a process that is alone; every function takes it and does nothing then. All
 * processes make the same calls in the same order; each is made by one thread. */
#ifndef BL_TRAIN_PROCESSES_H
#define BL_TRAIN_PROCESSES_H

#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

enum {
    BL_MAX_PROCESSES = 1024,
    BL_MAX_SUMS = 8,         /* numbers of one bl__processes_sum() */
    BL_MAX_MESSAGE = 1 << 20 /* bytes of what a transport is asked to carry at a time */
};

/* Bytes to or from one process; `out` is only read. */
typedef struct bl__message {
    void *data;
    size_t bytes;
} bl__message;

/* What carries messages. */
typedef struct bl__transport {
    uint32_t rank, size; /* this process is number rank of size */
    uint32_t sharers;    /* most processes, this one included, that may run on one of its CPUs */
    void *self;
    /* Sends out[i] to process i and receives in[i] from it, for all i but rank. The two ends of a
     * message agree on its size; one of 0 bytes need not travel. Cannot fail: a transport that is
     * broken ends the processes. */
    void (*exchange)(void *self, const bl__message *out, const bl__message *in);
    void (*stop)(void *self);
} bl__transport;

/* What the plug-in's one function, bitloom_mpi_plugin(), returns. */
typedef struct bl__mpi_plugin {
    uint32_t interface; /* BL_MPI_INTERFACE of the build it belongs to */
    const char *(*library)(void);
    bl__transport (*start)(void);
} bl__mpi_plugin;
#define BL_MPI_INTERFACE 1u

typedef struct bl__processes bl__processes;

/* Joins the processes that mpirun started, as its environment variables tell; *out is NULL when
 * there is one. BL_ERR_UNSUPPORTED (several, and no plug-in; another MPI's mpirun),
 * BL_ERR_MEMORY. */
bl_status bl__processes_open(bl__processes **out, bl_error *err);
/* The same over a transport, which it stops in the end, and at once when it fails. */
bl_status bl__processes_create(const bl__transport *transport, bl__processes **out, bl_error *err);
void bl__processes_close(bl__processes *processes);
/* Those among them that this one belongs to a smaller group with: numbers first, first + stride,
 * ... of `size` in all, in this order. *out borrows them and is NULL for a group of one.
 * BL_ERR_MEMORY. */
bl_status bl__processes_group(bl__processes *processes, uint32_t first, uint32_t stride,
                              uint32_t size, bl__processes **out, bl_error *err);
/* Name and version of the MPI library; NULL when there is no plug-in or it does not load. Then
 * reason, when not NULL, says why. */
const char *bl__mpi_library(bl_error *reason);

uint32_t bl__processes_rank(const bl__processes *processes); /* 0 when alone */
uint32_t bl__processes_size(const bl__processes *processes); /* 1 when alone */
/* Threads to start when nothing was asked for: cores are those this process may use. */
uint32_t bl__processes_threads(const bl__processes *processes, uint32_t cores);
/* Process `rank` of `size` has items share(rank) ... share(rank + 1) - 1 of n. */
uint64_t bl__share(uint64_t n, uint32_t rank, uint32_t size);

/* data: float[bounds[size]]; process i owns bounds[i] ... bounds[i + 1] - 1. Adds everybody's data
 * up, each sum in its owner; what others have there is not defined afterwards. */
void bl__processes_sum_shares(bl__processes *processes, float *data, const size_t *bounds);
/* Copies every owner's items, of `size` bytes each, to all processes, or to process 0 alone. */
void bl__processes_gather(bl__processes *processes, void *data, const size_t *bounds, size_t size);
void bl__processes_collect(bl__processes *processes, void *data, const size_t *bounds, size_t size);
/* data[n] becomes everybody's sum, in all. */
void bl__processes_sum_all(bl__processes *processes, float *data, size_t n);
/* values[n], n <= BL_MAX_SUMS, become their sums over all processes. */
void bl__processes_sum(bl__processes *processes, double *values, size_t n);
/* Process 0's bytes to all. */
void bl__processes_broadcast(bl__processes *processes, void *data, size_t bytes);
/* BL_OK when it is everybody's status, else that of the first process that failed, in all of them.
 * Process 0 has that one's message too; the others an empty one, because process 0 reports it. */
bl_status bl__processes_agree(bl__processes *processes, bl_status status, bl_error *err);

#endif
