/* Training of 1-bit models from scratch: BitNet (binary, arXiv 2310.11453), BitNet b1.58 (ternary,
 * arXiv 2402.17764) and their full-precision twins; OneBit (arXiv 2402.11295), and students that
 * learn from a teacher.
 *
 * A run is a directory: run.jsonl (metrics and samples, a line a step), step-00000250.safetensors
 * (checkpoints), best.safetensors (the one of the lowest validation loss). A run that was stopped
 * at any moment, by a crash too, goes on to the same weights, bit for bit and at any thread count.
 * One directory belongs to one call at a time; a second one is refused.
 *
 * Under mpirun, processes that all call bl_train() with the same arguments, once each, share a run:
 * rows and held-out data are dealt out, and every one keeps the optimizer's state of its part of
 * the weights (and, as the recipe's tensor_parallel says, only a part of the network). They give
 * the losses of one process but for the order of sums, and the same bits every time for the same
 * number of processes. All must see the same files. Only process 0 writes, calls back, and has an
 * error's message: where the message is empty, it has told. */
#ifndef BITLOOM_TRAIN_H
#define BITLOOM_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitloom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a step came to. */
typedef struct bl_train_step {
    uint64_t step, n_steps; /* 1 ... n_steps */
    uint64_t tokens;        /* trained on since the first step */
    double loss, smoothed;  /* nats a token; running mean of some 20 steps */
    double hidden;          /* loss between hidden states, a token; NaN without one */
    double relations;       /* loss between attention relations, likewise */
    double rate, decay;
    double gradient_norm; /* before clipping */
    double flips;         /* share of quantized weights that the step before changed the code of */
    double lambda;        /* how far quantization had come in, 0 ... 1 */
    double tokens_per_second, seconds_left;
    bool validated;     /* this step measured held-out data: */
    double validation;  /* nats a token */
    double best;        /* lowest so far */
    const char *sample; /* a text by the weights of this step (UTF-8, prompt first), or NULL */
} bl_train_step;

typedef struct bl_train_report bl_train_report;

typedef struct bl_train_params {
    const char *recipe;          /* a JSON file (bitloom-train(1) lists its keys), or NULL */
    const char *const *settings; /* "key=value" each, in place of the recipe's */
    size_t n_settings;
    const char *output; /* the run's directory, made when it is not there */
    bool resume;        /* go on after the last checkpoint; from the start when there is none. The
                           recipe is the checkpoint's unless one is given */
    uint32_t n_threads; /* 0 = all physical cores */
    /* Called before the first step; of the report n_params, n_quantized, memory_bytes,
     * activation_bytes, teacher and compute are set. May be NULL. */
    void (*begin)(void *user, const bl_train_report *report);
    /* Called after every step, and before the first one with a model to start from as it came
     * (step 0, no loss); returns false to cancel. May be NULL. */
    bool (*progress)(void *user, const bl_train_step *step);
    /* Called with a line about what went wrong but was mended. May be NULL. */
    void (*warn)(void *user, const char *message);
    void *user;
} bl_train_params;

enum { BL_TRAIN_MAX_SIZES = 8 };
typedef struct bl_train_size {
    const char *layout; /* of the linear weights; "f32": masters */
    uint64_t bytes;     /* of all weights of an export; the tokenizer comes on top */
} bl_train_size;

struct bl_train_report {
    uint64_t n_steps, tokens;
    uint64_t n_params, n_quantized; /* weights, and those of them in quantized linears */
    uint64_t memory_bytes;          /* of network and optimizer */
    uint64_t activation_bytes;      /* those of them that wait for the backward pass */
    uint64_t rollbacks;
    double smoothed;
    double validation, best; /* NaN without held-out data */
    double deployed;         /* validation loss of what is exported: in float32, rounded */
    double bits_per_byte;    /* of text, by that loss; NaN when the text's size is not known */
    double teacher;          /* the teacher's validation loss; NaN without one */
    double flips[3];         /* mean over the run's first, middle and last tenth; NaN: not logged */
    bl_train_size sizes[BL_TRAIN_MAX_SIZES]; /* [n_sizes] */
    size_t n_sizes;
    double seconds;       /* of all parts of the run together */
    char compute[64];     /* what products were computed in: "bf16 avx512bf16" */
    uint32_t n_processes; /* that shared the run */
    uint32_t process;     /* which of them this one is */
};

/* Trains to the recipe's last step. A run starts from random weights or, with the recipe's "from",
 * from those of a model: a GGUF file, a Hugging Face directory, a run or checkpoint of bl_train().
 * That model decides what the recipe does not say of sizes and tokenizer. It must be one that the
 * trainer's network can take (gated feed-forward blocks, a tied head, no biases, plain RoPE) and
 * not be ternary already: anything else is refused by name, BL_ERR_UNSUPPORTED. With "teacher", the
 * same kinds of model, a run learns from that one's distribution in place of the text's next tokens
 * ("distill_hard": or from both), from its hidden states ("distill_hidden") and from its attention
 * relations ("distill_relations"). A step whose loss is not finite or far above the ones before
 * ("spike") is undone: the run goes back to its last checkpoint, passes over the data since, and
 * warns; the third time in a row is an error. report may be NULL.
 * Errors: BL_ERR_ARGUMENT (recipe, settings, a directory that has a run already), BL_ERR_NOT_FOUND,
 * BL_ERR_FORMAT (data, a checkpoint that is cut short or of another model), BL_ERR_IO (a full disk;
 * a directory that another call trains in; the checkpoints before stay), BL_ERR_LIMIT (the run
 * diverges), BL_ERR_CANCELLED (after writing a checkpoint), BL_ERR_UNSUPPORTED (started by mpirun,
 * and there is no MPI), BL_ERR_MEMORY. */
bl_status bl_train(const bl_train_params *params, bl_train_report *report, bl_error *err);

/* Name and version of the MPI library that runs of several processes use. NULL when there is none;
 * reason, unless NULL, then says why. */
const char *bl_train_mpi(bl_error *reason);

/* Writes a trained model as a Hugging Face directory: config.json, model.safetensors and the
 * recipe's tokenizer. run: a run's directory (its last checkpoint) or a checkpoint file.
 * Quantized weights are packed as transformers packs them for BitNet b1.58 (2 bits, weight_scale
 * multiplies), binary ones too: -1 and +1 are ternary values. The rest becomes bfloat16.
 * Models with LayerNorms have a class that only bl_convert() knows.
 * Float models, and with `masters` ternary ones, are written in float32; transformers and
 * bl_convert() quantize masters as the trainer does.
 * Errors: those of reading; BL_ERR_UNSUPPORTED for a run whose quantization is still coming in
 * ("lambda_steps"), for masters of a binary model, which no known configuration can say how to
 * quantize, for models in groups and for onebit ones; BL_ERR_IO. config.json is written last. */
bl_status bl_train_export(const char *run, const char *directory, bool masters, bl_error *err);

/* Writes it as a GGUF file that bl_model_open() reads, quantized weights in the native layout: what
 * bl_convert() makes of the directory, to the byte. Onebit linears are signs with a scale a row,
 * and float16 (masters: float32) scales of their inputs beside them. The embedding is bfloat16,
 * with `masters` float32, and norms are rounded as that says. Errors: those of reading;
 * BL_ERR_FORMAT for a tokenizer that does not fit; BL_ERR_IO. */
bl_status bl_train_export_gguf(const char *run, const char *path, bool masters, bl_error *err);

#ifdef __cplusplus
}
#endif
#endif
