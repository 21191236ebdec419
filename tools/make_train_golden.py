#!/usr/bin/env python3
"""Writes tests/golden/train_tiny.safetensors: what PyTorch computes for a tiny network with float,
ternary and binary weights, for tests/golden/test_train_tiny.c; and train_blend.safetensors, the same
for ternary and binary weights of which quantization has come in by half; and train_layer.safetensors,
where every norm is a LayerNorm without weights. Needs torch and safetensors.

    python3 tools/make_train_golden.py tests/golden/train_tiny.safetensors
    python3 tools/make_train_golden.py tests/golden/train_groups.safetensors 2
    python3 tools/make_train_golden.py tests/golden/train_blend.safetensors 2 half-ternary half-binary
    python3 tools/make_train_golden.py tests/golden/train_layer.safetensors 1 layer-ternary layer-binary layer-float

The second argument is the number of groups (arXiv 2310.11453, "Model parallelism with Group
Quantization and Normalization"): of rows of q, k, v, gate, up, and of columns of o, down with their
inputs. Straight-through gradients, int8 activations per token, sub-norms, gated ReLU^2 or SiLU, RoPE halves,
grouped queries, tied head; AdamW on mean cross-entropy with clipping. Seeds are tried until no value
that is rounded comes near a boundary in any step, so that another order of summation cannot flip it.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

GROUPS = int(sys.argv[2]) if len(sys.argv) > 2 else 1
DIM, FFN, LAYERS, HEADS, KV, VOCAB, CONTEXT = 8, 12, 2, 2, GROUPS, 16, 8
HEAD, ROWS, STEPS, MARGIN = DIM // HEADS, 2, 4, 1.5e-4
LAYER = any(mode.startswith("layer") for mode in sys.argv[3:])
margin = 1.0


def near(x):
    """Remembers how near x, about to be rounded, comes to a half."""
    global margin
    margin = min(margin, ((x.detach() - 0.5) - (x.detach() - 0.5).round()).abs().min().item())


def straight_through(x, quantized, share):
    return x + share * (quantized - x).detach()


def quantize_activations(x, share):
    s = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    near(x * s)
    return straight_through(x, (x * s).round().clamp(-128, 127) / s, share)


def quantize_weights(w, mode, share):
    global margin
    if mode.endswith("ternary"):
        s = 1.0 / w.abs().mean().clamp(min=1e-5)
        near((w * s).clamp(-1, 1))
        return straight_through(w, (w * s).round().clamp(-1, 1) / s, share)
    mean, size = w.mean(), w.abs().mean()
    margin = min(margin, ((w - mean).abs().min() / size).item())
    return straight_through(w, torch.where(w > mean, 1.0, -1.0) * size, share)


def linear(x, w, mode):
    share = 0.5 if mode.startswith("half") else 1.0
    if mode.endswith("float"):
        return F.linear(x, w)
    return F.linear(quantize_activations(x, share), quantize_weights(w, mode, share))


def by_rows(x, w, mode):
    """A linear whose outputs are in groups."""
    return torch.cat([linear(x, part, mode) for part in w.chunk(GROUPS)], -1)


def by_columns(x, w, mode):
    """One whose inputs are."""
    parts = zip(x.chunk(GROUPS, -1), w.chunk(GROUPS, 1))
    return sum(linear(*part, mode) for part in parts)


def norm(x, w):
    if LAYER:  # BitNet's norm has no weights
        return F.layer_norm(x, (x.shape[-1],), eps=1e-5)
    return F.rms_norm(x, (x.shape[-1],), w, 1e-5)


def norm_groups(x, w):
    return torch.cat([norm(*part) for part in zip(x.chunk(GROUPS, -1), w.chunk(GROUPS))], -1)


def rope(x):
    half = HEAD // 2
    frequency = 10000.0 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
    angle = torch.outer(torch.arange(x.shape[-2]).float(), frequency)
    c, s = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def forward(p, ids, mode, silu):
    b, t = ids.shape
    x = p["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        def w(name):
            return p[f"model.layers.{i}.{name}.weight"]

        def heads(name, n):
            return by_rows(z, w(f"self_attn.{name}_proj"), mode).view(b, t, n, HEAD).transpose(1, 2)

        z = norm(x, w("input_layernorm"))
        q, k, v = rope(heads("q", HEADS)), rope(heads("k", KV)), heads("v", KV)
        k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
        x = x + by_columns(norm_groups(a, w("self_attn.attn_sub_norm")), w("self_attn.o_proj"), mode)
        z = norm(x, w("post_attention_layernorm"))
        gate, up = by_rows(z, w("mlp.gate_proj"), mode), by_rows(z, w("mlp.up_proj"), mode)
        g = (F.silu(gate) if silu else F.relu(gate).square()) * up
        x = x + by_columns(norm_groups(g, w("mlp.ffn_sub_norm")), w("mlp.down_proj"), mode)
    return F.linear(norm(x, p["model.norm.weight"]), p["model.embed_tokens.weight"])


def initial():
    shapes = {"model.embed_tokens": (VOCAB, DIM)}
    for i in range(LAYERS):
        a, m = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        shapes[f"model.layers.{i}.input_layernorm"] = (DIM,)
        shapes |= {a + "q_proj": (DIM, DIM), a + "k_proj": (KV * HEAD, DIM)}
        shapes |= {a + "v_proj": (KV * HEAD, DIM), a + "attn_sub_norm": (DIM,), a + "o_proj": (DIM, DIM)}
        shapes[f"model.layers.{i}.post_attention_layernorm"] = (DIM,)
        shapes |= {m + "gate_proj": (FFN, DIM), m + "up_proj": (FFN, DIM)}
        shapes |= {m + "ffn_sub_norm": (FFN,), m + "down_proj": (DIM, FFN)}
    shapes["model.norm"] = (DIM,)
    return {k + ".weight": 0.3 * torch.randn(s) if len(s) == 2 else 1 + 0.2 * torch.randn(s)
            for k, s in shapes.items()}


def train(init, batches, mode, silu):
    p = {k: v.clone().requires_grad_() for k, v in init.items()}
    options = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    optimizer = torch.optim.AdamW(
        [dict(params=[v for v in p.values() if v.ndim == 2], weight_decay=0.1),
         dict(params=[v for v in p.values() if v.ndim == 1], weight_decay=0.0)], **options)
    out, losses, norms = {}, [], []
    for step, ids in enumerate(batches.long()):
        logits = forward(p, ids[:, :-1], mode, silu)
        loss = F.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            out = {f"{mode}.{k}": v.grad.clone() for k, v in p.items() if v.grad is not None}
            out[f"{mode}.logits"] = logits[0].detach().clone()
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    out[f"{mode}.losses"], out[f"{mode}.norms"] = torch.tensor(losses), torch.tensor(norms)
    return out


def main():
    global margin
    torch.set_num_threads(1)
    for seed in range(100000):
        torch.manual_seed(seed)
        margin, tensors = 1.0, {}
        init, batches = initial(), torch.randint(0, VOCAB, (STEPS, ROWS, CONTEXT + 1)).int()
        for mode in sys.argv[3:] or ("ternary", "binary", "float"):
            tensors |= train(init, batches, mode, silu=mode.endswith("binary"))
            if margin < MARGIN:
                break
        else:
            tensors |= {"init." + k: v for k, v in init.items()} | {"batches": batches}
            save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[1])
            print("seed", seed, "margin", margin)
            return


main()
