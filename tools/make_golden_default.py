#!/usr/bin/env python3
"""Writes tests/golden/default/figures.safetensors: what transformers computes with the checkpoint
that the default model of models/ is converted from.

usage: make_golden_default.py HF_DIRECTORY TEXT

Logits are recorded for the first tokens of the text, leaving out those whose int8 activations come
within MARGIN of a rounding boundary (see make_golden_models.py): one flip would change all later
rows by some 0.3 % of the largest logit. Greedy ids follow PROMPT up to the first whose choice such
flips decide.
"""
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_golden_models as golden

MARGIN = 1e-4
N_TOKENS, ROWS, N_GREEDY = 24, [7, 15, 23], 80
PROMPT = "It was a bright morning in"
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


def greedy_tokens(folder, prompt):
    """What transformers generates, as far as it chooses alike in one pass over it all."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = torch.nn.Module.float(model).eval()
    ids = model.generate(torch.tensor([prompt]), max_new_tokens=N_GREEDY, do_sample=False)[0]
    greedy = ids[len(prompt):].numpy()
    logits, _, _ = golden.run_transformers(folder, ids.tolist(), prompt)
    alike = logits.argmax(axis=1)[len(prompt) - 1:-1] == greedy
    n = len(greedy) if alike.all() else int(alike.argmin())
    print(f"{n} of {len(greedy)} greedy tokens are kept")
    return greedy[:n].tolist()


def main():
    folder, text = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text()
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(text):
        return [tokenizer.bos_token_id] + tokenizer.encode(text, add_special_tokens=False)

    model = golden.Forward64(dict(config=config, kind="packed"),
                             load_file(folder / "model.safetensors"))
    ids, exact = safe_tokens(model, encode(text[:20000]), config["num_hidden_layers"])
    logits, _, _ = golden.run_transformers(folder, ids, ids[:golden.N_PROMPT])
    deviation = (np.abs(logits - exact).max(axis=1) / np.abs(exact).max(axis=1)).max()
    assert deviation < 1e-5, deviation
    print(f"transformers deviates from float64 by {deviation:.1e} of the largest logit")
    prompt = encode(PROMPT)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(input_ids=torch.tensor(ids, dtype=torch.int32),
                   rows=torch.tensor(ROWS, dtype=torch.int32),
                   logits=torch.from_numpy(logits[ROWS]).contiguous(),
                   prompt=torch.tensor(prompt, dtype=torch.int32),
                   greedy=torch.tensor(greedy_tokens(folder, prompt), dtype=torch.int32)), OUTPUT)


if __name__ == "__main__":
    main()
