#!/usr/bin/env bash
# An installed Bitloom is found by find_package and by pkg-config, also after a move, and the
# example built either way runs the default model. Arguments: the program, the project's root.
set -euo pipefail

build=$(dirname "$1")
root=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; echo "FAILED: $*" >&2; exit 1; }; }
must_exist() { [ -e "$1" ] || { echo "FAILED: not installed: $1" >&2; exit 1; }; }

# A sanitized archive needs the same sanitizer in whatever links it.
option() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }
compiler=$(option CMAKE_C_COMPILER)
sanitize=$(option BITLOOM_SANITIZE)
flags=(-std=c11 -Wall -Wextra -Wpedantic -Werror)
[ -z "$sanitize" ] || flags+=("-fsanitize=$sanitize")

# 1. A prefix chosen at install time, and the same through DESTDIR: the same files.
quietly cmake --install "$build" --prefix "$work/first"
quietly env DESTDIR="$work/stage" cmake --install "$build" --prefix /opt/bitloom
diff <(cd "$work/first" && find . | sort) <(cd "$work/stage/opt/bitloom" && find . | sort)
# Moved as a whole it must still work: nothing may name the prefix.
mv "$work/first" "$work/prefix"
prefix=$work/prefix
must_exist "$prefix/bin/bitloom"
must_exist "$prefix/include/bitloom/bitloom.h"
for page in "$root"/docs/man/*.1; do
    [ ! -e "$page" ] || must_exist "$prefix/share/man/man1/$(basename "$page")"
done
"$prefix/bin/bitloom" --version >/dev/null

# Each public header stands alone, in C and, where there is a compiler for it, in C++.
for header in "$prefix"/include/bitloom/*.h; do
    echo "#include <bitloom/$(basename "$header")>" >"$work/header.c"
    quietly "$compiler" "${flags[@]}" -I"$prefix/include" -fsyntax-only "$work/header.c"
    if command -v c++ >/dev/null; then
        quietly c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" \
            -fsyntax-only -x c++ "$work/header.c"
    fi
done

# 2. find_package.
mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(consumer C)
find_package(bitloom 0.1 REQUIRED)
add_executable(generate generate.c)
target_link_libraries(generate PRIVATE bitloom::bitloom)
END
cp "$root/examples/generate.c" "$work/project"
quietly cmake -G Ninja -S "$work/project" -B "$work/by_cmake" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$compiler" -DCMAKE_C_FLAGS="${flags[*]}"
quietly cmake --build "$work/by_cmake"

# 3. pkg-config. The library is an archive, hence --static.
pc=$(find "$prefix" -name bitloom.pc)
PKG_CONFIG_PATH=$(dirname "$pc")${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
read -ra libs < <(pkg-config --cflags --libs --static bitloom)
quietly "$compiler" "${flags[@]}" "$root/examples/generate.c" "${libs[@]}" -o "$work/by_pkg_config"

# 4. Both refuse a file that is not a model, and run one that is.
for program in "$work/by_cmake/generate" "$work/by_pkg_config"; do
    if "$program" "$root/README.md" x >/dev/null 2>"$work/message"; then
        echo "FAILED: README.md was taken for a model" >&2
        exit 1
    fi
    [ -s "$work/message" ] || { echo "FAILED: a bad model gave no message" >&2; exit 1; }
done
model=$(find "$prefix" -path '*/share/bitloom/*.gguf' | head -n 1)
if [ -z "$model" ]; then
    echo "SKIPPED: no default model in models/: installed and linked, not run"
    exit 77
fi
"$work/by_cmake/generate" "$model" "The old house" >"$work/text_cmake"
"$work/by_pkg_config" "$model" "The old house" >"$work/text_pkg_config"
[ "$(wc -c <"$work/text_cmake")" -gt 20 ]
cmp "$work/text_cmake" "$work/text_pkg_config"
