#!/usr/bin/env python3
"""Races a training step against PyTorch on the CPU: same model, batch, threads and minutes.

usage: bench/train_vs_torch.py [--program build/tests/unit_network] [--threads 2] [--rounds 3]
                               [--steps 4] REFERENCE

REFERENCE is a folder with reference_model.py, a PyTorch model `LM` of the trainer's graph. Each
round runs ours, with gradients in bfloat16 and in int8, then PyTorch eager and compiled (bfloat16
autocast), one after the other; the table has the median over rounds of each one's best step and of
the ratios within rounds.
"""
import argparse
import itertools
import re
import statistics
import subprocess
import sys
import time

SIZES = {"novels-3m": {}, "25m": {"dim": 512, "layers": 8, "ffn": 1536}}
ROWS, TOKENS = 16, 256


def ours(program, threads, steps):
    """{size: tokens/s of the best step}"""
    output = subprocess.run([program, "--bench", str(threads), str(steps)], check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    return {m[1]: float(m[2])
            for m in re.finditer(r"^(\S+): .*best (\d+) tokens/s", output, re.MULTILINE)}


class Torch:
    """One size of the reference model in PyTorch, eager or compiled."""

    def __init__(self, torch, model_class, size, compiled):
        config = {"dim": 256, "layers": 4, "heads": 8, "kv": 4, "ffn": 512, "vocab": 4096,
                  "ctx": TOKENS, "theta": 10000.0, "mode": "ternary", **SIZES[size]}
        self.torch = torch
        self.model = model_class(config)
        self.call = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.ids = torch.randint(0, config["vocab"], (ROWS, TOKENS + 1))
        self.step()  # compiles, allocates

    def step(self):
        torch = self.torch
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = self.call(self.ids[:, :-1], self.ids[:, 1:])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return ROWS * TOKENS / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference")
    parser.add_argument("--program", default="build/tests/unit_network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.reference)
    import torch
    from reference_model import LM
    torch.set_num_threads(arguments.threads)

    racers = {(size, kind): Torch(torch, LM, size, kind == "compiled")
              for size in SIZES for kind in ("eager", "compiled")}
    speeds = {}
    for _ in range(arguments.rounds):
        for size, speed in ours(arguments.program, arguments.threads, arguments.steps).items():
            speeds.setdefault((size, "ours"), []).append(speed)
        for key, racer in racers.items():
            speeds.setdefault(key, []).append(max(racer.step() for _ in range(arguments.steps)))

    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, {ROWS} x {TOKENS} tokens, "
          f"medians of {arguments.rounds} rounds")
    print("| model | gradients | ours, tokens/s | eager | compiled | ours / eager | ours / compiled |")
    print("|---|---|---|---|---|---|---|")
    for size, gradients in itertools.product(SIZES, ("bfloat16", "int8")):
        mine = speeds[size + "-int8" * (gradients == "int8"), "ours"]
        peers = [speeds[size, kind] for kind in ("eager", "compiled")]
        row = [f"{statistics.median(s):.0f}" for s in (mine, *peers)]
        row += [f"{statistics.median(a / b for a, b in zip(mine, peer)):.2f}" for peer in peers]
        print(f"| {size} | {gradients} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
