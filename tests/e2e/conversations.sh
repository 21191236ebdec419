#!/usr/bin/env bash
# Conversations by the program: the page and its routes, a key, kill -9 and a new start, files that
# are no store of ours, and none at all. Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
command -v curl >/dev/null || { echo "SKIPPED: no curl"; exit 77; }
trap 'cut_off; rm -rf "$work"' EXIT
pid=

# start ARGUMENT...: runs a server on a free port; sets pid and url.
start() {
    : >"$work/log"
    BITLOOM_API_KEY=secret "$program" serve -m "$model" --port 0 -t 1 -q "$@" 2>"$work/log" &
    pid=$!
    for ((i = 0; i < 150; i++)); do
        grep -q 'built without' "$work/log" && { echo "SKIPPED: $(cat "$work/log")"; exit 77; }
        grep -q 'ready' "$work/log" && break
        sleep 0.1
    done
    url=$(sed -n 's/^listening on //p' "$work/log")
    [[ $url ]] || { fail "no server: $(cat "$work/log")"; exit 1; }
}
cut_off() { { kill -9 "$pid" && wait "$pid"; } 2>/dev/null || true; }
# ask STATUS PATH CURL-ARGUMENT...: the answer, which must have this status.
key=' Bearer secret'
ask() {
    local want=$1 path=$2 status
    shift 2
    status=$(curl -sS --max-time 60 -o "$work/answer" -w '%{http_code}' -D "$work/headers" \
        -H "Authorization:$key" "$@" "$url$path") || true
    [[ $status == "$want" ]] || fail "$path: status $status, expected $want: $(head -c 300 "$work/answer")"
    cat "$work/answer"
}
# field EXPRESSION: of the JSON object `a` on standard input.
field() { python3 -c "import json, sys; a = json.load(sys.stdin); print($1)"; }

start --store "$work/chats.db"
# The page needs no key, its routes do.
key=
ask 200 / | grep -q '<title>Bitloom</title>' || fail "the page"
grep -qi "^content-security-policy: default-src 'none'; script-src 'self';" "$work/headers" || fail "its policy"
ask 200 /page/app.js >/dev/null
grep -qi '^content-type: text/javascript' "$work/headers" || fail "the type of a script"
tag=$(sed -n 's/^[Ee][Tt][Aa][Gg]: \(.*\)\r/\1/p' "$work/headers")
ask 304 /page/app.js -H "If-None-Match: $tag" >/dev/null
ask 401 /api/conversations >/dev/null
key=' Bearer secret'
ask 403 /api/conversations -H 'Origin: https://evil.example' -d '{}' >/dev/null

one=/api/conversations/$(ask 201 /api/conversations -d '{"title": "One"}' | field 'a["id"]')
for ((i = 0; i < 20; i++)); do
    ask 200 "$one/messages" -d "{\"messages\": [{\"role\": \"user\", \"content\": \"number $i é\"}]}" >/dev/null
done
cut_off

start --store "$work/chats.db"
ask 200 "$one" | field '[m["content"] for m in a["messages"]]' >"$work/found"
python3 -c 'print([f"number {i} é" for i in range(20)])' | cmp - "$work/found" || fail "after kill -9"
ask 200 "$one" -X PATCH -d '{"title": "Two"}' >/dev/null
[[ $(ask 200 '/api/conversations?query=NUMBER%2019%20%C3%89' | field 'a["data"][0]["title"]') == Two ]] || fail "search"
ask 200 "$one/messages" -X PUT -d '{"from": 1, "messages": []}' >/dev/null
[[ $(ask 200 "$one/export?format=markdown" | tail -n 1) == "number 0 é" ]] || fail "export"
grep -qi '^content-disposition: attachment; filename="conversation-' "$work/headers" || fail "a file's name"
ask 200 "$one" -X DELETE >/dev/null
ask 404 "$one" >/dev/null
kill -TERM "$pid"
wait "$pid" || fail "the server ended with status $?"
[[ $(stat -c %a "$work/chats.db") == 600 ]] || fail "others can read the conversations"
[[ ! -e $work/chats.db-wal ]] || fail "the log was not folded into the database"

# By default they are in the user's data folder; --no-store keeps none.
start
[[ $(ask 200 /api/conversations | field 'a["stored"]') == True ]] || fail "no store by default"
[[ -s $XDG_DATA_HOME/bitloom/conversations.db ]] || fail "the default place"
cut_off
start --no-store
[[ $(ask 200 /api/conversations | field 'a["stored"]') == False ]] || fail "--no-store"
ask 404 /api/conversations -d '{}' | grep -q '"code":"store_off"' || fail "what --no-store says"
cut_off

# What was asked for by name must work; the default place need not.
echo 'no database of anybody, but a text that is long enough' >"$work/text"
status=0
"$program" serve -m "$model" --port 0 --store "$work/text" 2>"$work/log" || status=$?
((status == 1)) && grep -q 'text: no SQLite database' "$work/log" || fail "a text as store: $status, $(cat "$work/log")"
mkdir -p "$work/blocked" && : >"$work/blocked/bitloom"
XDG_DATA_HOME=$work/blocked start
grep -q 'conversations are not kept: ' "$work/log" || fail "no word of the missing store"
ask 200 /api/conversations >/dev/null

((failures == 0)) || exit 1
echo "kept, found, exported, refused"
