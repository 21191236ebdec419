#!/usr/bin/env python3
"""Writes tests/golden/default/figures.safetensors: what transformers computes with the checkpoint
that the default model of models/ is converted from.

usage: make_golden_default.py HF_DIRECTORY

The directory holds the checkpoint and expected.safetensors (input_ids of a real text; prompt and
greedy ids, as transformers generates them in float32). Logits are recorded for the tokens of that
text, leaving out those whose int8 activations come within MARGIN of a rounding boundary (see
make_golden_models.py): one flip would change all later rows by some 0.3 % of the largest logit. Greedy ids are kept up to
the first whose choice such flips decide.
"""
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import make_golden_models as golden

MARGIN = 1e-4
N_TOKENS, ROWS = 24, [7, 15, 23]
OUTPUT = golden.FOLDER.parent / "default" / "figures.safetensors"


def safe_tokens(model, ids, n_layers):
    """The first N_TOKENS of ids that leave no rounding in doubt, and their float64 logits."""
    golden.MARGIN = MARGIN
    cache, kept, logits = [[] for _ in range(n_layers)], [], []
    for token in ids:
        try:
            row, cache = model.step(token, cache)
        except golden.Doubtful:
            continue
        kept.append(token)
        logits.append(row)
        if len(kept) == N_TOKENS:
            return kept, np.array(logits)
    sys.exit("too few tokens beyond doubt")


def undisputed(folder, prompt, greedy):
    """How many greedy tokens transformers chooses alike when it generates and in one pass."""
    logits, _, _ = golden.run_transformers(folder, prompt + greedy, prompt)
    best = logits.argmax(axis=1)[len(prompt) - 1:-1]
    return int((best == np.array(greedy)).argmin()) if (best != greedy).any() else len(greedy)


def main():
    folder = pathlib.Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text())
    expected = load_file(folder / "expected.safetensors")
    model = golden.Forward64(dict(config=config, kind="packed"),
                             load_file(folder / "model.safetensors"))
    ids, exact = safe_tokens(model, expected["input_ids"].flatten().tolist(),
                             config["num_hidden_layers"])
    logits, _, _ = golden.run_transformers(folder, ids, ids[:golden.N_PROMPT])
    deviation = (np.abs(logits - exact).max(axis=1) / np.abs(exact).max(axis=1)).max()
    assert deviation < 1e-5, deviation
    print(f"transformers deviates from float64 by {deviation:.1e} of the largest logit")
    prompt, greedy = expected["prompt"].tolist(), expected["greedy"].tolist()
    n = undisputed(folder, prompt, greedy)
    print(f"{n} of {len(greedy)} greedy tokens are kept")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(input_ids=torch.tensor(ids, dtype=torch.int32),
                   rows=torch.tensor(ROWS, dtype=torch.int32),
                   logits=torch.from_numpy(logits[ROWS]).contiguous(),
                   prompt=torch.tensor(prompt, dtype=torch.int32),
                   greedy=torch.tensor(greedy[:n], dtype=torch.int32)), OUTPUT)


if __name__ == "__main__":
    main()
