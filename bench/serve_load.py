#!/usr/bin/env python3
"""Measures a server of the OpenAI API under load: throughput, time to the first token, the gap
between tokens with and without a long prompt beside them, and the sharing of prompts.

usage: bench/serve_load.py URL [--label NAME] [--tokens N] [--prompt-tokens N] [--clients 1,8,32]
       bench/serve_load.py --program build/bitloom --peer /path/to/llama-server -m model.gguf [--peer-model M]

The second form starts the servers itself, one after the other, each on THREADS threads, and ends
with the ratio. Only the Python standard library is used.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

TOKEN = re.compile(rb'"finish_reason":null')
USAGE = re.compile(rb'"completion_tokens":(\d+)')
PROMPT = re.compile(rb'"prompt_tokens":(\d+)')
WORDS = ("the of and to a in that it was he his with as had for her at on not be she is but by him have you which were from "
         "this all they or my one their so an me said there when out up who what would no if about been into could").split()


def text(n, seed):
    """Words, about n tokens of them."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(max(1, round(n / text.tokens_per_word))))


text.tokens_per_word = 1.0  # of the model that is measured


class Client:
    """Streams completions and notes when their tokens came, each on a connection of its own. It reads bytes, and parses no
    more of them than it must: a client that is slower than the server would measure itself."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)

    def stream(self, prompt, n_tokens, seed=1, times=None):
        body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "stream": True, "seed": seed, "ignore_eos": True,
                           "temperature": 0.8, "stream_options": {"include_usage": True}, "cache_prompt": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        started = time.monotonic()
        connection = socket.create_connection(self.address, timeout=600)
        connection.sendall(head.encode() + body)
        times, data, at = [] if times is None else times, b"", 0
        while not data.endswith(b"\r\n0\r\n\r\n"):
            part = connection.recv(1 << 16)
            if not part:
                sys.exit(f"the server hung up: {data[-300:]}")
            data += part
            now = time.monotonic()
            for found in TOKEN.finditer(data, at):
                times.append(now)
                at = found.end()
            if at == 0 and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
                sys.exit(data[:400].decode(errors="replace"))
        connection.close()
        usage = USAGE.search(data)
        return {"started": started, "times": times, "ended": time.monotonic(),
                "prompt_tokens": int(PROMPT.search(data)[1]) if PROMPT.search(data) else None,
                "made": int(usage[1]) if usage else len(times)}


def share(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def load(url, n_clients, n_tokens, n_prompt):
    """n_clients at once, two requests each, one after the other."""
    def one(i):
        client = Client(url)
        return [client.stream(text(n_prompt, 1000 * i + k), n_tokens, i) for k in range(2)]

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        done = [r for rs in pool.map(one, range(n_clients)) for r in rs]
    seconds = time.monotonic() - started
    first = [r["times"][0] - r["started"] for r in done if r["times"]]
    made = sum(r["made"] for r in done)
    return {"clients": n_clients, "tokens_per_second": made / seconds, "first_token_p50": share(first, 0.5),
            "first_token_p95": share(first, 0.95)}


def gaps_beside_a_long_prompt(url, n_streams, n_prompt, n_tokens):
    """Gaps between tokens of n_streams streams, before and while a long prompt is read."""
    times = [[] for _ in range(n_streams)]
    with concurrent.futures.ThreadPoolExecutor(n_streams) as pool:
        streams = [pool.submit(Client(url).stream, text(20, i), n_tokens, i, times[i]) for i in range(n_streams)]
        while min(map(len, times)) < n_tokens // 3:
            time.sleep(0.01)
        settled = max(t[0] for t in times)  # from here on all of them are written
        long = Client(url).stream(text(n_prompt, 99), 2)
        for stream in streams:
            stream.result()
    alone, beside = [], []
    for stream in times:
        for a, b in zip(stream, stream[1:]):
            if settled < a and b < long["started"]:
                alone.append(b - a)
            elif a < long["times"][0] and b > long["started"]:
                beside.append(b - a)
    return {"gap_p95_alone": share(alone, 0.95), "gap_p95_beside": share(beside, 0.95),
            "ratio": share(beside, 0.95) / share(alone, 0.95), "gaps_alone": len(alone), "gaps_beside": len(beside),
            "prompt_seconds": long["times"][0] - long["started"], "prompt_tokens": long["prompt_tokens"]}


def shared_prompt(url, n_prompt):
    """Time to the first token of two requests that begin with the same system prompt."""
    system = text(n_prompt, 4242)
    client = Client(url)
    client.stream("warm up", 1)
    first = client.stream(system + " One question.", 1)
    second = client.stream(system + " Another one, of somebody else.", 1)
    times = [r["times"][0] - r["started"] if r["times"] else float("nan") for r in (first, second)]
    return {"first": times[0], "second": times[1], "share": times[1] / times[0],
            "prompt_tokens": second["prompt_tokens"]}


def measure(url, label, options):
    result = {"label": label, "load": []}
    text.tokens_per_word = 1.0
    text.tokens_per_word = Client(url).stream(text(100, 0), 4)["prompt_tokens"] / 100
    for n in options.clients:
        figures = load(url, n, options.tokens, options.prompt_tokens)
        result["load"].append(figures)
        print("{}: {clients:3d} clients  {tokens_per_second:8.1f} tok/s  first token p50 {first_token_p50:.3f} s, p95 "
              "{first_token_p95:.3f} s".format(label, **figures), flush=True)
    if options.long_prompt:
        result["gaps"] = gaps_beside_a_long_prompt(url, 8, options.long_prompt, options.gap_tokens)
        print("{}: 8 streams, gap p95 {gap_p95_alone:.4f} s alone, {gap_p95_beside:.4f} s beside a prompt of {prompt_tokens} "
              "tokens ({ratio:.2f} x; {gaps_alone} and {gaps_beside} gaps; its first token after {prompt_seconds:.2f} s)".format(
                  label, **result["gaps"]), flush=True)
    if options.shared_prompt:
        result["shared"] = shared_prompt(url, options.shared_prompt)
        print("{}: a prompt of {prompt_tokens} tokens that begins like one before: first token after {second:.4f} s, the one before "
              "{first:.4f} s ({share:.3f})".format(label, **result["shared"]), flush=True)
    return result


def start(command, url):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = urllib.parse.urlsplit(url)
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process
        except OSError:
            pass
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended with {process.returncode}")
        time.sleep(0.2)
    sys.exit(f"{command[0]} does not answer")


def race(options):
    slots = str(max(options.clients))
    context = options.context
    commands = {"bitloom": [options.program, "serve", "-m", options.model, "--port", "8497", "-t", options.threads, "-c", str(context),
                            "--parallel", slots, "--queue", "256", "--no-store", "-q"]}
    if options.peer:
        commands["peer"] = [options.peer, "-m", options.peer_model or options.model, "--port", "8497", "-t", options.threads,
                            "-c", str(context * int(slots)), "-np", slots, "--no-webui"]
    results = {}
    for label, command in commands.items():
        process = start(command, "http://127.0.0.1:8497")
        try:
            results[label] = measure("http://127.0.0.1:8497", label, options)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    if "peer" in results:
        for ours, theirs in zip(results["bitloom"]["load"], results["peer"]["load"]):
            print("{:3d} clients: {:.2f} x".format(ours["clients"], ours["tokens_per_second"] / theirs["tokens_per_second"]))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--label", default="server")
    parser.add_argument("--clients", type=lambda t: [int(x) for x in t.split(",")], default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="tokens of each prompt, about")
    parser.add_argument("--long-prompt", type=int, default=2000, help="tokens of the long prompt; 0 = leave out")
    parser.add_argument("--gap-tokens", type=int, default=400, help="tokens of each stream beside it")
    parser.add_argument("--shared-prompt", type=int, default=1000, help="tokens of the shared prompt; 0 = leave out")
    parser.add_argument("--program")
    parser.add_argument("--peer")
    parser.add_argument("-m", "--model")
    parser.add_argument("--peer-model")
    parser.add_argument("--threads", default=str(os.cpu_count()))
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--json", action="store_true", help="print all figures as JSON at the end")
    options = parser.parse_args()
    if not options.url and not (options.program and options.model):
        parser.error("give a URL, or --program and -m")
    results = measure(options.url.rstrip("/"), options.label, options) if options.url else race(options)
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
