#!/usr/bin/env python3
"""Checks the include law. The law itself is read from HACKING.md, so page and check cannot differ.

usage: tools/check_layers.py [ROOT]

Lines of HACKING.md between "Include law" and the next heading hold `room: rooms it may include`
in backquotes, "-" for none. The names of libraries that only some rooms, or folders in a room, may
include are given in the same form with the header: `<jansson.h>: rooms`.
"""
import re
import sys
from pathlib import Path

ISA_FOLDERS = {"kernels/x86", "kernels/arm"}
DISPATCH_FILE = re.compile(r"`src/(kernels/\w+\.c)`")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.M)


def read_law(page):
    """Gives {room: set of rooms}, {library header: set of rooms} and the dispatch files."""
    found = re.search(r"Include law.*?(?=\n#|\Z)", page, re.S)
    if not found:
        sys.exit("check_layers: HACKING.md has no paragraph 'Include law'")
    rooms, libraries = {}, {}
    for name, allowed in re.findall(r"`(<?[\w./]+>?): ([^`]+)`", found[0]):
        words = {word for word in allowed.split() if word not in ("-", "include/bitloom")}
        if name.startswith("<"):
            libraries[name.strip("<>")] = words
        else:
            rooms[name] = words
    for name, allowed in rooms.items():
        for room in allowed - rooms.keys():
            sys.exit(f"check_layers: HACKING.md lets {name} include {room}, a room without a law")
    return rooms, libraries, set(DISPATCH_FILE.findall(found[0]))


def room_of(path):
    """The room of a file, by its path from the root: src/ROOM/... or apps/..."""
    parts = path.parts
    return parts[1] if parts[0] == "src" else parts[0]


def check_file(path, text, law):
    """Yields a complaint for each include in the file that the law forbids."""
    rooms, libraries, dispatch = law
    room = room_of(path)
    inside = "/".join(path.parts[1:-1])
    for match in INCLUDE.finditer(text):
        own, library = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        where = f"{path}:{line}"
        if library:
            if library in libraries and not {room, inside} & libraries[library]:
                yield f"{where}: <{library}> is not for room {room}"
            continue
        folder, _, _ = own.rpartition("/")
        target = own.split("/")[0]
        if target == "bitloom" or not folder:
            continue
        if target not in rooms:
            yield f'{where}: "{own}" is in no room'
        elif target != room and target not in rooms[room]:
            yield f"{where}: room {room} must not include room {target} ({own})"
        elif folder in ISA_FOLDERS and inside != folder:
            if "/".join(path.parts[1:]) not in dispatch:
                yield f"{where}: only the dispatch file includes {folder} ({own})"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
    law = read_law((root / "HACKING.md").read_text(encoding="utf-8"))
    complaints = []
    for folder in sorted((root / "src").iterdir()):
        if folder.is_dir() and folder.name not in law[0]:
            complaints.append(f"src/{folder.name}: a room without a law in HACKING.md")
    files = [p for top in ("src", "apps") for p in sorted((root / top).rglob("*.[chS]"))]
    for path in files:
        relative = path.relative_to(root)
        if room_of(relative) in law[0]:
            complaints += check_file(relative, path.read_text(encoding="utf-8"), law)
    for path in sorted((root / "include").rglob("*.h")) + sorted((root / "examples").rglob("*.c")):
        for own, _ in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if own and not own.startswith("bitloom/"):
                complaints.append(f'{path.relative_to(root)}: "{own}" is not a public header')
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
