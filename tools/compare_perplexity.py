#!/usr/bin/env python3
"""Holds `bitloom perplexity` to llama.cpp's llama-perplexity: the same files, texts and windows.

usage: compare_perplexity.py [options] --llama LLAMA_PERPLEXITY MODEL.gguf[:N_CTX] ... --text TEXT ...

Both cut a text into windows of N_CTX tokens (--ctx), score the second half of each and put BOS in place of its first
token where the vocabulary wants one. Printed per pair: both perplexities and how far ours is from llama.cpp's. Files
must be of types that llama.cpp reads (`bitloom convert --type f32` and `--type tq2_0`, for example).

llama.cpp multiplies Q4_1 with 8-bit activations in blocks of 32, TQ2_0 with blocks of 256, F32 with floats; Bitloom
takes floats where a model was trained with them and int8 for each token where it was trained with that. The cache is
float16 in both. So small differences are expected, and none of them has a direction. Texts are taken without the
whitespace that they begin with: SentencePiece drops it and llama.cpp does not, which moves every window by a token.

    cmake -B build -DLLAMA_CURL=OFF && cmake --build build --target llama-perplexity     (in llama.cpp's directory)
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile


def run(command, merge=False):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, encoding="utf-8",
                          stderr=subprocess.STDOUT if merge else subprocess.PIPE, errors="replace")
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def ours(args, model, text, n_ctx):
    command = [args.bitloom, "perplexity", "-m", model, "-f", text, "-c", n_ctx, "-t", args.threads, "--json", "-q"]
    row = json.loads(run(command + ["--windows", args.windows]))["results"][0]
    return row["perplexity"], row["perplexity_error"], row["windows"]


def theirs(args, model, text, n_ctx):
    command = [args.llama, "-m", model, "-f", text, "-c", n_ctx, "-t", args.threads]
    found = re.search(r"Final estimate: PPL = ([0-9.]+)",
                      run(command + (["--chunks", args.windows] if args.windows else []), merge=True))
    if not found:
        sys.exit(f"{args.llama}: printed no final estimate for {model}")
    return float(found[1])


def compare(args, model, text, n_ctx):
    our, our_error, windows = ours(args, model, text, n_ctx)
    their = theirs(args, model, text, n_ctx)
    print(f"| {pathlib.Path(model).stem} | {text.name} | {windows} x {n_ctx} | {our:.4f} +- {our_error:.2g} | "
          f"{their:.4f} | {100 * (our / their - 1):+.3f} % |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("models", nargs="+", help="GGUF files, each with :N_CTX after it or without")
    parser.add_argument("--llama", required=True, help="llama-perplexity")
    parser.add_argument("--bitloom", default="build/bitloom", help="the program (build/bitloom)")
    parser.add_argument("--text", action="append", required=True, type=pathlib.Path, help="may be repeated")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--windows", type=int, default=20, help="windows of each text; 0 = all (20)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print("| model | text | windows | bitloom | llama.cpp | difference |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for text in args.text:
            texts.append(pathlib.Path(folder) / text.name)
            texts[-1].write_bytes(text.read_bytes().lstrip())
        for entry in args.models:
            model, _, n_ctx = entry.partition(":")
            n_ctx = int(n_ctx or args.ctx)
            for text in texts:
                compare(args, model, text, n_ctx)


if __name__ == "__main__":
    main()
