#!/usr/bin/env python3
"""Holds `bitloom eval` to lm-evaluation-harness itself: the same items, the same model, every choice.

usage: compare_lm_eval.py [options] HF_DIRECTORY MODEL.gguf ITEMS.jsonl ...

The harness builds its prompts from its own task files and scores with its own model class on the Hugging Face
directory that MODEL.gguf was converted from, in float32; Bitloom reads the same lines, with a float32 cache. Items are
in the fields of the Hugging Face hub (BoolQ's answers may have either name). Printed per file: items whose chosen
answers differ (plainly, by characters, by bytes), the largest difference of two sums of ln p, and both accuracies.

    pip install lm_eval torch "transformers==5.23.*" accelerate
"""
import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import lm_eval
import numpy as np
import torch
import yaml
from lm_eval.api.metrics import mean_stderr
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

FILES = dict(arc="arc/arc_easy", boolq="super_glue/boolq/default", hellaswag="hellaswag/hellaswag",
             openbookqa="openbookqa/openbookqa", piqa="piqa/piqa", winogrande="winogrande/default")
KEPT = ["task", "output_type", "process_docs", "doc_to_text", "doc_to_target", "doc_to_choice"]
METRICS = ["acc", "acc_norm", "acc_bytes"]


def load_config(path):
    """A task file, its functions looked up in the modules beside it."""
    class Loader(yaml.SafeLoader):
        pass

    def function(_, node):
        module, name = node.value.rsplit(".", 1)
        spec = importlib.util.spec_from_file_location(module, path.parent / f"{module}.py")
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
        return getattr(sys.modules[module], name)
    Loader.add_constructor("!function", function)
    return yaml.load(path.read_text(), Loader)


class Rows(list):
    """As much of a datasets.Dataset as a task asks for."""

    @property
    def features(self):
        return dict.fromkeys(self[0])

    def map(self, function):
        return Rows({**row, **function(row)} for row in self)


def make_task(name, docs):
    folder = pathlib.Path(lm_eval.__file__).parent / "tasks"
    config = load_config(folder / f"{FILES[name]}.yaml")
    config = {key: value for key, value in config.items() if key in KEPT}
    if name == "boolq":
        docs = [dict(doc, label=int(doc.get("label", doc.get("answer")))) for doc in docs]
    if name == "hellaswag":
        docs = [dict(doc, label=str(doc["label"])) for doc in docs]
    config.update(validation_split="validation",
                  custom_dataset=lambda **_: dict(validation=Rows(docs)),
                  metric_list=[dict(metric=metric, aggregation="mean", higher_is_better=True)
                               for metric in METRICS])
    return ConfigurableTask(config=config)


def run_bitloom(args, items, folder):
    samples = pathlib.Path(folder) / "samples.jsonl"
    command = [args.bitloom, "eval", "-m", args.gguf, "-f", items, "--cache-type", "f32", "--json", "-q",
               "--samples", samples, "--items", args.limit]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)["results"][0], [json.loads(line) for line in samples.open()]


def compare(args, lm, items, folder):
    ours, samples = run_bitloom(args, items, folder)
    lines = items.read_text(encoding="utf-8").splitlines()
    task = make_task(ours["task"], [json.loads(lines[s["line"] - 1]) for s in samples])
    n_differ, worst, right = 0, 0.0, []
    for i, (doc, sample) in enumerate(zip(task.eval_docs, samples)):
        context = task.fewshot_context(doc, num_fewshot=0)
        requests = task.construct_requests(doc, context, metadata=(ours["task"], i, 1), doc_id=i)
        answers = lm.loglikelihood(requests, disable_tqdm=True)
        theirs = task.process_results(doc, answers)
        chosen = [sample[key] == sample["gold"] for key in ("chosen", "chosen_by_chars", "chosen_by_bytes")]
        n_differ += [theirs[metric] for metric in METRICS] != chosen
        worst = max(worst, np.abs(np.array(sample["log_likelihoods"]) - [a[0] for a in answers]).max())
        right.append(theirs["acc"])
    print(f"{items.name}: {n_differ} of {len(right)} items differ, sums by at most {worst:.2g}; acc bitloom "
          f"{ours['acc']:.4f} +- {ours['acc_stderr']:.4f}, harness {np.mean(right):.4f} +- {mean_stderr(right):.4f}",
          flush=True)
    return n_differ


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("checkpoint", help="Hugging Face directory")
    parser.add_argument("gguf", help="the same model, converted")
    parser.add_argument("items", nargs="+", type=pathlib.Path)
    parser.add_argument("--bitloom", default="build/bitloom", help="the program (build/bitloom)")
    parser.add_argument("--limit", type=int, default=0, help="items of each file; 0 = all")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    model = torch.nn.Module.float(model).eval()  # packed checkpoints are not widened by dtype alone
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(args.checkpoint), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        n_differ = sum(compare(args, lm, items, folder) for items in args.items)
    sys.exit(n_differ > 0)


if __name__ == "__main__":
    main()
