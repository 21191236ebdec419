/* Owns `bitloom chat`: the dialogue, its commands, and which tokens the session keeps. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "commands.h"
#include "conversation.h"
#include "engine.h"
#include "input.h"
#include "line.h"
#include "terminal.h"

typedef struct chat_settings {
    model_settings model;
    sampling_settings sampling;
    speculation_settings speculation;
    constraint_settings constraint;
    const char *system, *template_file;
    bool quiet;
} chat_settings;

#define CHAT(field) offsetof(chat_settings, field)

static const option OPTIONS[] = {
    {0, "system", "-sys", OPTION_TEXT, "TEXT", CHAT(system), 0, 0, NULL,
     "the system message that comes before the dialogue"},
    {0, "template-file", NULL, OPTION_TEXT, "FILE", CHAT(template_file), 0, 0, NULL,
     "a Jinja chat template to use instead of the model's own"},
    {'q', "quiet", NULL, OPTION_FLAG, NULL, CHAT(quiet), 0, 0, NULL,
     "print nothing but answers and errors"},
};
static const option_group GROUPS[] = {
    {"Chat", OPTIONS, sizeof OPTIONS / sizeof *OPTIONS, 0},
    {"Model", MODEL_OPTIONS, N_MODEL_OPTIONS, CHAT(model)},
    {"Sampling", SAMPLING_OPTIONS, N_SAMPLING_OPTIONS, CHAT(sampling)},
    {"Constraint", CONSTRAINT_OPTIONS, N_CONSTRAINT_OPTIONS, CHAT(constraint)},
    {"Speculation", SPECULATION_OPTIONS, N_SPECULATION_OPTIONS, CHAT(speculation)},
};

static const char COMMAND_HELP[] =
    "/help         this list\n"
    "/reset        forget the dialogue, keep the system message\n"
    "/system TEXT  set the system message (no TEXT removes it)\n"
    "/regen        answer the last message anew\n"
    "/save FILE    write the dialogue as JSON\n"
    "/stats        speed, context and memory\n"
    "/quit         leave, as Ctrl-D does\n"
    "A backslash at the end of a line, or \"\"\" before and after, makes a message of several\n"
    "lines. Ctrl-C stops an answer; twice at the prompt it leaves.";

typedef struct chat {
    engine e;
    conversation talk;
    /* The tokens that the session holds, so that only what differs is evaluated. */
    bl_token *held; /* [n_ctx] */
    size_t n_held;
    bl__buffer answer;
    bl_generate_result last; /* of the last answer */
    bool has_answered, quiet;
} chat;

static const size_t MAX_TEXT = (size_t)1 << 24;

static bool take_text(void *user, const char *text, size_t len) {
    chat *c = user;
    while (c->answer.len == 0 && len > 0 && isspace((unsigned char)*text)) {
        text++; /* templates leave the first blank to the model */
        len--;
    }
    if (len == 0)
        return !interrupts_seen();
    return bl__buffer_append(&c->answer, text, len) && output_text(text, len) && !interrupts_seen();
}

static void take_token(void *user, bl_token token) {
    chat *c = user;
    if (c->n_held < bl_session_n_ctx(c->e.session)) /* beyond it only after a shift */
        c->held[c->n_held++] = token;
}

static bool take_progress(void *user, size_t n_done, size_t n_prompt) {
    (void)user, (void)n_done, (void)n_prompt;
    return !interrupts_seen();
}

/* Renders and encodes the dialogue so that an answer of some length still fits. */
static bl_status encode_talk(chat *c, bl_token **ids, size_t *n_ids, bl_error *err) {
    size_t n_ctx = bl_session_n_ctx(c->e.session);
    for (;;) {
        char *text = NULL;
        size_t len = 0;
        bl_status status = conversation_render(&c->talk, &text, &len, err);
        if (status != BL_OK)
            return status;
        status = encode_prompt(c->e.tokenizer, text, len, true, ids, n_ids, err);
        bl_free(text);
        if (status != BL_OK)
            return status;
        if (*n_ids > 0 && *n_ids < n_ctx)
            return BL_OK;
        size_t n = *n_ids;
        bl_free(*ids);
        *ids = NULL;
        if (!c->e.params.context_shift || !conversation_drop_oldest(&c->talk)) {
            *err = (bl_error){.code = BL_ERR_CONTEXT_FULL};
            snprintf(err->message, sizeof err->message,
                     "the dialogue takes %zu tokens, the context holds %zu: /reset it, or start "
                     "with a larger -c or with --context-shift",
                     n, n_ctx);
            return BL_ERR_CONTEXT_FULL;
        }
        note("[the context is full: the oldest question and answer are forgotten]");
    }
}

/* Keeps the beginning that session and prompt share; returns how much of the prompt is held. */
static size_t keep_common(chat *c, const bl_token *ids, size_t n_ids) {
    size_t common = 0;
    while (common < c->n_held && common + 1 < n_ids && c->held[common] == ids[common])
        common++; /* the last token is always evaluated, for its logits */
    bl_session_truncate(c->e.session, common);
    memcpy(c->held + common, ids + common, (n_ids - common) * sizeof *ids);
    c->n_held = n_ids;
    return common;
}

static void report_stop(chat *c) {
    if (c->last.reason == BL_STOP_CALLER && interrupts_seen())
        note("[stopped]");
    else if (c->last.reason == BL_STOP_CONTEXT)
        note("[the context of %zu tokens is full: /reset, or start with a larger -c or with "
             "--context-shift]",
             bl_session_n_ctx(c->e.session));
    interrupts_clear();
}

/* Answers the last message. On failure complains and leaves the dialogue without an answer. */
static bool answer(chat *c) {
    bl_token *ids = NULL;
    size_t n_ids = 0;
    bl_error err;
    c->answer.len = 0;
    interrupts_clear();
    if (encode_talk(c, &ids, &n_ids, &err) != BL_OK) {
        fail_error("chat", &err);
        return false;
    }
    size_t common = keep_common(c, ids, n_ids);
    keep_start(&c->e, ids, n_ids);
    if (c->e.matcher)
        bl_matcher_reset(c->e.matcher);
    bl_status status = bl_generate(c->e.session, c->e.tokenizer, c->e.sampler, ids + common,
                                   n_ids - common, &c->e.params, take_text, c, &c->last, &err);
    bl_free(ids);
    if (c->answer.len > 0 && c->answer.data[c->answer.len - 1] != '\n')
        output_write("\n", 1);
    if (bl_session_n_past(c->e.session) != c->n_held) {
        /* Shifted, stopped in the prompt, or failed: what is held is not known by heart. */
        bl_session_truncate(c->e.session, 0);
        c->n_held = 0;
    }
    if (status != BL_OK) {
        fail_error("chat", &err);
        return false;
    }
    report_stop(c);
    report_constraint(&c->e);
    while (c->answer.len > 0 && isspace((unsigned char)c->answer.data[c->answer.len - 1]))
        c->answer.len--;
    c->has_answered = true;
    if (conversation_add(&c->talk, "assistant", c->answer.len ? c->answer.data : "", c->answer.len,
                         &err) != BL_OK) {
        fail_error("chat", &err);
        return false;
    }
    return true;
}

static void print_stats(const chat *c) {
    if (c->has_answered)
        print_speed(&c->e, &c->last);
    note("context: %zu of %zu tokens; session memory: %s; model: %s, %s repacked",
         bl_session_n_past(c->e.session), bl_session_n_ctx(c->e.session),
         format_bytes((double)bl_session_bytes(c->e.session)),
         format_bytes((double)bl_model_get_info(c->e.model)->file_bytes),
         format_bytes((double)bl_model_get_info(c->e.model)->repacked_bytes));
}

static void regenerate(chat *c) {
    conversation *t = &c->talk;
    if (t->n > 0 && strcmp(t->messages[t->n - 1].role, "assistant") == 0)
        conversation_drop_last(t);
    if (t->n > 0 && strcmp(t->messages[t->n - 1].role, "user") == 0)
        answer(c);
    else
        note("there is nothing to answer yet");
}

/* Runs "/name argument"; false to leave. */
static bool run_command(chat *c, char *line) {
    size_t n = strcspn(line, " \t\n");
    char *argument = line + n + strspn(line + n, " \t\n");
    line[n] = '\0';
    bl_error err;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return false;
    if (strcmp(line, "/help") == 0) {
        note("%s", COMMAND_HELP);
    } else if (strcmp(line, "/reset") == 0) {
        conversation_clear(&c->talk);
        note("[the dialogue is forgotten]");
    } else if (strcmp(line, "/system") == 0) {
        if (conversation_set_system(&c->talk, argument, &err) != BL_OK)
            fail_error("chat", &err);
        else
            note(*argument ? "[system message set]" : "[no system message]");
    } else if (strcmp(line, "/regen") == 0) {
        regenerate(c);
    } else if (strcmp(line, "/save") == 0) {
        if (!*argument)
            note("/save: a file name is missing");
        else if (conversation_save(&c->talk, argument, &err) != BL_OK)
            fail_error("chat", &err);
        else
            note("[saved to %s]", argument);
    } else if (strcmp(line, "/stats") == 0) {
        print_stats(c);
    } else {
        static const char *const names[] = {"/help", "/reset", "/system", "/regen",
                                            "/save", "/stats", "/quit"};
        const char *nearest = nearest_name(line, names, sizeof names / sizeof *names);
        if (nearest)
            note("unknown command %s; did you mean %s? /help lists them all", line, nearest);
        else
            note("unknown command %s; /help lists them", line);
    }
    return true;
}

/* Handles one message; false to leave. */
static bool handle(chat *c, bl__buffer *message, int *status, bool is_terminal) {
    char *text = message->data;
    if (message->len == 0 || text[strspn(text, " \t\r\n")] == '\0')
        return true;
    if (text[0] == '/')
        return run_command(c, text);
    bl_error err;
    if (conversation_add(&c->talk, "user", text, message->len, &err) != BL_OK) {
        *status = fail_error("chat", &err);
        return false;
    }
    if (!answer(c)) {
        conversation_drop_last(&c->talk);
        *status = is_terminal ? EXIT_SUCCESS : EXIT_FAILURE;
        return is_terminal;
    }
    return true;
}

static int talk_loop(chat *c) {
    line_reader *reader = line_reader_open();
    if (!reader)
        return fail_with("chat", "out of memory");
    bool is_terminal = line_reader_is_terminal(reader);
    if (is_terminal && !c->quiet)
        note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves");
    interrupts_catch(3);
    int status = EXIT_SUCCESS;
    int n_interrupts = 0; /* at the prompt, one after the other */
    for (bool goes_on = true; goes_on;) {
        bl__buffer message = bl__buffer_make(MAX_TEXT);
        switch (line_reader_read(reader, &message)) {
        case LINE_OK:
            n_interrupts = 0;
            goes_on = handle(c, &message, &status, is_terminal);
            break;
        case LINE_INTERRUPTED:
            interrupts_clear();
            goes_on = is_terminal && ++n_interrupts < 2;
            if (goes_on)
                note("(Ctrl-C again or Ctrl-D leaves)");
            else if (!is_terminal)
                status = EXIT_INTERRUPTED;
            break;
        case LINE_END:
            goes_on = false;
            break;
        case LINE_FAILED:
            status = fail_with("chat", "a message of more than %zu bytes, or no memory", MAX_TEXT);
            goes_on = false;
            break;
        }
        bl__buffer_free(&message);
    }
    line_reader_close(reader);
    return status;
}

/* The dialogue with the template that was asked for, the model's own, or none. */
static int open_talk(chat *c, const chat_settings *s, option_list *stops) {
    bl_error err;
    char *file = NULL;
    size_t len = 0;
    const char *source = bl_tokenizer_chat_template(c->e.tokenizer);
    if (s->template_file) {
        if (read_input(s->template_file, &file, &len, &err) != BL_OK)
            return fail_error("chat", &err);
        source = file;
    } else if (source) {
        len = strlen(source);
    }
    bl_status status = conversation_open(&c->talk, c->e.tokenizer, source, len, &err);
    bl__free(file);
    if (status != BL_OK) {
        fail_with("chat", "the chat template cannot be used: %s", err.message);
        if (!s->template_file)
            note("give another one with --template-file FILE");
        return EXIT_FAILURE;
    }
    if (!source) {
        if (!s->quiet)
            note("this model carries no chat template: turns are written plainly as User: and "
                 "Assistant:, which a model that was not trained for chats may not follow");
        if (stops->n < OPTION_LIST_MAX)
            stops->items[stops->n++] = PLAIN_STOP;
        c->e.params.n_stops = stops->n;
    }
    if (s->system && conversation_set_system(&c->talk, s->system, &err) != BL_OK)
        return fail_error("chat", &err);
    return EXIT_SUCCESS;
}

static int run(int argc, char **argv) {
    chat_settings s = {.model = default_model_settings(),
                       .sampling = default_sampling_settings(-1)};
    switch (options_parse(&CHAT_COMMAND, argc, argv, &s, NULL)) {
    case PARSE_HELP:
        return EXIT_SUCCESS;
    case PARSE_BAD:
        return EXIT_USAGE;
    case PARSE_OK:
        break;
    }
    chat c = {.answer = bl__buffer_make(MAX_TEXT), .quiet = s.quiet};
    int status = engine_open(&c.e, &CHAT_COMMAND, &s.model, &s.sampling, s.quiet);
    if (status != EXIT_SUCCESS)
        return status;
    c.e.params.on_token = take_token;
    c.e.params.on_prompt = take_progress;
    c.held = bl__malloc_array(bl_session_n_ctx(c.e.session), sizeof *c.held);
    if (!c.held)
        status = fail_with("chat", "out of memory");
    if (status == EXIT_SUCCESS)
        status = engine_speculate(&c.e, &CHAT_COMMAND, &s.speculation);
    if (status == EXIT_SUCCESS)
        status = engine_constrain(&c.e, &CHAT_COMMAND, &s.constraint);
    if (status == EXIT_SUCCESS)
        status = open_talk(&c, &s, &s.sampling.stops);
    if (status == EXIT_SUCCESS)
        status = talk_loop(&c);
    if (c.has_answered && !c.quiet)
        print_stats(&c);
    conversation_close(&c.talk);
    bl__buffer_free(&c.answer);
    bl__free(c.held);
    engine_close(&c.e);
    return status;
}

const command CHAT_COMMAND = {
    .name = "chat",
    .summary = "talk with a model",
    .description =
        "Reads messages from the terminal or, one a line, from a pipe, and writes the answers to\n"
        "standard output. The model's own chat template is used. /help lists the commands.",
    .examples = "  bitloom chat -m model.gguf\n"
                "  bitloom chat -m model.gguf -sys \"Answer in one sentence.\" --temp 0.6\n"
                "  echo \"What is a loom?\" | bitloom chat -m model.gguf 2>/dev/null\n",
    .groups = GROUPS,
    .n_groups = sizeof GROUPS / sizeof *GROUPS,
    .run = run,
};
