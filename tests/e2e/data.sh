#!/usr/bin/env bash
# Text to a token file and back; what is wrong is said, and nothing is left behind.
# Arguments: the program, the project's root.
set -euo pipefail

program=$1 root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}
model=$root/models/novels-6m.gguf

printf 'It was a dark night.\n' >"$work/a.txt"
printf '{"text": "A document."}\n{"text": "Another one."}\n' >"$work/b.jsonl"
"$program" data build -m "$model" -o "$work/t.bin" -q "$work/a.txt" "$work/b.jsonl" --valid-file "$work/a.txt"
"$program" data info "$work/t.bin" -m "$model" --check >"$work/info"
grep -q '^documents  *4$' "$work/info" || fail "info: $(cat "$work/info")"
"$program" data show "$work/t.bin" -m "$model" --doc 2 >"$work/shown"
grep -q 'Another one\.' "$work/shown" || fail "show: $(cat "$work/shown")"
[[ $("$program" data show "$work/t.bin" --first 1 -n 3) == "$("$program" tokenize -m "$model" --ids --no-bos \
    <"$work/a.txt" | cut -d' ' -f1-3)" ]] || fail "show and tokenize disagree"
"$program" data build -m "$model" -o "$work/u.bin" -q -t 2 "$work/a.txt" "$work/b.jsonl" --valid-file "$work/a.txt"
cmp "$work/t.bin" "$work/u.bin" || fail "two threads write another file"

# A tokenizer of our own, and token files of one and the other.
printf 'the weaver wove the thread of the loom\n%.0s' {1..200} >"$work/weaver.txt"
for kind in llama3 gpt2 sentencepiece; do
    mkdir "$work/$kind"
    "$program" tokenizer train -q -o "$work/$kind/tokenizer.json" --kind $kind --vocab 300 "$work/weaver.txt"
    "$program" data build -m "$work/$kind" -o "$work/$kind.bin" -q "$work/weaver.txt"
    "$program" data show "$work/$kind.bin" -m "$work/$kind" -n 7 >"$work/shown"
    grep -q '^<s>the weaver' "$work/shown" || fail "$kind: $(cat "$work/shown")"
done
"$program" tokenizer train -o "$work/spm.json" --vocab 100 "$work/weaver.txt" 2>"$work/err" && fail "100 tokens are enough"
grep -q 'found 100, expected 258' "$work/err" || fail "100 tokens: $(cat "$work/err")"
"$program" data info "$work/llama3.bin" -m "$work/gpt2" 2>"$work/err" && fail "another tokenizer went unnoticed"
grep -q "$work/llama3.bin: token file: made with another tokenizer" "$work/err" || fail "said $(cat "$work/err")"

# What the model writes: the same however many documents are drawn at once, and others from another seed.
own() {
    "$program" data generate -m "$model" -q -n 300 --doc-tokens 60 "$@"
}
own -o "$work/own.bin" --valid 0.2
"$program" data info "$work/own.bin" -m "$model" --check >"$work/info"
grep -q '^documents  *5$' "$work/info" || fail "generate: $(cat "$work/info")"
grep -q '(240 to train on, 60 held out)' "$work/info" || fail "generate: $(cat "$work/info")"
own -o "$work/one.bin" --valid 0.2 --parallel 1 -t 2
cmp "$work/own.bin" "$work/one.bin" || fail "generate: one document at a time is another text"
own -o "$work/seed.bin" -s 2
for doc in 0 1; do
    [[ $("$program" data show "$work/own.bin" --doc $doc) != "$("$program" data show "$work/seed.bin" --doc 0)" ]] ||
        fail "generate: document $doc of seed 1 is the first of seed 2"
done
own -o "$work/greedy.bin" --temp 0 --json >"$work/figures"
grep -q '"documents": 5' "$work/figures" || fail "generate: $(cat "$work/figures")"
[[ $("$program" data show "$work/greedy.bin" --doc 0) == "$("$program" data show "$work/greedy.bin" --doc 4)" ]] ||
    fail "generate: greedy documents differ"

# refused STATUS WORDS ARGUMENT...
refused() {
    local expected=$1 words=$2 status=0
    shift 2
    "$program" data "$@" >"$work/out" 2>"$work/err" || status=$?
    ((status == expected)) || fail "data $*: status $status"
    grep -qF -e "$words" "$work/err" || fail "data $*: said $(cat "$work/err"), expected $words"
    [[ ! -e $work/new.bin ]] || fail "data $*: left a file"
}
: >"$work/empty.txt"
refused 1 'missing.txt' build -m "$model" -o "$work/new.bin" "$work/missing.txt"
refused 1 'no text' build -m "$model" -o "$work/new.bin" "$work/empty.txt"
refused 1 'line 1: "body"' build -m "$model" -o "$work/new.bin" --field body "$work/b.jsonl"
refused 2 '-o FILE is missing' build -m "$model" "$work/a.txt"
refused 2 'no input' build -o "$work/new.bin"
refused 2 'expected one of them' build -o "$work/new.bin" "$work/a.txt" --valid 0.1 --valid-file "$work/a.txt"
refused 2 'expected none' generate -m "$model" -o "$work/new.bin" "$work/a.txt"
refused 2 '-o FILE is missing' generate -m "$model"
refused 1 'expected 2 to the model' generate -m "$model" -o "$work/new.bin" --doc-tokens 4000
refused 1 'missing.gguf' generate -m "$work/missing.gguf" -o "$work/new.bin"
refused 2 'expected build, generate, info or show' make "$work/a.txt"
refused 1 'not a token file' info "$work/a.txt"
refused 1 'of 4' show "$work/t.bin" --doc 4
head -c 200 "$work/t.bin" >"$work/cut.bin"
refused 1 'cut.bin: token file: ' info "$work/cut.bin"
{ head -c 128 "$work/t.bin"; printf '\377\377'; tail -c +131 "$work/t.bin"; } >"$work/bad.bin"
refused 1 'token 0: id 65535, expected below 4096' info --check "$work/bad.bin"
refused 1 'token 0: id 65535, expected below 4096' show "$work/bad.bin"
shopt -s nullglob
parts=("$work"/*.part-*)
((${#parts[@]} == 0)) || fail "left behind: ${parts[*]}"
echo "token files: built, shown, refused"
