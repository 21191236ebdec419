#!/usr/bin/env bash
# Trains the default model again: a tokenizer, token files, the run of models/novels-6m.json, the
# exports. Two hours on two cores; stopped, it goes on where it was when called once more.
#
# usage: make_default_model.sh TRAIN.txt VALID.txt FOLDER     (PROGRAM: build/bitloom)
set -euo pipefail
if (($# != 3)); then
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
train=$1 valid=$2 out=$3
root=$(cd "${0%/*}/.." && pwd)
program=${PROGRAM:-$root/build/bitloom}

mkdir -p "$out/tokenizer"
[[ -e $out/tokenizer/tokenizer.json ]] ||
    "$program" tokenizer train "$train" --vocab 4096 -o "$out/tokenizer/tokenizer.json"
[[ -e $out/novels.bin ]] ||
    "$program" data build "$train" --valid-file "$valid" -m "$out/tokenizer" -o "$out/novels.bin"
"$program" train --data "$out/novels.bin" --tokenizer "$out/tokenizer" --resume \
    -o "$out/run" "$root/models/novels-6m.json"
"$program" train --export "$out/native.gguf" -o "$out/run"
"$program" convert "$out/native.gguf" -o "$out/novels-6m.gguf" --type bl_t2 --known-answer
"$program" train --export "$out/hf" -o "$out/run"
"$program" plot "$out/run/run.jsonl" -o "$out/novels-6m.svg" --title novels-6m
