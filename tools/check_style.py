#!/usr/bin/env python3
"""Checks what clang-format and the compilers do not: banned functions and habits of the sources.

usage: tools/check_style.py [ROOT]
"""
import re
import sys
from pathlib import Path

MAX_LINES = 1000

# Functions no source of ours may call, and what to use instead.
BANNED = {
    "sprintf": "snprintf",
    "vsprintf": "vsnprintf",
    "strcpy": "memcpy with a checked length",
    "strncpy": "memcpy with a checked length",
    "strcat": "bl__buffer_puts",
    "strncat": "bl__buffer_append",
    "gets": "fgets",
    "atoi": "strtol with its end checked",
    "atol": "strtol with its end checked",
    "atof": "strtod with its end checked",
    "strtok": "strcspn",
    "system": "nothing: no shell is started",
    "popen": "nothing: no shell is started",
    "tmpnam": "mkstemp",
    "mktemp": "mkstemp",
    "alloca": "memory sized up front",
    "rand": "base/random.h",
    "srand": "base/random.h",
}
# Memory comes from base/alloc.h, which counts and can be told to fail.
MEMORY = {
    name: "base/alloc.h"
    for name in "malloc calloc realloc reallocarray free strdup strndup aligned_alloc "
    "posix_memalign asprintf vasprintf".split()
}
MEMORY_OWNER = "src/base/alloc.c"
# The library never prints and never ends the program.
LIBRARY = {
    name: "an error for the caller"
    for name in "abort exit _exit quick_exit assert printf vprintf fprintf vfprintf puts fputs "
    "putchar fputc perror err errx warn warnx".split()
}

COMMENT_OR_LITERAL = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S
)
CALL = re.compile(r"(?<![\w.])(?<!->)([a-z_]\w*)\s*\(")
TYPEDEF = re.compile(
    r"\btypedef\b[^;{}]*?\b(\w+_t)\s*;|\}\s*(\w+_t)\s*;|\b(?:struct|enum|union)\s+(\w+_t)\b"
)
NOTE = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")


def blank(match):
    """A comment or literal replaced by what keeps columns out of it and lines in place."""
    return re.sub(r"[^\n]", " ", match[0])


def banned_in(path):
    """The functions that may not be called in this file: {name: what to use instead}."""
    banned = dict(BANNED)
    if path.parts[0] in ("src", "apps") and path.as_posix() != MEMORY_OWNER:
        banned.update(MEMORY)
    if path.parts[0] == "src":
        banned.update(LIBRARY)
    return banned


def check_source(path, text):
    """Yields complaints about one C source or header."""
    if not text.lstrip().startswith("/*"):
        yield f"{path}:1: the file must open with a comment that says what it owns"
    code = COMMENT_OR_LITERAL.sub(blank, text)
    banned = banned_in(path)

    def line_of(match):
        return code.count("\n", 0, match.start()) + 1

    for match in CALL.finditer(code):
        if match[1] in banned:
            yield f"{path}:{line_of(match)}: {match[1]}() is banned here; use {banned[match[1]]}"
    for match in TYPEDEF.finditer(code):
        name = next(filter(None, match.groups()))
        yield f"{path}:{line_of(match)}: {name}: names that end in _t belong to the system"


def check_text(path, text):
    """Yields complaints that concern every kind of source."""
    lines = text.split("\n")
    if len(lines) - 1 > MAX_LINES:
        yield f"{path}: {len(lines) - 1} lines, at most {MAX_LINES}: split it"
    for number, line in enumerate(lines, 1):
        if NOTE.search(line):
            yield f"{path}:{number}: a note to self: {line.strip()[:60]}"
        if line != line.rstrip():
            yield f"{path}:{number}: blanks at the end of the line"
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    complaints = []
    for top in ("src", "include", "apps", "examples", "tests", "bench", "tools", "cmake"):
        for path in sorted((root / top).rglob("*")):
            if not path.is_file() or "golden" in path.parts or "corpus" in path.parts:
                continue
            if path.suffix not in (".c", ".h", ".S", ".py", ".sh", ".cmake", ".txt"):
                continue
            relative = path.relative_to(root)
            text = path.read_text(encoding="utf-8")
            complaints += check_text(relative, text)
            if path.suffix in (".c", ".h"):
                complaints += check_source(relative, text)
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
