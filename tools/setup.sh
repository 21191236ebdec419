#!/bin/sh
# Installs what building and testing Bitloom needs, on Debian and Ubuntu; elsewhere prints the list.
#
# usage: tools/setup.sh run|test
#
# Every need is probed by use (a program found, a header compiled), so that a machine that has
# everything by other means is left alone: then this script prints nothing and changes nothing.
set -eu

set_name=${1:-run}
case $set_name in run | test) ;; *)
    echo "usage: tools/setup.sh run|test" >&2
    exit 2
    ;;
esac

has_program() { command -v "$1" >/dev/null 2>&1; }
has_library() { has_program pkg-config && pkg-config --exists "$1"; }
has_header() { has_program gcc && echo "#include <$1>" | gcc -E - >/dev/null 2>&1; }
# Where clang keeps the libraries of its sanitizers and of libFuzzer.
has_clang_runtime() {
    has_program clang &&
        ls "$(clang -print-resource-dir)"/lib/*/*clang_rt.fuzzer* >/dev/null 2>&1
}

missing=
need() { # need PACKAGE PROBE ARGUMENT...
    package=$1
    shift
    "$@" || missing="$missing $package"
}

find_missing() {
    missing=
    need gcc has_program gcc
    need libc6-dev has_header stdio.h
    need cmake has_program cmake
    need ninja-build has_program ninja
    need pkg-config has_program pkg-config
    need libjansson-dev has_library jansson
    need libpcre2-dev has_library libpcre2-8
    need libutf8proc-dev has_library libutf8proc
    need libxxhash-dev has_library libxxhash
    need libedit-dev has_library libedit
    need libsqlite3-dev has_library sqlite3
    need libmicrohttpd-dev has_library libmicrohttpd
    need libcmocka-dev has_library cmocka
    if [ "$set_name" = test ]; then
        need libopenmpi-dev has_program mpicc
        need openmpi-bin has_program mpirun
        need clang has_program clang
        need libclang-rt-dev has_clang_runtime
        need clang-format has_program clang-format
        need cppcheck has_program cppcheck
        need python3 has_program python3
    fi
}

# What the tests of 64-bit ARM need on other machines (60 MB to download); they are skipped, by
# name, where it cannot be had.
find_missing_arm() {
    missing=
    if [ "$set_name" != test ] || [ "$(uname -m)" = aarch64 ]; then return; fi
    need gcc-aarch64-linux-gnu has_program aarch64-linux-gnu-gcc
    need libc6-dev-arm64-cross test -e /usr/aarch64-linux-gnu/include/stdio.h
    need qemu-user has_program qemu-aarch64
}

install_arm() {
    find_missing_arm
    if [ -z "$missing" ] || ! has_program apt-get; then return; fi
    if [ "$(id -u)" != 0 ] && ! has_program sudo; then return; fi
    # shellcheck disable=SC2086
    known_to_apt $missing || as_root apt-get update -q >/dev/null 2>&1 || true
    # shellcheck disable=SC2086
    known_to_apt $missing || return 0
    echo "setup: installing with apt-get:$missing"
    # shellcheck disable=SC2086
    apt_install $missing >/dev/null 2>&1 || {
        as_root apt-get update -q >/dev/null 2>&1 || true
        apt_install $missing >/dev/null 2>&1 ||
            echo "setup: could not; the test kernels_arm will be skipped"
    }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

apt_install() {
    # shellcheck disable=SC2086 # a list of package names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $*
}

known_to_apt() {
    for package in "$@"; do
        apt-cache show "$package" >/dev/null 2>&1 || return 1
    done
}

find_missing
[ -n "$missing" ] || {
    install_arm
    exit 0
}

if ! has_program apt-get; then
    echo "setup: missing here:$missing" >&2
    echo "setup: those are the names Debian gives them; install them with your system's package" >&2
    echo "setup: manager and try again (CMake >= 3.25, gcc >= 12 or clang >= 14)" >&2
    exit 1
fi

if [ "$(id -u)" != 0 ] && ! has_program sudo; then
    echo "setup: installing needs root, and there is no sudo; as root, run" >&2
    echo "    apt-get install$missing" >&2
    exit 1
fi

echo "setup: installing with apt-get:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086
known_to_apt $missing || {
    echo "setup: reading the package lists first (apt-get update)"
    as_root apt-get update -q >"$log" 2>&1 || true
}
# Releases without that name carry clang's runtime in a package that clang itself depends on.
known_to_apt libclang-rt-dev || missing=$(echo "$missing" | sed 's/ libclang-rt-dev//')
# shellcheck disable=SC2086
if ! apt_install $missing >"$log" 2>&1; then
    # Lists that are too old name versions that the archive no longer has.
    as_root apt-get update -q >>"$log" 2>&1 || true
    apt_install $missing >>"$log" 2>&1 || {
        cat "$log" >&2
        echo "setup: apt-get could not install:$missing" >&2
        exit 1
    }
fi

find_missing
if [ -n "$missing" ]; then
    echo "setup: still missing after the installation:$missing" >&2
    exit 1
fi
install_arm
echo "setup: done"
