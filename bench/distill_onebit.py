#!/usr/bin/env python3
"""Distils a float model into OneBit students: the table and plot of docs/training.md.

usage: bench/distill_onebit.py [--program build/bitloom] [--preset tiny-1m] [--steps 400] [--lr 1e-3]
                               TEACHER DATA TOKENIZER FOLDER

TEACHER is a run, GGUF file or Hugging Face directory, DATA a token file with a held-out part,
TOKENIZER what made it. --preset has the teacher's shape, which a student that begins at random
cannot ask. Runs are kept in FOLDER and go on where they were when called again. The table has each
student's held-out loss before the first step and at the end, its perplexity as a multiple of the
teacher's, and the bits a weight of its exported linears, vectors included; FOLDER/onebit.svg has the
curves.
"""
import argparse
import json
import math
import pathlib
import subprocess

# What each student has beside its kind of weights.
STUDENTS = {
    "svid": ["--from", "TEACHER", "--teacher", "TEACHER", "--lr", "RATE"],
    "random": ["--preset", "PRESET", "--teacher", "TEACHER"],  # at the preset's rate: it has far to go
    "svid-logits": ["--from", "TEACHER", "--teacher", "TEACHER", "--lr", "RATE",
                    "--set", "distill_hidden=0"],
    "svid-text": ["--from", "TEACHER", "--lr", "RATE"],
}


def first_line(run):
    with open(run / "run.jsonl", encoding="utf-8") as file:
        return json.loads(file.readline())


def linear_bits(program, model):
    """Bits a weight of the linears with both vectors."""
    tensors = json.loads(subprocess.run([program, "inspect", "--json", model], check=True,
                                        stdout=subprocess.PIPE).stdout)["tensors"]
    parts = [t for t in tensors if t["type"] == "bl_b1" or t["name"].endswith(".in_scale")]
    weights = sum(math.prod(t["shape"]) for t in parts if t["type"] == "bl_b1")
    return 8 * sum(t["bytes"] for t in parts) / weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--preset", default="tiny-1m")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--eval-rows", type=int, default=256)
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("tokenizer")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    words = {"TEACHER": args.teacher, "PRESET": args.preset, "RATE": args.lr}
    runs, teacher = [], math.nan
    print("| student | M tokens | start | end | x teacher's perplexity | bits a weight | minutes |\n"
          "|---|---|---|---|---|---|---|", flush=True)
    for name in args.students:
        run = args.folder / name
        runs.append(run)
        command = [args.program, "train", "--json", "--resume", "-o", run, "--weights", "onebit",
                   "--data", args.data, "--tokenizer", args.tokenizer,
                   "--steps", str(args.steps), "--set", f"eval_rows={args.eval_rows}",
                   "--set", f"eval_interval={max(args.steps // 8, 1)}", "--set", "sample_tokens=0",
                   *(words.get(word, word) for word in STUDENTS[name])]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        model = run.with_suffix(".gguf")
        subprocess.run([args.program, "train", "--quiet", "-o", run, "--export", model], check=True)
        start = first_line(run)
        teacher = start.get("teacher", teacher)  # all students but the last have one
        ratio = math.exp(figures["deployed"] - teacher)
        print(f"| {name} | {figures['tokens'] / 1e6:.2f} | {start['validation']:.3f} | "
              f"{figures['deployed']:.4f} | {ratio:.3f} | {linear_bits(args.program, model):.3f} | "
              f"{figures['seconds'] / 60:.1f} |", flush=True)
    print(f"\nteacher: {teacher:.4f}, perplexity {math.exp(teacher):.2f}")
    subprocess.run([args.program, "plot", "--quiet", "-o", args.folder / "onebit.svg",
                    *(run / "run.jsonl" for run in runs)], check=True)


if __name__ == "__main__":
    main()
