# What the scripts that drive the program share; sourced with their arguments: the program, the
# project's root. Sets program, root, model (the default one) and work, a folder that is removed at
# the end; fail counts failures, and a script ends with (( failures == 0 )).
program=$1 root=$2
command -v python3 >/dev/null || { echo "SKIPPED: no python3"; exit 77; }
model=$(find "$root/models" -name '*.gguf' | sort | head -n 1)
[[ -n $model ]] || { echo "FAILED: no model in models/" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work/data # the server's conversations
failures=0
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    failures=$((failures + 1))
}
