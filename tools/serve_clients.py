#!/usr/bin/env python3
"""Drives a running `bitloom serve` with the clients that people use, and with hostile ones.

usage: tools/serve_clients.py URL [--pid PID] [--requests N] [PART ...]

PART: openai, litellm, llm (Python packages; skipped, by name, where they are not installed) and
hostile, which needs nothing; all of them when none is named. --pid watches the server's memory.
Ends with status 1 when something failed.
"""
import argparse
import concurrent.futures
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

failures = 0


def check(good, what):
    global failures
    if not good:
        failures += 1
    print(("ok      " if good else "FAILED  ") + what, flush=True)


def ask(url, path, body=None, raw=None, headers=None, timeout=60):
    """Status and bytes of one request; status 0 when the connection broke."""
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url + path, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, ValueError):
        return 0, b""


# ---- real clients ----

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "maxLength": 20}, "days": {"type": "integer"}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
SHAPE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "size", "n"],
    "additionalProperties": False,
}


def with_openai(url):
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Good evening"}]
    chat = client.chat.completions

    one = chat.create(model=model, messages=talk, max_tokens=12, seed=5)
    check(one.choices[0].message.content and one.usage.completion_tokens <= 12, "openai: chat")
    again = chat.create(model=model, messages=talk, max_tokens=12, seed=5)
    check(one.choices[0].message.content == again.choices[0].message.content, "openai: same seed, same text")
    chunks = list(chat.create(model=model, messages=talk, max_tokens=12, seed=5, stream=True,
                              stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check(text == one.choices[0].message.content, "openai: streamed, the same text")
    check(chunks[-1].usage and chunks[-1].usage.completion_tokens == one.usage.completion_tokens,
          "openai: usage of a stream")
    many = chat.create(model=model, messages=talk, max_tokens=4, n=3, temperature=1.5, seed=1)
    check(len({c.message.content for c in many.choices}) > 1, "openai: n texts")
    scored = chat.create(model=model, messages=talk, max_tokens=4, logprobs=True, top_logprobs=3)
    entries = scored.choices[0].logprobs.content
    check(len(entries) == scored.usage.completion_tokens and len(entries[0].top_logprobs) == 3 and
          all(e.logprob <= 0 for e in entries), "openai: logprobs")
    stopped = chat.create(model=model, messages=talk, max_tokens=60, seed=5, stop=[text[2:5]])
    check(text[2:5] not in stopped.choices[0].message.content, "openai: stop")
    biased = chat.create(model=model, messages=talk, max_tokens=3, logit_bias={"100": 100})
    check(biased.usage.completion_tokens == 3, "openai: logit_bias")
    prefilled = chat.create(model=model, max_tokens=4,
                            messages=talk + [{"role": "assistant", "content": "Good"}])
    check(prefilled.choices[0].message.content is not None, "openai: the assistant's text goes on")

    shaped = chat.create(model=model, messages=talk, max_tokens=120, seed=2,
                         response_format={"type": "json_schema",
                                          "json_schema": {"name": "shape", "strict": True, "schema": SHAPE}})
    value = json.loads(shaped.choices[0].message.content)
    check(set(value) == {"name", "size", "n"} and value["size"] in ("small", "large"), "openai: JSON schema")
    called = chat.create(model=model, messages=talk, max_tokens=150, seed=2, tools=[WEATHER],
                         tool_choice={"type": "function", "function": {"name": "get_weather"}})
    call = called.choices[0].message.tool_calls[0]
    check(call.function.name == "get_weather" and "town" in json.loads(call.function.arguments) and
          called.choices[0].finish_reason == "tool_calls", "openai: a tool that must be called")
    talk += [called.choices[0].message.model_dump(exclude_none=True),
             {"role": "tool", "tool_call_id": call.id, "content": "Rain."}]
    check(chat.create(model=model, messages=talk, max_tokens=4, tools=[WEATHER]).choices,
          "openai: the tool's answer goes back")
    parts = list(chat.create(model=model, messages=talk[:2], max_tokens=150, seed=2, tools=[WEATHER],
                             tool_choice="required", stream=True))
    calls = [t for c in parts if c.choices for t in c.choices[0].delta.tool_calls or []]
    check(len(calls) == 1 and json.loads(calls[0].function.arguments), "openai: a tool call in a stream")

    text = client.completions.create(model=model, prompt=["The old", "A new"], max_tokens=3, echo=True, logprobs=2)
    check(len(text.choices) == 2 and text.choices[0].text.startswith("The old") and
          text.choices[0].logprobs.token_logprobs[0] is None, "openai: completions, echoed and scored")
    vectors = client.embeddings.create(model=model, input=["The old house", "A new house"])
    check(len(vectors.data) == 2 and abs(sum(x * x for x in vectors.data[0].embedding) - 1) < 1e-3,
          "openai: embeddings")
    first = client.responses.create(model=model, input="Good evening", max_output_tokens=6)
    second = client.responses.create(model=model, input="And now?", max_output_tokens=6,
                                     previous_response_id=first.id)
    check(first.output_text and second.usage.input_tokens > first.usage.input_tokens,
          "openai: responses, one after the other")
    with client.responses.stream(model=model, input="Good evening", max_output_tokens=6) as stream:
        kinds = [event.type for event in stream]
    check(kinds[0] == "response.created" and "response.output_text.delta" in kinds and
          kinds[-1] in ("response.completed", "response.incomplete"), "openai: responses, streamed")
    check(client.responses.retrieve(first.id).id == first.id, "openai: a response is found again")
    client.responses.delete(first.id)
    for kind, arguments in ((openai.BadRequestError, {"temperature": -1}),
                            (openai.BadRequestError, {"messages": []}),
                            (openai.BadRequestError, {"n": 1000})):
        try:
            chat.create(**{"model": model, "messages": talk[:2], "max_tokens": 2, **arguments})
            check(False, f"openai: {arguments} was taken")
        except kind as error:
            check(error.param == next(iter(arguments)), f"openai: {arguments} names the field")


def with_litellm(url):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    arguments = {"model": "openai/x", "api_base": url + "/v1", "api_key": "none",
                 "messages": [{"role": "user", "content": "Good evening"}], "max_tokens": 8}
    answer = litellm.completion(**arguments)
    check(answer.choices[0].message.content, "litellm: chat")
    pieces = [c.choices[0].delta.content or "" for c in litellm.completion(stream=True, **arguments)]
    check("".join(pieces), "litellm: streamed")
    vectors = litellm.embedding(model="openai/x", api_base=url + "/v1", api_key="none", input=["a house"],
                                encoding_format="float")
    check(len(vectors.data) == 1, "litellm: embeddings")


def with_llm(url):
    import llm  # noqa: F401  (the package has the program)

    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "extra-openai-models.yaml"), "w", encoding="utf-8") as file:
            file.write(f"- model_id: here\n  model_name: here\n  api_base: {url}/v1\n  api_key_name: none\n")
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        program = os.path.join(os.path.dirname(sys.executable), "llm")
        for extra in ([], ["--no-stream"]):
            run = subprocess.run([program, "-m", "here", "--key", "none", "-o", "max_tokens", "8", *extra, "Good evening"],
                                 env=environment, capture_output=True, text=True, timeout=120, check=False)
            check(run.returncode == 0 and run.stdout.strip(), f"llm {' '.join(extra)} {run.stderr[-200:]}")


# ---- hostile clients ----

GOOD = {"messages": [{"role": "user", "content": "Good evening"}], "max_tokens": 4, "seed": 1}


def connect(url):
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def still_serves(url, what):
    started = time.monotonic()
    status = 429
    while status == 429 and time.monotonic() < started + 30:  # what is under way has filled the queue: it ends soon
        status, body = ask(url, "/v1/chat/completions", GOOD)
    check(status == 200 and b"content" in body, f"{what}; others are served ({time.monotonic() - started:.2f} s)")


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


SEEDS = [
    ("/v1/chat/completions", {**GOOD, "n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["x", "y"],
                              "tools": [WEATHER], "logit_bias": {"5": 1}}),
    ("/v1/chat/completions", {**GOOD, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {**GOOD, "response_format": {"type": "json_object"}}),
    ("/v1/completions", {"prompt": ["a b", "c"], "max_tokens": 2, "echo": True, "logprobs": 1}),
    ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 2}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
                       "max_output_tokens": 2, "instructions": "x"}),
    ("/tokenize", {"content": "Hello", "with_pieces": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]
ODD = [None, True, -1, 0, 1e308, -1e308, 2**63 - 1, -(2**63), 10**30, 0.1, "", "\u0000", "\ud800", "x" * 5000, [], {},
       [[]], [None], {"a": {}}, [[[[[[1]]]]]], "NaN", ["\uffff"]]


def mutate(value, draw):
    """The value with something in it replaced, dropped, repeated or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        how = draw.random()
        if how < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.2:
            return {**value, draw.choice(["max_tokens", "messages", "model", "x" * 300, ""]): draw.choice(ODD)}
        return {**value, key: mutate(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        if draw.random() < 0.2:
            return value * draw.choice([0, 2, 30])
        return value[:at] + [mutate(value[at], draw)] + value[at + 1:]
    return draw.choice(ODD)


def mutated_request(draw):
    path, body = draw.choice(SEEDS)
    for _ in range(draw.randrange(1, 4)):
        body = mutate(body, draw)
    raw = json.dumps(body).encode("utf-8", "surrogatepass")
    if draw.random() < 0.3:
        raw = bytearray(raw)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(raw)) if raw else 0
            raw[at:at + draw.randrange(2)] = bytes([draw.randrange(256)])
        raw = bytes(raw)
    return path, raw


def send_mutated(url, n):
    """Bodies that are almost right. Each must get an answer of the API: no 500, no broken connection."""
    bad, statuses, lock = [], {}, threading.Lock()

    def some(seed):
        draw = random.Random(seed)
        for _ in range(n // 8):
            path, raw = mutated_request(draw)
            status, answer = ask(url, path, raw=raw, headers={"Content-Type": "application/json"})
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                if status in (0, 500) or (status >= 400 and b'"error"' not in answer):
                    bad.append((path, raw[:300], status, answer[:200]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(some, range(8)))
    for one in bad[:5]:
        print("   ", *one)
    check(not bad, f"hostile: {sum(statuses.values())} mutated bodies: {dict(sorted(statuses.items()))}")


def hostile(url, pid, n):
    still_serves(url, "hostile: before")
    idle = []
    try:
        for _ in range(1000):
            idle.append(connect(url))
    except OSError as error:
        check(False, f"hostile: {len(idle)} idle connections: {error}")
    still_serves(url, f"hostile: {len(idle)} idle connections")
    slow = [connect(url) for _ in range(50)]
    for i, s in enumerate(slow):
        s.sendall((b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{", b"GET /heal", b"G")[i % 3])
    still_serves(url, "hostile: 50 slow senders")
    for s in slow:
        s.shutdown(socket.SHUT_WR)
    still_serves(url, "hostile: half-closed in the middle of a request")
    long = json.dumps({**GOOD, "max_tokens": 2000, "stream": True, "ignore_eos": True, "n": 4}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(long)
    for how in ("close", "reset", "half"):
        for _ in range(10):
            s = connect(url)
            s.sendall(head + long)
            s.recv(400)
            if how == "reset":
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if how == "half":
                s.shutdown(socket.SHUT_WR)
                slow.append(s)
            else:
                s.close()
    still_serves(url, "hostile: 30 disconnects in the middle of a stream")
    unread = [connect(url) for _ in range(10)]
    for s in unread:
        s.sendall(head + long)
    still_serves(url, "hostile: 10 clients that never read")
    for s in idle + slow + unread:
        s.close()
    for raw, what in ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS to a plain port"),
                      (b"GET / HTTP/9.9\r\n\r\n", "a version that is none"),
                      (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", "a long path"),
                      (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n", "many headers"),
                      (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", "a negative length"),
                      (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n", "a huge length"),
                      (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "a huge chunk"),
                      (b"GET /v1/models%00/%2e%2e/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", "NUL and bad UTF-8 in the path"),
                      (bytes(range(256)) * 40, "noise")):
        with connect(url) as s:
            try:
                s.sendall(raw)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
        still_serves(url, f"hostile: {what}")
    for raw, what in ((b"[" * 1000000, "deep arrays"), (b'{"a":' * 100000, "deep objects"),
                      (b'{"max_tokens":' + b"9" * 100000 + b"}", "a giant number"),
                      (b'{"messages":[' + b"{}," * 300000 + b"{}]}", "very many messages"),
                      (b'{"content":"\\ud800"}', "half a surrogate"), (b"\xef\xbb\xbf{}", "a byte order mark")):
        status, _ = ask(url, "/v1/chat/completions", raw=raw)
        check(status == 400, f"hostile: {what}: {status}")
    send_mutated(url, max(n // 10, 8))
    before = resident(pid) if pid else 0
    send_mutated(url, n)
    if pid:
        after = resident(pid)
        check(after < before * 1.1 + 4096, f"hostile: {n} requests; memory {before} KiB before, {after} KiB after")
    still_serves(url, "hostile: after")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--requests", type=int, default=10000)
    options = parser.parse_intermixed_args()
    url = options.url.rstrip("/")
    clients = {"openai": with_openai, "litellm": with_litellm, "llm": with_llm}
    for name in options.parts or [*clients, "hostile"]:
        if name == "hostile":
            hostile(url, options.pid, options.requests)
            continue
        try:
            clients[name](url)
        except ImportError as error:
            print(f"SKIPPED {name}: {error}")
        except Exception as error:  # pylint: disable=broad-except
            check(False, f"{name}: {type(error).__name__}: {error}")
    print(f"{failures} failed" if failures else "all good")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
