#!/usr/bin/env python3
"""Writes tests/golden/train_tiny.safetensors: what PyTorch computes for a tiny network with float,
ternary and binary weights, for tests/golden/test_train_tiny.c; and train_blend.safetensors, the same
for ternary and binary weights of which quantization has come in by half; and train_layer.safetensors,
where every norm is a LayerNorm without weights; and train_distill.safetensors, for
tests/golden/test_train_distill.c: OneBit (arXiv 2402.11295), and students of a teacher, with the
losses of BitDistill (arXiv 2510.13998) too. Needs torch and safetensors.

    python3 tools/make_train_golden.py tests/golden/train_tiny.safetensors
    python3 tools/make_train_golden.py tests/golden/train_groups.safetensors 2
    python3 tools/make_train_golden.py tests/golden/train_blend.safetensors 2 half-ternary half-binary
    python3 tools/make_train_golden.py tests/golden/train_layer.safetensors 1 layer-ternary layer-binary layer-float
    python3 tools/make_train_golden.py tests/golden/train_distill.safetensors 1 onebit distill-onebit distill-ternary distill-bitdistill-ternary

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
HARD, HIDDEN = 0.25, 0.5  # weights of the losses of students
TEMPERATURE, RELATIONS, RELATION_HEADS, RELATION_TEMPERATURE = 2.0, 3.0, 2, 0.5  # of BitDistill's
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
    if mode.endswith(("float", "onebit")):
        return F.linear(x, w)
    return F.linear(quantize_activations(x, share), quantize_weights(w, mode, share))


def onebit(p, name):
    """The weights of a linear of latent weights and two vectors."""
    global margin
    latent = p[name + ".weight"]
    margin = min(margin, latent.abs().min().item())
    sign = straight_through(latent, torch.where(latent < 0, -1.0, 1.0), 1.0)
    return p[name + ".weight_scale"][:, None] * sign * p[name + ".input_factor"]


def add_vectors(p):
    """SVID: the leading singular vectors of |W|, each with the root of the singular value."""
    for name in [k[:-len(".weight")] for k in p if k.endswith("_proj.weight")]:
        u, s, v = torch.linalg.svd(p[name + ".weight"].double().abs())
        p[name + ".weight_scale"] = (u[:, 0].abs() * s[0].sqrt()).float()
        p[name + ".input_factor"] = (v[0].abs() * s[0].sqrt()).float()
    return p


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
    """Logits, what every layer leaves in the residual stream, q, k and v of the first."""
    b, t = ids.shape
    x, states, projections = p["model.embed_tokens.weight"][ids], [], []
    for i in range(LAYERS):
        def w(name):
            name = f"model.layers.{i}.{name}"
            return onebit(p, name) if name + ".input_factor" in p else p[name + ".weight"]

        def heads(name, n):
            return by_rows(z, w(f"self_attn.{name}_proj"), mode).view(b, t, n, HEAD).transpose(1, 2)

        z = norm(x, w("input_layernorm"))
        q, k, v = rope(heads("q", HEADS)), rope(heads("k", KV)), heads("v", KV)
        projections = projections or [s.transpose(1, 2).reshape(b, t, -1) for s in (q, k, v)]
        k, v = k.repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, -1)
        x = x + by_columns(norm_groups(a, w("self_attn.attn_sub_norm")), w("self_attn.o_proj"), mode)
        z = norm(x, w("post_attention_layernorm"))
        gate, up = by_rows(z, w("mlp.gate_proj"), mode), by_rows(z, w("mlp.up_proj"), mode)
        g = (F.silu(gate) if silu else F.relu(gate).square()) * up
        x = x + by_columns(norm_groups(g, w("mlp.ffn_sub_norm")), w("mlp.down_proj"), mode)
        states.append(x)
    return F.linear(norm(x, p["model.norm.weight"]), p["model.embed_tokens.weight"]), states, projections


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


def distill(logits, states, teacher_logits, teacher_states, targets, temperature):
    """Both losses, means over the tokens."""
    soft = F.cross_entropy(logits / temperature, (teacher_logits / temperature).softmax(-1).detach())
    hidden = sum((F.normalize(t.detach(), dim=-1) - F.normalize(x, dim=-1)).square().sum(-1).mean()
                 for t, x in zip(teacher_states, states))
    return (1 - HARD) * soft + HARD * F.cross_entropy(logits, targets), hidden


def relate(projection):
    """Logarithms of the relations between the tokens of one projection: [batch, head, token, token]."""
    b, t, dim = projection.shape
    heads = projection.view(b, t, RELATION_HEADS, dim // RELATION_HEADS).transpose(1, 2)
    cosines = F.cosine_similarity(heads[:, :, :, None], heads[:, :, None], dim=-1)
    return (cosines / RELATION_TEMPERATURE).log_softmax(-1)


def relation_loss(projections, teacher_projections):
    """KL divergences, mean over tokens and heads, sum over queries, keys and values."""
    pairs = [(relate(t).detach(), relate(x)) for t, x in zip(teacher_projections, projections)]
    return sum((t.exp() * (t - x)).sum(-1).mean() for t, x in pairs)


def train(init, teacher, batches, mode, silu):
    p = {k: v.clone() for k, v in init.items()}
    p = add_vectors(p) if mode.endswith("onebit") else p
    vectors = {"init." + k: v.clone() for k, v in p.items() if k not in init}
    p = {k: v.requires_grad_() for k, v in p.items()}
    options = dict(lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    optimizer = torch.optim.AdamW(
        [dict(params=[v for v in p.values() if v.ndim == 2], weight_decay=0.1),
         dict(params=[v for v in p.values() if v.ndim == 1], weight_decay=0.0)], **options)
    out, losses, norms, hidden_losses, relation_losses = {}, [], [], [], []
    relates = "-bitdistill" in mode
    for step, ids in enumerate(batches.long()):
        logits, states, projections = forward(p, ids[:, :-1], mode, silu)
        rows, targets, hidden, relations = logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1), 0, 0
        loss = F.cross_entropy(rows, targets)
        if mode.startswith("distill"):
            other, others, taught = forward(teacher, ids[:, :-1], "float", silu)
            loss, hidden = distill(rows, states, other.reshape(-1, VOCAB), others, targets,
                                   TEMPERATURE if relates else 1.0)
            hidden_losses.append(hidden.item())
            relations = relation_loss(projections, taught) if relates else torch.zeros(())
            relation_losses.append(relations.item())
        optimizer.zero_grad()
        (loss + HIDDEN * hidden + RELATIONS * relations).backward()
        if step == 0:
            out = {f"{mode}.{k}": v.grad.clone() for k, v in p.items() if v.grad is not None}
            out[f"{mode}.logits"] = logits[0].detach().clone()
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    out[f"{mode}.losses"], out[f"{mode}.norms"] = torch.tensor(losses), torch.tensor(norms)
    if hidden_losses:
        out[f"{mode}.hidden"] = torch.tensor(hidden_losses)
    if relates:
        out[f"{mode}.relations"] = torch.tensor(relation_losses)
    return out | vectors


def main():
    global margin
    torch.set_num_threads(1)
    for seed in range(100000):
        torch.manual_seed(seed)
        margin, tensors = 1.0, {}
        init, batches = initial(), torch.randint(0, VOCAB, (STEPS, ROWS, CONTEXT + 1)).int()
        teacher = initial() if any(mode.startswith("distill") for mode in sys.argv[3:]) else {}
        for mode in sys.argv[3:] or ("ternary", "binary", "float"):
            tensors |= train(init, teacher, batches, mode, silu=mode.endswith("binary"))
            if margin < MARGIN:
                break
        else:
            tensors |= {"init." + k: v for k, v in init.items()} | {"batches": batches}
            tensors |= {"teacher." + k: v for k, v in teacher.items()}
            save_file({k: v.contiguous() for k, v in tensors.items()}, sys.argv[1])
            print("seed", seed, "margin", margin)
            return


main()
