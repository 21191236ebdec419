#!/usr/bin/env python3
"""Explains rows of logits that differ by int8 activations rounded the other way.

usage: find_flips.py HF_DIRECTORY [LOGITS.safetensors]

The directory holds a checkpoint with int8 activations and expected.safetensors (input_ids, logits).
Every row of `logits`, there or in LOGITS.safetensors, is compared with a float64 forward pass that
rounds exactly. Where a row is off, the activations of that row that lie next to a rounding boundary
are flipped one by one until one brings the row back; that flip is kept for the rows after it, which
attend to what it changed. What is printed is the whole list of flips that separates the logits from
the exact ones, and the largest deviation that is left.
"""
import json
import pathlib
import sys

import numpy as np
from safetensors.torch import load_file

import make_golden_models as golden

OFF = 1e-4        # of the largest logit: a row that needs an explanation
EXPLAINED = 1e-5
REACH = 2e-4      # int8 steps: how far from a boundary float32 sums may err
GROUPS = [0, 0, 0, 1, 2, 2, 3]  # products of a layer -> inputs; q, k, v share one, gate and up too
INPUTS = ["q_proj", "o_proj", "gate_proj", "down_proj"]


class FlippedForward(golden.Forward64):
    """A forward pass in which single activations are rounded the other way."""

    def start(self, flips):
        self.flips, self.calls, self.near = flips, 0, []

    def round_steps(self, steps):
        layer, product = divmod(self.calls, len(GROUPS))
        self.calls += 1
        place = (layer, GROUPS[product])
        distance = np.abs(np.abs(steps) % 1.0 - 0.5)
        if product == GROUPS.index(place[1]):
            self.near += [(float(distance[i]), place, int(i), float(steps[i]))
                          for i in np.flatnonzero(distance < REACH)]
        rounded = np.round(steps)
        for where, element in self.flips:
            if where == place:
                rounded[element] = np.floor(steps[element]) + np.ceil(steps[element]) - \
                    rounded[element]
        return rounded


def run_row(model, token, cache, flips, logits):
    """(deviation from `logits`, new cache, activations near a boundary, nearest first)."""
    model.start(flips)
    row, cache = model.step(token, cache)
    deviation = np.abs(row - logits).max() / np.abs(row).max()
    return deviation, cache, sorted(model.near)


def explain_row(model, token, cache, logits):
    """The flips that explain a row: [(distance, place, element, steps)], deviation left, cache."""
    found = []
    deviation, new_cache, near = run_row(model, token, cache, [], logits)
    while deviation > OFF:
        trials = []
        for candidate in near:
            if candidate[1:3] in [f[1:3] for f in found]:
                continue
            flips = [f[1:3] for f in found + [candidate]]
            trials.append((*run_row(model, token, cache, flips, logits), candidate))
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0] >= deviation:
            break
        deviation, new_cache, near, candidate = best
        found.append(candidate)
    return found, deviation, new_cache


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    online = config["quantization_config"].get("quantization_mode") == "online"
    golden.MASTER_MARGIN = 0.0
    model = FlippedForward(dict(config=config, kind="masters" if online else "packed"),
                           load_file(folder / "model.safetensors"))
    expected = load_file(folder / "expected.safetensors")
    ids = expected["input_ids"].flatten().tolist()
    logits = (load_file(sys.argv[2]) if sys.argv[2:] else expected)["logits"].numpy()
    cache, most, n_unexplained = [[] for _ in range(config["num_hidden_layers"])], 0.0, 0
    for row, token in enumerate(ids):
        found, deviation, cache = explain_row(model, token, cache, logits[row])
        for _, (layer, group), element, steps in found:
            print(f"row {row}: layer {layer} {INPUTS[group]} input {element} = {steps:.6f} int8 "
                  f"steps is rounded the other way")
        if deviation > EXPLAINED:
            n_unexplained += 1
            print(f"row {row}: {deviation:.1e} of the largest logit is left unexplained")
        most = max(most, deviation)
    print(f"{len(ids)} rows, largest deviation left {most:.1e}, {n_unexplained} unexplained")


if __name__ == "__main__":
    main()
