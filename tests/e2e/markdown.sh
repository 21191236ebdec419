#!/usr/bin/env bash
# How the page shows Markdown, under Node. Arguments: the program (unused), the project's root.
set -euo pipefail

command -v node >/dev/null || { echo "SKIPPED: no node"; exit 77; }
node "$2/tests/tools/check_markdown.mjs" "$2"
