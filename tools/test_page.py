#!/usr/bin/env python3
"""Drives the page in a headless browser, as people use it, against tools/page_stub.py.

usage: tools/test_page.py [--program FILE] [--shots FOLDER] [NAME ...]

--program runs `bitloom serve` too, once, with the default model; --shots keeps pictures of what the
page looks like; names choose single checks. Needs the Python
package playwright and a Chromium: that of BITLOOM_CHROMIUM, of the system, or of playwright itself.
Without them it says so and exits with 77. Accessibility is checked where the package
axe-playwright-python brings axe-core.
"""
import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from page_stub import Server

WAIT = 10000  # milliseconds

ANSWER = """## Two ways to look at it

A rainbow is **sunlight, sorted**: each drop bends *red* a little less than *violet*.

1. Light enters the drop and slows down.
2. It bounces off the far side.
3. It leaves at about `42°`.

| colour | angle |
|:-------|------:|
| red    | 42.4° |
| violet | 40.5° |

```python
def angle(index):
    # where most of the light of a colour comes out
    return 4 * asin(sqrt((4 - index**2) / 3) / index) - 2 * asin(sqrt((4 - index**2) / 3))
```

> You always see your own rainbow.

See [the article](https://en.wikipedia.org/wiki/Rainbow).
"""

HOSTILE = r"""<script>window.stolen = 1</script>
<img src=x onerror="window.stolen = 2"> <svg/onload=window.stolen=3>
<iframe srcdoc="<script>parent.stolen = 4</script>"></iframe>

[click](javascript:window.stolen=5) [data](data:text/html,<script>window.stolen=6</script>)
[case](JaVaScRiPt:alert(1)) [tab](java&#9;script:alert(1)) [vb](vbscript:x) <javascript:alert(1)>
![picture](https://evil.example/track.png) ![x](x" onerror="window.stolen=7)
[title](https://ok.example/ "a" onmouseover="window.stolen=8") https://ok.example/"onclick="x

```<script>window.stolen = 9</script>
</code></pre><script>window.stolen = 10</script>
```

| <b onclick=stolen=11>a</b> | b |
|---|---|
| </td><script>window.stolen = 12</script> | `<style>*{display:none}</style>` |

<a href="https://evil.example" style="position:fixed;inset:0">all of it</a>
"""


def words(text):
    return re.findall(r"\S+\s*|\s+", text)


class Check:
    """One browser page on one server, and what went wrong on it."""

    def __init__(self, browser, shots, server, **options):
        self.server = server
        self.state = self.server.state
        self.state.reply = lambda body: words(ANSWER)
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 800},
                                              "reduced_motion": "reduce", **options})
        self.context.set_default_timeout(WAIT)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.shots = shots
        self.errors = []
        self.told = []  # of requests that were refused
        self.expected = []  # patterns of errors that the check brings about
        self.page = self.new_page()

    def new_page(self):
        page = self.context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and self.errors.append(m.text))
        page.on("pageerror", lambda e: self.errors.append(f"{e.name}: {e.message}"))
        page.on("request", lambda r: self.look_at(r.url))
        page.on("response", lambda r: r.status >= 400 and self.told.append(f"{r.status} {r.url}"))
        return page

    def look_at(self, url):
        if not url.startswith((self.server.address, "blob:", "data:")):
            self.errors.append(f"a request to {url}")

    def visit(self, path="/"):
        self.page.goto(self.server.address + path)
        self.wait_started()
        return self.page

    def wait_started(self):
        self.page.locator("#open-card span").wait_for(state="attached")

    def until(self, what, holds):
        end = time.monotonic() + WAIT / 1000
        while not holds():
            assert time.monotonic() < end, what
            time.sleep(0.02)

    def wait_rows(self, n):
        """Until the list has n conversations."""
        self.until(f"{n} rows", lambda: self.page.locator("#list li").count() == n)

    def say(self, text):
        self.page.locator("#text").fill(text)
        self.page.locator("#send").click()

    def wait_idle(self):
        self.page.locator("#send").wait_for(state="visible")

    def ask(self, text):
        n = len(self.state.requests)
        self.say(text)
        self.until("a request", lambda: len(self.state.requests) > n)
        self.wait_idle()

    def wait_stored(self, n):
        """The one conversation in the store, once it has n messages."""
        found = []

        def look():
            found[:] = [one for one in list(self.state.conversations.values())
                        if len(one["messages"]) == n]
            return found

        self.until(f"a conversation of {n} messages", look)
        return found[0]

    def shot(self, name):
        if self.shots:
            self.page.screenshot(path=self.shots / f"{name}.png")

    def no_sideways(self):
        wide = self.page.evaluate("""() => [...document.querySelectorAll('body *')].filter(e => {
            const r = e.getBoundingClientRect();
            return r.width && r.right > innerWidth + 1 && !e.closest('pre, .table, aside');
        }).map(e => e.outerHTML.slice(0, 80))""")
        assert wide == [], f"wider than the window: {wide}"

    def axe(self, where):
        source = axe_source()
        if source is None:
            return
        self.page.evaluate(source)
        found = self.page.evaluate("axe.run().then(r => r.violations)")
        told = [f"{v['id']}: {v['help']}: {n['html'][:120]} {n.get('failureSummary', '')[:300]}"
                for v in found for n in v["nodes"]]
        assert told == [], f"axe, {where}: " + "\n".join(told)

    def close(self):
        self.context.close()
        self.server.close()
        left = [e for e in self.errors if not any(re.search(p, e) for p in self.expected)]
        assert left == [], f"errors in the console: {left}"


def axe_source():
    spec = importlib.util.find_spec("axe_playwright_python")
    file = spec and Path(spec.origin).parent / "axe.min.js"
    return file.read_text(encoding="utf-8") if file and file.exists() else None


# --- The checks ------------------------------------------------------------------------------


def first_visit(c):
    page = c.visit()
    assert page.title() == "Bitloom"
    assert page.locator("#welcome").is_visible()
    assert page.locator("#examples button").count() == 4
    assert page.locator("#menu").is_hidden()
    assert page.locator("#send").is_disabled()
    assert page.evaluate("document.activeElement.id") == "text"
    assert page.locator("#open-card").inner_text() == "bitloom-2b"
    reply = page.request.get(c.server.address + "/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy, policy
    assert "frame-ancestors 'none'" in policy
    c.no_sideways()
    c.shot("welcome")
    c.axe("first visit")
    page.locator("#open-card").click()
    facts = page.locator("#facts").inner_text()
    assert "2,412,820,480" in facts and "1187.8 MB" in facts, facts
    c.shot("card")
    c.axe("card")
    page.keyboard.press("Escape")
    page.locator("#examples button").first.click()
    c.until("a request", lambda: c.state.requests)
    assert c.state.requests[0]["messages"][0]["content"].startswith("Explain how a rainbow")


def whole_answer(c):
    page = c.visit()
    c.state.delay = 0.004
    c.say("Why are rainbows round?")
    page.locator("#stop").wait_for(state="visible")
    page.locator("#messages .theirs strong").wait_for()  # some of it, before it is done
    assert page.locator("#stop").is_visible()
    assert page.locator("#send").is_hidden()
    assert page.locator("#welcome").is_hidden()
    c.wait_idle()
    answer = page.locator("#messages .theirs .text")
    for tag, n in {"h3": 1, "strong": 1, "em": 2, "ol li": 3, "table": 1, "pre code": 1,
                   "blockquote": 1, "a": 1, "td.to-right": 2}.items():
        assert answer.locator(tag).count() == n, f"{n} of {tag}"
    assert page.locator(".theirs .figures").inner_text() == f"23.1 tokens/s · {len(words(ANSWER))} tokens · 12.4 J"
    assert page.locator("#messages .mine .text").inner_text() == "Why are rainbows round?"
    stored = c.wait_stored(2)
    assert stored["title"] == "Why are rainbows round?"
    assert stored["messages"][1]["content"] == ANSWER
    assert stored["messages"][1]["details"]["joules"] == 12.4
    assert page.url.endswith("#" + stored["id"])
    page.locator("#list li.current").wait_for()
    assert "rainbows" in page.title()
    assert page.locator("#status").inner_text().startswith("Answer: ")
    page.locator(".code button").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def angle(index):")
    page.locator('.theirs [data-name="copy"]').click()
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    c.no_sideways()
    page.locator("#scroll").evaluate("e => e.scrollTop = 0")
    c.shot("answer")
    c.axe("answer")


def stop_keeps_what_there_is(c):
    page = c.visit()
    c.state.delay = 0.05
    c.say("Go on for long")
    page.locator(".theirs strong").wait_for()
    page.locator("#stop").click()
    c.wait_idle()
    stored = c.wait_stored(2)
    part = stored["messages"][1]
    assert part["content"] and ANSWER.startswith(part["content"]) and part["details"]["stopped"]
    assert "stopped" in page.locator(".theirs .figures").inner_text()
    c.until("the server is told", lambda: c.state.gone == 1)
    # It can go on from there.
    c.state.delay = 0
    c.state.reply = lambda body: words(ANSWER[len(body["messages"][-1]["content"]):])
    page.locator('[data-name="on"]').click()
    c.until("the rest", lambda: c.wait_stored(2)["messages"][1]["content"] == ANSWER)
    assert [m["role"] for m in c.state.requests[1]["messages"]] == ["user", "assistant"]
    assert page.locator('[data-name="on"]').is_hidden()
    # Before the first word nothing remains but the question.
    c.state.reply = lambda body: (time.sleep(1), words(ANSWER))[1]
    c.say("Another")
    page.locator(".waiting").wait_for()
    c.shot("waiting")
    page.keyboard.press("Escape")
    c.wait_idle()
    assert page.locator("#messages > li").count() == 3
    c.wait_stored(3)


def regenerate(c):
    page = c.visit()
    c.ask("One")
    c.ask("Two")
    assert page.locator('[data-name="again"]:visible').count() == 1
    c.state.reply = lambda body: ["Another ", "answer."]
    page.locator('[data-name="again"]:visible').click()
    page.locator(".theirs").get_by_text("Another answer.").wait_for()
    c.wait_idle()
    assert page.locator("#messages > li").count() == 4
    assert [m["content"] for m in c.state.requests[-1]["messages"]] == ["One", ANSWER, "Two"]
    c.until("it is stored",
            lambda: c.wait_stored(4)["messages"][3]["content"] == "Another answer.")


def edit_a_question(c):
    page = c.visit()
    c.ask("First question")
    c.ask("Second question")
    c.wait_stored(4)
    page.locator("#messages .mine").first.hover()
    page.locator('[data-name="edit"]').first.click()
    area = page.get_by_label("Edit the message")
    assert area.input_value() == "First question"
    c.shot("edit")
    page.keyboard.press("Escape")
    assert page.locator("#messages > li").count() == 4
    page.locator('[data-name="edit"]').first.click()
    area.fill("Better question")
    page.keyboard.press("Enter")
    c.until("a request", lambda: len(c.state.requests) == 3)
    c.wait_idle()
    assert page.locator("#messages > li").count() == 2
    assert [m["content"] for m in c.state.requests[-1]["messages"]] == ["Better question"]
    stored = c.wait_stored(2)
    assert stored["messages"][0]["content"] == "Better question"
    page.locator("#text").focus()
    page.keyboard.press("ArrowUp")
    assert page.get_by_label("Edit the message").input_value() == "Better question"


def reload_and_history(c):
    page = c.visit()
    c.ask("About looms")
    first = page.url
    c.wait_stored(2)
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#welcome").is_visible()
    c.ask("About weaving")
    c.wait_rows(2)
    second = page.url
    assert first != second
    page.reload()
    page.locator("#messages .mine").get_by_text("About weaving").wait_for()
    assert page.locator("#messages > li").count() == 2
    assert page.locator(".theirs .figures").inner_text().startswith("23.1 tokens/s")
    page.locator("#list a").get_by_text("About looms").click()
    page.locator("#messages .mine").get_by_text("About looms").wait_for()
    page.go_back()
    page.locator("#messages .mine").get_by_text("About weaving").wait_for()
    page.go_forward()
    page.locator("#messages .mine").get_by_text("About looms").wait_for()
    page.locator("#search").fill("WEAVING")
    c.wait_rows(1)
    c.shot("search")
    page.locator("#search").fill("nothing of the kind")
    page.get_by_text("Nothing found.").wait_for()
    page.locator("#search").fill("")
    c.wait_rows(2)
    # Rename, export, delete.
    page.locator("#menu").click()
    c.shot("menu")
    c.axe("menu")
    page.get_by_role("menuitem", name="Rename").click()
    page.locator("#ask-value").fill("Looms <b>old</b>")
    page.keyboard.press("Enter")
    page.locator("h1", has_text="Looms <b>old</b>").wait_for()
    page.locator("#list a", has_text="Looms <b>old</b>").wait_for()
    for kind, start in (("Markdown", "# Looms <b>old</b>\n\n## You\n\nAbout looms\n"), ("JSON", "{")):
        page.locator("#menu").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=kind).click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert text.startswith(start), text[:80]
        assert re.fullmatch(r"Looms-b-old-b\.(md|json)", download.value.suggested_filename)
    assert json.loads(text)["messages"][1]["content"] == ANSWER
    page.locator("#menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    c.shot("delete")
    c.axe("delete")
    page.locator("#ask-ok").click()
    c.wait_rows(1)
    assert page.locator("#welcome").is_visible()
    page.goto(first)
    page.get_by_text("That conversation is not here any more.").wait_for()
    c.expected.append("404")


def settings_are_sent_and_kept(c):
    page = c.visit()
    page.locator("#open-settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Longest answer").fill("50")
    c.shot("settings")
    c.axe("settings")
    page.get_by_role("button", name="Save").click()
    c.ask("Hello")
    request = c.state.requests[0]
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (request["temperature"], request["seed"], request["max_tokens"]) == (0.2, 7, 50)
    assert "top_k" not in request and request["stream"] is True
    assert c.wait_stored(2)["settings"] == {"system": "Be brief.", "temperature": 0.2, "seed": 7,
                                            "max_tokens": 50}
    page.reload()
    page.locator("#messages .mine").wait_for()
    page.locator("#open-settings").click()
    assert page.get_by_label("Temperature").input_value() == "0.2"
    page.get_by_label("Temperature").fill("-3")
    page.get_by_role("button", name="Save").click()
    assert page.locator("#settings").is_visible(), "a value out of range was taken"
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("button", name="Save").click()
    page.locator("#settings").wait_for(state="hidden")
    c.ask("Again")
    assert "temperature" not in c.state.requests[1]
    assert c.state.requests[1]["messages"][0]["role"] == "user"


def several_models(c):
    c.state.models.append({"id": "tiny", "object": "model"})
    page = c.visit()
    page.locator("#model").select_option("tiny")
    c.ask("Hello")
    assert c.state.requests[0]["model"] == "tiny"
    page.reload()
    page.locator("#messages .mine").wait_for()
    assert page.locator("#model").input_value() == "tiny"
    assert page.locator("#open-card").get_attribute("aria-label") == "Model card: tiny"


def keyboard_alone(c):
    page = c.visit()
    keys = page.keyboard
    page.evaluate("document.activeElement.blur(); getSelection().collapse(document.body, 0)")
    for _ in range(2):  # the first may only come to the document itself
        if page.evaluate("document.activeElement.className") != "skip":
            keys.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    c.shot("skip")
    keys.press("Enter")
    assert page.evaluate("document.activeElement.id") == "text"
    keys.type("First line")
    keys.press("Shift+Enter")
    keys.type("second line")
    c.state.delay = 0.02
    keys.press("Enter")
    page.locator(".theirs strong").wait_for()
    keys.press("Escape")
    c.wait_idle()
    assert c.state.requests[0]["messages"][0]["content"] == "First line\nsecond line"
    assert page.evaluate("document.activeElement.id") == "text"
    c.state.delay = 0
    keys.press("Alt+r")
    page.locator(".theirs blockquote").wait_for()
    c.wait_idle()
    keys.press("Alt+c")
    c.until("Copied", lambda: page.locator("#status").inner_text() == "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == ANSWER
    keys.press("Alt+/")
    assert page.locator("#shortcuts").is_visible()
    c.shot("shortcuts")
    c.axe("shortcuts")
    keys.press("Escape")
    keys.press("Alt+o")
    assert page.evaluate("document.activeElement.closest('dialog').id") == "settings"
    keys.press("Escape")
    keys.press("Alt+n")
    assert page.locator("#welcome").is_visible()
    assert page.evaluate("document.activeElement.id") == "text"
    # To the list, into a conversation's menu, and through it.
    page.locator("#list li").wait_for()
    keys.press("Alt+k")
    assert page.evaluate("document.activeElement.id") == "search"
    keys.press("Tab")
    keys.press("Tab")
    assert page.evaluate("document.activeElement.className").find("row-menu") >= 0
    keys.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Rename…"
    keys.press("ArrowUp")
    assert page.evaluate("document.activeElement.textContent") == "Delete…"
    keys.press("ArrowDown")
    keys.press("Enter")
    page.locator("#ask-value").wait_for(state="visible")
    keys.press("Control+a")
    keys.type("By keys")
    keys.press("Enter")
    page.locator("#list a", has_text="By keys").wait_for()
    keys.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "By keys"
    keys.press("Enter")
    page.locator("#messages .mine").wait_for()
    # Every stop of the Tab key can be seen and has a name.
    seen = []
    for _ in range(40):
        keys.press("Tab")
        stop = page.evaluate("""() => {
            const e = document.activeElement, r = e.getBoundingClientRect();
            return {tag: e.tagName, id: e.id, w: r.width, h: r.height,
                    name: e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent};
        }""")
        if stop["tag"] == "BODY":
            continue
        assert stop["name"] and stop["w"] > 8 and stop["h"] > 8, stop
        seen.append(stop["id"] or stop["name"])
    assert len(set(seen)) > 12, seen


def phone(c):
    page = c.visit()
    c.no_sideways()
    c.shot("phone-welcome")
    c.axe("phone")
    c.ask("Why are rainbows round, and why does nobody ever see the end of one?")
    c.no_sideways()
    c.shot("phone-answer-end")
    page.locator("#scroll").evaluate("e => e.scrollTop = 0")
    c.shot("phone-answer")
    assert not page.locator("#sidebar").is_visible()
    page.locator("#open-sidebar").click()
    assert page.locator("#new").is_visible()
    c.shot("phone-list")
    c.axe("phone, list")
    page.keyboard.press("Escape")
    assert not page.locator("#sidebar").is_visible()
    assert page.evaluate("document.activeElement.id") == "open-sidebar"
    page.locator("#open-sidebar").click()
    page.locator("#open-settings").click()
    c.no_sideways()
    c.shot("phone-settings")
    page.keyboard.press("Escape")
    page.locator("#new").click()
    assert page.locator("#welcome").is_visible()
    small = page.evaluate("""() => [...document.querySelectorAll('button, input, select, a')]
        .filter(e => e.checkVisibility() && !e.closest('.unseen, .skip, .prose'))
        .filter(e => { const r = e.getBoundingClientRect(); return r.width < 24 || r.height < 24; })
        .map(e => e.outerHTML.slice(0, 80))""")
    assert small == [], f"too small to touch: {small}"


def dark(c):
    page = c.visit()
    light_of = "() => { const c = getComputedStyle(document.body).backgroundColor.match(/\\d+/g); return +c[0]; }"
    assert page.evaluate(light_of) < 60
    c.shot("dark-welcome")
    c.axe("dark")
    c.ask("Why are rainbows round?")
    page.locator("#scroll").evaluate("e => e.scrollTop = 0")
    c.shot("dark-answer")
    c.axe("dark, answer")
    page.locator("#theme").click()  # light, whatever the system says
    assert page.evaluate(light_of) > 200
    page.reload()
    page.locator("#messages .mine").wait_for()
    assert page.evaluate(light_of) > 200
    page.locator("#theme").click()
    assert page.evaluate(light_of) < 60
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") is None


def injection(c):
    c.state.reply = lambda body: list(HOSTILE)
    c.state.models[0]["id"] = "<img src=x onerror=stolen=20>"
    page = c.visit()
    c.ask("<script>window.stolen = 13</script><img src=x onerror=stolen=14>")
    c.wait_stored(2)
    for _ in range(2):
        page.locator("#messages .theirs table").wait_for()
        assert page.evaluate("window.stolen") is None
        found = page.locator("main, aside, dialog").locator(
            "script, iframe, style, object, embed, form[action], [onclick], [onerror], [style*=fixed]")
        assert found.count() == 0
        assert page.locator("#messages img, #messages svg:not(.actions svg)").count() == 0
        addresses = page.locator("#messages a").evaluate_all("all => all.map(a => [a.protocol, a.rel])")
        assert all(p == "https:" and "noopener" in rel for p, rel in addresses), addresses
        assert "<script>window.stolen = 1</script>" in page.locator(".theirs .text").inner_text()
        assert page.locator(".mine .text").inner_text().startswith("<script>")
        page.reload()
    page.locator("#open-card").click()
    assert page.evaluate("window.stolen") is None
    c.shot("hostile")


def failures_are_told(c):
    page = c.visit()
    c.expected += ["Failed to load resource", "ERR_INCOMPLETE_CHUNKED_ENCODING", "net::"]
    c.state.fail = (429, "too many requests: try again in a moment")
    c.say("Hello")
    page.get_by_text("Too many requests: try again in a moment.").wait_for()
    assert page.locator("#messages > li").count() == 1
    c.shot("problem")
    c.axe("problem")
    c.state.fail = None
    page.get_by_role("button", name="Try again").click()
    page.locator(".theirs blockquote").wait_for()
    c.wait_idle()
    assert page.locator(".problem").count() == 0
    c.state.delay = 0.01
    c.state.error_after = 20
    c.ask("More")
    page.get_by_text("The model has failed.").wait_for()
    assert page.locator("#messages > li").count() == 4, "what was written stays"
    c.state.error_after, c.state.break_after = None, 20
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("The connection broke off in the middle of the answer.").wait_for()
    assert page.locator("#messages > li").count() == 4
    c.state.break_after = None
    page.get_by_role("button", name="Try again").click()
    page.locator(".theirs blockquote").nth(1).wait_for()


def api_key_is_asked_for(c):
    c.expected.append("Failed to load resource")
    c.state.api_key = "secret"
    page = c.page
    page.goto(c.server.address + "/")
    page.get_by_role("button", name="Enter it").click()
    assert page.evaluate("document.activeElement.id") == "set-key"
    page.keyboard.type("secret")
    page.get_by_role("button", name="Save").click()
    c.wait_started()
    c.ask("Hello")
    assert c.state.keys == ["Bearer secret"]
    assert "secret" not in page.evaluate("JSON.stringify(localStorage)")


def waits_for_the_model(c):
    c.expected.append("Failed to load resource")
    c.state.loading = True
    c.page.goto(c.server.address + "/")
    c.page.get_by_text("The server is loading its model.").wait_for()
    c.state.loading = False
    c.wait_started()
    assert c.page.locator(".problem").count() == 0


def goes_on_when_the_store_fails(c):
    c.expected.append("Failed to load resource")
    page = c.visit()
    c.state.store_fails = "conversations.db: the disk is full"
    c.ask("Hello")
    page.get_by_text("This is not stored, but goes on here.").wait_for()
    c.shot("store-fails")
    c.ask("And on")
    assert page.locator("#messages > li").count() == 4
    c.state.store_fails = None
    page.get_by_role("button", name="Try again").click()
    c.wait_stored(4)
    assert len(c.state.conversations) == 1


def without_a_store(c):
    c.state.stored = False
    page = c.visit()
    page.locator("#list-note").wait_for()
    c.ask("One thing")
    page.locator("#list li").wait_for()
    page.get_by_role("button", name="New conversation").click()
    c.ask("Another thing")
    c.wait_rows(2)
    page.locator("#list a", has_text="One thing").click()
    page.locator("#messages .mine").get_by_text("One thing").wait_for()
    assert page.locator("#messages > li").count() == 2
    page.locator("#search").fill("another")
    c.wait_rows(1)
    page.locator("#search").fill("")
    page.locator("#menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.locator("#ask-ok").click()
    c.wait_rows(1)


def two_windows(c):
    """What one window writes, the other does not overwrite: both versions stay."""
    c.expected.append("Failed to load resource")
    c.visit()
    c.ask("Shared")
    c.wait_stored(2)
    first = c.page
    first.wait_for_url("**/#*")
    c.page = c.new_page()
    c.page.goto(first.url)
    c.page.locator("#messages .mine").wait_for()
    c.ask("From the second")
    c.wait_stored(4)
    c.page = first
    c.ask("From the first")
    c.wait_rows(2)
    said = sorted(one["messages"][2]["content"] for one in c.state.conversations.values())
    assert said == ["From the first", "From the second"], said


def answers_go_on_unseen(c):
    page = c.visit()
    c.state.delay = 0.01
    c.say("Slow one")
    page.locator(".theirs strong").wait_for()
    page.get_by_role("button", name="New conversation").click()
    c.state.delay = 0
    c.ask("Quick one")
    page.locator("#list a", has_text="Slow one").click()
    page.locator("#messages .mine").get_by_text("Slow one").wait_for()
    page.locator(".theirs blockquote").wait_for()
    c.wait_idle()
    c.until("both are stored",
            lambda: all(len(one["messages"]) == 2 for one in c.state.conversations.values()))
    # Deleted while it is written: it stays deleted.
    c.state.delay = 0.02
    page.get_by_role("button", name="New conversation").click()
    c.say("Doomed")
    page.locator(".theirs strong").wait_for()
    page.locator("#menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.locator("#ask-ok").click()
    page.locator("#welcome").wait_for(state="visible")
    c.wait_rows(2)
    time.sleep(0.2)
    assert len(c.state.conversations) == 2


def closing_keeps_what_there_is(c):
    page = c.visit()
    c.state.delay = 0.02
    c.say("Cut short")
    page.locator(".theirs strong").wait_for()
    c.wait_stored(1)
    page.reload()
    stored = c.wait_stored(2)
    assert stored["messages"][1]["details"]["stopped"]
    assert ANSWER.startswith(stored["messages"][1]["content"])


def follows_the_end(c):
    page = c.visit()
    c.state.reply = lambda body: [f"Line {i} of a long answer.\n\n" for i in range(80)]
    c.state.delay = 0.01
    c.say("Long")
    page.get_by_text("Line 40 of").wait_for()
    gap = "() => { const s = document.getElementById('scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight; }"
    assert page.evaluate(gap) < 100
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -600)
    page.locator("#latest").wait_for(state="visible")
    c.shot("latest")
    c.wait_idle()
    assert page.evaluate(gap) > 300, "the reader was pulled to the end"
    page.locator("#latest").click()
    assert page.evaluate(gap) < 100


class Program:
    """`bitloom serve` itself, as far as a check needs it."""

    def __init__(self, path):
        self.path = path
        self.state = Server.State()
        self.folder = tempfile.mkdtemp()
        self.address = self.process = None
        self.start()

    def start(self):
        port = self.address.rsplit(":", 1)[1] if self.address else "0"
        store = os.path.join(self.folder, "conversations.db")
        command = [self.path, "serve", "--port", port, "--store", store, "-t", "1", "-q"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "built without" in line:
                skip(line.strip())
            found = re.match(r"listening on (\S+)", line)
            if found:
                self.address = found[1]
            if "ready" in line:
                return
        raise RuntimeError("bitloom serve has not started")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        shutil.rmtree(self.folder)
        assert status == 0, f"bitloom serve ended with {status}"


def the_server_itself(c):
    page = c.visit()
    page.locator("#open-settings").click()
    page.get_by_label("Longest answer").fill("24")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Save").click()

    def ask(text):
        answers = page.locator(".theirs .figures").count()
        c.say(text)
        c.until("an answer", lambda: page.locator(".theirs .figures").count() > answers)
        c.wait_idle()

    ask("It was the best of times,")
    first = page.locator(".theirs .text").inner_text()
    assert first.strip()
    figures = page.locator(".theirs .figures").inner_text()
    assert "24 tokens" in figures and "tokens/s" in figures, figures
    page.locator("#list li").wait_for()
    c.server.kill()
    c.server.start()
    page.reload()
    page.locator(".theirs .figures").wait_for()
    assert page.locator(".theirs .text").inner_text() == first
    assert "24 tokens" in page.locator(".theirs .figures").inner_text()
    ask("And then?")
    page.locator("#search").fill("BEST OF TIMES")
    page.locator("#list .excerpt").wait_for()
    page.locator("#open-card").click()
    assert "Parameters" in page.locator("#facts").inner_text()
    c.shot("server")
    page.keyboard.press("Escape")
    page.locator("#menu").click()
    page.get_by_role("menuitem", name="Delete").click()
    page.locator("#ask-ok").click()
    page.get_by_text("Nothing found.").wait_for()


def long_lists(c):
    for i in range(70):
        now = c.state.now()
        c.state.conversations[f"{i:032x}"] = {
            "id": f"{i:032x}", "object": "conversation", "created_at": now, "updated_at": now,
            "revision": 0, "title": f"Number {i}", "model": "", "settings": {},
            "messages": [{"role": "user", "content": f"Words {i}", "details": {}},
                         {"role": "assistant", "content": "Yes.", "details": {}}]}
    page = c.visit()
    c.wait_rows(50)
    page.get_by_role("button", name="Show more").click()
    c.wait_rows(70)
    assert page.locator("#more").is_hidden()
    row = page.locator("#list li", has_text="Number 3").last
    row.scroll_into_view_if_needed()
    row.hover()
    row.locator("button").click()
    with page.expect_download() as download:  # of one that is not open
        page.get_by_role("menuitem", name="Markdown").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text == "# Number 3\n\n## You\n\nWords 3\n\n## Assistant\n\nYes.\n", text
    assert page.locator("#welcome").is_visible()
    c.shot("long-list")


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
CHECKS = [
    (first_visit, {}), (whole_answer, {}), (stop_keeps_what_there_is, {}), (regenerate, {}),
    (edit_a_question, {}), (reload_and_history, {}), (settings_are_sent_and_kept, {}),
    (several_models, {}), (keyboard_alone, {}), (phone, PHONE), (dark, {"color_scheme": "dark"}),
    (injection, {}), (failures_are_told, {}), (api_key_is_asked_for, {}),
    (waits_for_the_model, {}), (goes_on_when_the_store_fails, {}), (without_a_store, {}),
    (two_windows, {}), (answers_go_on_unseen, {}), (closing_keeps_what_there_is, {}),
    (follows_the_end, {}), (long_lists, {}),
]


def skip(reason):
    print(f"SKIPPED: {reason}")
    sys.exit(77)


def launch(playwright):
    program = os.environ.get("BITLOOM_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
    try:
        return playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
    except Exception as error:  # playwright has no narrower type for a missing browser
        return skip(f"no Chromium that starts: {str(error).splitlines()[0]}")


def run(check, options, browser, shots, server):
    c = Check(browser, shots, server, **options)
    try:
        check(c)
        c.close()
    except Exception:
        c.shots and c.page.screenshot(path=c.shots / f"FAILED-{check.__name__}.png")
        print(f"FAILED: {check.__name__}")
        traceback.print_exc(limit=-3)
        print("console:", c.errors, c.told, flush=True)
        return False
    print(f"ok: {check.__name__}", flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", help="bitloom, to be served by")
    parser.add_argument("--shots", type=Path, help="folder for pictures")
    parser.add_argument("names", nargs="*", help="checks to run; all of them")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("the Python package playwright is not installed")
    if options.shots:
        options.shots.mkdir(parents=True, exist_ok=True)
    if axe_source() is None:
        print("axe-core is not installed: accessibility is not checked by it")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        jobs = [(check, extra, Server) for check, extra in CHECKS]
        if options.program:
            jobs.append((the_server_itself, {}, lambda: Program(options.program)))
        jobs = [job for job in jobs if not options.names or job[0].__name__ in options.names]
        failed = sum(not run(check, extra, browser, options.shots, server())
                     for check, extra, server in jobs)
        browser.close()
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
