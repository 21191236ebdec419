#!/usr/bin/env bash
# `bitloom eval`: the table, the JSON and the samples fit each other, and what is wrong is refused.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

items=$root/tests/golden/eval
"$program" eval -m "$model" -f "$items/piqa.jsonl" -f "$items/winogrande.jsonl" --items 12 -t 1 --json \
    --samples "$work/samples" >"$work/json" || fail "eval --json"
python3 - "$work/json" "$work/samples" <<'END' || fail "eval: figures"
import json, math, sys
rows = json.load(open(sys.argv[1]))["results"]
samples = [json.loads(line) for line in open(sys.argv[2])]
assert [row["task"] for row in rows] == ["piqa", "winogrande"], rows
assert len(samples) == 24, len(samples)
for row in rows:
    own = [s for s in samples if s["file"] == row["file"]]
    right = [s["chosen"] == s["gold"] for s in own]
    acc = sum(right) / len(right)
    assert row["items"] == len(own) == 12 and abs(row["acc"] - acc) < 1e-12, row
    assert abs(row["acc_stderr"] - math.sqrt(acc * (1 - acc) / 11)) < 1e-12, row
    assert ("acc_norm" in row) == (row["task"] == "piqa"), row
    for s in own:
        assert s["chosen"] == s["log_likelihoods"].index(max(s["log_likelihoods"])), s
END

"$program" eval -m "$model" -m "$model" -f "$items/boolq.jsonl" --limit 2 -t 1 >"$work/table" || fail "eval"
[[ $(grep -c '^boolq  *2 ' "$work/table") -eq 2 ]] || fail "the table: $(cat "$work/table")"

# refused STATUS WORDS ARGUMENT...: the words on stderr.
refused() {
    local expected=$1 words=$2 status=0
    shift 2
    "$program" eval -m "$model" -t 1 "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
    [[ $status -eq $expected ]] || fail "eval $*: status $status"
    grep -qF -e "$words" "$work/err" || fail "eval $*: said $(cat "$work/err"), expected $words"
}
printf '{"goal":"g","sol1":"a","sol2":"b","label":1}\n{"goal":"g","sol1":"a","label":1}\n' >"$work/bad"
refused 1 "$work/bad: line 2: \"sol2\" is nothing, expected a string" -f "$work/bad" --samples "$work/none"
refused 1 'line 1: "sentence" is nothing' -f "$work/bad" --task winogrande
refused 1 'no items' -f -
refused 1 'No such file' -f "$work/none"
refused 2 '-f FILE is missing'
refused 2 'expected one of: auto' -f "$work/bad" --task mmlu
[[ ! -e $work/none ]] || fail "samples of a failed run were kept"

((failures == 0))
