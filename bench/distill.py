#!/usr/bin/env python3
"""Distils a float model into students of fewer bits: the tables and plots of docs/training.md.

usage: bench/distill.py [--program build/bitloom] [--weights onebit|ternary] [--preset tiny-1m]
                        [--steps 400] [--lr 1e-3] [--students NAME ... --] TEACHER DATA TOKENIZER FOLDER

TEACHER is a run, GGUF file or Hugging Face directory, DATA a token file with a held-out part,
TOKENIZER what made it. --preset has the teacher's shape, which a student that begins at random
cannot ask. Runs are kept in FOLDER and go on where they were when called again. The table has each
student's held-out loss before the first step and at the end, its perplexity as a multiple of the
teacher's, and the bits a weight of its exported linears, vectors included; FOLDER/WEIGHTS.svg has the
curves. A student named "own" learns from what the teacher writes: a token file of `bitloom data
generate`, --own.
"""
import argparse
import json
import math
import pathlib
import subprocess

# What each student has beside its kind of weights.
STUDENTS = {
    "states": ["--teacher", "TEACHER"],
    "random": ["--teacher", "TEACHER"],
    "logits": ["--teacher", "TEACHER", "--set", "distill_hidden=0"],
    "relations": ["--teacher", "TEACHER", "--set", "distill_hidden=0", "--set", "RELATIONS"],
    "all": ["--teacher", "TEACHER", "--set", "RELATIONS"],
    "half": ["--teacher", "TEACHER", "--set", "distill_hidden=0", "--set", "distill_hard=0.5"],
    "half-relations": ["--teacher", "TEACHER", "--set", "distill_hidden=0", "--set", "distill_hard=0.5",
                       "--set", "RELATIONS"],
    "own": ["--teacher", "TEACHER"],
    "text": [],
}


def first_line(run):
    with open(run / "run.jsonl", encoding="utf-8") as file:
        return json.loads(file.readline())


def linear_bits(program, model):
    """Bits a weight of the linears with both vectors."""
    tensors = json.loads(subprocess.run([program, "inspect", "--json", model], check=True,
                                        stdout=subprocess.PIPE).stdout)["tensors"]
    parts = [t for t in tensors if t["type"].startswith("bl_") or t["name"].endswith(".in_scale")]
    weights = sum(math.prod(t["shape"]) for t in parts if t["type"].startswith("bl_"))
    return 8 * sum(t["bytes"] for t in parts) / weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--preset", default="tiny-1m")
    parser.add_argument("--weights", choices=["onebit", "ternary"], default="onebit")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", default="0")
    parser.add_argument("--relations", default="1", help="weight of the loss between relations")
    parser.add_argument("--own", help="token file for the student of that name")
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--eval-rows", type=int, default=256)
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=["states", "random", "logits", "text"])
    parser.add_argument("teacher")
    parser.add_argument("data")
    parser.add_argument("tokenizer")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    words = {"TEACHER": args.teacher, "RELATIONS": f"distill_relations={args.relations}"}
    runs, teacher = [], math.nan
    print("| student | M tokens | start | end | x teacher's perplexity | bits a weight | minutes |\n"
          "|---|---|---|---|---|---|---|", flush=True)
    common = ["--weights", args.weights, "--tokenizer", args.tokenizer, "-t", args.threads,
              "--set", f"eval_rows={args.eval_rows}", "--set", "sample_tokens=0"]
    for name in args.students:
        run = args.folder / name
        runs.append(run)
        # At random a student has far to go, at the preset's rate.
        begin = ["--preset", args.preset] if name == "random" else ["--from", args.teacher, "--lr", args.lr]
        command = [args.program, "train", "--json", "--resume", "-o", run, *common, *begin,
                   "--data", args.own if name == "own" else args.data, "--steps", str(args.steps),
                   "--set", f"eval_interval={max(args.steps // 8, 1)}",
                   *(words.get(word, word) for word in STUDENTS[name])]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        model = run.with_suffix(".gguf")
        subprocess.run([args.program, "train", "--quiet", "-o", run, "--export", model], check=True)
        start, end = first_line(run), figures["deployed"]
        if name == "own":  # on the same text as the others
            check = run.with_name("own-check")
            subprocess.run([args.program, "train", "--quiet", "--resume", "-o", check, *common, "--from", run,
                            "--data", args.data, "--steps", "1", "--set", "lambda_steps=0"], check=True)
            end = first_line(check)["validation"]
        else:
            teacher = start.get("teacher", teacher)  # all students but that of the text have one
        print(f"| {name} | {figures['tokens'] / 1e6:.2f} | {start['validation']:.3f} | {end:.4f} | "
              f"{math.exp(end - teacher):.3f} | {linear_bits(args.program, model):.3f} | "
              f"{figures['seconds'] / 60:.1f} |", flush=True)
    print(f"\nteacher: {teacher:.4f}, perplexity {math.exp(teacher):.2f}")
    subprocess.run([args.program, "plot", "--quiet", "-o", args.folder / f"{args.weights}.svg",
                    *(run / "run.jsonl" for run in runs)], check=True)


if __name__ == "__main__":
    main()
