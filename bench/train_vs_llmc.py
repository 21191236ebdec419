#!/usr/bin/env python3
"""Races a training step in floats against llm.c's CPU trainer at GPT-2's smallest shape.

usage: bench/train_vs_llmc.py [--program build/tests/unit_network] [--threads 2] [--rounds 3]
                              [--steps 3] TRAIN_GPT2

TRAIN_GPT2 is llm.c's train_gpt2, built as its Makefile does (-Ofast -march=native -fopenmp). It
gets a checkpoint of random weights and random tokens, and trains on 4 rows of 64 tokens; so do we,
on a network of the same width, depth, heads, vocabulary and number of weights. Not the same: our
FFN is gated (three matrices of 2048 instead of two of 3072), positions are rotations instead of
learned, there are no biases, and norms are RMS norms. Each round runs one after the other; the
table has the medians over rounds of each one's best step, its first apart.
"""
import argparse
import array
import os
import random
import re
import statistics
import subprocess
import tempfile

LAYERS, HEADS, DIM, CONTEXT, VOCAB, PADDED_VOCAB = 12, 12, 768, 1024, 50257, 50304
ROWS, TOKENS = 4, 64


def write_ints(file, values):
    array.array("i", values + [0] * (256 - len(values))).tofile(file)


def write_checkpoint(path):
    """Format 3: 256 ints, then float32 tensors one after the other, each over all layers."""
    noise = array.array("f", [random.gauss(0, 0.02) for _ in range(1 << 16)])
    ones, zeros = array.array("f", [1.0]), array.array("f", [0.0])
    n = LAYERS * DIM
    tensors = [(PADDED_VOCAB * DIM, noise), (CONTEXT * DIM, noise),
               (n, ones), (n, zeros), (3 * n * DIM, noise), (3 * n, zeros),  # norm, q k v
               (n * DIM, noise), (n, zeros),  # o
               (n, ones), (n, zeros), (4 * n * DIM, noise), (4 * n, zeros),  # norm, up
               (4 * n * DIM, noise), (n, zeros),  # down
               (DIM, ones), (DIM, zeros)]
    with open(path, "wb") as file:
        write_ints(file, [20240326, 3, CONTEXT, VOCAB, LAYERS, HEADS, DIM, PADDED_VOCAB])
        for size, values in tensors:
            block = values * -(-min(size, 1 << 16) // len(values))
            for at in range(0, size, len(block)):
                block[:size - at].tofile(file)


def write_tokens(path):
    with open(path, "wb") as file:
        write_ints(file, [20240520, 1, 1 << 16])
        array.array("H", [random.randrange(VOCAB) for _ in range(1 << 16)]).tofile(file)


def prepare(folder):
    data = os.path.join(folder, "dev", "data", "tinyshakespeare")
    os.makedirs(data)
    write_checkpoint(os.path.join(folder, "gpt2_124M.bin"))
    for part in ("train", "val"):
        write_tokens(os.path.join(data, f"tiny_shakespeare_{part}.bin"))


def theirs(program, folder, threads, steps):
    """Tokens/s of the best of some steps; the program is ended after them."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    times = []
    with subprocess.Popen(["stdbuf", "-oL", program], cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for line in process.stdout:
            found = re.match(r"step \d+: train loss .* \(took ([\d.]+) ms\)", line)
            if found:
                times.append(float(found[1]))
            if len(times) > steps:
                break
        process.kill()
    if len(times) < 2:
        raise SystemExit(f"{program}: no steps")
    return ROWS * TOKENS * 1000 / min(times[1:])


def ours(program, threads, steps):
    """{precision: tokens/s of the best step}"""
    output = subprocess.run([program, "--bench", str(threads), str(steps), "gpt2"], check=True,
                            text=True, stdout=subprocess.PIPE).stdout
    return {m[1]: float(m[2])
            for m in re.finditer(r"^gpt2-(\S+): .*best (\d+) tokens/s", output, re.MULTILINE)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train_gpt2")
    parser.add_argument("--program", default="build/tests/unit_network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    arguments = parser.parse_args()
    peer = os.path.abspath(arguments.train_gpt2)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for _ in range(arguments.rounds):
            rounds.append({**ours(arguments.program, arguments.threads, arguments.steps),
                           "llm.c": theirs(peer, folder, arguments.threads, arguments.steps)})
    print(f"GPT-2's smallest shape, {arguments.threads} threads, {ROWS} x {TOKENS} tokens, "
          f"medians of {arguments.rounds} rounds")
    print("| trainer | tokens/s | / llm.c |")
    print("|---|---|---|")
    for name in rounds[0]:
        speed = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["llm.c"] for r in rounds)
        print(f"| {name if name == 'llm.c' else 'ours, ' + name} | {speed:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
