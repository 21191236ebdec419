#!/usr/bin/env bash
# The server as people use it: health, models, chat whole and streamed, bad requests, a client that
# goes away, too many requests, a graceful stop. Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
command -v curl >/dev/null || { echo "SKIPPED: no curl"; exit 77; }

# start ARGUMENT...: runs a server on a free port; sets pid and url.
start() {
    : >"$work/log"
    "$program" serve -m "$model" --port 0 -t 1 "$@" 2>"$work/log" &
    pid=$!
    for ((i = 0; i < 100; i++)); do
        grep -q 'without libmicrohttpd' "$work/log" && { echo "SKIPPED: no libmicrohttpd"; exit 77; }
        grep -q 'ready' "$work/log" && break
        sleep 0.1
    done
    url=$(sed -n 's/^listening on //p' "$work/log")
    [[ $url ]] || { fail "no server: $(cat "$work/log")"; exit 1; }
}
# stop: SIGTERM; the server must end with status 0.
stop() {
    local status=0
    kill -TERM "$pid"
    wait "$pid" || status=$?
    ((status == 0)) || fail "the server ended with status $status: $(tail -n 3 "$work/log")"
}
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
get() { curl -sS --max-time 60 "$@"; }
# expect STATUS WORDS CURL-ARGUMENT...: the answer's status, and words in it.
expect() {
    local want=$1 words=$2 status
    shift 2
    status=$(get -o "$work/answer" -w '%{http_code}' "$@") || true
    [[ $status == "$want" ]] || fail "$*: status $status, expected $want: $(head -c 300 "$work/answer")"
    grep -qF -e "$words" "$work/answer" || fail "$*: no \"$words\" in $(head -c 300 "$work/answer")"
}
# field EXPRESSION: of the JSON object `a` in the last answer.
field() { python3 -c "import json, sys; a = json.load(open(sys.argv[1])); print($1)" "$work/answer"; }

start
chat=$url/v1/chat/completions
expect 200 '"status":"ok"' "$url/health"
expect 200 "$(basename "$model" .gguf)" "$url/v1/models"
expect 200 '"object":"model"' "$url/v1/models/$(basename "$model" .gguf)"
expect 200 'bitloom_generated_tokens_total' "$url/metrics"

request='{"messages": [{"role": "user", "content": "It was a dark night"}], "max_tokens": 24, "seed": 7'
expect 200 '"finish_reason"' "$chat" -d "$request}"
whole=$(field 'a["choices"][0]["message"]["content"]')
[[ $(field 'a["usage"]["completion_tokens"]') == 24 ]] || fail "usage: $(cat "$work/answer")"
get -N "$chat" -d "$request, \"stream\": true}" >"$work/stream"
streamed=$(python3 - "$work/stream" <<'END'
import json, sys
lines = [l[6:] for l in open(sys.argv[1]) if l.startswith("data: ")]
assert lines[-1].strip() == "[DONE]", lines[-1]
print("".join(json.loads(l)["choices"][0]["delta"].get("content", "") for l in lines[:-1]))
END
)
[[ $streamed == "$whole" ]] || fail "streamed \"$streamed\", whole \"$whole\""

expect 400 '"param":"temperature"' "$chat" -d "$request, \"temperature\": \"hot\"}"
expect 400 'invalid_json' "$chat" -d '{"messages": ['
expect 400 '"param":"messages"' "$chat" -d '{"unknown_field": {"a": [1, 2]}}'
expect 200 '"content"' "$chat" -d "$request, \"unknown_field\": {\"a\": [1, 2]}}"
expect 400 'context_length_exceeded' "$chat" -d @<(
    python3 -c 'import json; print(json.dumps({"messages": [{"role": "user", "content": "long " * 9000}]}))')
expect 404 'not_found' "$url/etc/passwd"
expect 404 'not_found' --path-as-is "$url/../../../etc/passwd"
expect 405 'takes POST' "$chat"
expect 403 'wrong_host' -H 'Host: evil.example' "$url/v1/models"
expect 403 'wrong_origin' -H 'Origin: https://evil.example' "$url/v1/models"
expect 413 'body_too_large' "$chat" -d @<(head -c 9000000 /dev/zero | tr '\0' ' ')
expect 200 '"tokens"' "$url/tokenize" -d '{"content": "Hello there"}'
expect 200 'Hello there' "$url/detokenize" -d "$(cat "$work/answer")"

# The examples of the README, at this address.
n_examples=0
while read -r example; do
    n_examples=$((n_examples + 1))
    bash -c "${example//http:\/\/127.0.0.1:8080/$url} -sS --fail" >"$work/answer" || fail "README: $example"
    grep -q -e '"content"' -e '"text"' -e '"embedding"' "$work/answer" || fail "README: $example: $(cat "$work/answer")"
done < <(grep '^curl http://127.0.0.1:8080' "$root/README.md")
((n_examples >= 3)) || fail "README: only $n_examples examples"

# The other endpoints.
expect 200 '"text_completion"' "$url/v1/completions" -d '{"prompt": "The old", "max_tokens": 4, "seed": 1}'
expect 200 '"token_logprobs":[null,' "$url/v1/completions" \
    -d '{"prompt": "The old", "max_tokens": 0, "echo": true, "logprobs": 1}'
expect 400 '"param":"prompt"' "$url/v1/completions" -d '{"prompt": [[1, 2], [99999999]]}'
expect 200 '"object":"embedding"' "$url/v1/embeddings" -d '{"input": ["The old house", "A new one"]}'
[[ $(field 'round(sum(x * x for x in a["data"][1]["embedding"]), 4)') == 1.0 ]] || fail "embedding"
expect 400 '"param":"input"' "$url/v1/embeddings" -d '{"input": {}}'
expect 200 '"response"' "$url/v1/responses" -d '{"input": "Good evening", "max_output_tokens": 5, "seed": 1}'
id=$(field 'a["id"]')
expect 200 "\"previous_response_id\":\"$id\"" "$url/v1/responses" \
    -d "{\"input\": \"And now?\", \"max_output_tokens\": 5, \"previous_response_id\": \"$id\"}"
expect 200 "$id" "$url/v1/responses/$id"
expect 200 '"deleted":true' -X DELETE "$url/v1/responses/$id"
expect 404 'not_found' "$url/v1/responses" -d "{\"input\": \"And now?\", \"previous_response_id\": \"$id\"}"
expect 200 '"content":"{' "$chat" -d "$request, \"response_format\": {\"type\": \"json_object\"}}"
expect 200 '"content":"yes"' "$chat" -d "$request, \"grammar\": \"root ::= \\\"yes\\\"\"}"
expect 400 '"param":"grammar"' "$chat" -d "$request, \"grammar\": \"root ::= nothing\"}"
expect 400 '"param":"tools"' "$chat" -d "$request, \"tools\": [{\"type\": \"web\"}]}"

# The same request and seed, the same text, also beside sixteen others and with another's prompt in the cache.
get -N "$chat" -d "${request/24/400}, \"n\": 16, \"ignore_eos\": true, \"stream\": true, \"temperature\": 1.5}" >"$work/others" &
others=$!
for ((i = 0; i < 100; i++)); do
    [[ -s $work/others ]] && break
    sleep 0.02
done
expect 200 '"finish_reason"' "$chat" -d "$request}"
[[ $(field 'a["choices"][0]["message"]["content"]') == "$whole" ]] || fail "another text beside others: $(cat "$work/answer")"
kill "$others" 2>/dev/null && wait "$others" || true

# A client that goes away in the middle of a stream frees its place.
long="${request/24/2000}, \"n\": 16, \"ignore_eos\": true, \"stream\": true}"
get -N --max-time 0.3 "$chat" -d "$long" >/dev/null 2>&1 || true
for ((i = 0; i < 50; i++)); do
    get "$url/metrics" | grep -q '^bitloom_jobs_active 0' && break
    sleep 0.1
done
get "$url/metrics" | grep -q '^bitloom_jobs_total{end="cancelled"} [1-9]' || fail "a client that went away was not noticed"
stop
grep -q 'POST /v1/chat/completions 200' "$work/log" || fail "no log of accesses"

# One answer at a time, the others of the request wait: the next request is refused.
BITLOOM_API_KEY=sesame start --parallel 1 --queue 1 --log-json --grace 0
key='Authorization: Bearer sesame'
expect 401 'invalid_api_key' "$url/v1/models"
expect 401 'invalid_api_key' -H 'Authorization: Bearer sesam' "$url/v1/models"
expect 200 'list' -H "$key" "$url/v1/models"
expect 200 'ok' "$url/health"
get -N -H "$key" "$url/v1/chat/completions" -d "$long" >"$work/first" &
for ((n = 0; n < 50; n++)); do
    [[ -s $work/first ]] && break
    sleep 0.05
done
expect 429 'queue_full' -H "$key" "$url/v1/chat/completions" -d "$request}"
stop
wait
grep -q '"status":429' "$work/log" || fail "no JSON log: $(tail -n 2 "$work/log")"

# A folder of models, of which one fits; the process gives up what it does not need.
mkdir "$work/models"
ln -s "$model" "$work/models/first.gguf"
cp "$model" "$work/models/second.gguf"
: >"$work/models/broken.gguf"
start --model-dir "$work/models" -m "$model" --memory 1
for name in first second first; do
    expect 200 "\"model\":\"$name\"" "$url/v1/completions" -d "{\"model\": \"$name\", \"prompt\": \"The old\", \"max_tokens\": 4, \"seed\": 1}"
done
expect 500 'model_failed' "$url/v1/completions" -d '{"model": "broken", "prompt": "x"}'
expect 404 'model_not_found' "$url/v1/completions" -d '{"model": "../second", "prompt": "x"}'
grep -q 'broken.gguf' "$work/log" || fail "the log does not say why: $(cat "$work/log")"
grep -q '^confined' "$work/log" || fail "not confined: $(cat "$work/log")"
stop

# HTTPS, where a certificate can be made and the library has TLS.
if command -v openssl >/dev/null && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null; then
    "$program" serve -m "$model" --port 0 --tls-cert "$work/key.pem" --tls-key "$work/cert.pem" 2>"$work/log" && fail "a key as certificate"
    start --tls-cert "$work/cert.pem" --tls-key "$work/key.pem"
    expect 200 '"content"' --cacert "$work/cert.pem" "$url/v1/chat/completions" -d "$request}"
    stop
fi
: >"$work/keys"
"$program" serve -m "$model" --port 0 --api-key-file "$work/keys" 2>"$work/log" && fail "a file without a key"
grep -q 'no key' "$work/log" || fail "an empty file of keys: $(cat "$work/log")"

((failures == 0)) && echo "served, refused, cut and stopped"
