/* Several processes, played by threads that copy one another's messages: shares and sums, the
 * shared optimizer, and whole runs. What MPI adds is tried by tests/e2e/mpi.sh. */
#include <ftw.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/random.h"
#include "formats/safetensors.h"
#include "train/data.h"
#include "train/run_directory.h"
#include "train/trainer.h"

/* ---- threads as processes ---- */

enum { MAX_SIZE = 6 };

typedef struct crowd {
    uint32_t size;
    pthread_mutex_t mutex;
    pthread_cond_t change;
    const bl__message *posted[MAX_SIZE][MAX_SIZE]; /* from, to; NULL when taken */
    unsigned n_wrong;                              /* messages whose ends differ in size */
    void (*body)(bl__processes *p, void *context);
    void *context;
} crowd;

typedef struct member {
    crowd *crowd;
    uint32_t rank;
    bl__processes *processes;
    pthread_t thread;
} member;

/* The mutex is held but while waiting, so copies are made one at a time. */
static void take_message(crowd *c, uint32_t from, uint32_t to, const bl__message *in) {
    while (!c->posted[from][to])
        pthread_cond_wait(&c->change, &c->mutex);
    if (c->posted[from][to]->bytes != in->bytes || in->bytes > BL_MAX_MESSAGE)
        c->n_wrong++;
    else
        memcpy(in->data, c->posted[from][to]->data, in->bytes);
    c->posted[from][to] = NULL;
    pthread_cond_broadcast(&c->change);
}

static void exchange(void *self, const bl__message *out, const bl__message *in) {
    const member *m = self;
    crowd *c = m->crowd;
    pthread_mutex_lock(&c->mutex);
    for (uint32_t i = 0; i < c->size; i++)
        if (i != m->rank && out[i].bytes)
            c->posted[m->rank][i] = &out[i];
    pthread_cond_broadcast(&c->change);
    for (uint32_t i = 0; i < c->size; i++)
        if (i != m->rank && in[i].bytes)
            take_message(c, i, m->rank, &in[i]);
    for (uint32_t i = 0; i < c->size; i++)
        while (c->posted[m->rank][i])
            pthread_cond_wait(&c->change, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

static void stop(void *self) {
    (void)self;
}

static void *run_member(void *argument) {
    member *m = argument;
    m->crowd->body(m->processes, m->crowd->context);
    return NULL;
}

/* Runs the body in `size` processes at once; a crowd of one is alone. */
static void run_crowd(uint32_t size, void (*body)(bl__processes *, void *), void *context) {
    crowd c = {.size = size, .body = body, .context = context};
    member members[MAX_SIZE] = {0};
    if (size == 1) {
        body(NULL, context);
        return;
    }
    pthread_mutex_init(&c.mutex, NULL);
    pthread_cond_init(&c.change, NULL);
    for (uint32_t i = 0; i < size; i++) {
        bl__transport transport = {
            .rank = i, .size = size, .self = &members[i], .exchange = exchange, .stop = stop};
        members[i] = (member){.crowd = &c, .rank = i};
        assert_int_equal(bl__processes_create(&transport, &members[i].processes, NULL), BL_OK);
    }
    for (uint32_t i = 0; i < size; i++)
        assert_int_equal(pthread_create(&members[i].thread, NULL, run_member, &members[i]), 0);
    for (uint32_t i = 0; i < size; i++)
        pthread_join(members[i].thread, NULL);
    for (uint32_t i = 0; i < size; i++)
        bl__processes_close(members[i].processes);
    pthread_mutex_destroy(&c.mutex);
    pthread_cond_destroy(&c.change);
    assert_int_equal(c.n_wrong, 0);
}

/* ---- shares and sums ---- */

static void shares_cover_everything_once(void **state) {
    (void)state;
    static const uint64_t most[] = {1000000000000u, UINT64_MAX / 2};
    for (uint32_t size = 1; size < 9; size++) {
        for (uint64_t n = 0; n < 40; n++) {
            assert_int_equal(bl__share(n, 0, size), 0);
            assert_int_equal(bl__share(n, size, size), n);
            for (uint32_t i = 0; i < size; i++) {
                uint64_t has = bl__share(n, i + 1, size) - bl__share(n, i, size);
                assert_true(has == n / size || has == n / size + 1);
            }
        }
        for (size_t i = 0; i < 2; i++)
            assert_true(bl__share(most[i], size, size) == most[i]);
    }
    assert_int_equal(bl__processes_rank(NULL), 0);
    assert_int_equal(bl__processes_size(NULL), 1);
    assert_int_equal(bl__processes_threads(NULL, 6), 6);
}

/* What process `rank` has at i: sums that depend on their order. */
static float term(uint32_t rank, size_t i) {
    return (float)((rank * 7919u + i * 104729u) % 10007u) * (rank % 2 ? -1e-3f : 1e4f);
}

typedef struct sums_case {
    size_t bounds[MAX_SIZE + 1];
    unsigned n_wrong;
} sums_case;

static void sum_and_gather(bl__processes *p, void *context) {
    sums_case *c = context;
    uint32_t rank = bl__processes_rank(p), size = bl__processes_size(p);
    size_t n = c->bounds[size];
    float *data = bl__malloc_array(n + 1, sizeof *data);
    unsigned n_wrong = 0;
    for (size_t i = 0; i <= n; i++)
        data[i] = term(rank, i);
    bl__processes_sum_shares(p, data, c->bounds);
    n_wrong += data[n] != term(rank, n);
    bl__processes_gather(p, data, c->bounds, sizeof *data);
    for (size_t i = 0; i < n; i++) {
        float sum = term(0, i);
        for (uint32_t k = 1; k < size; k++)
            sum += term(k, i);
        n_wrong += data[i] != sum;
    }
    for (size_t i = c->bounds[rank]; i < c->bounds[rank + 1]; i++)
        data[i] = (float)rank + 1;
    bl__processes_collect(p, data, c->bounds, sizeof *data);
    for (uint32_t k = 0; rank == 0 && k < size; k++)
        for (size_t i = c->bounds[k]; i < c->bounds[k + 1]; i++)
            n_wrong += data[i] != (float)k + 1;
    for (size_t i = 0; i < n; i++)
        data[i] = term(rank, i);
    bl__processes_sum_all(p, data, n);
    for (size_t i = 0; i < n; i++) {
        float sum = term(0, i);
        for (uint32_t k = 1; k < size; k++)
            sum += term(k, i);
        n_wrong += data[i] != sum;
    }
    for (size_t i = 0; i < n; i++)
        data[i] = -1;
    double values[2] = {(double)rank + 1, 0.1 * rank};
    bl__processes_sum(p, values, 2);
    n_wrong += values[0] != size * (size + 1) / 2.0;
    for (uint32_t k = 0; rank == 0 && k < size; k++)
        for (size_t i = c->bounds[k]; i < c->bounds[k + 1]; i++)
            data[i] = (float)k + 1;
    bl__processes_broadcast(p, data, n * sizeof *data);
    for (uint32_t k = 0; k < size; k++)
        for (size_t i = c->bounds[k]; i < c->bounds[k + 1]; i++)
            n_wrong += data[i] != (float)k + 1;
    __atomic_add_fetch(&c->n_wrong, n_wrong, __ATOMIC_RELAXED);
    bl__free(data);
}

static void sums_are_taken_in_the_order_of_processes(void **state) {
    (void)state;
    static const sums_case cases[] = {
        {.bounds = {0, 0, 0, 0, 0, 0}},
        {.bounds = {0, 1, 2, 3, 4, 5}},
        {.bounds = {0, 0, 17, 17, 1000, 1001}},
        {.bounds = {0, 400000, 400001, 700000, 700000, 900000}}, /* more than one piece each */
    };
    for (uint32_t size = 1; size < MAX_SIZE; size++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            sums_case c = cases[i];
            run_crowd(size, sum_and_gather, &c);
            if (c.n_wrong)
                fail_msg("%u processes, case %zu: %u wrong", size, i, c.n_wrong);
        }
}

/* Six processes as two rows of three. */
static void sum_in_groups(bl__processes *p, void *context) {
    uint32_t rank = bl__processes_rank(p);
    unsigned *n_wrong = context, wrong = 0;
    bl__processes *row = NULL, *column = NULL, *one = p;
    wrong += bl__processes_group(p, rank - rank % 3, 1, 3, &row, NULL) != BL_OK;
    wrong += bl__processes_group(p, rank % 3, 3, 2, &column, NULL) != BL_OK;
    wrong += bl__processes_group(p, rank, 1, 1, &one, NULL) != BL_OK || one;
    wrong += bl__processes_rank(row) != rank % 3 || bl__processes_size(row) != 3;
    wrong += bl__processes_rank(column) != rank / 3 || bl__processes_size(column) != 2;
    for (unsigned round = 0; round < 3 + rank / 3; round++) { /* rows need not keep step */
        double sum = rank;
        bl__processes_sum(row, &sum, 1);
        wrong += sum != (rank < 3 ? 0 + 1 + 2 : 3 + 4 + 5);
    }
    double sum = rank;
    bl__processes_sum(column, &sum, 1);
    wrong += sum != 2 * (rank % 3) + 3;
    bl__processes_close(row);
    bl__processes_close(column);
    __atomic_add_fetch(n_wrong, wrong, __ATOMIC_RELAXED);
}

static void groups_sum_among_themselves(void **state) {
    (void)state;
    unsigned n_wrong = 0;
    run_crowd(6, sum_in_groups, &n_wrong);
    assert_int_equal(n_wrong, 0);
}

typedef struct agreement {
    unsigned failing; /* a bit a process */
    bl_status statuses[MAX_SIZE];
    bl_error errors[MAX_SIZE];
} agreement;

static void agree(bl__processes *p, void *context) {
    agreement *a = context;
    uint32_t rank = bl__processes_rank(p);
    bl_error *err = &a->errors[rank];
    bl_status status = BL_OK;
    if (a->failing >> rank & 1)
        status = bl__fail(err, rank % 2 ? BL_ERR_IO : BL_ERR_MEMORY, "of %u", rank);
    a->statuses[rank] = bl__processes_agree(p, status, err);
}

static void all_fail_with_the_first_that_does(void **state) {
    (void)state;
    for (unsigned failing = 0; failing < 8; failing++) {
        agreement a = {.failing = failing};
        static const char *const first[] = {"", "of 0", "process 1: of 1", "of 0",
                                            "process 2: of 2"};
        run_crowd(3, agree, &a);
        unsigned lowest = failing & (0u - failing);
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(a.statuses[i], !failing      ? BL_OK
                                            : lowest == 2 ? BL_ERR_IO
                                                          : BL_ERR_MEMORY);
        assert_string_equal(a.errors[0].message, first[lowest]);
    }
}

/* ---- runs ---- */

enum { VOCAB = 40, N_TOKENS = 6000, N_TRAIN = 5000, STEPS = 12, MAX_SETTINGS = 24 };
static char root[] = "/tmp/bl_processes_XXXXXX";
static char data_setting[96];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
static void remove_tree(const char *path) {
    nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void remove_run(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    remove_tree(path);
}

/* Documents of 50 tokens, each of which mostly decides the next. */
static void write_tokens(const char *path) {
    enum { N_DOCS = N_TOKENS / 50 };
    uint8_t header[BL_TOKENS_HEADER] = "BLTOKENS";
    const uint64_t words[] = {VOCAB, N_TOKENS, N_DOCS, N_TRAIN, 0, N_TOKENS};
    const uint32_t version = 1, width = 2;
    static uint16_t ids[N_TOKENS];
    static uint64_t docs[N_DOCS];
    bl__random random;
    bl__random_seed(&random, 5);
    memcpy(header + 8, &version, 4);
    memcpy(header + 12, &width, 4);
    memcpy(header + 16, words, sizeof words);
    for (size_t i = 1; i < N_TOKENS; i++)
        ids[i] = (uint16_t)(bl__random_below(&random, 5) ? (ids[i - 1] * 7u + 3u) % VOCAB
                                                         : bl__random_below(&random, VOCAB));
    for (size_t i = 0; i < N_DOCS; i++)
        docs[i] = i * 50;
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(header, 1, sizeof header, file), sizeof header);
    assert_int_equal(fwrite(ids, 2, N_TOKENS, file), N_TOKENS);
    assert_int_equal(fwrite(docs, 8, N_DOCS, file), N_DOCS);
    fclose(file);
}

typedef struct run {
    const char *name;
    const char *const *settings; /* NULL ends them */
    const char *odd_setting;     /* of process 1 alone */
    uint64_t stop_after;
    bool resume;
    /* what came of it */
    double losses[STEPS + 1], hidden, relations, validation;
    unsigned n_called;
    bl_status statuses[MAX_SIZE];
    bl_error errors[MAX_SIZE];
} run;

static bool on_step(void *user, const bl_train_step *s) {
    run *r = user;
    r->n_called++;
    r->losses[s->step] = s->loss;
    r->hidden = s->hidden;
    r->relations = s->relations;
    r->validation = s->validation;
    return s->step != r->stop_after;
}

static void train(bl__processes *p, void *context) {
    static const char *const base[] = {
        "layers=2",        "dim=32",    "ffn_dim=48",      "heads=4",
        "kv_heads=2",      "tokens=24", "rows=5",          "steps=12",
        "eval_rows=0",     "rate=0.01", "save_interval=5", "accumulate=2",
        "eval_interval=6", "seed=3",    "log_interval=1",  "precision=float32"};
    run *r = context;
    uint32_t rank = bl__processes_rank(p);
    const char *settings[MAX_SETTINGS];
    char path[128];
    size_t n = sizeof base / sizeof *base;
    bl__trainer *t = NULL;
    bl_error *err = &r->errors[rank];
    memcpy(settings, base, sizeof base);
    settings[n++] = data_setting;
    for (const char *const *at = r->settings; at && *at; at++)
        settings[n++] = *at;
    if (rank == 1 && r->odd_setting)
        settings[n++] = r->odd_setting;
    snprintf(path, sizeof path, "%s/%s", root, r->name);
    bl_train_params params = {.settings = settings,
                              .n_settings = n,
                              .output = path,
                              .resume = r->resume,
                              .n_threads = 1,
                              .progress = on_step,
                              .user = r};
    bl_status status = bl__trainer_open(&params, p, &t, err);
    if (!status)
        status = bl__trainer_run(t, err);
    if (!status) {
        double deployed;
        status = bl__trainer_deployed(t, &deployed, err);
    }
    bl__trainer_close(t);
    r->statuses[rank] = status;
}

static void must_train(uint32_t size, run *r) {
    run_crowd(size, train, r);
    for (uint32_t i = 0; i < size; i++)
        if (r->statuses[i] != (r->stop_after ? BL_ERR_CANCELLED : BL_OK))
            fail_msg("%s, process %u of %u: %s", r->name, i, size, r->errors[i].message);
}

static void assert_near(const run *a, const run *b, double bound) {
    for (size_t i = 1; i <= STEPS; i++)
        if (!(fabs(a->losses[i] - b->losses[i]) <= bound))
            fail_msg("%s and %s: step %zu: %.9g, %.9g", a->name, b->name, i, a->losses[i],
                     b->losses[i]);
    assert_true(fabs(a->validation - b->validation) <= bound);
}

static void open_states(const char *a, const char *b, bl__tensor_set *sets[2]) {
    const char *const names[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        char directory[128], path[BL_RUN_MAX_PATH];
        snprintf(directory, sizeof directory, "%s/%s", root, names[i]);
        bl__run_checkpoint_path(directory, STEPS, path);
        assert_int_equal(bl__tensor_set_open(path, &sets[i], NULL), BL_OK);
    }
    assert_int_equal(sets[0]->n_tensors, sets[1]->n_tensors);
    assert_true(sets[0]->n_tensors > 60);
}

static void assert_same_state(const char *a, const char *b) {
    bl__tensor_set *sets[2];
    open_states(a, b, sets);
    for (size_t i = 0; i < sets[0]->n_tensors; i++) {
        const bl__safetensor *x = &sets[0]->tensors[i], *y = &sets[1]->tensors[i];
        if (x->bytes != y->bytes || memcmp(x->data, y->data, x->bytes) != 0)
            fail_msg("%s and %s: %s differs", a, b, x->name.data);
    }
    bl__tensor_set_close(sets[0]);
    bl__tensor_set_close(sets[1]);
}

/* Values; moments are too small for one bound. */
static void assert_near_state(const char *a, const char *b, float bound) {
    bl__tensor_set *sets[2];
    open_states(a, b, sets);
    for (size_t i = 0; i < sets[0]->n_tensors; i++) {
        const bl__safetensor *x = &sets[0]->tensors[i], *y = &sets[1]->tensors[i];
        assert_string_equal(x->name.data, y->name.data);
        assert_int_equal(x->bytes, y->bytes);
        for (size_t k = 0; k < x->bytes / sizeof(float); k++) {
            float u, v;
            memcpy(&u, x->data + k * sizeof u, sizeof u);
            memcpy(&v, y->data + k * sizeof v, sizeof v);
            if (!(fabsf(u - v) <= bound))
                fail_msg("%s and %s: %s[%zu]: %g, %g", a, b, x->name.data, k, (double)u, (double)v);
        }
    }
    bl__tensor_set_close(sets[0]);
    bl__tensor_set_close(sets[1]);
}

static const char *const as_floats[] = {"weights=float", NULL};
static const char *const masked[] = {"weights=float", "mask_documents=true", NULL};
static const char *const one_row[] = {"weights=float", "rows=1", "accumulate=4", NULL};

static void several_processes_learn_what_one_does(void **state) {
    (void)state;
    const char *const *const settings[] = {as_floats, masked, one_row, NULL};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        run one = {.name = "one", .settings = settings[i]};
        must_train(1, &one);
        assert_true(one.losses[STEPS] < one.losses[1] - 0.02);
        for (uint32_t size = 2; size <= 4; size++) {
            run many = {.name = "many", .settings = settings[i]};
            must_train(size, &many);
            assert_int_equal(many.n_called, STEPS); /* by process 0 alone */
            /* ternary: until the first code that flips by the order of a sum */
            assert_near(&one, &many, settings[i] ? 2e-5 : 0.05);
            remove_run("many");
        }
        remove_run("one");
    }
}

static void runs_go_on_in_as_many_processes_or_others(void **state) {
    (void)state;
    run whole = {.name = "whole"}, again = {.name = "again"}, parts = {.name = "parts"};
    must_train(3, &whole);
    must_train(3, &again);
    assert_same_state("whole", "again");
    parts.stop_after = 7;
    must_train(3, &parts);
    parts.stop_after = 0;
    parts.resume = true;
    must_train(3, &parts);
    assert_int_equal(parts.n_called, STEPS);
    assert_same_state("whole", "parts");
    for (uint32_t size = 1; size <= 4; size += 3) {
        run other = {.name = size == 1 ? "to_one" : "to_four", .settings = as_floats}, one = other;
        one.name = size == 1 ? "never_one" : "never_four";
        must_train(1, &one);
        other.stop_after = 7;
        must_train(2, &other);
        other.stop_after = 0;
        other.resume = true;
        must_train(size, &other);
        assert_near(&one, &other, 2e-5);
    }
}

static const char *const grouped[] = {"weights=float", "kv_heads=4", "groups=4",
                                      "tensor_parallel=1", NULL};
static const char *const in_two[] = {"weights=float", "kv_heads=4", "groups=4", "tensor_parallel=2",
                                     NULL};
static const char *const in_two_again[] = {"weights=float",     "kv_heads=4",       "groups=4",
                                           "tensor_parallel=2", "memory=recompute", NULL};
static const char *const in_four[] = {"weights=float", "kv_heads=4", "groups=4",
                                      "tensor_parallel=4", NULL};
static const char *const ternary_whole[] = {"kv_heads=4", "groups=4", NULL};
static const char *const ternary_parts[] = {"kv_heads=4", "groups=4", "tensor_parallel=4", NULL};

/* Networks in parts, with and without others that have the same part; 5 x 2 rows among three. */
static void parts_of_a_network_learn_what_the_whole_does(void **state) {
    (void)state;
    static const struct {
        uint32_t size;
        const char *const *settings;
    } cases[] = {{2, in_two}, {2, in_two_again}, {4, in_two}, {6, in_two}, {4, in_four}};
    run one = {.name = "groups", .settings = grouped};
    must_train(1, &one);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run many = {.name = "parts", .settings = cases[i].settings};
        remove_run("parts");
        must_train(cases[i].size, &many);
        assert_near(&one, &many, 2e-5);
    }
    /* A group a process: the sums of one process in its order, so nothing flips for long. */
    run whole = {.name = "ternary", .settings = ternary_whole};
    must_train(1, &whole);
    run parts = {.name = "ternary_parts", .settings = ternary_parts};
    must_train(4, &parts);
    assert_near(&whole, &parts, 0.05);
    assert_true(fabs(whole.losses[1] - parts.losses[1]) < 1e-6);
}

/* While quantization comes in, products are of floats, and nothing flips. */
static void parts_start_from_a_model(void **state) {
    (void)state;
    char from[128];
    const char *const whole[] = {from, "lambda_steps=12", "kv_heads=4", NULL};
    const char *const parts[] = {from, "lambda_steps=12", "kv_heads=4", "tensor_parallel=2", NULL};
    run one = {.name = "from_one", .settings = whole};
    run many = {.name = "from_parts", .settings = parts};
    snprintf(from, sizeof from, "from=%s/groups", root);
    must_train(1, &one);
    must_train(4, &many);
    assert_near(&one, &many, 2e-4);
}

/* Checkpoints of parts are those of one process: on from two as one, as six, and as two again. */
static void runs_in_parts_go_on_in_others(void **state) {
    (void)state;
    static const struct {
        uint32_t size;
        const char *const *settings;
    } cases[] = {{1, grouped}, {6, in_two}, {4, in_four}, {2, in_two}};
    run one = {.name = "groups", .settings = grouped, .resume = true};
    must_train(1, &one); /* nothing to do */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run r = {.name = "moving", .settings = in_two, .stop_after = 7};
        remove_run("moving");
        must_train(4, &r);
        r.stop_after = 0;
        r.resume = true;
        r.settings = cases[i].settings;
        must_train(cases[i].size, &r);
        assert_near_state("groups", "moving", 2e-4f);
    }
}

static void refused(run *r, uint32_t size, bl_status status, const char *words) {
    run_crowd(size, train, r);
    for (uint32_t i = 0; i < size; i++)
        assert_int_equal(r->statuses[i], status);
    if (!strstr(r->errors[0].message, words))
        fail_msg("'%s', expected '%s'", r->errors[0].message, words);
}

/* Heads of relations are divided, too; the teacher is whole in every process. */
static void parts_learn_from_a_teacher(void **state) {
    (void)state;
    char teacher[128];
    const char *const whole[] = {teacher,          "weights=float",        "kv_heads=4", "groups=4",
                                 "distill_hard=0", "distill_relations=20", NULL};
    const char *const parts[] = {
        teacher,          "weights=float",        "kv_heads=4",        "groups=4",
        "distill_hard=0", "distill_relations=20", "tensor_parallel=2", NULL};
    const char *const odd[] = {teacher,
                               "weights=float",
                               "kv_heads=4",
                               "groups=4",
                               "distill_relations=20",
                               "relation_heads=1",
                               "tensor_parallel=2",
                               NULL};
    run one = {.name = "taught_one", .settings = whole};
    run many = {.name = "taught_parts", .settings = parts};
    snprintf(teacher, sizeof teacher, "teacher=%s/groups", root);
    must_train(1, &one);
    must_train(4, &many);
    assert_near(&one, &many, 2e-4);
    assert_true(one.relations > 1e-5);
    assert_true(fabs(one.relations - many.relations) < 1e-3 * one.relations);
    assert_true(fabs(one.hidden - many.hidden) < 1e-3 * one.hidden);
    run uneven = {.name = "taught_odd", .settings = odd};
    refused(&uneven, 2, BL_ERR_ARGUMENT, "relation_heads 1, expected a multiple");
}

static void one_that_fails_ends_all(void **state) {
    (void)state;
    static const char *const two_rows[] = {"rows=1", NULL};
    run odd = {.name = "odd", .odd_setting = "seed=4"};
    refused(&odd, 3, BL_ERR_ARGUMENT, "process 1: finds another recipe");
    odd.odd_setting = "data=/nowhere/data.tok";
    refused(&odd, 3, BL_ERR_NOT_FOUND, "process 1: /nowhere/data.tok");
    run few = {.name = "few", .settings = two_rows};
    refused(&few, 3, BL_ERR_ARGUMENT, "3 processes for the 2 rows");
    run odd_parts = {.name = "few", .settings = in_two};
    refused(&odd_parts, 3, BL_ERR_ARGUMENT, "tensor_parallel is 2, expected a divisor");
    run whole = {.name = "whole"};
    refused(&whole, 2, BL_ERR_ARGUMENT, "resume it");
}

/* Which process the n-th allocation falls to is up to the threads; all of them must end. */
static void failing_memory_ends_all(void **state) {
    (void)state;
    static const char *const small[] = {"layers=1", "steps=1", NULL};
    static const char *const parts[] = {"layers=1", "steps=1",           "kv_heads=4",
                                        "groups=4", "tensor_parallel=2", NULL};
    for (int in_parts = 0; in_parts < 2; in_parts++) {
        bl_status status = BL_ERR_MEMORY;
        for (long n = 1; status; n++) {
            run r = {.name = "memory", .settings = in_parts ? parts : small};
            remove_run("memory");
            bl__alloc_fail_at(2 * 8 + n); /* after those of bl__processes_create() */
            run_crowd(2, train, &r);
            bl__alloc_fail_at(0);
            status = r.statuses[0];
            assert_int_equal(r.statuses[1], status);
            if (status)
                assert_int_equal(status, BL_ERR_MEMORY);
            assert_true(n < 2000);
        }
    }
}

static int set_up(void **state) {
    char path[64];
    (void)state;
    if (!mkdtemp(root))
        return 1;
    snprintf(path, sizeof path, "%s/data.tok", root);
    snprintf(data_setting, sizeof data_setting, "data=%s", path);
    write_tokens(path);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    remove_tree(root);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_cover_everything_once),
        cmocka_unit_test(sums_are_taken_in_the_order_of_processes),
        cmocka_unit_test(groups_sum_among_themselves),
        cmocka_unit_test(all_fail_with_the_first_that_does),
        cmocka_unit_test(several_processes_learn_what_one_does),
        cmocka_unit_test(runs_go_on_in_as_many_processes_or_others),
        cmocka_unit_test(parts_of_a_network_learn_what_the_whole_does),
        cmocka_unit_test(parts_start_from_a_model),
        cmocka_unit_test(parts_learn_from_a_teacher),
        cmocka_unit_test(runs_in_parts_go_on_in_others),
        cmocka_unit_test(one_that_fails_ends_all),
        cmocka_unit_test(failing_memory_ends_all),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
