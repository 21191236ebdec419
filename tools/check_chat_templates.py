#!/usr/bin/env python3
"""Renders chat templates with jinja2, set up as transformers does, and with Bitloom, and compares.

    tools/check_chat_templates.py FOLDER [--render build/tests/render_chat] [-v]
    tools/check_chat_templates.py --time TEMPLATE
    tools/check_chat_templates.py --golden tests/golden/chat_templates.json

Every *.jinja file in FOLDER meets every conversation below; both engines must give the same bytes
or both an error. --golden renders the snippets that the unit test reads anew; to add one, append
{"template": ...} to the cases (with "variables" of its own, if the common ones do not serve).
Needs the Python package jinja2; for developers only.
"""
import argparse
import copy
import datetime
import json
import pathlib
import subprocess
import sys
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1735732800  # 2025-01-01 12:00 UTC, a Wednesday


class Generation(jinja2.ext.Extension):
    """{% generation %}, which transformers adds: here a scope without effect on the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_text", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(form):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)


def make_environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


SYSTEM = {"role": "system", "content": "You are  a helpful\nassistant. "}
SIMPLE_TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city"},
            "days": {"type": "integer", "description": "How many"}}}}},
]
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a \"city\" <b>now</b> & later",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "The city, e.g. Zürich"},
            "days": {"type": "integer", "default": 3, "minimum": 1, "enum": [1, 2, 3]},
            "unit": {"type": ["string", "null"], "enum": ["celsius", "fahrenheit"]}}},
        "return": {"type": "number"}}},
    {"type": "function", "function": {
        "name": "add", "description": "", "strict": True,
        "parameters": {"type": "object", "properties": {
            "numbers": {"type": "array", "items": {"type": "number"}},
            "where": {"type": "object", "properties": {
                "x": {"type": "number"}, "deep": {"type": "array", "items": {
                    "type": "object", "properties": {"y": {"type": "boolean"}}}}}},
            "one": {"anyOf": [{"type": "string"}, {"type": "integer"}]}}}}},
]


def call(arguments, name="get_weather", identity="call00001"):
    return {"id": identity, "type": "function",
            "function": {"name": name, "arguments": arguments}}


CALL_OBJECT = call({"city": "Zürich 東京", "days": 2, "exact": True, "why": None, "f": 1.5})
CALL_STRING = call(json.dumps({"city": "Paris", "days": 2}))
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001",
          "content": "{\"sky\": \"☀️\", \"t\": 21.5}"}
HISTORY = [user("Hello, who are you?"), assistant("I'm <b>Bit</b> & loom."), user("Really? ")]


def conversations():
    """Name and variables of each case."""
    chats = {
        "user": [user("Hi there")],
        "system": [SYSTEM, user("Hi there")],
        "turns": HISTORY,
        "system_turns": [SYSTEM] + HISTORY,
        "ends_assistant": HISTORY + [assistant("Yes.\n")],
        "empty": [user(""), assistant(""), user("")],
        "none_content": [user("x"), assistant(None), user("y")],
        "no_messages": [],
        "unicode": [user("Grüß Gott 👋🏽, 東京! \u00a0\u2028"), assistant("ÄÖÜ ñ ß \U0001f600"),
                    user("\t tabs and \"quotes\" 'single' \\back\\ ")],
        "parts": [{"role": "system", "content": parts("Be brief.")}, user(parts("One", "Two")),
                  assistant(parts("Three")), user(parts("Four"))],
        "image": [user([{"type": "image"}, {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": "http://x/y.png"}}])],
        "wrong_order": [user("a"), user("b"), assistant("c"), assistant("d")],
        "starts_assistant": [assistant("I begin"), user("ok")],
        "unknown_role": [user("a"), {"role": "narrator", "content": "meanwhile"}],
        "developer": [{"role": "developer", "content": "Rules."}, user("a")],
        "late_system": [user("a"), assistant("b"), {"role": "system", "content": "s"}, user("c")],
        "thinking": [user("a"), assistant("<think>\nlong\nthought\n</think>\n\nshort"), user("b"),
                     assistant("<think>last</think>end")],
        "reasoning": [user("a"), assistant("b", reasoning_content="because"), user("c"),
                      assistant("d", reasoning_content="why", thinking="hm", reasoning="so")],
        "tool_call": [user("Weather?"), assistant("", tool_calls=[CALL_OBJECT]), RESULT],
        "tool_call_none": [user("Weather?"), assistant(None, tool_calls=[CALL_OBJECT]), RESULT,
                           assistant("Sunny."), user("Thanks")],
        "tool_call_text": [SYSTEM, user("Weather?"), assistant("Let me see.",
                           tool_calls=[CALL_OBJECT]), RESULT, assistant("Sunny.")],
        "tool_call_string": [user("Weather?"), assistant("", tool_calls=[CALL_STRING]), RESULT],
        "tool_call_two": [user("Weather?"), assistant("", tool_calls=[
            CALL_OBJECT, call({"numbers": [1, 2.5, -3e20], "where": {"x": {}}, "l": []}, "add",
                              "call00002")]), RESULT,
            {"role": "tool", "name": "add", "tool_call_id": "call00002", "content": "0.5"},
            assistant("Both done."), user("More")],
        "tool_call_no_content": [user("Weather?"), {"role": "assistant",
                                                    "tool_calls": [CALL_OBJECT]}, RESULT],
        "tool_result_parts": [user("Weather?"), assistant("", tool_calls=[CALL_OBJECT]),
                              {**RESULT, "content": parts("one", "two")}],
        "tool_result_object": [user("Weather?"), assistant("", tool_calls=[CALL_OBJECT]),
                               {**RESULT, "content": {"sky": [1, "b", None, {"c": False}]}}],
    }
    common = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
              "documents": None}
    for name, messages in chats.items():
        for tools_name, tools in (("", None), ("+simple", SIMPLE_TOOLS), ("+tools", TOOLS)):
            for prompt in (True, False):
                label = name + tools_name + ("+prompt" if prompt else "")
                # Some templates take their tools and the time under names of their own.
                own = {"functions": json.dumps(tools), "datetime": "now"} if tools else {}
                yield label, {**common, "messages": messages, "tools": tools, **own,
                              "add_generation_prompt": prompt}
    options = {
        "enable_thinking": True, "no_thinking": {"enable_thinking": False},
        "thinking": True, "no_thinking2": {"thinking": False}, "reasoning_effort": "high",
        "thinking_budget": 512, "custom_tools": TOOLS, "tools_in_user_message": False,
        "date_string": "1 May 2030", "builtin_tools": ["python", "browser"],
        "documents": [{"title": "T", "text": "Some text."}, {"title": "U", "text": "More"}],
        "preserve_thinking": True, "keep_past_thinking": True, "controls": {"length": "long"},
        "xml_tools": [json.dumps(t) for t in TOOLS], "python_tools": ["def f(): pass"],
        "model_identity": "I am.", "available_tools": TOOLS, "functions": TOOLS,
        "response_format": {"type": "json_object"}, "continue_final_message": True,
    }
    for key, value in options.items():
        extra = value if isinstance(value, dict) and key.startswith("no_") else {key: value}
        for name in ("system_turns", "tool_call_two", "tool_call_text"):
            tools = SIMPLE_TOOLS if name == "tool_call_text" else TOOLS
            yield f"{name}:{key}", {**common, "messages": chats[name], "tools": tools,
                                    "add_generation_prompt": True, **extra}
    yield "bare", {"messages": HISTORY}


def render_reference(template, variables):
    try:
        return {"text": template.render(**copy.deepcopy(variables))}
    except Exception as error:  # whatever the template provokes in Python is an error
        return {"error": f"{type(error).__name__}: {error}"}


def render_ours(program, path, cases):
    lines = "".join(json.dumps({**variables, "strftime_now": NOW}) + "\n" for _, variables in cases)
    done = subprocess.run([program, str(path)], input=lines.encode(), stdout=subprocess.PIPE,
                          check=True)
    return [json.loads(line) for line in done.stdout.split(b"\n")[:-1]]


def first_difference(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"at {at}: {a[max(0, at - 30):at + 60]!r} against {b[max(0, at - 30):at + 60]!r}"


def compare(path, reference, ours):
    """None, or what differs between two answers."""
    if "error" in reference and "error" in ours:
        raised = reference["error"].startswith("TemplateError: ")
        words = reference["error"][len("TemplateError: "):]
        if raised and ours["error"] != words and len(words.encode()) < 200 and "\n" not in words:
            return f"raised {words!r}, ours {ours['error']!r}"
        return None
    if "error" in reference:
        return f"jinja2 fails ({reference['error'][:100]}), ours does not"
    if "error" in ours:
        return f"ours fails: {ours['error']}"
    if reference["text"] != ours["text"]:
        return first_difference(reference["text"], ours["text"])
    return None


def check_folder(folder, program, verbose):
    cases = list(conversations())
    total = agreed = errors = perfect = 0
    paths = sorted(pathlib.Path(folder).glob("*.jinja"))
    for path in paths:
        try:
            template = make_environment().from_string(path.read_text(encoding="utf-8"))
            references = [render_reference(template, variables) for _, variables in cases]
        except (jinja2.TemplateError, SyntaxError) as error:
            references = [{"error": str(error)}] * len(cases)
        wrong = 0
        for (name, _), reference, ours in zip(cases, references,
                                              render_ours(program, path, cases), strict=True):
            total += 1
            errors += "error" in reference
            difference = compare(path, reference, ours)
            if difference:
                wrong += 1
                if wrong <= (100 if verbose else 2):
                    print(f"{path.name}: {name}: {difference}")
            else:
                agreed += 1
        perfect += wrong == 0
    print(f"{perfect} of {len(paths)} templates, {agreed} of {total} cases agree "
          f"({errors} of them errors in both)")
    return 0 if total and agreed == total else 1


def measure(path, program):
    """Time per rendering of four turns, the process and its JSON included."""
    variables = dict(conversations())["system_turns+prompt"]
    n = 2000
    for count in (1, n):
        start = time.perf_counter()
        render_ours(program, path, [("", variables)] * count)
        seconds = time.perf_counter() - start
        print(f"{count} renderings: {seconds:.3f} s, {seconds / count * 1e6:.1f} us each")
    return 0


def renew_golden(path):
    """Renders every case of the golden file with jinja2 and writes the results into it."""
    golden = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    for case in golden["cases"]:
        case.pop("text", None)
        case.pop("error", None)
        variables = dict(case.get("variables", golden["variables"]))
        assert variables.pop("strftime_now") == NOW
        try:
            template = make_environment().from_string(case["template"])
            case.update(render_reference(template, variables))
        except (jinja2.TemplateError, SyntaxError) as error:
            case["error"] = f"{type(error).__name__}: {error}"
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in golden["cases"])
    variables = json.dumps(golden["variables"], ensure_ascii=False)
    pathlib.Path(path).write_text(f'{{"variables": {variables},\n"cases": [\n{lines}\n]}}\n',
                                  encoding="utf-8")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("--render", default="build/tests/render_chat")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--golden", action="store_true")
    parser.add_argument("-v", action="store_true", dest="verbose")
    options = parser.parse_args()
    if options.golden:
        return renew_golden(options.path)
    if options.time:
        return measure(options.path, options.render)
    return check_folder(options.path, options.render, options.verbose)


if __name__ == "__main__":
    sys.exit(main())
