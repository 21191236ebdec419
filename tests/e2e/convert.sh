#!/usr/bin/env bash
# `bitloom convert` and `inspect`: a GGUF goes through other layouts and back, what is broken is
# refused, and a failure leaves nothing behind.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

# refused WORDS INPUT: status 1, the words on stderr, the target as it was, no part of a file.
refused() {
    local words=$1 input=$2 status=0
    mkdir -p "$work/target"
    echo before >"$work/target/out.gguf"
    "$program" convert "$input" -o "$work/target/out.gguf" >"$work/out" 2>"$work/log" || status=$?
    [[ $status -eq 1 && ! -s $work/out ]] || fail "convert $input: status $status"
    grep -qF -e "$words" "$work/log" || fail "convert $input: said $(cat "$work/log"), expected $words"
    [[ $(ls "$work/target") == out.gguf && $(cat "$work/target/out.gguf") == before ]] ||
        fail "convert $input left $(ls "$work/target")"
}
refused "$work/none" "$work/none"
mkdir "$work/empty" && refused config.json "$work/empty"
mkdir "$work/broken" && echo '{"architectures": ["BitNetForCausalLM"' >"$work/broken/config.json"
refused config.json "$work/broken"
mkdir "$work/unknown" && echo '{"architectures": ["FrobnicatorForCausalLM"], "model_type": "frobnicator"}' \
    >"$work/unknown/config.json"
refused robnicator "$work/unknown"
echo GGUF >"$work/short.gguf"
refused short.gguf "$work/short.gguf"

head -c 200000 "$model" >"$work/cut.gguf"
refused cut.gguf "$work/cut.gguf"

# Another layout and back: the same text.
"$program" convert "$model" -o "$work/float.gguf" --type f32 -q
"$program" convert "$work/float.gguf" -o "$work/native.gguf" --type native --json -q >"$work/report"
python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
assert report["ternary_weights"] > 0 and report["peak_memory_bytes"] > 0, report' "$work/report" || fail "--json"
text() { "$program" run -m "$1" -p 'It was the best of times,' -n 24 --temp 0 -q; }
text "$model" >"$work/text"
for other in float native; do
    text "$work/$other.gguf" | cmp -s - "$work/text" || fail "$other.gguf writes another text"
done
[[ $(find "$work" -maxdepth 1 -name '*.gguf*' | wc -l) -eq 4 ]] || fail "left behind: $(ls "$work")"

"$program" inspect --tensors "$model" >"$work/table"
"$program" inspect --json "$model" >"$work/json"
python3 - "$work/json" "$work/table" <<'END' || fail "inspect"
import json, sys
described = json.load(open(sys.argv[1]))
table = open(sys.argv[2]).read()
assert described["tensors"] and described["metadata"], described
for tensor in described["tensors"]:
    assert tensor["name"] in table, tensor
END

# verify: a table or JSON, and the exit status says the verdict.
"$program" convert "$model" -o "$work/good.gguf" --known-answer -q
"$program" verify "$work/good.gguf" >"$work/table" || fail "verify: $(cat "$work/table")"
grep -q '^checksums *pass' "$work/table" && grep -q '^known answer *pass' "$work/table" ||
    fail "verify: $(cat "$work/table")"
size=$(wc -c <"$work/good.gguf")
printf '\x55' | dd of="$work/good.gguf" bs=1 seek=$((size - 300000)) conv=notrunc 2>"$work/log"
status=0
"$program" verify --json "$work/good.gguf" >"$work/json" || status=$?
python3 - "$work/json" <<'END' || fail "verify --json: $(cat "$work/json")"
import json, sys
report = json.load(open(sys.argv[1]))
failed = [check["check"] for check in report["checks"] if check["result"] == "fail"]
assert not report["passed"] and "checksums" in failed, failed
assert any(found["check"] == "checksums" for found in report["findings"]), report["findings"]
END
((status == 1)) || fail "verify of a damaged file: status $status"

((failures == 0))
