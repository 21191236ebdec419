#!/usr/bin/env bash
# `bitloom tokenize`: bytes survive the way to ids and back, in every form of output.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

tokenize() { "$program" tokenize -m "$model" "$@"; }

round_trip() {
    tokenize --ids --no-bos --no-special <"$work/text" >"$work/ids" 2>"$work/log" || fail "$1: $(cat "$work/log")"
    [[ $(wc -l <"$work/ids") -eq 1 ]] || fail "$1: more than one line of ids"
    tokenize --decode <"$work/ids" | cmp -s - "$work/text" || fail "$1: does not come back"
}
printf 'Hello world' >"$work/text" && round_trip 'plain'
printf 'Grüße, 日本 🧵\n\n\tdone  \n' >"$work/text" && round_trip 'UTF-8'
printf 'a\0b\x80 \xe6\x97' >"$work/text" && round_trip 'bytes that are no UTF-8'
: >"$work/text" && round_trip 'nothing'
cat "$root"/src/*/*.c >"$work/text" && round_trip 'our sources'
head -c 1000000 /dev/zero | tr '\0' 'a' >"$work/text" && round_trip 'a megabyte of one letter'

# The three outputs hold the same ids.
printf 'It was "a" dark\nnight \xe6' >"$work/text"
tokenize --ids <"$work/text" | tr ' ' '\n' >"$work/ids"
tokenize <"$work/text" | awk '{print $1}' | cmp -s - "$work/ids" || fail "lines and --ids differ"
tokenize --json <"$work/text" | python3 -c 'import json, sys
for token in json.load(sys.stdin): print(token["id"])' | cmp -s - "$work/ids" || fail "--json and --ids differ"
printf '[1, 2,3]' | tokenize --decode >/dev/null || fail "a JSON array of ids"

refused() {
    local words=$1 status=0
    shift
    "$program" tokenize "$@" >"$work/out" 2>"$work/log" || status=$?
    [[ $status -eq 1 && ! -s $work/out ]] || fail "$*: status $status"
    grep -qF -e "$words" "$work/log" || fail "$*: said $(cat "$work/log")"
}
refused 'found "99999999"' -m "$model" --decode <<<'1 99999999'
refused 'found "-1"' -m "$model" --decode <<<'-1'
refused 'id number 2: found "x"' -m "$model" --decode <<<'1 x'
refused "$work/none" -m "$work/none" </dev/null
refused "$work" -m "$work" </dev/null

((failures == 0))
