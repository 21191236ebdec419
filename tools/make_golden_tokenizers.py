#!/usr/bin/env python3
"""Writes tests/golden/tokenizers/: tiny vocabularies and the ids that the reference libraries give.

    bpe        tokenizer.json: byte-level BPE, LLaMA-3 expression, template with BOS, added tokens
    bpe-nfc    tokenizer.json: byte-level BPE, Qwen-2 expression, NFC, words that are tokens whole
    gpt2       tokenizer.json: byte-level BPE, ByteLevel's own expression
    smollm     tokenizer.json: the same after single digits
    spm        tokenizer.model: SentencePiece BPE with byte fallback and user-defined pieces
    spm-json   tokenizer.json: the same merges in the form of LLaMA 2's file
    unigram    tokenizer.model: SentencePiece unigram without byte fallback

Each folder also gets cases.json: [{"text", "special", "ids"}, ...]; "special" cases are encoded
with special tokens recognised and BOS added, the others as plain text.

    pip install tokenizers==0.22.* sentencepiece==0.2.*
    python3 tools/make_golden_tokenizers.py TEXT_FILE     (tinyshakespeare was used)
"""
import io
import json
import pathlib
import sys

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "tokenizers"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\t \n\n  x",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces   three\u00a0nbsp",
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n",
    "I've said he'll 'TIS we'Re don'T",
    "3 33 333 3333 1234567 12.5% x2y",
    "naïve café \u0065\u0301\u0301 Ångström \u212b \uac00 \u1100\u1161",
    "我想在apple工作1314151天～ 🦙🦙 😶\u200d🌫️",
    "====----####....!!!!????",
    "a" * 100,
    "to be or not to be " * 6,
    "\u2581the \u2581 mark",
    "\u0000\u0001\u007f\u0085\u180e\u2028",
]
SPECIAL_TEXTS = [
    "<|bos|>text<|eos|>",
    "plain <tool> and <tool_call>x</tool> <|eos|>",
    "a<|eos|><|eos|> b",
    "x <strip> y <strip>z",
]


def write_cases(name, encode, texts=TEXTS, special_texts=SPECIAL_TEXTS):
    cases = [{"text": text, "special": False, "ids": encode(text, False)} for text in texts]
    cases += [{"text": text, "special": True, "ids": encode(text, True)} for text in special_texts]
    with open(FOLDER / name / "cases.json", "w", encoding="ascii") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


def bpe(name, text, size, pre_tokenizer, normalizer=None, ignore_merges=False, template=False):
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|bos|>", "<|eos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    added = tokenizers.AddedToken
    tokenizer.add_tokens(
        [added("<tool>", normalized=False), added("<tool_call>", normalized=False)]
    )
    tokenizer.add_special_tokens([added("<strip>", lstrip=True, rstrip=True, normalized=False)])
    if template:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single="<|bos|> $A", pair=None, special_tokens=[("<|bos|>", 0)]
                ),
            ]
        )
    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(FOLDER / name / "tokenizer.json"), pretty=False)

    # The library always recognises special tokens: plain cases must not contain any.
    write_cases(name, lambda t, special: tokenizer.encode(t, add_special_tokens=special).ids)


def sentencepiece_model(name, text, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")),
        model_writer=out,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )
    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    (FOLDER / name / "tokenizer.model").write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def spm_json(name, model):
    """LLaMA 2's form: every pair of pieces that joins to a piece, best first."""
    pieces = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    plain = [
        i
        for i in range(model.get_piece_size())
        if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))
    ]
    plain_texts = {model.id_to_piece(i) for i in plain}
    merges = []
    for i in plain:
        piece = model.id_to_piece(i)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in plain_texts and right in plain_texts:
                merges.append((-model.get_score(i), pieces[left], pieces[right], left, right))
    merges = [(left, right) for _, _, _, left, right in sorted(merges)]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair=None, special_tokens=[("<s>", 1)]
    )
    (FOLDER / name).mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(FOLDER / name / "tokenizer.json"), pretty=False)
    write_cases(
        name,
        lambda t, special: tokenizer.encode(t, add_special_tokens=special).ids,
        special_texts=["<s>text</s>", "a</s></s> b"],
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")[:300000]
    split = pre_tokenizers.Split
    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own_regex = pre_tokenizers.ByteLevel(add_prefix_space=False)
    sequence = pre_tokenizers.Sequence
    llama3 = sequence([split(Regex(LLAMA3), "isolated"), bytelevel])
    qwen2 = sequence([split(Regex(QWEN2), "isolated"), bytelevel])
    smollm = sequence([pre_tokenizers.Digits(individual_digits=True), own_regex])
    bpe("bpe", text, 448, llama3, template=True)
    bpe("bpe-nfc", text, 384, qwen2, normalizer=normalizers.NFC(), ignore_merges=True)
    bpe("gpt2", text, 320, own_regex)
    bpe("smollm", text, 320, smollm)

    spm = sentencepiece_model(
        "spm",
        text,
        model_type="bpe",
        vocab_size=448,
        byte_fallback=True,
        character_coverage=0.999,
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>"],
    )
    write_cases("spm", lambda t, special: spm.encode(t, add_bos=special), special_texts=["a <tool>"])
    plain = sentencepiece_model(
        "spm-json",
        text,
        model_type="bpe",
        vocab_size=448,
        byte_fallback=True,
        remove_extra_whitespaces=False,
    )
    (FOLDER / "spm-json" / "tokenizer.model").unlink()
    spm_json("spm-json", plain)
    unigram = sentencepiece_model("unigram", text, model_type="unigram", vocab_size=300)
    write_cases("unigram", lambda t, special: unigram.encode(t, add_eos=special), special_texts=["a b"])


if __name__ == "__main__":
    main()
