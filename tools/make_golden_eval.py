#!/usr/bin/env python3
"""Writes tests/golden/eval/: items of multiple choice, and what transformers makes of them.

usage: make_golden_eval.py HF_DIRECTORY

The directory is the checkpoint that the default model of models/ is converted from. Items are made
of words at random, in the fields of every task that `bitloom eval` reads, with the corners of their
texts: titles in brackets, double spaces, small and large letters beyond ASCII, labels as numbers
and as digits, three to five choices, contexts longer than the model's. Prompts and scores are
written here anew after lm-evaluation-harness, which has them in Python as well; tokens come from
transformers' tokenizer and logits from its model, in float32.

expected.json holds, for each file, accuracies with standard errors, and for each item the right
choice, the three that are chosen (plainly, by characters, by bytes) and the sums of ln p. An int8
activation next to a rounding boundary can move a sum by some hundredths, so items are left out
whose choice that could decide.

    pip install torch "transformers==5.23.*" accelerate safetensors
"""
import json
import math
import os
import pathlib
import random
import re
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

GAP = 0.25       # between the best two sums; those by length are held to their share of it
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "eval"
COUNTS = dict(hellaswag=36, arc=34, arc_nested=10, piqa=32, winogrande=34, boolq=30, openbookqa=24)

SEED = 5  # of those tried, 1 to 5, the first whose sums stay within the bounds of test_eval.c
PEOPLE = ["the old captain", "Miss Temple", "a boy", "the doctor", "her brother", "Holmes", "the "
          "gardener", "Madame Defarge", "the clergyman", "my aunt", "Zoë", "Señor Muñoz"]
VERBS = ["took", "saw", "carried", "found", "lost", "painted", "remembered", "opened", "feared",
         "admired", "brought", "hid"]
THINGS = ["the lantern", "a letter", "the door", "her bonnet", "two horses", "the whole fortune",
          "some bread", "an umbrella", "the garden", "a secret", "the café", "12 guineas"]
PLACES = ["in the library", "upon the moor", "at the inn", "near London", "by the river",
          "before the fire", "under the stairs", "in the carriage", "after dinner", "at last"]
ADJECTIVES = ["heavy", "afraid", "quiet", "beautiful", "late", "old", "angry", "cold"]


class Maker:
    def __init__(self, task):
        self.rng = random.Random(f"{task} {SEED}")

    def one(self, words):
        return self.rng.choice(words)

    def clause(self):
        return f"{self.one(VERBS)} {self.one(THINGS)} {self.one(PLACES)}"

    def sentence(self):
        text = f"{self.one(PEOPLE)} {self.clause()}"
        return text[0].upper() + text[1:] + self.one([".", ".", "!", ", and said so."])

    def passage(self, n):
        return " ".join(self.sentence() for _ in range(n))

    def hellaswag(self, i):
        start = self.one(["", "[header] How to keep warm [title] ", "[step]  "])
        follow = self.one(["HE then Slowly", "élodie AND her mother", "", "the two of them"])
        endings = [self.one(["", " [substeps] ", " "]) + self.clause() + self.one([".", "  . ", ""])
                   for _ in range(4)]
        gold = self.rng.randrange(4)
        return dict(ind=i, activity_label=self.one(["Baking  bread", "Riding", "Ödland"]),
                    ctx_a=start + self.passage(self.rng.randrange(1, 3)), ctx_b=follow,
                    endings=endings, label=gold if i % 2 else str(gold))

    def labelled(self):
        n = self.one([3, 4, 4, 4, 5])
        labels = "12345"[:n] if self.rng.random() < 0.3 else "ABCDE"[:n]
        texts = [self.one([self.one(THINGS), self.clause(), self.one(ADJECTIVES)])
                 for _ in range(n)]
        return texts, list(labels), self.one(labels)

    def question(self):
        return f"What was it that {self.one(PEOPLE)} {self.one(VERBS)} {self.one(PLACES)}?"

    def arc(self, i):
        texts, labels, key = self.labelled()
        question = self.passage(90) + " " + self.question() if i % 17 == 16 else self.question()
        return dict(id=f"item_{i}", question=question, choices=dict(text=texts, label=labels),
                    answerKey=key)

    def arc_nested(self, i):
        texts, labels, key = self.labelled()
        choices = [dict(text=text, label=label) for text, label in zip(texts, labels)]
        return dict(id=f"item_{i}", question=dict(stem=self.question(), choices=choices),
                    answerKey=key)

    def piqa(self, _):
        goal = f"How to be less {self.one(ADJECTIVES)} {self.one(PLACES)}"
        return dict(goal=goal, sol1=self.sentence(), sol2=self.sentence(),
                    label=self.rng.randrange(2))

    def winogrande(self, _):
        a, b = self.rng.sample(PEOPLE, 2)
        rest = f"was {self.one(ADJECTIVES)} {self.one(PLACES)}."
        sentence = f"{a} {self.clause()} with {b}, because _ {rest}"
        if self.rng.random() < 0.2:
            a += " "  # spaces at the end of a context belong to what follows
        return dict(sentence=sentence[0].upper() + sentence[1:], option1=a, option2=b,
                    answer=self.one("12"))

    def boolq(self, i):
        question = f"was the {self.one(ADJECTIVES)} one {self.one(PLACES)}"
        item = dict(question=question, passage=self.passage(self.rng.randrange(2, 7)))
        right = self.rng.random() < 0.5
        if i % 10 == 9:
            item["passage"] = self.passage(80)
        item.update(dict(answer=right) if i % 3 == 0 else dict(label=int(right)))
        return item

    def openbookqa(self, i):
        texts, labels, key = self.labelled()
        return dict(id=f"item_{i}", question_stem=f"{self.one(PEOPLE)} {self.one(VERBS)}",
                    choices=dict(text=texts, label=labels),
                    answerKey=" " + key if i % 5 == 0 else key)


def cleaned(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def requests(task, item):
    """(contexts, continuations, choices whose length counts, right one)."""
    if task == "hellaswag":
        context = f"{item['activity_label']}: {item['ctx_a']} {item['ctx_b'].capitalize()}"
        choices = [cleaned(ending) for ending in item["endings"]]
        gold = int(item["label"])
        context = cleaned(context)
    elif task.startswith("arc"):
        inner = item if task == "arc" else item["question"]
        choices, labels = unlabelled(inner["choices"])
        context = f"Question: {inner['question' if task == 'arc' else 'stem']}\nAnswer:"
        gold = labels.index(item["answerKey"])
    elif task == "piqa":
        context, choices = f"Question: {item['goal']}\nAnswer:", [item["sol1"], item["sol2"]]
        gold = item["label"]
    elif task == "boolq":
        context = f"{item['passage']}\nQuestion: {item['question']}?\nAnswer:"
        choices, gold = ["no", "yes"], int(item.get("label", item.get("answer")))
    elif task == "openbookqa":
        choices, labels = unlabelled(item["choices"])
        context, gold = item["question_stem"], labels.index(item["answerKey"].lstrip())
    else:
        before, after = item["sentence"].split("_", 1)
        contexts = [before + item["option1"], before + item["option2"]]
        return contexts, [" " + after.strip()] * 2, contexts, int(item["answer"]) - 1
    return [context] * len(choices), [" " + choice for choice in choices], choices, gold


def unlabelled(choices):
    if isinstance(choices, dict):
        return choices["text"], choices["label"]
    return [choice["text"] for choice in choices], [choice["label"] for choice in choices]


class Scorer:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = torch.nn.Module.float(model).eval()  # packed: not widened by dtype alone
        self.longest = self.model.config.max_position_embeddings
        self.n_cut = 0

    def sum_of(self, context, continuation):
        kept = context.rstrip()
        ids = self.tokenizer.encode(context + continuation)
        n = len(ids) - len(self.tokenizer.encode(kept))
        self.n_cut += len(ids) > self.longest + 1
        ids = ids[-(self.longest + 1):]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids[:-1]])).logits[0, -n:]
        scores = torch.log_softmax(logits, dim=-1)
        return float(sum(scores[i, token] for i, token in enumerate(ids[-n:])))


def choose(sums):
    """The best choice and how far the second is behind."""
    order = sorted(range(len(sums)), key=lambda c: (-sums[c], c))
    return order[0], sums[order[0]] - sums[order[1]]


def answer(scorer, task, item):
    """[right, chosen, by characters, by bytes, sums], or None where that is in doubt."""
    contexts, continuations, choices, gold = requests(task, item)
    if len(set(zip(contexts, continuations))) < len(choices):
        return None  # twice the same
    sums = [scorer.sum_of(*pair) for pair in zip(contexts, continuations)]
    chosen = []
    for lengths in ([1] * len(sums), [len(c) for c in choices], [len(c.encode()) for c in choices]):
        best, gap = choose([s / n for s, n in zip(sums, lengths)])
        if gap < GAP / max(lengths):
            return None
        chosen.append(best)
    return [gold, *chosen, [round(s, 4) for s in sums]]


def share(right):
    """A mean and the standard error of it."""
    n = len(right)
    mean = sum(right) / n
    return [mean, math.sqrt(sum((x - mean) ** 2 for x in right) / (n - 1)) / math.sqrt(n)]


def main():
    scorer = Scorer(sys.argv[1])
    FOLDER.mkdir(parents=True, exist_ok=True)
    expected = {}
    for task, n in COUNTS.items():
        maker, items, answers, i = Maker(task), [], [], 0
        scorer.n_cut = 0
        while len(items) < n:
            item = getattr(maker, task)(len(items))
            before = scorer.n_cut
            found = answer(scorer, task, item)
            if found:
                items.append(item)
                answers.append(found)
            else:
                scorer.n_cut = before
            i += 1
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (FOLDER / f"{task}.jsonl").write_text(text, encoding="utf-8")
        shares = [share([a[1 + k] == a[0] for a in answers]) for k in range(3)]
        expected[task] = dict(shares=shares, cut=scorer.n_cut, answers=answers)
        print(f"{task}: {n} of {i} items, {scorer.n_cut} choices cut, shares "
              + ", ".join(f"{mean:.3f} +- {error:.3f}" for mean, error in shares), flush=True)
    rows = ",\n".join(f" {json.dumps(task)}: {json.dumps(figures)}"
                      for task, figures in expected.items())
    (FOLDER / "expected.json").write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()
