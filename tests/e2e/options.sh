#!/usr/bin/env bash
# Help, manual and completions say what the parser takes; wrong command lines end with status 2,
# a message that helps, and nothing on standard output.
# Arguments: the program, the project's root.
set -euo pipefail

# shellcheck source=tests/e2e/common.bash
source "${0%/*}/common.bash"

manual=$root/docs/man/bitloom.1
completions=$root/packaging/completions
# shellcheck source=/dev/null
source "$completions/bitloom.bash"
if command -v mandoc >/dev/null; then
    mandoc -Tlint "$manual" >"$work/lint" || fail "mandoc: $(cat "$work/lint")"
fi

# What completion offers for a word of dashes after the command.
completed() {
    # shellcheck disable=SC2034  # bash hands these to completion functions
    COMP_WORDS=(bitloom "$1" -) COMP_CWORD=2
    _bitloom
    printf '%s\n' "${COMPREPLY[@]}"
}

commands=$("$program" help | sed -n '/^Commands$/,/^$/ s/^  \([a-z]*\) .*/\1/p')
[[ $commands == *run*help* ]] || fail "no commands in the overview: $commands"
n_options=0
for command in $commands; do
    [[ $command == help ]] && continue
    "$program" help "$command" >"$work/help"
    "$program" "$command" --help | cmp -s - "$work/help" || fail "$command --help and help $command differ"
    grep -q '^EXAMPLES$' "$work/help" || fail "help $command has no examples"
    grep -q "^\\.Ss $command\$" "$manual" || fail "the manual has no section $command"
    completed "$command" >"$work/completed"
    # "  -n, --n-predict, --predict N  ..." gives -n --n-predict --predict
    options=$(sed -n 's/^  \( *-[^ ,]*\(, -[^ ,]*\)*\).*/\1/p' "$work/help" | tr -d ',')
    for option in $options; do
        n_options=$((n_options + 1))
        name=${option#-}
        grep -q -e "^\\.It Fl\\(.* \\| \\)${name}\\( \\|\$\\)" -e "^\\.Fl ${name}\\( \\|\$\\)" "$manual" ||
            fail "$command $option is not in the manual"
        grep -qx -e "$option" "$work/completed" || fail "$command $option is not completed by bash"
        grep -q -e "[^a-z-]${option}[^a-z-]" "$completions/_bitloom" || fail "$option is not in _bitloom"
        case $option in
            --*) switch="-l ${option#--}" ;;
            -?) switch="-s ${option#-}" ;;
            *) switch="-o ${option#-}" ;;
        esac
        grep -q -e " $switch " "$completions/bitloom.fish" || fail "$option is not in bitloom.fish"
    done
    # And nothing more than that.
    while read -r option; do
        tr ' ' '\n' <<<"$options" | grep -qx -e "$option" || fail "bash completes $command $option, which is unknown"
    done <"$work/completed"
done
((n_options > 60)) || fail "only $n_options options found"

# bad WORDS ARGUMENT...: status 2, the words on stderr, nothing on stdout.
bad() {
    local words=$1 status=0
    shift
    "$program" "$@" </dev/null >"$work/out" 2>"$work/err" || status=$?
    ((status == 2)) || fail "bitloom $*: status $status"
    [[ ! -s $work/out ]] || fail "bitloom $*: wrote to standard output"
    grep -qF -e "$words" "$work/err" || fail "bitloom $*: said $(cat "$work/err"), expected $words"
}
bad 'usage: bitloom'
bad 'did you mean tokenize?' tokenise
bad 'did you mean run?' rnu
bad 'unknown command "frobnicate"' frobnicate
bad 'unknown command "frobnicate"' help frobnicate
bad 'did you mean --temp?' run --tmep 1
bad 'did you mean --model?' run -model x
bad 'unknown option --frobnicate' chat --frobnicate
bad 'expected a whole number from 0 to 1024' run -p x -t 99999
bad 'found "-5"' run -p x -c -5
bad 'found "-2"' run -p x --n-predict=-2
bad 'found "1.5"' run -p x --seed 1.5
bad 'found "99999999999999999999"' run -p x --seed 99999999999999999999
bad 'found "nan"' run -p x --temp nan
bad 'found "2", expected a number above 0, at most 1' run -p x --top-p 2
bad 'found "0", expected a number above 0, at most 1' run -p x --top-p 0
bad 'found ""' run -p x -temp ''
bad 'a value is missing (N)' run -p x -n
bad 'found the option --temp' run -m --temp 1
bad '--json takes no value' run --json=1
bad 'unexpected argument "tale"' run -p x tale
bad 'expected one of them' run -p x -f y
bad 'expected one of them' run -p x --json-object --grammar y
mapfile -t stops < <(printf -- '--stop\ns\n%.0s' {1..17})
bad 'given more than 16 times' run -p x "${stops[@]}"
bad 'expected one of: native' convert in -o out --type q3
bad '-o FILE is missing' convert in
bad 'INPUT is missing' convert -o out
bad 'unexpected argument' inspect a b
bad 'expected one of them' tokenize --ids --decode

[[ $("$program" --version) =~ ^bitloom\ [0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "--version"
"$program" info | grep -q '^in use ' || fail "info names no kernel"
"$program" info --json | python3 -c 'import json, sys; assert json.load(sys.stdin)["kernel"]' || fail "info --json"
if [[ -e /dev/full ]]; then
    "$program" help >/dev/full 2>"$work/err" && fail "a full disk went unnoticed"
    grep -q 'standard output' "$work/err" || fail "a full disk: said $(cat "$work/err")"
fi

((failures == 0)) && echo "$n_options options, all in manual and completions"
