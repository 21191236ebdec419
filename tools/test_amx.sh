#!/bin/sh
# Runs the AMX kernels as instructions in Bochs, an emulator of a whole PC that knows AMX: nobody's
# silicon, but somebody else's reading of Intel's manual. For development; Bochs has to be built.
#
# usage: tools/test_amx.sh BOCHS     for example tools/test_amx.sh ~/Bochs/bochs
#
# BOCHS is the folder that has Bochs' program and its bios/ after
#
#     git clone https://github.com/bochs-emu/Bochs && cd Bochs/bochs
#     ./configure --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-amx \
#         --enable-all-optimizations --with-nogui --disable-docbook && make
#
# Until 783b58f (August 2026) at least, DPBDSU in cpu/avx/amx.cc takes the bytes of its first operand as
# unsigned, against the manual (TDPBSUD, "SRC1 signed"): make them Bit8s, or every product differs.
#
# Also wanted: gcc, grub-mkrescue (grub-common, grub-pc-bin), xorriso.
set -eu
[ $# -eq 1 ] || {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
bochs=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
for program in gcc grub-mkrescue xorriso; do
    command -v $program >/dev/null || {
        echo "test_amx: no $program" >&2
        exit 1
    }
done
folder=$(mktemp -d)
emulator=
trap '[ -z "$emulator" ] || kill -9 "$emulator" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

avx512="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni"
compile() {
    source=$1
    shift
    gcc -std=c11 -D_GNU_SOURCE -Isrc -Iinclude -O2 -ffreestanding -fno-stack-protector -fno-pic \
        -mno-red-zone -fcf-protection=none -ffunction-sections -ffp-contract=off "$@" \
        -c "$source" -o "$folder/$(basename "$source").o"
}
compile tests/bare/start.S
compile tests/bare/amx.c
compile src/kernels/ref/ref.c
# shellcheck disable=SC2086
for source in gemm_avx512vnni kernels_avx512vnni kernels_amx probe_amx; do
    case $source in
    *_amx) compile src/kernels/x86/$source.c -O3 $avx512 -mamx-tile -mamx-int8 ;;
    *) compile src/kernels/x86/$source.c -O3 $avx512 ;;
    esac
done
# Kernels that are in the same files, but not called, lack what they need.
ld -n -T tests/bare/link.ld --gc-sections --unresolved-symbols=ignore-all --no-warn-rwx-segments \
    -o "$folder/amx64" "$folder"/*.o
mkdir -p "$folder/disk/boot/grub"
objcopy -O elf32-i386 "$folder/amx64" "$folder/disk/boot/amx"
printf 'set timeout=0\nmenuentry amx {\n multiboot /boot/amx\n}\n' >"$folder/disk/boot/grub/grub.cfg"
grub-mkrescue -o "$folder/disk.iso" "$folder/disk" >"$folder/grub.log" 2>&1

cat >"$folder/settings" <<EOF
megs: 256
romimage: file=$bochs/bios/BIOS-bochs-latest
vgaromimage: file=$bochs/bios/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin
cpu: model=sapphire_rapids, ips=100000000
ata0-master: type=cdrom, path=$folder/disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$folder/serial
log: $folder/log
panic: action=fatal
display_library: nogui
EOF
BXSHARE=$bochs/bios "$bochs/bochs" -q -f "$folder/settings" >"$folder/output" 2>&1 &
emulator=$!
for _ in $(seq 600); do
    grep -qsE '^(passed|failed)' "$folder/serial" && break
    kill -0 "$emulator" 2>/dev/null || break
    sleep 1
done
tr -d '\r' <"$folder/serial" | grep -aE '^(amx|the|[0-9]|passed|failed)' || true
grep -qs '^passed' "$folder/serial" || {
    echo "test_amx: failed; the emulator says" >&2
    tail -3 "$folder/log" >&2
    exit 1
}
