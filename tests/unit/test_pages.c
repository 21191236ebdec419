/* Sequences that share pages of a cache: whatever is copied, forgotten, written on and refused,
 * each text has the bits that it has alone, and every page comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bitloom/model.h"
#include "tiny_model.h"

enum { VOCAB = 50, N_CTX = 200, N_TEXTS = 6, N_SEQUENCES = 7, MAX_ITEMS = 90 };

/* Texts that begin alike: text k is text 0 up to position same[k]. */
static const size_t same[N_TEXTS] = {N_CTX, 10, 64, 70, 128, 150};

static char path[256];

typedef struct text {
    bl_token tokens[N_CTX];
    float logits[N_CTX][VOCAB]; /* after each token, computed alone */
} text;

static text texts[N_TEXTS];
static bl_model *model;

static bl_session *open_session(bl_session_params params) {
    bl_session *session = NULL;
    bl_error err = {0};
    params.n_ctx = N_CTX;
    if (bl_session_create(model, &params, &session, &err))
        fail_msg("%s", err.message);
    return session;
}

static void make_texts(bl_cache_type type) {
    bl__random random;
    bl__random_seed(&random, 3);
    for (size_t k = 0; k < N_TEXTS; k++) {
        bl_session *s = open_session((bl_session_params){.n_threads = 1, .cache_type = type});
        for (size_t i = 0; i < N_CTX; i++)
            texts[k].tokens[i] =
                k && i < same[k] ? texts[0].tokens[i] : (bl_token)bl__random_below(&random, VOCAB);
        assert_int_equal(bl_session_eval(s, texts[k].tokens, N_CTX, texts[k].logits[0], NULL),
                         BL_OK);
        bl_session_free(s);
    }
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* What a random walk does to a session, and what the session should hold. */
typedef struct walk {
    bl_session *s;
    bl__random random;
    uint32_t text[N_SEQUENCES];
    size_t n_refused, n_copies;
} walk;

static uint32_t any(walk *w, size_t n) {
    return (uint32_t)bl__random_below(&w->random, n);
}

/* A sequence goes on as another text that has the same beginning. */
static void diverge(walk *w, uint32_t q) {
    uint32_t k = any(w, N_TEXTS);
    if (bl_sequence_n_past(w->s, q) <= least(same[k], same[w->text[q]]))
        w->text[q] = k;
}

static void copy(walk *w) {
    uint32_t from = any(w, N_SEQUENCES), to = any(w, N_SEQUENCES);
    size_t n = any(w, bl_sequence_n_past(w->s, from) + 1);
    size_t n_free = bl_session_cache_pages(w->s).n_free;
    assert_int_equal(bl_sequence_copy(w->s, from, to, n, NULL), BL_OK);
    assert_true(bl_session_cache_pages(w->s).n_free >= n_free);
    w->text[to] = w->text[from];
    w->n_copies++;
}

/* A batch of runs of some sequences; when it is refused nothing has changed. */
static void append(walk *w) {
    static float logits[MAX_ITEMS][VOCAB];
    const float *want[MAX_ITEMS];
    bl_batch_item items[MAX_ITEMS];
    size_t past[N_SEQUENCES], before[N_SEQUENCES], n = 0, n_wanted = 0;
    size_t n_most = 1 + any(w, MAX_ITEMS);
    for (uint32_t q = 0; q < N_SEQUENCES; q++)
        before[q] = past[q] = bl_sequence_n_past(w->s, q);
    for (int runs = 0; runs < 8; runs++) {
        uint32_t q = any(w, N_SEQUENCES);
        for (size_t run = 1 + any(w, 30); run > 0 && n < n_most && past[q] < N_CTX; run--, n++) {
            const text *t = &texts[w->text[q]];
            items[n] = (bl_batch_item){q, t->tokens[past[q]], any(w, 3) == 0};
            if (items[n].wants_logits)
                want[n_wanted++] = t->logits[past[q]];
            past[q]++;
        }
    }
    if (n == 0)
        return;
    bl_cache_pages pages = bl_session_cache_pages(w->s);
    bl_status status = bl_session_eval_batch(w->s, items, n, logits[0], NULL);
    if (status) {
        assert_int_equal(status, BL_ERR_CONTEXT_FULL);
        assert_int_equal(bl_session_cache_pages(w->s).n_free, pages.n_free);
        w->n_refused++;
    }
    for (uint32_t q = 0; q < N_SEQUENCES; q++)
        assert_int_equal(bl_sequence_n_past(w->s, q), status ? before[q] : past[q]);
    for (size_t i = 0; i < n_wanted && !status; i++)
        assert_memory_equal(logits[i], want[i], sizeof logits[i]);
}

static void take_walk(bl_session_params params, bool may_refuse) {
    walk w = {.s = open_session(params)};
    bl__random_seed(&w.random, 17);
    for (int step = 0; step < 400; step++) {
        uint32_t q = any(&w, N_SEQUENCES);
        switch (any(&w, 6)) {
        case 0:
            bl_sequence_truncate(w.s, q, any(&w, bl_sequence_n_past(w.s, q) + 1));
            break;
        case 1:
            copy(&w);
            break;
        case 2:
            diverge(&w, q);
            break;
        default:
            append(&w);
        }
    }
    print_message("%zu batches refused, %zu copies\n", w.n_refused, w.n_copies);
    assert_true(w.n_copies > 20 && (w.n_refused > 0) == may_refuse);
    for (uint32_t q = 0; q < N_SEQUENCES; q++)
        bl_sequence_truncate(w.s, q, 0);
    bl_cache_pages pages = bl_session_cache_pages(w.s);
    assert_int_equal(pages.n_free, pages.n_pages);
    bl_session_free(w.s);
}

static void test_random_walks(void **state) {
    (void)state;
    for (bl_cache_type type = BL_CACHE_F16; type <= BL_CACHE_I4; type++) {
        bl_session_params p = {.n_batch = 40, .n_sequences = N_SEQUENCES, .cache_type = type};
        make_texts(type);
        p.n_threads = 1 + (uint32_t)type % 2;
        take_walk(p, false);
        p.cache_tokens = 9 * 64 - 5;
        take_walk(p, true);
    }
}

static size_t n_free(const bl_session *s) {
    return bl_session_cache_pages(s).n_free;
}

static void eval(bl_session *s, uint32_t q, size_t n, bl_status want) {
    bl_batch_item items[N_CTX];
    size_t past = bl_sequence_n_past(s, q);
    for (size_t i = 0; i < n; i++)
        items[i] = (bl_batch_item){q, texts[0].tokens[past + i], false};
    assert_int_equal(bl_session_eval_batch(s, items, n, NULL, NULL), want);
}

/* Pages are counted to the last one. */
static void test_counts(void **state) {
    (void)state;
    bl_error err;
    bl_session *s = open_session((bl_session_params){
        .n_sequences = 3, .n_threads = 1, .n_batch = 16, .cache_tokens = 3 * 64});
    bl_cache_pages pages = bl_session_cache_pages(s);
    assert_int_equal(pages.page_tokens, 64);
    assert_int_equal(pages.n_pages, 3);
    eval(s, 0, 100, BL_OK);
    assert_int_equal(n_free(s), 1);
    assert_int_equal(bl_sequence_copy(s, 0, 1, 100, NULL), BL_OK);
    assert_int_equal(n_free(s), 1);
    /* Two that share a page and write to it need one more, not two. */
    const bl_batch_item both[] = {{0, 1, false}, {1, 2, false}};
    assert_int_equal(bl_session_eval_batch(s, both, 2, NULL, &err), BL_OK);
    assert_int_equal(n_free(s), 0);
    assert_int_equal(bl_sequence_copy(s, 1, 2, 101, NULL), BL_OK);
    assert_int_equal(bl_session_eval_batch(s, &both[1], 1, NULL, &err), BL_ERR_CONTEXT_FULL);
    assert_string_equal(err.message,
                        "1 pages of 64 tokens are needed, 0 of 3 in the cache are free");
    eval(s, 0, 27, BL_OK);
    eval(s, 0, 1, BL_ERR_CONTEXT_FULL);
    assert_int_equal(bl_session_eval(s, texts[0].tokens, 1, NULL, &err), BL_ERR_CONTEXT_FULL);
    assert_int_equal(bl_session_n_past(s), 128);
    /* What a shift lets go of counts as free, unless it is shared. */
    assert_int_equal(bl_sequence_shift(s, 2, 10, 20, NULL, &err), BL_ERR_CONTEXT_FULL);
    assert_int_equal(bl_sequence_n_past(s, 2), 101);
    bl_sequence_truncate(s, 0, 0);
    assert_int_equal(n_free(s), 1);
    assert_int_equal(bl_sequence_shift(s, 2, 10, 40, NULL, &err), BL_OK);
    assert_int_equal(n_free(s), 0);
    bl_sequence_truncate(s, 1, 0);
    assert_int_equal(bl_sequence_shift(s, 2, 10, 20, NULL, &err), BL_OK);
    assert_int_equal(bl_sequence_n_past(s, 2), 41);
    assert_int_equal(n_free(s), 2);
    assert_int_equal(bl_sequence_copy(s, 2, 2, 0, NULL), BL_OK);
    assert_int_equal(n_free(s), 3);
    bl_session_free(s);
}

static void test_no_allocation(void **state) {
    (void)state;
    bl_session *s = open_session(
        (bl_session_params){.n_sequences = 2, .n_threads = 1, .n_batch = 16, .cache_tokens = 1});
    assert_int_equal(bl_session_cache_pages(s).n_pages, 1);
    bl_session_free(s);
    s = open_session((bl_session_params){.n_sequences = 2, .n_threads = 2, .cache_tokens = 400});
    long before = bl__alloc_count();
    for (size_t round = 0; round < 4; round++) {
        eval(s, 0, 90, BL_OK);
        assert_int_equal(bl_sequence_copy(s, 0, 1, 90, NULL), BL_OK);
        eval(s, 1, 60, BL_OK);
        eval(s, 0, 1, BL_OK);
        bl_sequence_truncate(s, 0, 0);
    }
    assert_int_equal(bl__alloc_count(), before);
    bl_session_free(s);
}

static int set_up(void **state) {
    (void)state;
    const char *folder = getenv("TMPDIR");
    bl_error err;
    tiny_model m = tiny_model_default();
    m.context = N_CTX;
    snprintf(path, sizeof path, "%s/bitloom-test-pages-%ld.gguf", folder ? folder : "/tmp",
             (long)getpid());
    tiny_model_write(&m, 7, path);
    return bl_model_open(path, NULL, &model, &err) ? -1 : 0;
}

static int tear_down(void **state) {
    (void)state;
    bl_model_close(model);
    unlink(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_walks),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_no_allocation),
    };
    return cmocka_run_group_tests_name("pages", tests, set_up, tear_down);
}
