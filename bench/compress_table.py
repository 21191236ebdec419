#!/usr/bin/env python3
"""Every method of `bitloom compress` on one model: perplexity at windows of 512 and 2048, bits, time.

usage: bench/compress_table.py BITLOOM MODEL.gguf --calibration TEXT --test TEXT -o FOLDER
                               [--samples N] [--length N] [--windows N] [--methods A,B] [--dense f16]

Each method runs in a process of its own, so that peak memory is its own. Results that are already in
FOLDER are taken as they are, so that an interrupted table goes on. Writes FOLDER/table.md and prints
it. pb-llm has no layout of its own and is always written dense. "billm-released" is billm as the
authors' code has it; "-follow" is with --follow.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

METHODS = "rtn,ternary,gptq1,sign-h,pb-llm,billm,billm-released,arb,arb-rc,haar,arb-h,arb-h-follow"


def perplexity(args, model, n_ctx):
    command = [args.bitloom, "perplexity", "-m", model, "-f", args.test, "-c", n_ctx]
    command += ["--protocol", "whole", "--json", "-q"]
    if args.windows:
        command += ["--windows", max(1, args.windows * 512 // n_ctx)]
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["results"][0]["perplexity"]


def run(args, method, folder):
    """The figures of one method, from the folder when they are there."""
    known = folder / f"{method}.json"
    if known.exists():
        return json.loads(known.read_text())
    output = folder / f"{method}.gguf"
    name = method.removesuffix("-released").removesuffix("-follow")
    command = [args.bitloom, "compress", args.model, "-m", name, "--calibration", args.calibration]
    command += ["--samples", args.samples, "--length", args.length, "-o", output, "--json", "-q"]
    if name != method:
        command.append("--released" if method.endswith("-released") else "--follow")
    if args.dense or name == "pb-llm":
        command += ["--dense", args.dense or "f16"]
    print(" ".join(str(c) for c in command), file=sys.stderr)
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    result = json.loads(out.stdout)["results"][0]
    for n_ctx in (512, 2048):
        result[f"perplexity_{n_ctx}"] = perplexity(args, output, n_ctx)
    known.write_text(json.dumps(result))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bitloom")
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=0, help="of 512 tokens; 0 = all of the text")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--dense")
    args = parser.parse_args()
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "| method | nominal bits | true bits | ppl 512 | ppl 2048 | layer error | minutes | in products | peak MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    known = folder / "float.json"
    if not known.exists():
        figures = {str(n): perplexity(args, args.model, n) for n in (512, 2048)}
        known.write_text(json.dumps(figures))
    figures = json.loads(known.read_text())
    lines.append(f"| as it was | | | {figures['512']:.2f} | {figures['2048']:.2f} | | | | |")
    for method in args.methods.split(","):
        r = run(args, method, folder)
        lines.append(
            f"| {method} | {r['nominal_bits']:.2f} | {r['true_bits']:.3f} | {r['perplexity_512']:.4g} | "
            f"{r['perplexity_2048']:.4g} | {r['error']:.4f} | {r['seconds'] / 60:.1f} | "
            f"{100 * r['product_seconds'] / r['seconds']:.0f} % | {r['peak_memory_bytes'] / 2**20:.0f} |"
        )
        (folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
