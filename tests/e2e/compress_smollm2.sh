#!/usr/bin/env bash
# SmolLM2-135M through `bitloom compress`, packed and as floats: logits agree within 1e-3 of the
# largest of a row, with keys and values as floats, too (in float16 a difference in a float's last
# bit may become one in its eleventh). The file is found as golden_smollm2 finds it.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
name=SmolLM2-135M-Instruct.Q4_1.gguf
float=${BITLOOM_ASSETS:+$BITLOOM_ASSETS/$name}
[[ -e $float ]] || float=${BITLOOM_SMOLLM2:-}
[[ -e $float ]] || { echo "SKIPPED: no $name in BITLOOM_ASSETS, none named by BITLOOM_SMOLLM2"; exit 77; }
cd "$work"

cat "$root"/docs/*.md >text.txt
for method in sign-h arb-h billm arb-rc onebit; do
    few=(-m "$method" --calibration text.txt --samples 4 --length 128 -q)
    "$program" compress "$float" "${few[@]}" -o packed.gguf >/dev/null
    "$program" compress "$float" "${few[@]}" -o dense.gguf --dense f32 >/dev/null
    "$program" compare dense.gguf packed.gguf -f "$root/README.md" -c 128 --windows 2 --cache-type f32 --json -q >figures
    python3 - "$method" <<'END' || fail "$method: packed and dense differ"
import json, sys
figures = json.load(open("figures"))
print("{}: {:.2g} of the largest logit, KL {:.2g}".format(sys.argv[1], figures["largest_difference"], figures["kl"]))
assert figures["perplexity_a"] > 1 and figures["largest_difference"] < 1e-3, figures
END
done
(( failures == 0 ))
