#!/bin/sh
# Configures and builds one CMake preset, without a word unless something fails.
#
# usage: tools/build.sh PRESET [-D...] [TARGET ...]
#
# The output of the last run stays in the build folder as build.log.
set -eu

cd "$(dirname "$0")/.."
preset=$1
shift
folder=build-$preset
[ "$preset" != release ] || folder=build

definitions=
while [ $# -gt 0 ]; do
    case $1 in
    -D*) definitions="$definitions $1" ;;
    *) break ;;
    esac
    shift
done

mkdir -p "$folder"
log=$folder/build.log
fail() {
    grep -v '^\[[0-9]*/[0-9]*\]' "$log" >&2
    echo "build: $1 failed (preset $preset)" >&2
    exit 1
}
[ -f "$folder/build.ninja" ] || echo "build: preset $preset in $folder/"
# Configuring again is cheap, and needed when definitions differ from last time.
# shellcheck disable=SC2086
cmake --preset "$preset" $definitions >"$log" 2>&1 || fail configuring
ninja -C "$folder" "$@" >>"$log" 2>&1 || fail compiling
if grep -q 'warning:' "$log"; then
    grep -A6 'warning:' "$log" >&2
fi
