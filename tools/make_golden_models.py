#!/usr/bin/env python3
"""Writes tests/golden/models/: tiny random checkpoints and what transformers computes with them.

Each checkpoint is a Hugging Face directory of some 60 KB that pins switches of the architecture
(activation, sub-norms, direction of the scale, norms inside linears, GQA, odd head sizes, RoPE
scaling, tied or separate head, old and new spelling of config.json); CHECKPOINTS below says which.
figures.safetensors beside it holds

    input_ids  int32[n_tokens]
    rows       int32[n_rows]          positions whose logits are recorded
    logits     float32[n_rows][vocab] transformers, weights widened to float32, one pass
    greedy     int32[8 + 12]          the first 8 input ids and the 12 tokens that follow greedily

Why the figures need no allowance: an int8 activation that lies next to a rounding boundary (x.5)
may round either way when floats are summed in another order, and one such flip moves a whole row
of logits. forward64() below repeats every model in float64; tokens are chosen one by one so that
no activation, at any recorded or greedy position, comes within MARGIN of a boundary, so that every
honest float32 implementation rounds alike. The same holds for the masters of the online model and
for the gap between the best two logits of greedy steps.

    pip install torch "transformers==5.23.*" accelerate safetensors numpy
    TORCHDYNAMO_DISABLE=1 python3 tools/make_golden_models.py [NAME ...]
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

MARGIN = 2e-4          # in units of an int8 step; see the largest deviation that main() prints
MASTER_MARGIN = 1e-5   # of w / mean |w| from +-0.5
GAP = 2e-3             # of the best logit over the second, as a share of the largest |logit|
VOCAB = 97             # odd, so that tails of the vocabulary are met
N_PROMPT, N_GREEDY = 8, 12
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"

LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]

# kind: how linears are stored: "packed" (U8 ternary), "masters" (floats, ternarized on load),
# "float" (plain floats) or "ternary" (float values that happen to be ternary x scale, as TriLM's).
CHECKPOINTS = {
    # ReLU^2, sub-norms, packed, the scale multiplies; dim / heads is no power of two.
    "bitnet-relu2-packed": dict(
        seed=1, kind="packed", store=torch.bfloat16, n_tokens=24,
        config=dict(
            architectures=["BitNetForCausalLM"], model_type="bitnet", hidden_size=80,
            intermediate_size=212, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, hidden_act="relu2", rms_norm_eps=1e-5, rope_theta=500000.0,
            tie_word_embeddings=True, torch_dtype="bfloat16",
            quantization_config=dict(quant_method="bitnet", linear_class="autobitlinear",
                                     quantization_mode="offline",
                                     modules_to_not_convert=["lm_head"]))),
    # Llama class, packed, the scale divides; head size 100, heads x head size is not dim.
    "llama-bitlinear-packed": dict(
        seed=2, kind="packed", store=torch.float32, n_tokens=24,
        config=dict(
            architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=60,
            intermediate_size=148, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=100, hidden_act="silu", rms_norm_eps=1e-6,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0),
            tie_word_embeddings=False, dtype="float32",
            quantization_config=dict(quant_method="bitnet", modules_to_not_convert=None))),
    # The same with a norm of its own inside every linear.
    "llama-bitlinear-rms": dict(
        seed=3, kind="packed", store=torch.bfloat16, n_tokens=24,
        config=dict(
            architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=72,
            intermediate_size=140, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-5,
            rope_parameters=dict(rope_type="default", rope_theta=1000042.0),
            tie_word_embeddings=False, dtype="bfloat16",
            quantization_config=dict(quant_method="bitnet", linear_class="bitlinear",
                                     use_rms_norm=True, rms_norm_eps=1e-6))),
    # No quantization; RoPE with linear scaling in the old spelling.
    "llama-float-linear-rope": dict(
        seed=4, kind="float", store=torch.bfloat16, n_tokens=40,
        config=dict(
            architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=36,
            intermediate_size=68, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=1, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
            rope_scaling=dict(type="linear", factor=4.0),
            tie_word_embeddings=True, torch_dtype="bfloat16")),
    # No quantization; llama3 scaling with an original context so short that all three of its
    # branches (kept, blended, divided) are taken by the six frequencies of a head.
    "llama-float-llama3-rope": dict(
        seed=5, kind="float", store=torch.bfloat16, n_tokens=40,
        config=dict(
            architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=40,
            intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, hidden_act="silu", rms_norm_eps=1e-5,
            rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0,
                                 low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_max_position_embeddings=32),
            tie_word_embeddings=False, dtype="bfloat16")),
    # BitNet with SiLU; masters, ternarized by their mean magnitude when loaded.
    "bitnet-silu-masters": dict(
        seed=6, kind="masters", store=torch.bfloat16, n_tokens=24,
        config=dict(
            architectures=["BitNetForCausalLM"], model_type="bitnet", hidden_size=40,
            intermediate_size=60, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
            tie_word_embeddings=True, torch_dtype="bfloat16",
            quantization_config=dict(quant_method="bitnet", linear_class="autobitlinear",
                                     quantization_mode="online",
                                     modules_to_not_convert=["lm_head"]))),
    # The class of the first published ternary models (1bitLLM): other names for the sub-norms,
    # float16 masters, no quantization_config. transformers has no such class; it is asked through
    # its own spelling of the same model, see in_own_spelling().
    "bitnet-1bitllm": dict(
        seed=8, kind="masters", store=torch.float16, n_tokens=24,
        config=dict(
            architectures=["BitnetForCausalLM"], model_type="bitnet", hidden_size=36,
            intermediate_size=52, num_hidden_layers=2, num_attention_heads=3,
            num_key_value_heads=3, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
            rope_scaling=None, tie_word_embeddings=True, torch_dtype="float16", weight_bits=1,
            input_bits=8)),
    # TriLM's way: float16 weights that are ternary x scale, two shards with a scale each, float
    # activations, no quantization_config.
    "llama-trilm": dict(
        seed=7, kind="ternary", store=torch.float16, n_tokens=24,
        config=dict(
            architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=36,
            intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
            tie_word_embeddings=False, torch_dtype="float16")),
}


FIRST_NAMES = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}


def in_own_spelling(config, tensors):
    """What transformers knows under its own names: itself, or the twin of a 1bitLLM checkpoint."""
    if config["architectures"] != ["BitnetForCausalLM"]:
        return config, tensors
    twin = dict(CHECKPOINTS["bitnet-silu-masters"]["config"], **config)
    twin["architectures"] = ["BitNetForCausalLM"]
    for own, first in FIRST_NAMES.items():
        tensors = {name.replace(first, own): tensor for name, tensor in tensors.items()}
    return twin, tensors


def head_size(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def linear_shapes(config):
    """Name -> (outputs, inputs) of the linears of one layer."""
    dim, ffn = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * head_size(config)
    kv = config["num_key_value_heads"] * head_size(config)
    shapes = [(q, dim), (kv, dim), (kv, dim), (dim, q), (ffn, dim), (ffn, dim), (dim, ffn)]
    return dict(zip(LINEARS, shapes))


def random_ternary(rng, shape):
    return rng.choice([-1.0, 0.0, 1.0], size=shape, p=[0.3, 0.4, 0.3])


def pack(ternary):
    """transformers' packed layout: four planes of rows in the bits of a byte."""
    codes = (ternary + 1).astype(np.uint8)
    planes = np.split(codes, 4)
    return planes[0] | planes[1] << 2 | planes[2] << 4 | planes[3] << 6


def make_linear(rng, spec, shape, name, tensors):
    """Adds the stored tensors of one linear; its values have a spread of `gain` / sqrt(in)."""
    config, store = spec["config"], spec["store"]
    # Attention that is sharper than this magnifies the errors of float32 beyond MARGIN.
    gain = rng.uniform(0.7, 1.0) if name.endswith(("q_proj", "k_proj")) else rng.uniform(1.2, 1.9)
    scale = gain / np.sqrt(0.6 * shape[1])
    if spec["kind"] == "packed":
        divides = config["quantization_config"].get("linear_class") != "autobitlinear"
        tensors[name + ".weight"] = torch.from_numpy(pack(random_ternary(rng, shape)))
        stored = torch.tensor([1.0 / scale if divides else scale], dtype=torch.float64)
        tensors[name + ".weight_scale"] = stored.to(store)
    elif spec["kind"] == "ternary":
        weights = random_ternary(rng, shape) * scale
        weights[shape[0] // 2:] *= 1.25
        tensors[name + ".weight"] = torch.from_numpy(weights).to(store)
    else:
        weights = torch.from_numpy(rng.standard_normal(shape) * gain / np.sqrt(shape[1]))
        weights = weights.to(store)
        if spec["kind"] == "masters":
            # A master next to the boundary of two ternary values is moved away from it.
            mean = weights.double().abs().mean()
            near = (weights.double().abs() / mean - 0.5).abs() < 1e-2
            weights[near] *= 1.0625
        tensors[name + ".weight"] = weights
    if config.get("quantization_config", {}).get("use_rms_norm"):
        tensors[name + ".rms_norm.weight"] = make_norm(rng, shape[1], store)


def make_norm(rng, n, store):
    return torch.from_numpy(rng.uniform(0.5, 1.6, n)).to(store)


def make_tensors(spec, rng):
    config, store = spec["config"], spec["store"]
    dim, tensors = config["hidden_size"], {}
    half = torch.bfloat16 if store == torch.float32 else store  # keeps the file small
    tensors["model.embed_tokens.weight"] = torch.from_numpy(
        rng.standard_normal((VOCAB, dim)) * 0.4).to(half)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in linear_shapes(config).items():
            make_linear(rng, spec, shape, prefix + name, tensors)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            tensors[f"{prefix}{name}.weight"] = make_norm(rng, dim, store)
        if config["model_type"] == "bitnet":
            first = config["architectures"] == ["BitnetForCausalLM"]
            attn, ffn = FIRST_NAMES.values() if first else FIRST_NAMES
            tensors[f"{prefix}self_attn.{attn}.weight"] = make_norm(rng, dim, store)
            tensors[f"{prefix}mlp.{ffn}.weight"] = make_norm(rng, config["intermediate_size"],
                                                             store)
    tensors["model.norm.weight"] = make_norm(rng, dim, store)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = torch.from_numpy(
            rng.standard_normal((VOCAB, dim)) * 0.4).to(half)
    return tensors


def tokenizer_json():
    """A byte-level BPE without merges over the printable ASCII characters."""
    words = ["<|begin|>", "<|end|>", "\u0120"] + [chr(c) for c in range(33, 127)]
    assert len(words) == VOCAB
    special = [dict(id=i, content=words[i], single_word=False, lstrip=False, rstrip=False,
                    normalized=False, special=True) for i in range(2)]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=special,
                normalizer=None, pre_tokenizer=byte_level, post_processor=None,
                decoder=byte_level,
                model=dict(type="BPE", dropout=None, unk_token=None,
                           continuing_subword_prefix=None, end_of_word_suffix=None,
                           fuse_unk=False, byte_fallback=False, ignore_merges=False,
                           vocab={word: i for i, word in enumerate(words)}, merges=[]))


class Doubtful(Exception):
    """Two honest implementations could disagree about this token."""


class Forward64:
    """The forward pass in float64, one token at a time, with its distance from rounding trouble."""

    def __init__(self, spec, tensors):
        self.config = config = spec["config"]
        self.act_int8 = "quantization_config" in config
        self.tensors = tensors
        self.widened = {name: tensor.double().numpy() for name, tensor in tensors.items()}
        self.weights = {name: self.linear(spec, name) for name in tensors
                        if name.endswith("proj.weight")}
        self.inv_freq = self.frequencies()
        self.strict = True  # raise Doubtful when an activation is within MARGIN of x.5
        self.seen = None    # when a list: the activations in int8 steps, call by call

    def tensor(self, name):
        return self.widened[name]

    def linear(self, spec, name):
        """The matrix as it multiplies: float64[outputs][inputs]."""
        if spec["kind"] == "packed":
            packed = self.tensors[name].numpy()
            ternary = np.concatenate([(packed >> shift & 3) for shift in (0, 2, 4, 6)]) - 1.0
            scale = self.tensor(name + "_scale")[0]
            divides = self.config["quantization_config"].get("linear_class") != "autobitlinear"
            return ternary / scale if divides else ternary * scale
        weights = self.tensor(name)
        if spec["kind"] != "masters":
            return weights
        mean = np.abs(weights).mean()
        assert np.abs(np.abs(weights) / mean - 0.5).min() > MASTER_MARGIN
        return np.clip(np.round(weights / mean), -1, 1) * mean

    def frequencies(self):
        config, size = self.config, head_size(self.config)
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        base = rope.get("rope_theta") or config["rope_theta"]
        inv_freq = base ** -(np.arange(0, size, 2) / size)
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind == "linear":
            inv_freq /= rope["factor"]
        elif kind == "llama3":
            turns = rope["original_max_position_embeddings"] * inv_freq / (2 * np.pi)
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            blend = np.clip((turns - low) / (high - low), 0, 1)
            inv_freq = inv_freq * (blend + (1 - blend) / rope["factor"])
        return inv_freq

    def norm(self, x, name, eps=None):
        eps = self.config["rms_norm_eps"] if eps is None else eps
        return x / np.sqrt((x * x).mean() + eps) * self.tensor(name)

    def multiply(self, x, name):
        if name.replace(".weight", ".rms_norm.weight") in self.tensors:
            x = self.norm(x, name.replace(".weight", ".rms_norm.weight"),
                          self.config["quantization_config"]["rms_norm_eps"])
        if self.act_int8:
            scale = 127 / max(np.abs(x).max(), 1e-5)
            x = self.round_steps(x * scale) / scale
        return self.weights[name] @ x

    def round_steps(self, steps):
        if self.strict and np.abs(np.abs(steps) % 1.0 - 0.5).min() < MARGIN:
            raise Doubtful
        if self.seen is not None:
            self.seen.append(steps)
        return np.round(steps)

    def rotate(self, x, position):
        """x: float64[n][head_dim], by halves."""
        angle = position * self.inv_freq
        a, b = np.split(x, 2, axis=1)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)

    def attention(self, x, layer, cache):
        config, size = self.config, head_size(self.config)
        prefix = f"model.layers.{layer}.self_attn."
        q, k, v = (self.multiply(x, f"{prefix}{n}_proj.weight").reshape(-1, size) for n in "qkv")
        position = len(cache[layer])
        q, k = self.rotate(q, position), self.rotate(k, position)
        keys, values = (np.stack(part, axis=1) for part in zip(*cache[layer], (k, v)))
        out = []
        for head in range(config["num_attention_heads"]):
            group = head * config["num_key_value_heads"] // config["num_attention_heads"]
            scores = keys[group] @ q[head] / np.sqrt(size)
            shares = np.exp(scores - scores.max())
            out.append(shares / shares.sum() @ values[group])
        out = np.concatenate(out)
        if prefix + "attn_sub_norm.weight" in self.tensors:
            out = self.norm(out, prefix + "attn_sub_norm.weight")
        return self.multiply(out, prefix + "o_proj.weight"), (k, v)

    def feed_forward(self, x, layer):
        prefix = f"model.layers.{layer}.mlp."
        gate = self.multiply(x, prefix + "gate_proj.weight")
        up = self.multiply(x, prefix + "up_proj.weight")
        if self.config["hidden_act"] == "relu2":
            hidden = np.maximum(gate, 0) ** 2 * up
        else:
            hidden = gate / (1 + np.exp(-gate)) * up
        if prefix + "ffn_sub_norm.weight" in self.tensors:
            hidden = self.norm(hidden, prefix + "ffn_sub_norm.weight")
        return self.multiply(hidden, prefix + "down_proj.weight")

    def step(self, token, cache):
        """Logits after `token` and the cache with it appended; `cache` itself stays as it was."""
        x = self.tensor("model.embed_tokens.weight")[token]
        added = []
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            y, entry = self.attention(self.norm(x, prefix + "input_layernorm.weight"), layer, cache)
            added.append(entry)
            x = x + y
            x = x + self.feed_forward(self.norm(x, prefix + "post_attention_layernorm.weight"),
                                      layer)
        head = "lm_head" if "lm_head.weight" in self.tensors else "model.embed_tokens"
        logits = self.tensor(head + ".weight") @ self.norm(x, "model.norm.weight")
        return logits, [old + [new] for old, new in zip(cache, added)]


def greedy_tokens(model, token, cache):
    """N_GREEDY tokens after a last prompt token; raises Doubtful when a step is."""
    tokens = []
    for _ in range(N_GREEDY):
        logits, cache = model.step(token, cache)
        second, best = np.partition(logits, -2)[-2:]
        if best - second < GAP * np.abs(logits).max():
            raise Doubtful
        token = int(logits.argmax())
        tokens.append(token)
    if len(set(tokens)) < 5:
        raise Doubtful  # a loop over a token or two would say little
    return tokens


def choose_tokens(spec, model, rng):
    """(input ids, greedy ids), every position of which is beyond doubt."""
    def extend(ids, cache, n):
        while len(ids) < n:
            token = int(rng.integers(2, VOCAB))
            try:
                cache = model.step(token, cache)[1]
                ids = ids + [token]
            except Doubtful:
                pass
        return ids, cache

    empty = [[] for _ in range(spec["config"]["num_hidden_layers"])]
    while True:
        ids, cache = extend([], empty, N_PROMPT - 1)
        for token in rng.permutation(range(2, VOCAB)):
            try:
                greedy = greedy_tokens(model, int(token), cache)
            except Doubtful:
                continue
            prompt = ids + [int(token)]
            cache = model.step(prompt[-1], cache)[1]
            return extend(prompt, cache, spec["n_tokens"])[0], prompt + greedy


def run_transformers(folder, ids, prompt):
    """(logits float32[n_tokens][vocab], activations by linear, greedy ids) of the real thing."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="eager")
    model = torch.nn.Module.float(model).eval()  # a quantized checkpoint is not widened by dtype alone
    steps = {}

    def watch(name):
        def hook(module, args):
            x = args[0][0]
            if getattr(module, "rms_norm", None) is not None:
                x = module.rms_norm(x)
            scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
            steps.setdefault(name, x * scale)
        return hook

    hooks = [module.register_forward_pre_hook(watch(name))
             for name, module in model.named_modules() if name.endswith("_proj")]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        for hook in hooks:
            hook.remove()
        greedy = list(prompt)
        for _ in range(N_GREEDY):
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
    return logits.numpy(), steps, greedy


def compare(spec, model, ids, logits, steps):
    """Largest deviations of transformers' float32 from float64: of logits, and in int8 steps."""
    model.strict = False
    cache, names = [[] for _ in range(spec["config"]["num_hidden_layers"])], list(steps)
    row_error = step_error = 0.0
    for position, token in enumerate(ids):
        model.seen = []
        row, cache = model.step(token, cache)
        row_error = max(row_error, np.abs(row - logits[position]).max() / np.abs(row).max())
        for name, seen in zip(names, model.seen):
            step_error = max(step_error, np.abs(steps[name][position].numpy() - seen).max())
    return row_error, step_error


def save_checkpoint(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors",
              metadata=dict(format="pt"))


def make_checkpoint(name, spec):
    rng = np.random.default_rng(spec["seed"])
    tensors = make_tensors(spec, rng)
    config = dict(spec["config"], vocab_size=VOCAB, bos_token_id=0, eos_token_id=1,
                  max_position_embeddings=64)
    folder = FOLDER / name
    save_checkpoint(folder, config, tensors)
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer_json(), ensure_ascii=False, separators=(",", ":")) + "\n")

    config, tensors = in_own_spelling(config, tensors)
    spec = dict(spec, config=config)
    model = Forward64(spec, tensors)
    ids, greedy = choose_tokens(spec, model, rng)
    with tempfile.TemporaryDirectory() as twin:
        save_checkpoint(pathlib.Path(twin), config, tensors)
        logits, steps, real_greedy = run_transformers(twin, ids, ids[:N_PROMPT])
    assert real_greedy == greedy, (name, real_greedy, greedy)
    row_error, step_error = compare(spec, model, ids, logits, steps)
    assert row_error < 1e-4, (name, row_error)
    assert not model.act_int8 or step_error < MARGIN, (name, step_error)

    rows = list(range(0, len(ids), 3))
    rows += [] if rows[-1] == len(ids) - 1 else [len(ids) - 1]
    save_file(dict(input_ids=torch.tensor(ids, dtype=torch.int32),
                   rows=torch.tensor(rows, dtype=torch.int32),
                   logits=torch.from_numpy(logits[rows]).contiguous(),
                   greedy=torch.tensor(greedy, dtype=torch.int32)),
              folder / "figures.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes, transformers deviates from float64 by {row_error:.1e} of the "
          f"largest logit and {step_error:.1e} int8 steps; greedy {greedy[N_PROMPT:]}")


def main():
    for name, spec in CHECKPOINTS.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            make_checkpoint(name, spec)


if __name__ == "__main__":
    main()
