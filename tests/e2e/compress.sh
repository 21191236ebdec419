#!/usr/bin/env bash
# `bitloom compress`: a small float model through several methods and their page, killed and gone on
# with, and what cannot be done.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
cd "$work"

"$program" convert "$root/tests/golden/models/llama-float-linear-rope" -o float.gguf --type f32 -q
python3 - >text.txt <<'END'
import random
random.seed(1)
print(" ".join("".join(random.choice("etaoin shrdlu") for _ in range(7)) for _ in range(800)))
END
few=(--calibration text.txt --samples 6 --length 32 -q)

# Several methods, their page and their figures.
"$program" compress float.gguf -m rtn -m billm -m arb-rc -m arb-h "${few[@]}" -o out.gguf \
    --test text.txt -c 32 --windows 4 --report page.md --json >figures
python3 - figures page.md <<'END' || fail "figures or page"
import json, sys
figures = json.load(open(sys.argv[1]))
page = open(sys.argv[2]).read()
assert figures["perplexity"] > 1, figures
results = {r["method"]: r for r in figures["results"]}
assert list(results) == ["rtn", "billm", "arb-rc", "arb-h"], list(results)
for name, r in results.items():
    assert r["perplexity"] > 1 and 1 <= r["nominal_bits"] <= r["true_bits"], r
    assert len(r["matrices"]) == 14 and all(m["error"] >= 0 for m in r["matrices"]), r
    assert f"| {name} | " in page
assert results["arb-h"]["error"] < results["billm"]["error"] < results["rtn"]["error"], results
assert "page-perplexity.svg" in page and "page-layers.svg" in page
END
for drawing in page-perplexity.svg page-layers.svg; do
    python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' "$drawing" || fail "$drawing"
done
for method in rtn billm arb-rc arb-h; do
    "$program" run -m "out-$method.gguf" -p 'a' -n 4 --temp 0 -q >text || fail "out-$method.gguf does not run"
    "$program" verify "out-$method.gguf" >verdict || fail "out-$method.gguf: $(cat verdict)"
done

# Dense and packed say the same.
"$program" compress float.gguf -m billm "${few[@]}" -o dense.gguf --dense f32 >/dev/null
"$program" compare dense.gguf out-billm.gguf -f text.txt -c 32 --max-kl 1e-6 -q >agreement ||
    fail "packed and dense differ: $(cat agreement)"

# Killed at random moments, and gone on with: the same bytes.
"$program" compress float.gguf -m arb-h "${few[@]}" -o killed.gguf >/dev/null
mv killed.gguf whole.gguf
for delay in 0.005 0.01 0.02 0.03; do
    "$program" compress float.gguf -m arb-h "${few[@]}" -o killed.gguf >/dev/null 2>&1 &
    pid=$!
    sleep "$delay"
    kill -9 "$pid" 2>/dev/null || true
    { wait "$pid" || true; } 2>/dev/null
done
rm -f killed.gguf
"$program" compress float.gguf -m arb-h "${few[@]}" -o killed.gguf >/dev/null
cmp -s killed.gguf whole.gguf || fail "killed.gguf is another file"
[[ ! -e killed.gguf.parts ]] || fail "finished layers are left: $(ls killed.gguf.parts)"

# refused WORDS ARGUMENT...: status 1, the words on stderr, no file.
refused() {
    local words=$1 status=0
    shift
    rm -f none.gguf
    "$program" compress "$@" -o none.gguf >out 2>log || status=$?
    [[ $status -eq 1 && ! -e none.gguf ]] || fail "compress $*: status $status"
    grep -qF -e "$words" log || fail "compress $*: said $(cat log), expected $words"
}
refused 'calibration text has' float.gguf -m billm --calibration text.txt --samples 40000 --length 64
refused 'already' "$model" -m billm "${few[@]}"
refused 'none.txt' float.gguf -m billm --calibration none.txt
refused 'no layout of its own' float.gguf -m pb-llm "${few[@]}"
refused 'none.gguf.parts' float.gguf -m billm "${few[@]}" --state "$work/text.txt/none.gguf.parts"

# No room for a layer's file: an error that says so; with room again, the run goes on.
status=0
(ulimit -f 8; trap '' XFSZ; exec "$program" compress float.gguf -m billm "${few[@]}" -o none.gguf) >out 2>log || status=$?
[[ $status -eq 1 && ! -e none.gguf ]] && grep -q 'none.gguf.parts/layer-0000' log ||
    fail "no room: status $status, said $(cat log)"
"$program" compress float.gguf -m billm "${few[@]}" -o none.gguf >/dev/null || fail "with room again"
cmp -s none.gguf out-billm.gguf || fail "after no room, another file"

status=0
"$program" compress float.gguf -m bilm --calibration text.txt -o x.gguf 2>log || status=$?
[[ $status -eq 2 ]] && grep -q 'did you mean billm' log || fail "bilm: $(cat log)"

((failures == 0))
