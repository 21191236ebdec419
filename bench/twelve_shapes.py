#!/usr/bin/env python3
"""Decode at the twelve shapes that bitnet.cpp was published with (arXiv 2410.16144, table 4), one after the other.

usage: bench/twelve_shapes.py [options]

For each shape: `bitloom dummy` writes its model, `bitloom bench` times generated tokens, `bitloom run` shows the peak
memory, and the model is deleted. The 100B shape takes 20 GB of disk and as much memory. Printed is a row of a
Markdown table as each shape is done: tokens/s, what that reads a second and its share of the bandwidth measured in
the same run, peak resident memory, and the published tokens/s of two machines. A decoded token reads all weights, so
machines compare by tokens/s for each GB/s of their memory (at the small shapes other things hold them back, or caches
help): ours as measured, theirs as the makers state it (Apple:
800 GB/s; i7-13700H: DDR5-5200 on two channels, the fastest DDR5 that it takes: the paper does not say what was in it).

  --program FILE    bitloom (build/bitloom)           --shapes NAME,...  (all twelve)
  --folder DIR      for the models (a new one in /tmp) --type TYPE        of the weights (native, which chooses)
  --threads N       (0: one for each physical core)   --repeats N        (5)
  --tokens N        generated a repeat (0: 128, fewer where a token takes long)
  --json FILE       all figures
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

# tokens/s of bitnet.cpp with as many threads as it liked: Apple M2 Ultra, Intel Core i7-13700H
PUBLISHED = {"125M": (593.43, 389.08), "350M": (281.51, 172.95), "700M": (194.38, 119.08),
             "1B": (169.45, 86.50), "1.5B": (119.24, 67.12), "2.5B": (96.21, 46.33),
             "3.8B": (84.77, 30.51), "7B": (52.36, 18.75), "13B": (33.78, 10.99),
             "30B": (17.07, 5.10), "70B": (8.67, 2.44), "100B": (6.58, 1.70)}
M2_ULTRA, I7_13700H = 800.0, 83.2   # GB/s
READ_A_REPEAT = 320e9               # bytes, about: sets how many tokens a repeat generates


def run(*command):
    """(standard output, seconds, peak resident bytes) of a program."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(map(str, command))}: status {process.returncode}: "
                     + err.read().decode(errors="replace").strip())
        return out.read().decode(), time.monotonic() - start, usage.ru_maxrss * 1024


def measure(shape, path, args):
    written, seconds, _ = run(args.program, "dummy", "--shape", shape, "--type", args.type, "-o", path,
                              "--json", "-q")
    size = json.loads(written)["output_bytes"]
    tokens = args.tokens or int(max(16, min(128, READ_A_REPEAT / size)))
    found = json.loads(run(args.program, "bench", "-m", path, "-p", 0, "-n", tokens, "-r", args.repeats,
                           "-t", args.threads, "--json", "-q")[0])
    row, limits = found["results"][0], found["limits"][0]
    # without the buffer that the limits are measured with
    _, _, peak = run(args.program, "run", "-m", path, "-p", "x", "-n", 32, "-c", 256, "-t", args.threads,
                     "--ignore-eos", "-q")
    bandwidth = limits["read_bandwidth"] * 1e-9
    return dict(shape=shape, file_bytes=size, type=row["model_type"], kernels=found["kernels"],
                threads=row["threads"], tokens=tokens, samples=row["samples"],
                tokens_per_second=row["tokens_per_second"], bytes_per_token=row["bytes_per_token"],
                bandwidth=bandwidth, share_of_bandwidth=row["share_of_bandwidth"], peak_bytes=peak,
                per_bandwidth=row["tokens_per_second"] / bandwidth, dummy_seconds=seconds,
                joules_per_token=row.get("joules_per_token"), energy=row.get("energy"))


def show(row):
    m2, i7 = PUBLISHED[row["shape"]]
    ours = row["per_bandwidth"]
    reads = row["tokens_per_second"] * row["bytes_per_token"] * 1e-9
    print(f"| {row['shape']} | {row['file_bytes'] * 1e-9:.2f} GB {row['type']} | {row['tokens_per_second']:.4g} | "
          f"{reads:.1f} of {row['bandwidth']:.1f} | {100 * row['share_of_bandwidth']:.0f} % | "
          f"{row['peak_bytes'] * 1e-9:.2f} GB | {ours:.4g} | {i7} ({i7 / I7_13700H:.3g}, {ours * I7_13700H / i7:.1f} x) | "
          f"{m2} ({m2 / M2_ULTRA:.3g}, {ours * M2_ULTRA / m2:.1f} x) |", flush=True)


def cpu_name():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--shapes", default=",".join(PUBLISHED))
    parser.add_argument("--folder")
    parser.add_argument("--type", default="native")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    shapes = args.shapes.split(",")
    for shape in shapes:
        if shape not in PUBLISHED:
            sys.exit(f"shape {shape}: expected one of {', '.join(PUBLISHED)}")
    rows = []
    print(f"{time.strftime('%Y-%m-%d')}, {cpu_name()}: python3 {' '.join(sys.argv)}\n")
    print("| shape | model | tokens/s | GB/s read | of bound | peak memory | tokens/s a GB/s | "
          f"i7-13700H, {I7_13700H} GB/s (a GB/s, ours) | M2 Ultra, {M2_ULTRA:.0f} GB/s (a GB/s, ours) |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="bitloom-shapes-", dir=args.folder) as folder:
        for shape in shapes:
            path = pathlib.Path(folder) / f"{shape}.gguf"
            try:
                rows.append(measure(shape, path, args))
            finally:
                path.unlink(missing_ok=True)
            show(rows[-1])
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
