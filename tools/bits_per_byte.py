#!/usr/bin/env python3
"""What transformers, in float32, says of a held-out text: nats a token and bits a byte.

usage: bits_per_byte.py HF_DIRECTORY TEXT [WINDOW]

BOS and the text are cut into windows of WINDOW tokens (256), all of whose successors count; what is
left over at the end does not. The figures of models/README.md.

    pip install torch "transformers==5.23.*" accelerate
"""
import math
import os
import pathlib
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 16


def main():
    folder, text = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()
    window = int(sys.argv[3]) if len(sys.argv) > 3 else 256
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = torch.nn.Module.float(model).eval()  # packed checkpoints are not widened by dtype alone
    ids = [tokenizer.bos_token_id] + tokenizer.encode(text, add_special_tokens=False)
    n = (len(ids) - 1) // window
    rows = [torch.tensor(ids[i * window:(i + 1) * window + 1]) for i in range(n)]
    nats = 0.0
    with torch.no_grad():
        for i in range(0, n, BATCH):
            batch = torch.stack(rows[i:i + BATCH])
            logits = model(batch[:, :-1]).logits.flatten(0, 1)
            nats += torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten(),
                                                      reduction="sum").item()
    n_bytes = len(tokenizer.decode(ids[1:n * window + 1]).encode())
    print(f"{n} windows of {window}: {nats / n / window:.4f} nats a token, "
          f"{nats / math.log(2) / n_bytes:.4f} bits a byte")


if __name__ == "__main__":
    main()
