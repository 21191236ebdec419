/* The one file that knows MPI: a shared object of its own, loaded by processes.c when mpirun has
 * started several processes, so that neither the library nor the program depends on libmpi. It is
 * built on its own: nothing of the library but headers is there to call. */
#include <sched.h>
#include <stdbool.h>

#include <mpi.h>

#include "train/processes.h"

static MPI_Request requests[2 * BL_MAX_PROCESSES];

static const char *library(void) {
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0, end = 0;
    MPI_Get_library_version(text, &n);
    while (text[end] && text[end] != ',' && text[end] != '\n')
        end++;
    text[end] = '\0';
    return text;
}

/* MPI's errors end all processes: that is how its communicators are made. */
static void exchange(void *self, const bl__message *out, const bl__message *in) {
    int size, rank, n = 0;
    (void)self;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    /* Neighbours first, so that not everybody begins with process 0. */
    for (int d = 1; d < size; d++) {
        int from = (rank + size - d) % size;
        if (in[from].bytes)
            MPI_Irecv(in[from].data, (int)in[from].bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD,
                      &requests[n++]);
    }
    for (int d = 1; d < size; d++) {
        int to = (rank + d) % size;
        if (out[to].bytes)
            MPI_Isend(out[to].data, (int)out[to].bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD,
                      &requests[n++]);
    }
    MPI_Waitall(n, requests, MPI_STATUSES_IGNORE);
}

static void stop(void *self) {
    (void)self;
    MPI_Finalize();
}

/* Most processes of this machine that may run on one of this process's CPUs. */
static uint32_t count_sharers(void) {
    static int users[CPU_SETSIZE];
    cpu_set_t mine;
    MPI_Comm machine;
    int most = 1;
    bool known = sched_getaffinity(0, sizeof mine, &mine) == 0;
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        users[i] = known && CPU_ISSET(i, &mine);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
    MPI_Allreduce(MPI_IN_PLACE, users, CPU_SETSIZE, MPI_INT, MPI_SUM, machine);
    MPI_Comm_free(&machine);
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        if (known && CPU_ISSET(i, &mine) && users[i] > most)
            most = users[i];
    return (uint32_t)most;
}

static bl__transport start(void) {
    int size, rank, provided;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return (bl__transport){.rank = (uint32_t)rank,
                           .size = (uint32_t)size,
                           .sharers = count_sharers(),
                           .exchange = exchange,
                           .stop = stop};
}

__attribute__((visibility("default"))) const bl__mpi_plugin *bitloom_mpi_plugin(void);

const bl__mpi_plugin *bitloom_mpi_plugin(void) {
    static const bl__mpi_plugin plugin = {BL_MPI_INTERFACE, library, start};
    return &plugin;
}
