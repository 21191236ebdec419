#!/usr/bin/env bash
# `mpirun bitloom train`: two processes go through the losses of one, in float and ternary, go on in
# another number of processes, end together whatever ends one of them, and say once what went wrong.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
command -v mpirun >/dev/null || { echo "SKIPPED: no mpirun"; exit 77; }
"$program" info --json | python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["mpi"] is None)' ||
    { echo "SKIPPED: built without MPI"; exit 77; }
# libmpi keeps what it has allocated; what it warns of is not about us.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
export OMPI_MCA_btl_base_warn_component_unused=0 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_hwloc_base_binding_policy=none
timeout 30 mpirun -n 2 true >/dev/null 2>&1 || { echo "SKIPPED: mpirun starts no processes here"; exit 77; }
cd "$work"

python3 - >text.txt <<'END'
import random
random.seed(1)
who = ["the miller", "a grey horse", "the queen", "her brother", "an old clerk", "nobody"]
did = ["found", "sold", "had lost", "looked for", "dreamt of", "carried"]
what = ["a silver key", "the letter", "seven apples", "a house by the sea", "the road home"]
for _ in range(3000):
    print(f"{random.choice(who)} {random.choice(did)} {random.choice(what)}.".capitalize())
END
tokenizer=$root/tests/golden/tokenizers/bpe/tokenizer.json
"$program" data build -m "$tokenizer" -o text.bin --valid 0.05 -q text.txt
cat >recipe.json <<END
{"layers": 1, "dim": 64, "ffn_dim": 96, "heads": 2, "tokens": 32, "rows": 3, "accumulate": 3, "data": "text.bin",
 "mask_documents": true, "precision": "float32", "steps": 40, "rate": 0.005, "clip": 0.5, "log_interval": 1,
 "save_interval": 10, "eval_interval": 20, "eval_rows": 7}
END

# near A B BOUND LAST: losses of both runs agree within BOUND for ten steps, at the end within LAST.
near() {
    python3 - "$@" <<'END' || fail "other losses: $*"
import json, sys
a, b = ([json.loads(line) for line in open(f"{name}/run.jsonl")] for name in sys.argv[1:3])
bound, last = map(float, sys.argv[3:])
assert len(a) == len(b) == 40, (len(a), len(b))
worst = max(abs(x["loss"] - y["loss"]) for x, y in zip(a[:10], b))
end = max(abs(x["loss"] - y["loss"]) for x, y in zip(a, b))
valid = abs(a[-1]["validation"] - b[-1]["validation"])
assert worst <= bound and end <= last and valid <= last, (worst, end, valid)
assert a[-1]["loss"] < a[0]["loss"] - 1, a[-1]
END
}
for weights in float ternary; do
    "$program" train recipe.json -o "one-$weights" --weights $weights -t 2 -q
    mpirun -n 2 "$program" train recipe.json -o "two-$weights" --weights $weights -q --json >report 2>err ||
        fail "$weights: $(cat err)"
    [[ $(grep -c '"processes": 2' report) -eq 1 ]] || fail "the report of two: $(cat report)"
done
near one-float two-float 2e-5 1e-3
near one-ternary two-ternary 2e-3 0.2 # codes flip by the order of a sum

# A network in two parts, and back in one process.
parts=(--set kv_heads=2 --groups 2 --weights ternary -q)
"$program" train recipe.json -o whole -t 2 "${parts[@]}"
mpirun -n 2 "$program" train recipe.json -o halves "${parts[@]}" --tensor-parallel 2 2>err || fail "in parts: $(cat err)"
near whole halves 2e-3 0.2
"$program" train --resume -o halves --tensor-parallel 1 --steps 42 -q || fail "from parts to one process"

# The same bits again, also when stopped half-way; and on in other numbers of processes.
mpirun -n 2 "$program" train recipe.json -o parts --weights ternary --steps 40 -q 2>err &
mpi=$!
for _ in {1..200}; do
    [[ -e parts/step-00000010.safetensors ]] && break
    sleep 0.05
done
# Killed, as a crash would: the others end too, without a hang.
pkill -9 -P "$mpi" -n || true
killed=0
{ wait "$mpi" || killed=$?; } 2>/dev/null
mpirun -n 2 "$program" train -o parts --resume -q 2>err || fail "resume: $(cat err)"
for run in two-ternary parts; do "$program" train --export "$run-hf" -o "$run" -q; done
cmp two-ternary-hf/model.safetensors parts-hf/model.safetensors || fail "killed (status $killed), other weights"
"$program" train recipe.json -o moved --weights float --steps 40 -t 1 -q --set save_interval=7 &
one=$!
for _ in {1..200}; do
    [[ -e moved/step-00000014.safetensors ]] && break
    sleep 0.02
done
kill -9 "$one" 2>/dev/null || true
{ wait "$one" || true; } 2>/dev/null
mpirun -n 3 "$program" train -o moved --resume -q 2>err || fail "one to three: $(cat err)"
near one-float moved 2e-5 1e-3

# told STATUS WORDS: the run ended with an error, and its words came once.
told() {
    [[ $1 -ne 0 && $(grep -cF -e "$2" err) -eq 1 ]] || fail "status $1, said $(cat err); expected $2 once"
}
status=0
mpirun -n 2 "$program" train recipe.json -o bad --data text.txt -q 2>err || status=$?
told $status "text.txt: not a token file"
status=0
mpirun -n 1 "$program" train recipe.json -o bad -q : -n 1 "$program" train recipe.json -o bad -q --seed 7 2>err ||
    status=$?
told $status "process 1: finds another recipe"
status=0
mpirun -n 2 "$program" train recipe.json -o bad --rows 1 --accumulate 1 -q 2>err || status=$?
told $status "2 processes for the 1 rows"
if ! mkdir sealed || ! chmod 500 sealed || ! touch sealed/probe 2>/dev/null; then
    status=0
    mpirun -n 2 "$program" train recipe.json -o sealed -q 2>err || status=$?
    told $status "sealed"
fi

# Ctrl-C on mpirun: all end, and what was saved last goes on.
mpirun -n 2 "$program" train recipe.json -o stopped --steps 100000 -q 2>err &
mpi=$!
for _ in {1..200}; do
    [[ -e stopped/step-00000020.safetensors ]] && break
    sleep 0.05
done
kill -INT "$mpi"
wait "$mpi" || true
"$program" train --export stopped-hf -o stopped -q || fail "Ctrl-C left no checkpoint"

# A program that finds no plug-in says so instead of running twice.
mkdir bare && cp "$program" bare/bitloom
status=0
OMPI_COMM_WORLD_SIZE=2 bare/bitloom train recipe.json -o bare/run -q 2>err || status=$?
if [[ $status -eq 0 ]]; then fail "one of two processes ran alone"; fi
if ! grep -q "has no MPI" err && ! grep -q "were started" err; then fail "without the plug-in: $(cat err)"; fi

((failures == 0)) && echo "killed: status $killed"
