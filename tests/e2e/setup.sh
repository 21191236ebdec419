#!/usr/bin/env bash
# tools/setup.sh leaves a complete system alone, installs exactly what is missing on Debian, and
# elsewhere says what to install. apt-get is a stand-in: this test installs nothing.
# Arguments: the program (unused), the project's root.
set -euo pipefail

setup=$2/tools/setup.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $*" >&2; cat "$work/output" >&2; exit 1; }
# The script, in a system whose programs are those of $work/bin.
in_system() { PATH=$work/bin "$setup" "$@" >"$work/output" 2>&1; }
stub() { rm -f "$work/bin/$1"; printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1"; chmod +x "$work/bin/$1"; }

mkdir "$work/bin"
old_ifs=$IFS
IFS=:
for folder in $PATH; do # the first of a name wins; ln refuses the others
    ln -s "$folder"/* "$work/bin" 2>/dev/null || true
done
IFS=$old_ifs
rm -f "$work"/bin/{apt-get,apt-cache,sudo}

in_system run || fail "something is missing here: run tools/setup.sh run"
[ ! -s "$work/output" ] || fail "output although nothing is missing"

cmake=$(readlink "$work/bin/cmake")
rm "$work/bin/cmake"
! in_system run || fail "no cmake and no apt-get, and all is well"
grep -q 'missing here: cmake$' "$work/output" || fail "the list of packages"

stub apt-cache 'exit 0'
stub apt-get "echo \"\$@\" >>'$work/calls'; [ \"\$1\" = update ] || ln -s '$cmake' '$work/bin/cmake'"
stub id 'echo 1000'
! in_system run || fail "neither root nor sudo, and all is well"
grep -q 'apt-get install cmake$' "$work/output" || fail "the command for root"
[ ! -e "$work/calls" ] || fail "apt-get was called without root"

stub id 'echo 0'
in_system run || fail "with apt-get"
grep -q 'installing with apt-get: cmake$' "$work/output" || fail "what it does"
[ "$(cat "$work/calls")" = "install -y -q --no-install-recommends cmake" ] || fail "$(cat "$work/calls")"

rm "$work/bin/cmake" "$work/calls"
stub apt-cache 'exit 100' # lists not read yet
in_system run || fail "with apt-get and empty package lists"
grep -q '^update' "$work/calls" || fail "the package lists were not read"
