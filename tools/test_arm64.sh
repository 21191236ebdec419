#!/bin/sh
# Builds Bitloom whole for 64-bit ARM and holds it to the references' logits and tokens under
# qemu-user, once for each level of kernels. For `make test-all`; minutes of an emulator's time.
#
# usage: tools/test_arm64.sh
#
# The libraries are Debian's or Ubuntu's for ARM (10 MB to download, mostly lists), unpacked into
# build-arm64/root: nothing is installed, and apt's and dpkg's own settings stay as they are.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/build-arm64
root=$folder/root
libraries=$root/usr/lib/aarch64-linux-gnu

skip() {
    echo "SKIPPED: 64-bit ARM under qemu-user: $1"
    exit 0
}
for program in aarch64-linux-gnu-gcc qemu-aarch64 apt-get dpkg; do
    command -v $program >/dev/null || skip "no $program"
done

# apt-get with lists of its own, which know the ARM packages of this release.
apt_arm64() {
    program=$1
    shift
    "$program" -q -o APT::Architectures=arm64 -o Dir::State::lists="$folder/apt/lists" \
        -o Dir::Cache="$folder/apt/cache" -o Dir::Etc::sourcelist="$folder/apt/sources" \
        -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root "$@"
}

fetch_libraries() {
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "$ID $VERSION_CODENAME")
    case $release in
    debian*) echo "deb [arch=arm64] http://deb.debian.org/debian ${release#* } main" ;;
    ubuntu*) echo "deb [arch=arm64] http://ports.ubuntu.com ${release#* } main universe" ;;
    *) return 1 ;;
    esac >"$folder/apt/sources"
    apt_arm64 apt-get update || return 1
    packages=
    for package in libjansson4 libjansson-dev libpcre2-8-0 libpcre2-dev libutf8proc2 \
        libutf8proc3 libutf8proc-dev libxxhash-dev libcmocka0 libcmocka-dev; do
        apt_arm64 apt-cache show $package:arm64 >/dev/null 2>&1 &&
            packages="$packages $package:arm64"
    done
    # shellcheck disable=SC2086
    (cd "$folder/apt" && apt_arm64 apt-get download $packages) || return 1
    for package in "$folder"/apt/*.deb; do
        dpkg -x "$package" "$root" || return 1
    done
}
if [ ! -e "$libraries/libcmocka.so" ] || [ ! -e "$libraries/pkgconfig/libxxhash.pc" ]; then
    mkdir -p "$folder"
    fetch_libraries >"$folder/apt.log" 2>&1 || skip "no libraries (build-arm64/apt.log)"
fi

PKG_CONFIG_LIBDIR=$libraries/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_LIBDIR PKG_CONFIG_SYSROOT_DIR
tools/build.sh arm64
for level in neon dotprod i8mm; do
    echo "test: 64-bit ARM, $level"
    BITLOOM_CPU=$level ctest --test-dir "$folder" --output-on-failure --timeout 3600 \
        -R '^golden_(models|novels|oracle|tinystories)$'
done
