#!/usr/bin/env python3
"""BiLLM's released code, run by PyTorch on the CPU, beside `bitloom compress -m billm`: the same model,
calibration tokens and windows; perplexities, and the error of each layer's matrices.

usage: bench/compress_vs_billm.py BITLOOM MODEL.gguf CHECKOUT --calibration TEXT --test TEXT
                                  [--samples N] [--length N] [--windows N] [--ours METHOD] [--layers N]

CHECKOUT is a clone of github.com/Aaronhuang-778/BiLLM, whose classes are imported and called as its
run.py does; its prints and its CUDA calls are switched off. Needs torch, transformers, gguf and, for
each layer of SmolLM2-135M, more than a minute of one core: theirs searches with whole matrices.
--layers stops theirs early, for the errors alone.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MASK = (1 << 64) - 1


class Random:
    """xoshiro256** seeded by SplitMix64, as src/base/random.h has it."""

    def __init__(self, seed):
        self.s = []
        for _ in range(4):
            seed = z = (seed + 0x9E3779B97F4A7C15) & MASK
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            self.s.append(z ^ (z >> 31))

    def below(self, n):
        def rotate(x, k):
            return ((x << k) | (x >> (64 - k))) & MASK

        s = self.s
        result = rotate(s[1] * 5 & MASK, 7) * 9 & MASK
        t = s[1] << 17 & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 45)
        return int((result >> 11) * 2.0**-53 * n)


def import_theirs(checkout):
    """Their classes, without what they import and do not use, and without CUDA."""
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    for name, attribute in (("exceptiongroup", "catch"), ("pyparsing", "line")):
        try:
            __import__(name)
        except ImportError:
            module = sys.modules[name] = types.ModuleType(name)
            setattr(module, attribute, None)
    transformers.Conv1D = Conv1D
    torch.cuda.synchronize = lambda *_: None
    sys.path.insert(0, str(checkout))
    import bigptq
    import binary
    import utils.structure

    bigptq.print = utils.structure.print = lambda *_, **__: None
    return bigptq.BRAGPTQ, binary.Binarization


def tokens_of(args, path):
    text = Path(path).read_bytes()
    command = [args.bitloom, "tokenize", "-m", args.model, "--ids", "--no-bos", "--no-special"]
    out = subprocess.run(command, input=text, check=True, capture_output=True)
    return [int(word) for word in out.stdout.split()]


def perplexity(model, ids, args):
    import torch

    total = 0
    with torch.no_grad():
        for w in range(args.windows):
            x = torch.tensor([ids[w * 512 : (w + 1) * 512]])
            logs = model(x).logits.log_softmax(-1)[0, :-1]
            total -= logs.gather(1, x[0, 1:, None]).double().sum().item()
    return math.exp(total / (args.windows * 511))


def compress_theirs(model, samples, classes, n_layers):
    """Their quant_sequential on the model; the relative error of each matrix."""
    import torch

    gptq, binarization = classes
    errors = {}
    with torch.no_grad():
        h = model.model.embed_tokens(samples)
        rope = model.model.rotary_emb(h, torch.arange(samples.shape[1])[None])
        for i, layer in enumerate(model.model.layers[:n_layers]):
            linears = {n: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
            made = {
                n: gptq(m, binarization(m.weight, method="braq", groupsize=128), "hessian")
                for n, m in linears.items()
            }
            hooks = [
                m.register_forward_hook(
                    lambda _, given, out, n=n: made[n].add_batch(given[0].data, out.data)
                )
                for n, m in linears.items()
            ]

            def forward():
                outs = [layer(h[j : j + 1], position_embeddings=rope) for j in range(len(h))]
                outs = [o[0] if isinstance(o, tuple) else o for o in outs]
                return torch.cat([o.reshape(1, *h.shape[1:]) for o in outs])

            forward()
            for hook in hooks:
                hook.remove()
            for short, n in NAMES.items():
                hessian, before = made[n].H.clone(), linears[n].weight.data.clone()
                made[n].fasterquant(blocksize=128)
                rest = before - linears[n].weight.data
                left = ((rest @ hessian) * rest).sum() / ((before @ hessian) * before).sum()
                errors[f"blk.{i}.{short}.weight"] = left.item()
            h = forward()
            print(f"their layer {i}", file=sys.stderr, flush=True)
    return errors


def compress_ours(args, folder):
    output = Path(folder) / "ours.gguf"
    command = [args.bitloom, "compress", args.model, "-m", args.ours, "-o", output, "--json", "-q"]
    command += ["--calibration", args.calibration, "--samples", args.samples, "--length", args.length]
    command += ["--test", args.test, "--windows", args.windows]
    out = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("bitloom", "model", "checkout"):
        parser.add_argument(name)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--ours", default="billm")
    parser.add_argument("--layers", type=int, default=1 << 20)
    args = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(args.model)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    classes = import_theirs(Path(args.checkout))
    ids, test = tokens_of(args, args.calibration), tokens_of(args, args.test)
    random = Random(0)
    starts = [random.below(len(ids) - args.length + 1) for _ in range(args.samples)]
    samples = torch.tensor([ids[s : s + args.length] for s in starts])
    print(f"float, theirs: {perplexity(model, test, args):.4f}")
    errors = compress_theirs(model, samples, classes, args.layers)
    theirs = perplexity(model, test, args)
    with tempfile.TemporaryDirectory() as folder:
        figures = compress_ours(args, folder)
    ours = figures["results"][0]
    print(f"float, ours:   {figures['perplexity']:.4f}\n")
    print("| layer | theirs | ours |\n|---:|---:|---:|")
    mine = {m["name"]: m["error"] for m in ours["matrices"]}
    for i in range(len(errors) // len(NAMES)):
        names = [f"blk.{i}.{short}.weight" for short in NAMES]
        print(f"| {i} | {sum(errors[n] for n in names) / 7:.4f} | {sum(mine[n] for n in names) / 7:.4f} |")
    print(f"\nperplexity: theirs {theirs:.2f}, ours {ours['perplexity']:.2f}, ratio {ours['perplexity'] / theirs:.3f}")


if __name__ == "__main__":
    main()
