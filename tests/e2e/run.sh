#!/usr/bin/env bash
# `bitloom run`: only text on standard output, the same for every kernel and thread count; prompts
# from everywhere; pipes that close, Ctrl-C, and models that are none.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

run() { "$program" run -m "$model" -n 24 --seed 7 "$@"; }
prompt='It was the best of times,'

# One text whatever the kernel and the number of threads.
run -p "$prompt" >"$work/text" 2>"$work/log"
[[ -s $work/text ]] || fail "no text"
grep -q 'tok/s.*kernel .*seed 7; stopped: ' "$work/log" || fail "no closing line: $(cat "$work/log")"
kernels=$("$program" info --json | python3 -c 'import json, sys; print(*json.load(sys.stdin)["kernels"])')
for kernel in $kernels; do
    for threads in 1 2; do
        BITLOOM_CPU=$kernel run -p "$prompt" -t $threads 2>"$work/log" | cmp -s - "$work/text" ||
            fail "kernel $kernel, $threads threads: another text"
        grep -q "kernel $kernel," "$work/log" || fail "the closing line does not name $kernel"
    done
done
run -p "$prompt" -b 1 -q 2>"$work/log" | cmp -s - "$work/text" || fail "batches of 1: another text"
[[ ! -s $work/log ]] || fail "--quiet said $(cat "$work/log")"
run -p "$prompt" --seed 8 -q | cmp -s - "$work/text" && fail "another seed, the same text"

# Guesses change no text, neither drawn nor greedy, whoever guesses.
for guess in '--speculate lookup' "-md $model --draft-max 3" '--speculate off'; do
    # shellcheck disable=SC2086  # words of their own
    run -p "$prompt" $guess -q | cmp -s - "$work/text" || fail "$guess: another text"
    # shellcheck disable=SC2086
    run -p "$prompt" -n 90 --temp 0 $guess -q | cmp -s - <(run -p "$prompt" -n 90 --temp 0 -q) ||
        fail "greedy, $guess: another text"
done
run -p "$prompt" -md "$model" --json -q >"$work/json"
python3 - "$work/json" <<'END' || fail "speculation in --json"
import json, sys
found = json.load(open(sys.argv[1]))["speculation"]
assert found["accepted"] <= found["drafted"] and found["batches"] + found["plain_tokens"] > 0, found
END
run -p "$prompt" --speculate lookup 2>&1 >/dev/null | grep -q '^speculation: ' || fail "no line of speculation"
status=0
run -p "$prompt" --speculate draft >/dev/null 2>"$work/log" || status=$?
[[ $status -eq 2 ]] && grep -q 'the model is missing' "$work/log" || fail "draft without a model: $status"

# What a grammar or a schema asks for, whoever guesses tokens; what is cut is reported.
cat >"$work/schema.json" <<'END'
{"type": "object", "required": ["name", "age", "tags"], "properties": {
  "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
  "tags": {"type": "array", "items": {"enum": ["old", "new"]}, "maxItems": 3}}}
END
cat >"$work/check.py" <<'END'
import json, sys
value = json.load(sys.stdin)
assert list(value) == ["name", "age", "tags"], value
assert len(value["name"]) <= 20 and type(value["age"]) is int and 0 <= value["age"] <= 150, value
assert len(value["tags"]) <= 3 and set(value["tags"]) <= {"old", "new"}, value
END
for sampling in '--temp 0' '--temp 0 --speculate lookup' '--temp 2 --top-k 0 --top-p 1 --min-p 0' '--head full'; do
    # shellcheck disable=SC2086
    run -p "$prompt" -q -n 200 $sampling --json-schema "$work/schema.json" >"$work/value" || fail "--json-schema, $sampling"
    python3 "$work/check.py" <"$work/value" || fail "--json-schema, $sampling: $(cat "$work/value")"
done
run -p "$prompt" -n 200 --temp 0 -q --json-schema "$work/schema.json" >"$work/value"
for way in '--head full' '--head screened' '--speculate lookup' '-t 1'; do
    # shellcheck disable=SC2086
    run -p "$prompt" -n 200 --temp 0 -q --json-schema "$work/schema.json" $way | cmp -s - "$work/value" ||
        fail "--json-schema, $way: another text"
done
run -p "$prompt" -q -n 4 --json --json-object >"$work/json" 2>"$work/log"
python3 -c 'import json, sys; r = json.load(sys.stdin); assert r["text"][0] == "{" and not r["whole"], r' <"$work/json" ||
    fail "--json-object: $(cat "$work/json")"
grep -q 'the text is cut' "$work/log" || fail "a cut text is not reported"
printf 'root ::= (" yes" | " no") "!"\n' >"$work/grammar"
[[ $(run -p "$prompt" -q --grammar "$work/grammar") =~ ^\ (yes|no)!$ ]] || fail "--grammar"
printf 'root ::= yes\n' >"$work/grammar"
status=0
run -p "$prompt" -q --grammar "$work/grammar" >"$work/out" 2>"$work/log" || status=$?
[[ $status -eq 1 && $(<"$work/log") == *'grammar: line 1, column 10: rule yes'* ]] || fail "a wrong grammar: $(cat "$work/log")"

# What memory is taken for, and refusing what cannot be had.
run -p "$prompt" -v -c 64 2>&1 >/dev/null | grep -q '^memory: .* for keys and values of 64 tokens' || fail "run -v"
"$program" info --memory "$model" -c 64 --json >"$work/json" || fail "info --memory FILE"
python3 - "$work/json" <<'END' || fail "info --memory FILE"
import json, sys
found = json.load(open(sys.argv[1]))
parts = [found[name + "_bytes"] for name in ("mapped", "repacked", "head_copy", "cache", "scratch")]
assert found["n_ctx"] == 64 and found["total_bytes"] == sum(parts) and parts[0] > 0 and parts[3] > 0, found
END
if (($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) < 40000000)); then # the context takes 50 GiB
    status=0
    run -p x -c 16777216 >"$work/out" 2>"$work/log" || status=$?
    [[ $status -eq 1 && ! -s $work/out ]] || fail "a context beyond all memory: status $status"
    grep -q 'GiB for 1 x 16777216 tokens .* GiB are available' "$work/log" || fail "beyond all memory: $(cat "$work/log")"
fi

# Prompts by every way give the same text.
printf '%s\n' "$prompt" >"$work/prompt"
run -q -f "$work/prompt" | cmp -s - "$work/text" || fail "-f"
run -q <"$work/prompt" | cmp -s - "$work/text" || fail "standard input"
run -q -p - <"$work/prompt" | cmp -s - "$work/text" || fail "-p -"
run -q -e -p 'It was\x20the best of times,' | cmp -s - "$work/text" || fail "-e"
BITLOOM_MODEL=$model "$program" run -n 24 -s 7 -q -p "$prompt" | cmp -s - "$work/text" || fail "BITLOOM_MODEL"

if compgen -G "$(dirname "$program")/../models/*.gguf" >/dev/null; then
    env -u BITLOOM_MODEL "$program" run -n 1 -p x >/dev/null 2>"$work/log" || fail "no default model: $(cat "$work/log")"
    grep -q '[.]gguf: ' "$work/log" || fail "the default model is not named: $(cat "$work/log")"
fi

# JSON holds the same text.
run -p "$prompt" -q --json >"$work/json"
python3 - "$work/json" "$work/text" <<'END' || fail "--json"
import json, sys
result = json.load(open(sys.argv[1]))
assert result["text"].rstrip("\n") == open(sys.argv[2]).read().rstrip("\n")
assert result["seed"] == 7 and result["generated_tokens"] <= 24
energy = result["energy"]
assert energy["kind"] == ("measured" if energy["source"] else "estimated"), energy
assert energy["generate_joules"] > 0 or energy["source"], energy
END

# A stop string ends the text before it.
word=$(tr -s '[:space:]' '\n' <"$work/text" | sed -n 4p)
run -q -p "$prompt" --stop "$word" >"$work/stopped"
grep -qF -- "$word" "$work/stopped" && fail "the stop string $word is in the text"
cmp -s -n "$(($(wc -c <"$work/stopped") - 1))" "$work/stopped" "$work/text" || fail "--stop changed the text"

# The context: full, or shifted.
run -p "$prompt" -n -1 --ignore-eos -c 32 >"$work/full" 2>"$work/log"
grep -q 'stopped: context full' "$work/log" || fail "a full context: $(tail -n 1 "$work/log")"
run -p "$prompt" -n 64 --ignore-eos -c 32 --context-shift >"$work/shifted" 2>"$work/log"
grep -q ' 64 generated .*stopped: length' "$work/log" || fail "--context-shift: $(tail -n 1 "$work/log")"
status=0
run -q -p "$prompt $prompt $prompt $prompt" -c 8 >"$work/out" 2>"$work/log" || status=$?
[[ $status -eq 1 && ! -s $work/out ]] || fail "a prompt beyond the context: status $status"
grep -q 'expected at most 8' "$work/log" || fail "a prompt beyond the context: $(cat "$work/log")"

# A reader that goes away ends the program quietly; a full disk does not go unnoticed.
endless=(-n -1 --ignore-eos --context-shift -q)
status=0
run -p "$prompt" "${endless[@]}" 2>"$work/log" | head -c 10 >/dev/null || status=$?
[[ $status -eq 141 && ! -s $work/log ]] || fail "a closed pipe: status $status, $(cat "$work/log")"
if [[ -e /dev/full ]]; then
    status=0
    run -p "$prompt" -q >/dev/full 2>"$work/log" || status=$?
    [[ $status -eq 1 && $(<"$work/log") == *'standard output'* ]] || fail "a full disk: status $status"
fi

# Ctrl-C: the closing line, status 130. (Background jobs of scripts ignore SIGINT, so Python starts it.)
python3 - "$program" run -m "$model" -p "$prompt" "${endless[@]:0:4}" <<'END' || fail "Ctrl-C"
import signal, subprocess, sys
p = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
assert p.stdout.read(20)
p.send_signal(signal.SIGINT)
log = p.communicate(timeout=60)[1].decode()
assert p.returncode == 130, p.returncode
assert "stopped: interrupted" in log, log
END

# No models.
refused() {
    local words=$1 status=0
    shift
    "$program" run -p x "$@" >"$work/out" 2>"$work/log" || status=$?
    [[ $status -eq 1 && ! -s $work/out ]] || fail "$*: status $status"
    grep -qF -e "$words" "$work/log" || fail "$*: said $(cat "$work/log")"
}
refused 'No such file' -m "$work/none.gguf"
refused 'bitloom convert' -m "$work"
refused "$work/prompt" -m "$work/prompt"
head -c 100000 "$model" >"$work/cut.gguf"
refused "$work/cut.gguf" -m "$work/cut.gguf"

((failures == 0))
