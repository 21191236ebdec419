#!/bin/bash
# Builds the kernel checkers for 64-bit ARM and runs them under qemu-user: every level's kernels on
# a processor that has all of them, and the lower levels on processors that have no more.
#
# usage: arm.sh SOURCE_FOLDER BUILD_FOLDER
set -euo pipefail
source=$1 folder=$2

for program in aarch64-linux-gnu-gcc qemu-aarch64 ninja; do
    if ! command -v $program >/dev/null; then
        echo "SKIPPED: no $program (apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
        exit 77
    fi
done

mkdir -p "$folder"
log=$folder/build.log
{
    cmake -S "$source" -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        --toolchain "$source/cmake/aarch64-linux-gnu.cmake" -DBITLOOM_KERNELS_ONLY=ON \
        -DBITLOOM_WERROR=ON && ninja -C "$folder" -j 2
} >"$log" 2>&1 || {
    cat "$log"
    echo "FAILED: the kernels do not compile for 64-bit ARM"
    exit 1
}

# A processor and the levels that the library must find on it.
check() {
    for checker in "$folder"/kernels_*; do
        [ -x "$checker" ] || continue
        echo "$(basename "$checker") on $1"
        qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu "$checker" | tee "$folder/output"
        [ "$(basename "$checker")" != kernels_kernels ] ||
            grep -qx "kernel levels: $2" "$folder/output" || {
            echo "FAILED: expected the levels $2"
            exit 1
        }
    done
}
check max "ref neon dotprod i8mm"
check cortex-a76 "ref neon dotprod"
check cortex-a53 "ref neon"
