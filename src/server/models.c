/* Owns the models in memory: loading on demand, within a limit, and unloading. Must not know what
 * requests do with them. */
#include "server/models.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"

struct bl__models {
    bl_server_params params; /* strings borrowed from the server */
    void (*log)(void *user, const char *line);
    void *user;
    pthread_t loader;
    bool has_loader;
    pthread_mutex_t tries;   /* held while one is made */
    pthread_mutex_t loading; /* held while a model is loaded: one at a time */
    pthread_mutex_t mutex;   /* of what follows */
    pthread_cond_t changed;
    size_t n, first; /* first: the default */
    uint64_t n_uses;
    bl__served *served; /* [n] */
};

/* For models that carry no template. */
static const char PLAIN_TEMPLATE[] =
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + '\\n' }}"
    "{% else %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/* ---- the list ---- */

static char *id_of(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name);
    if (len > 5 && strcmp(name + len - 5, ".gguf") == 0)
        len -= 5;
    char *id = bl__strndup(name, len);
    if (id)
        bl__make_utf8(id);
    return id;
}

static bl_status add(bl__models *m, const char *path, bl_error *err) {
    struct stat st;
    if (m->n == BL_MAX_MODELS)
        return bl__fail(err, BL_ERR_LIMIT, "more than %d models", BL_MAX_MODELS);
    bl__served *list = bl__realloc_array(m->served, m->n + 1, sizeof *list);
    if (!list)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    m->served = list;
    list[m->n] = (bl__served){.id = id_of(path),
                              .path = bl__strndup(path, strlen(path)),
                              .created = stat(path, &st) == 0 ? (int64_t)st.st_mtime : 0};
    m->n++;
    return list[m->n - 1].id && list[m->n - 1].path ? BL_OK
                                                    : bl__fail(err, BL_ERR_MEMORY, "out of memory");
}

static int by_id(const void *a, const void *b) {
    return strcmp(((const bl__served *)a)->id, ((const bl__served *)b)->id);
}

/* Adds the *.gguf files of a folder; one that is the default already is left out. */
static bl_status list_folder(bl__models *m, const char *folder, bl_error *err) {
    DIR *dir = opendir(folder);
    if (!dir)
        return bl__fail(err, BL_ERR_IO, "%s: cannot read this folder", folder);
    bl_status status = BL_OK;
    size_t n_before = m->n;
    for (struct dirent *entry; status == BL_OK && (entry = readdir(dir));) {
        size_t len = strlen(entry->d_name);
        if (len <= 5 || strcmp(entry->d_name + len - 5, ".gguf") != 0)
            continue;
        char *path = bl__path_join(folder, entry->d_name);
        char *id = path ? id_of(path) : NULL;
        bool known = n_before > 0 && id && strcmp(id, m->served[0].id) == 0;
        if (!id)
            status = bl__fail(err, BL_ERR_MEMORY, "out of memory");
        else if (!known)
            status = add(m, path, err);
        bl__free(id);
        bl__free(path);
    }
    closedir(dir);
    if (status == BL_OK && m->n > n_before)
        qsort(m->served + n_before, m->n - n_before, sizeof *m->served, by_id);
    return status;
}

/* ---- loading ---- */

static char *token_text(const bl_tokenizer *tokenizer, bl_token token) {
    size_t len = 0;
    const char *piece =
        token >= 0 ? bl_tokenizer_piece(tokenizer, token, BL_DETOKENIZE_SPECIAL, &len) : "";
    return bl__strndup(piece, len);
}

static void unload(bl__served *s) {
    bl__scheduler_free(s->scheduler);
    bl_energy_meter_close(s->meter);
    bl_chat_template_free(s->chat_template);
    bl_token_trie_free(s->trie);
    bl_tokenizer_close(s->tokenizer);
    bl_model_close(s->model);
    bl__free(s->bos);
    bl__free(s->eos);
    *s = (bl__served){.id = s->id, .path = s->path, .created = s->created};
}

static bl_status open_template(bl__served *s, bl_error *err) {
    const char *source = bl_tokenizer_chat_template(s->tokenizer);
    s->has_template = source != NULL;
    s->knows_tools = source && strstr(source, "tools");
    s->marks_calls = !source || !s->knows_tools || strstr(source, "<tool_call>");
    s->bos = token_text(s->tokenizer, bl_tokenizer_bos(s->tokenizer));
    s->eos = token_text(s->tokenizer, bl_tokenizer_eos(s->tokenizer));
    if (!s->bos || !s->eos)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    if (!source)
        source = PLAIN_TEMPLATE;
    return bl_chat_template_compile(source, strlen(source), &s->chat_template, err);
}

static bool read_joules(void *meter, double *joules) {
    return bl_energy_meter_read(meter, joules);
}

/* Opens all of a model into *s, which nobody else sees. */
static bl_status load(const bl_server_params *p, bl__served *s, bl_error *err) {
    const bl_model_params model = {.n_threads = p->session.n_threads, .sparsity = p->sparsity};
    if (bl_energy_meter_open(&s->meter, NULL) != BL_OK)
        s->meter = NULL; /* most machines have none, or let only root read it */
    const bl__scheduler_params scheduler = {.n_parallel = p->n_parallel,
                                            .max_queued = p->max_queued,
                                            .session = p->session,
                                            .read_joules = s->meter ? read_joules : NULL,
                                            .read_joules_user = s->meter};
    bl_status status = bl_model_open(s->path, &model, &s->model, err);
    if (status == BL_OK)
        status = bl_tokenizer_open(s->path, &s->tokenizer, err);
    if (status == BL_OK)
        status = open_template(s, err);
    if (status == BL_OK)
        status = bl__scheduler_create(s->model, s->tokenizer, &scheduler, &s->scheduler, err);
    if (status != BL_OK) {
        unload(s);
        return status;
    }
    const bl_model_info *info = bl_model_get_info(s->model);
    s->bytes = info->file_bytes + info->repacked_bytes + bl__scheduler_bytes(s->scheduler);
    return BL_OK;
}

/* Unloads models that nobody uses until another of this size fits. Both mutexes held; the second
 * is let go of while a model goes. */
static void make_room(bl__models *m, uint64_t bytes) {
    for (;;) {
        uint64_t held = 0;
        bl__served *oldest = NULL;
        for (size_t i = 0; i < m->n; i++) {
            bl__served *s = &m->served[i];
            if (s->state != BL_MODEL_READY)
                continue;
            held += s->bytes;
            if (s->n_users == 0 && (!oldest || s->last_use < oldest->last_use))
                oldest = s;
        }
        if (m->params.max_model_bytes == 0 || !oldest ||
            (held <= m->params.max_model_bytes && bytes <= m->params.max_model_bytes - held))
            return;
        bl__served gone = *oldest;
        *oldest = (bl__served){.id = gone.id, .path = gone.path, .created = gone.created};
        pthread_mutex_unlock(&m->mutex);
        unload(&gone);
        pthread_mutex_lock(&m->mutex);
    }
}

/* Loads the i-th model unless somebody else has. Nothing held. */
static void load_one(bl__models *m, bl__served *s) {
    bl_error err = {0};
    struct stat st;
    pthread_mutex_lock(&m->loading);
    pthread_mutex_lock(&m->mutex);
    bool wanted = s->state == BL_MODEL_ABSENT || s->state == BL_MODEL_FAILED;
    if (wanted) {
        s->state = BL_MODEL_LOADING;
        make_room(m, stat(s->path, &st) == 0 ? (uint64_t)st.st_size : 0);
    }
    pthread_mutex_unlock(&m->mutex);
    if (wanted) {
        bl__served fresh = {.id = s->id, .path = s->path, .created = s->created};
        bl_status status = load(&m->params, &fresh, &err);
        pthread_mutex_lock(&m->mutex);
        *s = fresh;
        s->state = status == BL_OK ? BL_MODEL_READY : BL_MODEL_FAILED;
        s->error = err;
        pthread_cond_broadcast(&m->changed);
        pthread_mutex_unlock(&m->mutex);
        if (status != BL_OK)
            m->log(m->user, err.message);
    }
    pthread_mutex_unlock(&m->loading);
}

static void *load_default(void *user) {
    bl__models *m = user;
    load_one(m, &m->served[m->first]);
    return NULL;
}

/* ---- from outside ---- */

bl_status bl__models_create(const bl_server_params *params,
                            void (*log)(void *user, const char *line), void *user, bl__models **out,
                            bl_error *err) {
    bl__models *m = bl__calloc(1, sizeof *m);
    if (!m)
        return bl__fail(err, BL_ERR_MEMORY, "out of memory");
    m->params = *params;
    m->log = log;
    m->user = user;
    pthread_mutex_init(&m->tries, NULL);
    pthread_mutex_init(&m->loading, NULL);
    pthread_mutex_init(&m->mutex, NULL);
    pthread_cond_init(&m->changed, NULL);
    bl_status status = params->model ? add(m, params->model, err) : BL_OK;
    if (status == BL_OK && params->model_dir)
        status = list_folder(m, params->model_dir, err);
    if (status == BL_OK && m->n == 0)
        status = bl__fail(err, BL_ERR_NOT_FOUND, "no model to serve");
    if (status == BL_OK && params->model) {
        m->has_loader = pthread_create(&m->loader, NULL, load_default, m) == 0;
        if (!m->has_loader)
            status = bl__fail(err, BL_ERR_MEMORY, "cannot start a thread");
    }
    if (status != BL_OK) {
        bl__models_free(m);
        return status;
    }
    *out = m;
    return BL_OK;
}

void bl__models_free(bl__models *m) {
    if (!m)
        return;
    if (m->has_loader)
        pthread_join(m->loader, NULL);
    for (size_t i = 0; i < m->n; i++) {
        unload(&m->served[i]);
        bl__free(m->served[i].id);
        bl__free(m->served[i].path);
    }
    bl__free(m->served);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->mutex);
    pthread_mutex_destroy(&m->loading);
    pthread_mutex_destroy(&m->tries);
    bl__free(m);
}

bl_status bl__models_wait(bl__models *m, bl_error *err) {
    if (!m->params.model)
        return BL_OK;
    pthread_mutex_lock(&m->mutex);
    bl__served *s = &m->served[m->first];
    while (s->state == BL_MODEL_ABSENT || s->state == BL_MODEL_LOADING)
        pthread_cond_wait(&m->changed, &m->mutex);
    bl_status status = s->state == BL_MODEL_READY ? BL_OK : s->error.code;
    if (status != BL_OK && err)
        *err = s->error;
    pthread_mutex_unlock(&m->mutex);
    return status;
}

static bl__served *find(bl__models *m, const char *name) {
    if (!name || !*name || m->n == 1)
        return &m->served[m->first];
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->served[i].id, name) == 0)
            return &m->served[i];
    return NULL;
}

bl__served *bl__models_acquire(bl__models *m, const char *name, bl__response *response) {
    bl__served *s = find(m, name);
    if (!s) {
        bl__respond_error(response, 404, "invalid_request_error", "model", "model_not_found",
                          "there is no model %.200s here; /v1/models lists those there are", name);
        return NULL;
    }
    pthread_mutex_lock(&m->mutex);
    bool at_start = m->params.model && s == &m->served[m->first];
    while (s->state == BL_MODEL_ABSENT && !at_start) {
        pthread_mutex_unlock(&m->mutex);
        load_one(m, s);
        pthread_mutex_lock(&m->mutex);
    }
    /* Unloaded in between it is loaded again, by whoever comes next. */
    if (s->state == BL_MODEL_READY) {
        s->n_users++;
        s->last_use = ++m->n_uses;
        pthread_mutex_unlock(&m->mutex);
        return s;
    }
    if (s->state == BL_MODEL_FAILED) {
        bl__respond_error(response, 500, "server_error", "model", "model_failed",
                          "this model cannot be loaded; the server's log says why");
    } else {
        bl__respond_error(response, 503, "server_error", NULL, "loading",
                          "the model is being loaded");
        bl__response_header(response, "Retry-After", "1");
    }
    pthread_mutex_unlock(&m->mutex);
    return NULL;
}

void bl__models_release(bl__models *m, bl__served *s) {
    if (!s)
        return;
    pthread_mutex_lock(&m->mutex);
    s->n_users--;
    pthread_mutex_unlock(&m->mutex);
}

bl_status bl__models_trie(bl__models *m, bl__served *s, const bl_token_trie **out, bl_error *err) {
    bl_status status = BL_OK;
    pthread_mutex_lock(&m->tries);
    if (!s->trie)
        status =
            bl_token_trie_create(s->tokenizer, bl_model_get_info(s->model)->vocab, &s->trie, err);
    *out = s->trie;
    pthread_mutex_unlock(&m->tries);
    return status;
}

bl__model_state bl__models_state(bl__models *m) {
    pthread_mutex_lock(&m->mutex);
    bl__model_state state = m->served[m->first].state;
    pthread_mutex_unlock(&m->mutex);
    return !m->params.model && state == BL_MODEL_ABSENT ? BL_MODEL_READY
           : state == BL_MODEL_ABSENT                   ? BL_MODEL_LOADING
                                                        : state;
}

size_t bl__models_count(const bl__models *m) {
    return m->n;
}

const bl__served *bl__models_get(const bl__models *m, size_t i) {
    return &m->served[i];
}

json_t *bl__models_facts(bl__models *m, size_t i) {
    json_t *facts = NULL;
    pthread_mutex_lock(&m->mutex);
    const bl__served *s = &m->served[i];
    if (s->state == BL_MODEL_READY) {
        const bl_model_info *info = bl_model_get_info(s->model);
        char name[256];
        snprintf(name, sizeof name, "%s", info->name);
        bl__make_utf8(name);
        facts = json_pack(
            "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", name, "architecture",
            info->architecture, "weights", info->weights, "parameters", (json_int_t)info->n_params,
            "file_bytes", (json_int_t)info->file_bytes, "layers", (json_int_t)info->n_layers,
            "width", (json_int_t)info->dim, "heads", (json_int_t)info->n_heads, "vocabulary",
            (json_int_t)info->vocab, "trained_context", (json_int_t)info->context_length, "context",
            (json_int_t)bl__scheduler_n_ctx(s->scheduler));
    }
    pthread_mutex_unlock(&m->mutex);
    return facts;
}

bool bl__models_figures(bl__models *m, size_t i, bl__scheduler_figures *out) {
    pthread_mutex_lock(&m->mutex);
    bool ready = m->served[i].state == BL_MODEL_READY;
    if (ready)
        bl__scheduler_get_figures(m->served[i].scheduler, out);
    pthread_mutex_unlock(&m->mutex);
    return ready;
}
