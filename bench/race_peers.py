#!/usr/bin/env python3
"""Races `bitloom bench` against other engines' llama-bench on random models of the same shape.

usage: bench/race_peers.py [options] --ours LABEL=MODEL.gguf ... --peer LABEL=BINARY,MODEL.gguf[,ARG...] ...

A peer is anything that takes llama-bench's -m -p -n -t -r -o json and prints its JSON: llama.cpp's, ik_llama.cpp's
(add the arguments -rtr,1 for repacked weights), microsoft/BitNet's. Models of random weights come from `bitloom dummy
--shape SHAPE` and bench/peer_model.py. Every round runs each of them once for each number of threads, one after the
other, so that a machine whose speed drifts drifts for all; printed are medians over the rounds, ratios of those
medians to the best peer's, the spread, and our shares of what the machine gives, measured in the same rounds.

  --program FILE   bitloom (build/bitloom)       --threads N,...  (1,2)    --rounds N  (5)
  --prompt N       (512, 0: none)                --generate N     (128, 0: none)
  --cap LEVEL      BITLOOM_CPU for ours          --before CMD     run before each command, as a prefix
  --json FILE      all samples; those that FILE has from before count too    --repeats N  samples a run (1)
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys


def run(command, env):
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: exit status {done.returncode}\n"
                 + done.stderr.decode(errors="replace")[-2000:])
    return json.loads(done.stdout)


class Engine:
    """One engine with one model: samples by (test, threads)."""

    def __init__(self, label, command, is_ours):
        self.label, self.command, self.is_ours = label, command, is_ours
        self.samples, self.shares = {}, {}

    def race(self, test, threads, options, env):
        n = {"pp": options.prompt, "tg": options.generate}[test]
        flags = {"pp": ["-p", str(n), "-n", "0"], "tg": ["-p", "0", "-n", str(n)]}[test]
        command = options.before + self.command + flags
        command += ["-t", str(threads), "-r", str(options.repeats)]
        result = run(command + (["--json", "-q"] if self.is_ours else ["-o", "json"]), env)
        key = (test, threads)
        if self.is_ours:
            row = result["results"][0]
            found = row["samples"]
            share = row["share_of_int8_peak" if test == "pp" else "share_of_bandwidth"]
            self.shares.setdefault(key, []).append(share)
            self.bytes_per_token = row["bytes_per_token"]
        else:
            rows = [row for row in result if row["n_prompt" if test == "pp" else "n_gen"] == n]
            found = rows[0]["samples_ts"]
        self.samples.setdefault(key, []).extend(found)

    def median(self, key):
        return statistics.median(self.samples[key])


def table(engines, keys, options):
    names = {"pp": f"prefill {options.prompt}", "tg": f"decode {options.generate}"}
    peers = [e for e in engines if not e.is_ours]
    lines = ["| engine | " + " | ".join(f"{names[k]}, {n} thread{'s' * (n > 1)}" for k, n in keys) + " |",
             "|---|" + "---|" * len(keys)]
    for e in engines:
        cells = []
        for key in keys:
            s = e.samples[key]
            cell = f"{e.median(key):.1f} ({min(s):.1f} - {max(s):.1f})"
            if e.is_ours:
                cell += f", {100 * statistics.median(e.shares[key]):.0f} % of " + (
                    "int8 peak" if key[0] == "pp" else "bandwidth")
            cells.append(cell)
        lines.append(f"| {e.label} | " + " | ".join(cells) + " |")
    for e in (e for e in engines if e.is_ours and peers):
        cells = []
        for key in keys:
            best = max(peers, key=lambda p: p.median(key))
            cells.append(f"**{e.median(key) / best.median(key):.2f} x** {best.label}")
        lines.append(f"| {e.label} / best peer | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=True)
    parser.add_argument("--program", default="build/bitloom")
    parser.add_argument("--ours", action="append", default=[])
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--cap")
    parser.add_argument("--before", default="", type=shlex.split)
    parser.add_argument("--json", dest="output")
    options = parser.parse_args()
    if not options.ours:
        parser.error("expected at least one --ours LABEL=MODEL.gguf")
    return options


def main():
    options = parse()
    env = dict(os.environ)
    ours_env = dict(env, BITLOOM_CPU=options.cap) if options.cap else env
    engines = []
    for text in options.ours:
        label, model = text.split("=", 1)
        engines.append(Engine(label, [options.program, "bench", "-m", model], True))
    for text in options.peer:
        label, rest = text.split("=", 1)
        binary, model, *arguments = rest.split(",")
        engines.append(Engine(label, [binary, "-m", model] + arguments, False))
    tests = ["pp"] * bool(options.prompt) + ["tg"] * bool(options.generate)
    keys = [(test, int(n)) for test in tests for n in options.threads.split(",")]
    if options.output and os.path.exists(options.output):
        with open(options.output) as file:
            for row in json.load(file):
                for e in (e for e in engines if e.label == row["engine"]):
                    e.samples[row["test"], row["threads"]] = row["samples"]
                    e.shares[row["test"], row["threads"]] = row["shares"] or []
    for i in range(options.rounds):
        for key in keys:
            for e in engines:
                e.race(*key, options, ours_env if e.is_ours else env)
                print(f"round {i + 1}: {e.label}, {key[0]}, {key[1]} threads: "
                      f"{e.samples[key][-1]:.2f} tokens/s", file=sys.stderr, flush=True)
    print(table(engines, keys, options))
    if options.output:
        rows = [{"engine": e.label, "test": key[0], "threads": key[1], "samples": e.samples[key],
                 "shares": e.shares.get(key)} for e in engines for key in keys]
        with open(options.output, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
