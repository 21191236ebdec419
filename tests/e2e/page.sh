#!/usr/bin/env bash
# The page in a headless browser, against a stand-in for the server and against the server itself.
# Arguments: the program, the project's root. BITLOOM_PYTHON names a Python that has playwright.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"
exec "${BITLOOM_PYTHON:-python3}" "$root/tools/test_page.py" --program "$program"
