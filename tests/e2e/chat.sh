#!/usr/bin/env bash
# `bitloom chat`, typed into a pseudo-terminal and fed from a pipe.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

cat >"$work/template" <<'END'
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}
END

XDG_STATE_HOME=$work/state python3 - "$program" "$model" "$work" <<'END'
import json, os, pty, select, signal, subprocess, sys, time

try:
    for fd in pty.openpty():
        os.close(fd)
except OSError as problem:
    print(f"SKIPPED: no terminal for the test: {problem}")
    sys.exit(77)

program, model, work = sys.argv[1:]
TIMEOUT = 60
CTRL_C, CTRL_D, UP, ENTER = b"\x03", b"\x04", b"\x1b[A", b"\r"


class Terminal:
    def __init__(self, *options):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(program, [program, "chat", "-m", model, "--seed", "1", *options])
        self.out, self.at = b"", 0

    def read(self):
        if not select.select([self.fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self.fd, 4096)
        except OSError:  # the other side is closed
            return False
        self.out += data
        return bool(data)

    def expect(self, text):
        end = time.monotonic() + TIMEOUT
        while (found := self.out.find(text, self.at)) < 0:
            if not self.read() or time.monotonic() > end:
                sys.exit(f"FAILED: expected {text!r} after {self.out[self.at:]!r}")
        self.at = found + len(text)

    def type(self, *keys):
        try:
            os.write(self.fd, b"".join(keys))
        except OSError:  # the other side is closed, as read() will find
            pass

    def leave(self, key):
        self.type(key)
        end = time.monotonic() + TIMEOUT
        while self.read():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                sys.exit(f"FAILED: does not end after {self.out!r}")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status != 0:
            sys.exit(f"FAILED: status {status} after {self.out!r}")


# Ctrl-C stops an answer and not the program; the line editor, history and commands work after it.
t = Terminal("--template-file", f"{work}/template", "-n", "-1", "--ignore-eos", "--context-shift", "-c", "64")
t.expect(b"/help lists"); t.expect(b"> ")
t.type(b"Tell me a story", ENTER); t.expect(b"story\r\n")
start = len(t.out)
while len(t.out) < start + 40:
    t.read()
t.type(CTRL_C); t.expect(b"[stopped]"); t.expect(b"> ")
t.type(b"/stats", ENTER); t.expect(b"stopped: interrupted"); t.expect(b"session memory"); t.expect(b"> ")
t.type(b"half a line", CTRL_C); t.expect(b"Ctrl-C again"); t.expect(b"> ")
t.type(b"/sytsem x", ENTER); t.expect(b"did you mean /system?"); t.expect(b"> ")
t.type(UP); t.expect(b"/sytsem x"); t.type(b"\x15"); t.expect(b"> ")
t.type(b"/save ", work.encode(), b"/saved", ENTER); t.expect(b"[saved to"); t.expect(b"> ")
t.type(b"/reset", ENTER); t.expect(b"forgotten"); t.expect(b"> ")
t.type(b"/regen", ENTER); t.expect(b"nothing to answer"); t.expect(b"> ")
t.type(CTRL_C); t.expect(b"Ctrl-C again"); t.expect(b"> ")
t.leave(CTRL_C)
saved = json.load(open(f"{work}/saved"))
assert [m["role"] for m in saved] == ["user", "assistant"], saved
assert saved[0]["content"] == "Tell me a story", saved
if os.path.exists(f"{work}/state/bitloom/history"):  # with libedit
    assert os.stat(f"{work}/state/bitloom/history").st_mode & 0o077 == 0

# Messages of several lines; Ctrl-D leaves.
t = Terminal("--template-file", f"{work}/template", "-n", "4")
t.expect(b"> ")
t.type(b"one\\", ENTER); t.expect(b"... "); t.type(b"two", ENTER); t.expect(b"> ")
t.type(b'"""three', ENTER); t.expect(b"... "); t.type(b'four"""', ENTER); t.expect(b"> ")
t.type(b"/save ", work.encode(), b"/saved", ENTER); t.expect(b"[saved to"); t.expect(b"> ")
t.leave(CTRL_D)
contents = [m["content"] for m in json.load(open(f"{work}/saved")) if m["role"] == "user"]
assert contents == ["one\ntwo", "three\nfour"], contents


def piped(text, *options):
    return subprocess.run([program, "chat", "-m", model, "-s", "1", "-n", "12", "--temp", "0", *options],
                          input=text.encode(), capture_output=True, timeout=10 * TIMEOUT)


# From a pipe: answers only on standard output, and the same as when each dialogue begins anew, so
# what the session keeps between turns changes nothing.
template = ("--template-file", f"{work}/template")
both = piped("Hello\nAnd you?\n/regen\n", *template)
assert both.returncode == 0, both.stderr
answers = both.stdout.decode()
anew = piped("Hello\n/regen\nAnd you?\n", *template).stdout.decode()
first = piped("Hello\n", *template).stdout.decode()
assert answers.startswith(first) and anew.startswith(first + first), (answers, anew, first)
second = anew[len(first + first):]
assert answers == first + second + second, (answers, anew)
assert b"> " not in both.stdout and b"tok/s" in both.stderr

# Every answer is one value of a schema.
with open(f"{work}/schema", "w") as file:
    json.dump({"type": "object", "properties": {"sure": {"type": "boolean"}, "why": {"type": "string", "maxLength": 20}},
               "required": ["sure", "why"]}, file)
bound = piped("Hello\nAnd you?\n", *template, "-n", "100", "-q", "--json-schema", f"{work}/schema").stdout.decode()
first_value, end = json.JSONDecoder().raw_decode(bound)
for value in first_value, json.loads(bound[end:]):
    assert list(value) == ["sure", "why"] and type(value["sure"]) is bool and len(value["why"]) <= 20, bound

# No template: said, and done plainly.
plain = piped("Hello\n", "-sys", "Be kind.")
assert plain.returncode == 0 and plain.stdout, plain
# A context that the dialogue does not fit in.
full = piped("word " * 200 + "\n", *template, "-c", "32")
assert full.returncode == 1 and b"/reset" in full.stderr and not full.stdout, full
broken = piped("Hello\n", "--template-file", "/dev/null/none")
assert broken.returncode == 1, broken
open(f"{work}/bad", "w").write("{% for %}")
broken = piped("Hello\n", "--template-file", f"{work}/bad")
assert broken.returncode == 1 and b"chat template" in broken.stderr, broken
END
