#!/usr/bin/env bash
# `bitloom train` and `plot`: a small model learns a made-up text, is killed at random moments and
# goes on to the same weights, and what is exported runs.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
cd "$work"

python3 - >text.txt <<'END'
import random
random.seed(1)
who = ["the miller", "a grey horse", "the queen", "her brother", "an old clerk", "nobody"]
did = ["found", "sold", "had lost", "looked for", "dreamt of", "carried"]
what = ["a silver key", "the letter", "seven apples", "a house by the sea", "the road home"]
for _ in range(9000):
    print(f"{random.choice(who)} {random.choice(did)} {random.choice(what)}.".capitalize())
END
tokenizer=$root/tests/golden/tokenizers/bpe/tokenizer.json
"$program" data build -m "$tokenizer" -o text.bin --valid 0.05 -q text.txt
cat >recipe.json <<END
{"layers": 1, "dim": 64, "ffn_dim": 96, "heads": 2, "tokens": 64, "rows": 8, "data": "text.bin",
 "tokenizer": "$tokenizer", "steps": 300, "rate": 0.01, "save_interval": 10, "eval_interval": 100, "eval_rows": 8,
 "prompt": "The queen sold", "sample_tokens": 16, "temperature": 0}
END

# The whole run, and its figures.
"$program" train recipe.json -o whole -t 2 -q --json >report
python3 - report whole/run.jsonl <<'END' || fail "train: report or metrics"
import json, math, sys
report = json.load(open(sys.argv[1]))
lines = [json.loads(line) for line in open(sys.argv[2])]
assert report["steps"] == 300 and report["tokens"] == 300 * 512, report
assert lines[-1]["step"] == 300 and lines[0]["step"] == 1, lines
assert report["perplexity"] == math.exp(report["deployed"]) and 0.1 < report["bits_per_byte"] < 4, report
assert 0 < report["flips_start"] < 0.2 and 0 <= report["flips_end"] < report["flips_start"], report
assert abs(report["tokens_per_second"] * report["seconds"] - 300 * 512) < 1, report
sizes = report["bytes_by_layout"]
assert set(sizes) == {"bl_t2", "bl_t5", "f32"} and sizes["f32"] == 4 * report["weights"], sizes
assert lines[-1]["loss"] < lines[0]["loss"] - 2, (lines[0], lines[-1])
assert [line["step"] for line in lines if "sample" in line] == [100, 200, 300], lines
assert all(line["sample"].startswith("The queen sold") for line in lines if "sample" in line), lines
assert lines[-1]["validation"] < 2.5 and abs(report["deployed"] - report["validation"]) < 0.05, report
END
[[ $(echo whole/*) == "whole/best.safetensors whole/run.jsonl whole/step-00000290.safetensors whole/step-00000300.safetensors" ]] ||
    fail "the run's directory has: $(echo whole/*)"

# Killed at random moments: the same weights.
RANDOM=7 kills=0
for _ in {1..20}; do
    "$program" train recipe.json -o killed --resume -t 1 -q 2>>killed.log &
    pid=$!
    sleep "0.0$((RANDOM % 60 + 30))"
    if kill -9 "$pid" 2>/dev/null; then kills=$((kills + 1)); fi
    { wait "$pid" || true; } 2>/dev/null
    [[ -e killed/step-00000300.safetensors ]] && break
done
"$program" train recipe.json -o killed --resume -t 2 -q 2>>killed.log
((kills >= 3)) || fail "killed only $kills times"
for run in whole killed; do "$program" train --export "$run-hf" -o "$run" -q; done
cmp whole-hf/model.safetensors killed-hf/model.safetensors || fail "killed $kills times, other weights"
grep -o '"sample":.*' whole/run.jsonl >whole.samples
grep -o '"sample":.*' killed/run.jsonl | cmp - whole.samples || fail "killed $kills times, other samples"

# Samples are only looked at: the same weights without them, and the exported model writes them too.
"$program" train recipe.json -o silent --set sample_tokens=0 -t 2 2>silent.log
"$program" train --export silent-hf -o silent -q
cmp whole-hf/model.safetensors silent-hf/model.safetensors || fail "samples change the weights"
if grep -q sample silent.log silent/run.jsonl; then fail "samples that nobody asked for"; fi
"$program" train --export masters.gguf --masters -o whole -q
"$program" run -m masters.gguf -p 'The queen sold' -n 16 --temp 0 -q >masters.txt
python3 - whole/run.jsonl masters.txt <<'END' || fail "the last sample is not what the exported model writes"
import json, sys
sample = json.loads(open(sys.argv[1]).readlines()[-1])["sample"]
text = open(sys.argv[2]).read()
print(repr(sample), repr(text), file=sys.stderr)
assert text.strip() and sample.rstrip().endswith(text.strip()), (sample, text)
END
if ls killed/*.part-* 2>/dev/null; then fail "left half-written files"; fi

# What is exported runs, straight and by way of the directory.
"$program" train --export whole.gguf -o whole -q
"$program" convert whole-hf -o hf.gguf -q
"$program" inspect whole.gguf | grep -q bl_t2 || fail "whole.gguf is not in the native layout"
for way in whole hf; do
    "$program" run -m "$way.gguf" -p 'The queen sold' -n 16 --temp 0 -q >"$way.txt" || fail "$way.gguf does not run"
done
cmp whole.txt hf.txt || fail "two exports write different texts"
[[ $(wc -c <whole.txt) -gt 16 ]] || fail "the model wrote: $(cat whole.txt)"
[[ $(echo ./*.hf-*) == './*.hf-*' ]] || fail "export left $(echo ./*.hf-*)"

# From a full-precision model in GGUF to a ternary one: it starts with that model's loss, and its tokenizer
# goes along.
"$program" train recipe.json -o twin --weights float --set activation=silu --set sub_norms=false --steps 100 --export twin.gguf -q
"$program" train --from twin.gguf --data text.bin --set tokens=64 --steps 60 --rows 8 --lr 0.005 --lambda-steps 30 \
    --set eval_interval=20 --set eval_rows=8 -o tuned -q --export tuned.gguf
python3 - twin/run.jsonl tuned/run.jsonl <<'END' || fail "train --from: metrics"
import json, sys
twin, tuned = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert tuned[0]["step"] == 0 and tuned[0]["lambda"] == 0, tuned[0]
assert abs(tuned[0]["validation"] - twin[-1]["validation"]) < 1e-3, (twin[-1], tuned[0])
assert tuned[2]["step"] == 10 and tuned[2]["lambda"] == 0.3, tuned[2]
assert "lambda" not in tuned[-1] and tuned[-1]["validation"] < 3, tuned[-1]
END
"$program" run -m tuned.gguf -p 'The queen sold' -n 16 --temp 0 -q >tuned.txt || fail "tuned.gguf does not run"
[[ $(wc -c <tuned.txt) -gt 16 ]] || fail "the tuned model wrote: $(cat tuned.txt)"

# In groups: the file says so and runs; what cannot say it is refused.
"$program" train --groups 2 --steps 30 --set save_interval=0 -o groups --export groups.gguf -q recipe.json
"$program" inspect --json groups.gguf | grep '"bitloom.groups": 2' >/dev/null || fail "groups.gguf does not say so"
"$program" convert groups.gguf -o again.gguf -q
for way in groups again; do
    "$program" run -m "$way.gguf" -p 'The queen sold' -n 16 --temp 0 -q >"$way.txt" || fail "$way.gguf does not run"
done
cmp groups.txt again.txt || fail "converted, the model in groups writes another text"
"$program" convert groups.gguf -o not.gguf --type f32 -q 2>err && fail "groups became f32"
grep -qF "2 groups" err || fail "groups to f32: said $(cat err)"

# A SentencePiece-style vocabulary goes into the file with its scores, and gives the same ids there.
mkdir pieces
"$program" tokenizer train --kind sentencepiece --vocab 400 -o pieces/tokenizer.json -q text.txt
"$program" data build -m pieces -o pieces.bin --valid 0.05 -q text.txt
"$program" train recipe.json --data pieces.bin --tokenizer pieces --steps 2 -o pieces.run --export pieces.gguf -q
"$program" inspect pieces.gguf >inspected
grep -q 'tokenizer.ggml.model *"llama"' inspected && grep -q 'tokenizer.ggml.scores *[0-9]* x f32' inspected ||
    fail "pieces.gguf: $(grep tokenizer inspected)"
for way in pieces pieces.gguf; do "$program" tokenize -m $way --ids --no-bos <text.txt >"ids.$way"; done
cmp ids.pieces ids.pieces.gguf || fail "tokenizer.json and pieces.gguf give other ids"
"$program" tokenize -m pieces.gguf --decode <ids.pieces | cmp - text.txt || fail "ids do not decode to their text"

# BitNet as first published: binary weights, a LayerNorm before each linear.
"$program" train recipe.json -o first --recipe bitnet --steps 60 --export first.gguf -q
"$program" run -m first.gguf -p 'The queen sold' -n 16 --temp 0 -q >first.txt || fail "first.gguf does not run"
[[ $(wc -c <first.txt) -gt 16 ]] || fail "the BitNet model wrote: $(cat first.txt)"

# A onebit student of a float twin: near its teacher after few steps, and its export runs.
"$program" train recipe.json -o master --weights float --steps 60 -q
"$program" train recipe.json --from master --teacher master --weights onebit --lr 3e-3 --steps 40 -o student \
    --export student.gguf -q --json >report
python3 - report student/run.jsonl <<'END' || fail "train: the student's report or metrics"
import json, math, sys
report = json.load(open(sys.argv[1]))
lines = [json.loads(line) for line in open(sys.argv[2])]
assert lines[0]["step"] == 0 and abs(lines[0]["teacher"] - report["teacher"]) < 1e-5, lines[0]
assert lines[-1]["hidden"] < 0.9 * lines[1]["hidden"], lines
assert 0.9 < report["perplexity_ratio"] < 1.8, report
assert math.isclose(report["perplexity_ratio"], math.exp(report["deployed"] - report["teacher"])), report
assert report["validation"] < lines[0]["validation"] and list(report["bytes_by_layout"]) == ["bl_b1"], report
END
"$program" run -m student.gguf -p 'The queen sold' -n 16 --temp 0 -q >student.txt || fail "student.gguf does not run"
[[ $(wc -c <student.txt) -gt 16 ]] || fail "the student wrote: $(cat student.txt)"

# Ctrl-C leaves a checkpoint; meanwhile nobody else may train there, and later everybody.
status=0
"$program" train recipe.json -o stopped --steps 100000 -t 1 -q 2>stopped.log & pid=$!
sleep 0.5
if "$program" train -o stopped --resume -q 2>err; then fail "two processes train in one directory"; fi
grep -q "process $pid trains in it" err || fail "a locked run: said $(cat err)"
kill -INT "$pid"
wait "$pid" || status=$?
[[ $status -eq 130 ]] || fail "Ctrl-C: status $status, said $(cat stopped.log)"
"$program" train --export stopped-hf -o stopped -q || fail "Ctrl-C left no checkpoint"

# refused WORDS ARGUMENT...: status 1 and the words.
refused() {
    local words=$1 status=0
    shift
    "$program" train "$@" -q >out 2>err || status=$?
    [[ $status -eq 1 && ! -s out ]] || fail "train $*: status $status"
    grep -qF -e "$words" err || fail "train $*: said $(cat err), expected $words"
}
echo '{"leyers": 2}' >bad.json
refused "unknown key 'leyers'" bad.json -o bad
refused "data is missing" -o bad --resume
refused "text.txt: not a token file" recipe.json -o bad --data text.txt
refused "resume it" recipe.json -o whole
refused "expected binary" recipe.json -o whole --resume --weights binary
refused "ternary already" --from whole.gguf --data text.bin -o bad
refused "teacher: nothing: cannot open" recipe.json --teacher nothing -o bad
refused "distill_hidden 0 leaves it out" recipe.json --teacher master --set layers=2 -o bad
refused "onebit linears, which no Hugging Face" -o student --export student-hf
refused "in 2 groups, which no Hugging Face" -o groups --export groups-hf
refused "expected 1" recipe.json -o groups --resume
refused "groups is 3, expected a divisor of kv_heads, 2," --groups 3 -o bad recipe.json
refused "masters of a binary model" recipe.json -o binary --weights binary --steps 2 --export b --masters
head -c 5000 whole/step-00000300.safetensors >cut.file && mv cut.file whole/step-00000300.safetensors
refused "step-00000300.safetensors" --resume -o whole
cp -r killed full
(
    ulimit -f 100
    trap '' XFSZ
    failures=0
    refused "cannot write" --resume -o full --steps 320
    ((failures == 0))
) || fail "a full disk"
"$program" train --export full-hf -o full -q || fail "a full disk broke the last checkpoint"

"$program" plot whole/run.jsonl killed/run.jsonl -o loss.svg --title 'a < b & c' -q
python3 - loss.svg <<'END' || fail "plot"
import sys, xml.etree.ElementTree as tree
svg = tree.parse(sys.argv[1]).getroot()
text = " ".join(t.text or "" for t in svg.iter("{http://www.w3.org/2000/svg}text"))
circles = len(list(svg.iter("{http://www.w3.org/2000/svg}circle")))
assert "a < b & c" in text and "whole" in text and "killed" in text, text
assert circles == 2 * 3 + 1, circles
END
status=0
"$program" plot text.txt -o none.svg -q 2>err || status=$?
[[ $status -eq 1 && ! -e none.svg ]] || fail "plot of no metrics: status $status"

((failures == 0)) && echo "killed $kills times"
