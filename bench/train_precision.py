#!/usr/bin/env python3
"""Trains twins with gradients in bfloat16 and in int8: the table of losses in docs/training.md.

usage: bench/train_precision.py [--program build/bitloom] [--preset tiny-1m] [--steps 500]
                                [--seeds 8] DATA TOKENIZER FOLDER

DATA is a token file with a held-out part, TOKENIZER what it was made with. Runs are kept in FOLDER
and go on where they were when called again.
"""
import argparse
import json
import pathlib
import statistics
import subprocess


def loss_of(args, precision, seed):
    """The held-out loss of what the run exports, in nats a token."""
    run = args.folder / f"{args.preset}-{precision}-{seed}"
    command = [args.program, "train", "--json", "--quiet", "--resume", "-o", run,
               "--data", args.data, "--tokenizer", args.tokenizer, "--preset", args.preset,
               "--steps", str(args.steps), "--seed", str(seed), "--precision", precision,
               "--set", "eval_rows=512"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output)["deployed"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--preset", default="tiny-1m")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("data")
    parser.add_argument("tokenizer")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print("| preset | steps | gradients | mean | lowest | highest |\n|---|---|---|---|---|---|")
    for precision in ("bf16", "int8"):
        losses = [loss_of(args, precision, seed) for seed in range(1, args.seeds + 1)]
        print(f"| {args.preset} | {args.steps} | {precision} | {statistics.mean(losses):.3f} | "
              f"{min(losses):.3f} | {max(losses):.3f} |", flush=True)


if __name__ == "__main__":
    main()
