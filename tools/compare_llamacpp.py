#!/usr/bin/env python3
"""Compares Bitloom with llama.cpp on the GGUF files that `bitloom convert` writes, and with transformers.

usage: compare_llamacpp.py [options] HF_DIRECTORY

The checkpoint is converted to each type; both programs load the very same file, continue the same
prompt greedily and tokenize the same text. Printed per type: the size of the file, how many of
llama.cpp's tokens lie within the text that both wrote, and up to where the ids of the text agree.

llama.cpp multiplies F32 weights with float activations, and TQ1_0 and TQ2_0 with one int8 scale per
256 activations; Bitloom takes int8 per token, as trained. So texts agree until the best two tokens
are nearly as good. llama.cpp runs BitNet with SiLU (architecture bitnet) whatever the file says:
models with squared ReLU are written as bitnet-b1.58, which it refuses rather than runs wrongly. And
it keeps runs of spaces where a SentencePiece model asks to collapse them, as sentencepiece does.

With --transformers the same continuation comes from the directory itself, in float32: packed
checkpoints are loaded with dtype=float32 and what they store in bfloat16 is widened afterwards,
which from_pretrained() leaves to its caller.

    pip install --only-binary :all: --no-deps xllamacpp
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import xllamacpp


class LlamaCpp:
    """A model in llama.cpp, asked through the server that the package embeds."""

    def __init__(self, path, n_threads):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_gpu_layers = 0
        params.n_parallel = 1
        params.warmup = False
        params.verbosity = 0
        params.cpuparams.n_threads = n_threads
        self.server = xllamacpp.Server(params)

    def post(self, route, request):
        request = urllib.request.Request(self.server.listening_address + route,
                                         json.dumps(request).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def complete(self, ids, n_tokens):
        """(text, ids) of a greedy continuation that ends at the model's end of text."""
        answer = self.post("/completion", dict(prompt=ids, n_predict=n_tokens, temperature=0,
                                               return_tokens=True, cache_prompt=False))
        return answer["content"], answer["tokens"]

    def tokenize(self, text):
        return self.post("/tokenize", dict(content=text, add_special=True))["tokens"]

    def text_of(self, ids):
        return self.post("/detokenize", dict(tokens=ids))["content"]


class Transformers:
    """A Hugging Face directory in transformers, in float32."""

    def __init__(self, path):
        import torch
        import transformers
        self.torch = torch
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)

    def complete(self, ids, n_tokens):
        """(text, ids) of a greedy continuation."""
        given = self.torch.tensor([ids])
        answer = self.model.generate(given, attention_mask=self.torch.ones_like(given),
                                     max_new_tokens=n_tokens, do_sample=False)
        ids = answer[0, len(ids):].tolist()
        return self.text_of(ids), ids

    def text_of(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def bitloom(program, *arguments, text=None):
    result = subprocess.run([program, *map(str, arguments)], check=False, input=text,
                            capture_output=True, encoding="utf-8")
    if result.returncode:
        sys.exit(f"bitloom {' '.join(map(str, arguments))}: {result.stderr.strip()}")
    return result.stdout


def agreeing_tokens(peer, ids, ours, theirs):
    """How many of ids, which are `theirs`, lie within what both texts begin with."""
    common = os.path.commonprefix([ours, theirs])
    if common == theirs:
        return len(ids)
    return sum(len(peer.text_of(ids[:n + 1]).strip()) <= len(common.strip())
               for n in range(len(ids)))


def show_parting(ours, theirs, peer):
    if ours != theirs:
        common = len(os.path.commonprefix([ours, theirs]))
        print(f"          {'bitloom':<12} ...{ours[max(common - 30, 0):common + 40]!r}")
        print(f"          {peer:<12} ...{theirs[max(common - 30, 0):common + 40]!r}")


def compare_transformers(args, folder):
    """The directory as it is beside its conversion to the native layout."""
    path = folder / "model.gguf"
    bitloom(args.bitloom, "convert", args.checkpoint, "-o", path)
    ids = [int(i) for i in bitloom(args.bitloom, "tokenize", "-m", path, "--ids",
                                   text=args.prompt).split()]
    ours = json.loads(bitloom(args.bitloom, "run", "-m", path, "-p", args.prompt, "-n",
                              args.tokens, "--temp", 0, "-t", args.threads, "--json"))["text"]
    peer = Transformers(args.checkpoint)
    theirs, ids = peer.complete(ids, args.tokens)
    n = agreeing_tokens(peer, ids, ours, theirs)
    print(f"{'float32':>8}  {'transformers':>12} {n:>5} of {len(ids):<5}", flush=True)
    show_parting(ours, theirs, "transformers")


def compare(args, kind, folder, text):
    path = folder / f"model-{kind}.gguf"
    bitloom(args.bitloom, "convert", args.checkpoint, "-o", path, "--type", kind)
    llama = LlamaCpp(path, args.threads)
    prompt = llama.tokenize(args.prompt)
    ours = json.loads(bitloom(args.bitloom, "run", "-m", path, "-p", args.prompt, "-n",
                              args.tokens, "--temp", 0, "-t", args.threads, "--json"))["text"]
    theirs, ids = llama.complete(prompt, args.tokens)
    n = agreeing_tokens(llama, ids, ours, theirs)
    our_ids = [int(i) for i in bitloom(args.bitloom, "tokenize", "-m", path, "--ids",
                                       text=text).split()]
    their_ids = llama.tokenize(text)
    n_same = len(os.path.commonprefix([our_ids, their_ids]))
    print(f"{kind:>8}  {path.stat().st_size:>11,}  {n:>5} of {len(ids):<5}  "
          f"{n_same:,} of {len(our_ids):,} ids", flush=True)
    if our_ids != their_ids:
        place = llama.text_of(our_ids[max(n_same - 8, 0):n_same])
        print(f"          ids part after {place!r}: bitloom {our_ids[n_same:n_same + 3]}, "
              f"llama.cpp {their_ids[n_same:n_same + 3]}")
    show_parting(ours, theirs, "llama.cpp")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", help="Hugging Face directory")
    parser.add_argument("--bitloom", default="build/bitloom", help="the program (build/bitloom)")
    parser.add_argument("--types", default="f32,tq1_0,tq2_0", help="layouts to compare")
    parser.add_argument("--prompt", default="Once upon a time, there was a little girl named Lily.")
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--transformers", action="store_true", help="compare with it as well")
    parser.add_argument("--text", type=pathlib.Path, help="a text file to tokenize with both")
    args = parser.parse_args()
    text = args.text.read_bytes().decode() if args.text else args.prompt
    print(f"{'type':>8}  {'bytes':>11}  same tokens     same ids of {len(text):,} characters")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.types.split(","):
            compare(args, kind, pathlib.Path(folder), text)
        if args.transformers:
            compare_transformers(args, pathlib.Path(folder))


if __name__ == "__main__":
    main()
