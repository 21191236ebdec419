#!/usr/bin/env bash
# The source checks catch what they are there to catch: each bad line below, and not the good file.
# Arguments: the program (unused), the project's root.
set -euo pipefail

root=$2
command -v python3 >/dev/null || { echo "SKIPPED: no python3, in which the checks are written"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{include/bitloom,apps,src/{base,formats,kernels/x86,model}}
cp "$root/HACKING.md" "$work"

failures=0
# expect CHECK FILE TEXT WORDS: the check fails on the file with that text, with WORDS in its output.
expect() {
    local output
    mkdir -p "$(dirname "$work/$2")"
    printf '%b\n' "$3" >"$work/$2"
    if output=$(python3 "$root/tools/$1" "$work" 2>&1); then
        echo "FAILED: $1 passed: $3" >&2
        failures=$((failures + 1))
    elif [[ $output != *"$4"* ]]; then
        printf 'FAILED: %s on: %s\n  said: %s\n  expected: %s\n' "$1" "$3" "$output" "$4" >&2
        failures=$((failures + 1))
    fi
    rm "$work/$2"
}

good='/* Owns nothing. */\n#include <string.h>\n#include "base/error.h"\n'
good+='/* calls free(x) and printf() in a comment only */\nstatic const char *text = "exit(1)";\n'
good+='static void drop(struct thing *t) { t->free(t); bl__free(t); (void)text; }'
printf '%b\n' "$good" >"$work/src/formats/good.c"
for check in check_layers.py check_style.py; do
    python3 "$root/tools/$check" "$work" || { echo "FAILED: $check refuses a good file" >&2; exit 1; }
done

bad() { expect check_style.py "$1" "/* Owns. */\n$2" "$3"; }
bad src/base/a.c 'void *p = malloc(3);' 'malloc() is banned'
bad apps/a.c 'void f(void *p) { free(p); }' 'free() is banned'
bad src/model/a.c 'char *s = strdup(t);' 'strdup() is banned'
bad src/model/a.c 'int n = sprintf(b, "x");' 'sprintf() is banned'
bad apps/a.c 'int n = atoi (s);' 'atoi() is banned'
bad src/model/a.c 'void f(void) { abort(); }' 'abort() is banned'
bad src/model/a.c 'void f(void) { printf("x"); }' 'printf() is banned'
bad src/model/a.c 'void f(void) { fprintf(stderr, "x"); }' 'fprintf() is banned'
bad apps/a.c 'int n = system("ls");' 'system() is banned'
bad src/model/a.c 'void *p = alloca(9);' 'alloca() is banned'
bad include/bitloom/a.h 'typedef struct thing { int x; } thing_t;' 'thing_t'
bad include/bitloom/a.h 'typedef int number_t;' 'number_t'
bad src/model/a.c 'int x; /* TO''DO later */' 'a note to self'
bad src/model/a.c 'int x; ' 'blanks at the end'
bad src/model/a.c "$(printf '%.0s\\n' {1..1001})int x;" 'split it'
expect check_style.py src/model/a.c 'int x;' 'must open with a comment'

law() { expect check_layers.py "$1" "$2" "$3"; }
law src/base/a.c '#include "model/model.h"' 'base must not include room model'
law src/formats/a.c '#include "kernels/kernels.h"' 'formats must not include room kernels'
law apps/a.c '#include "quant/quant.h"' 'apps must not include room quant'
law src/model/a.c '#include "kernels/x86/x86.h"' 'only the dispatch file'
law src/kernels/other.c '  #  include "kernels/x86/x86.h"' 'only the dispatch file'
law src/model/a.c '#include "nowhere/a.h"' 'in no room'
law src/kernels/a.c '#include <jansson.h>' '<jansson.h> is not for room kernels'
law src/train/a.c '#include <mpi.h>' '<mpi.h> is not for room train'
law src/garage/a.c '/* Owns cars. */' 'a room without a law'
rm -rf "$work/src/garage"
law include/bitloom/a.h '#include "base/error.h"' 'not a public header'

[ "$failures" = 0 ]
