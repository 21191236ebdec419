#!/usr/bin/env bash
# `bitloom dummy` and `bench`: a dummy runs, the figures have their keys and fit each other, and what
# is wrong is refused. No time is compared with anything.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

tiny=$work/tiny.gguf
"$program" dummy --shape 2x256x512x4x2 --vocab 300 -o "$tiny" --json -q >"$work/report"
python3 - "$work/report" "$tiny" <<'END' || fail "dummy --json"
import json, os, sys
report = json.load(open(sys.argv[1]))
assert report["output_bytes"] == os.path.getsize(sys.argv[2]), report
assert report["tensors"] == 24 and report["weights"] > 1e6, report
END
"$program" dummy --shape 2x256x512x4x2 --vocab 300 -t 1 -o "$work/again.gguf" -q
cmp -s "$tiny" "$work/again.gguf" || fail "dummy: the same seed, another file"
"$program" run -m "$tiny" -p 'some words' -n 8 --ignore-eos -q >"$work/text" || fail "a dummy does not run"

# refused STATUS WORDS ARGUMENT...: the words on stderr, nothing on stdout and no file.
refused() {
    local expected=$1 words=$2 status=0
    shift 2
    "$program" "$@" >"$work/out" 2>"$work/err" || status=$?
    [[ $status -eq $expected && ! -s $work/out ]] || fail "bitloom $*: status $status"
    grep -qF -e "$words" "$work/err" || fail "bitloom $*: said $(cat "$work/err"), expected $words"
    [[ -z $(find "$work" -name 'none*') ]] || fail "bitloom $*: left a file"
}
refused 2 'shape "8B", expected 125M' dummy --shape 8B -o "$work/none"
refused 2 '--shape SHAPE is missing' dummy -o "$work/none"
refused 2 '-o FILE is missing' dummy --shape 125M
refused 1 'type "q3"' dummy --shape 125M --type q3 -o "$work/none"
refused 1 'a vocabulary of 9 tokens' dummy --shape 125M --vocab 9 -o "$work/none"
refused 1 'room for' dummy --shape 4096x1048576x1048576 -o "$work/none"
refused 1 'No such file' dummy --shape 125M -o "$work/none/there.gguf"
refused 2 'found "1,x"' bench -m "$tiny" -t 1,x
refused 2 'found ""' bench -m "$tiny" -p ''
refused 2 'found "4097"' bench -m "$tiny" --streams 4097
refused 2 'found "5,"' bench -m "$tiny" -n 5,
refused 2 'expected one of them' bench -m "$tiny" --json --csv
refused 1 "$work/none" bench -m "$work/none" --json -t 1

env -u BITLOOM_CPU "$program" bench -m "$tiny" -p 8,0 -n 4 -d 0,16 -t 1,2 -r 3 --json >"$work/json" || fail "bench --json"
BITLOOM_CPU=ref "$program" bench -m "$tiny" -p 8 -n 0 -t 1 -r 1 --json >"$work/capped" || fail "bench, capped"
python3 - "$work/json" "$work/capped" "$tiny" <<'END' || fail "bench: figures"
import json, os, sys
found = json.load(open(sys.argv[1]))
assert found["kernels"] and found["version"], found
limits = {row["threads"]: row for row in found["limits"]}
assert sorted(limits) == [1, 2], limits
for row in limits.values():
    assert row["read_bandwidth"] > 0 and row["int8_peak"] == max(row["int8_peaks"].values()), row
rows = found["results"]
tests = [(row["test"], row["threads"]) for row in rows]
assert tests == [(t, n) for n in (1, 2) for t in ("pp8", "tg4", "pp8 @ d16", "tg4 @ d16")], tests
for row in rows:
    limit = limits[row["threads"]]
    speed = row["tokens_per_second"]
    assert row["model"] == sys.argv[3] and row["model_bytes"] == os.path.getsize(sys.argv[3]), row
    assert row["model_type"] == "bl_t2" and row["model_name"] == "dummy-2x256x512x4x2", row
    assert row["kernels"] == found["kernels"], row
    assert len(row["samples"]) == 3 and sorted(row["samples"])[1] == speed, row
    assert row["tokens_per_second_min"] == min(row["samples"]), row
    assert row["tokens_per_second_max"] == max(row["samples"]), row
    share = speed * row["bytes_per_token"] / limit["read_bandwidth"]
    assert abs(row["share_of_bandwidth"] / share - 1) < 1e-9, row
    share = speed * row["int8_ops_per_token"] / limit["int8_peak"]
    assert abs(row["share_of_int8_peak"] / share - 1) < 1e-9, row
    assert row["energy"] == ("measured" if found["energy_source"] else "estimated"), row
    assert row["joules_per_token"] > 0 or found["energy_source"], row
# Keys and values of 16 positions: 2 layers, 2 heads of 64, float16.
assert rows[3]["bytes_per_token"] - rows[1]["bytes_per_token"] == 16 * 2 * 2 * 2 * 64 * 2, rows
assert rows[1]["bytes_per_token"] > 4 * rows[0]["bytes_per_token"], rows
capped = json.load(open(sys.argv[2]))
assert capped["kernels"] == "ref" and len(capped["results"]) == 1, capped
assert capped["limits"][0]["int8_peak"] == capped["limits"][0]["int8_peaks"]["ref"], capped
END

"$program" bench -m "$tiny" -m "$work/again.gguf" -p 4 -n 2 -S 1,3 -t 1 -r 1 --csv >"$work/csv" || fail "bench --csv"
python3 - "$work/csv" <<'END' || fail "bench: CSV"
import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert [row["test"] for row in rows] == ["pp4", "tg2", "tg2 x3"] * 2, rows
assert [row["streams"] for row in rows] == ["1", "1", "3"] * 2, rows
assert all(None not in row and float(row["tokens_per_second"]) > 0 for row in rows), rows
END

"$program" bench -m "$tiny" -p 4 -n 2 -t 2 -r 1 >"$work/table" || fail "bench"
for words in 'memory, read' 'int8, ref' '^pp4 ' '^tg2 ' 'TOKENS/S' '^energy  *\(measured\|estimated\)' ' [0-9.e-]* \(meas\|est\) '; do
    grep -q -e "$words" "$work/table" || fail "no $words in the table: $(cat "$work/table")"
done

((failures == 0))
