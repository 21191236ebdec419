#!/usr/bin/env python3
"""Trains ternary, binary and float twins on the same tokens: the table and plot of docs/training.md.

usage: bench/train_twins.py [--program build/bitloom] [--steps 800] DATA TOKENIZER FOLDER

DATA is a token file with a held-out part, TOKENIZER what made it. Runs are kept in FOLDER and go on
where they were when called again. The table has each run's validation loss and the size of its
export; FOLDER/twins.svg has the curves.
"""
import argparse
import json
import pathlib
import subprocess

# Quantized weights want the preset's rate; floats end lower with less.
FLOAT_RATES = {"tiny-1m": "6e-3", "5m": "3e-3"}
KINDS = ["ternary", "binary", "float"]


def train(program, settings, run):
    """The closing figures of a run, and its GGUF export's size in bytes."""
    command = [program, "train", "--json", "--resume", "-o", run, *settings]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    model = run.with_suffix(".gguf")
    subprocess.run([program, "train", "--quiet", "-o", run, "--export", model], check=True)
    return figures, model.stat().st_size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("data")
    parser.add_argument("tokenizer")
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print("| size | weights | M tokens | validation, nats a token | beside float | MB |\n"
          "|---|---|---|---|---|---|")
    runs = []
    for size, float_rate in FLOAT_RATES.items():
        rows = []
        for kind in KINDS:
            runs.append(args.folder / f"{size}-{kind}")
            settings = ["--data", args.data, "--tokenizer", args.tokenizer, "--preset", size,
                        "--weights", kind, "--steps", str(args.steps),
                        "--set", "eval_rows=1024"]
            if kind == "float":
                settings += ["--lr", float_rate]
            rows.append((kind, *train(args.program, settings, runs[-1])))
        base = rows[-1][1]["deployed"]
        for kind, figures, n_bytes in rows:
            loss = figures["deployed"]
            print(f"| {size} | {kind} | {figures['tokens'] / 1e6:.2f} | {loss:.4f} | "
                  f"{loss - base:+.4f} | {n_bytes / 1e6:.2f} |")
    subprocess.run([args.program, "plot", "--quiet", "-o", args.folder / "twins.svg",
                    *(run / "run.jsonl" for run in runs)], check=True)


if __name__ == "__main__":
    main()
