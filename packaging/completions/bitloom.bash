# Completion of bitloom(1) for bash. tests/e2e/options.sh holds it to the program's option tables.

_bitloom() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}
    local commands="run chat convert inspect tokenize data info help"
    local model="-m --model -t --threads -c --ctx-size -b --batch-size"
    local sampling="-n --n-predict --predict -s --seed --temp -temp --top-k --top-p --min-p
        --repeat-penalty --frequency-penalty --presence-penalty --repeat-last-n -r --stop
        --reverse-prompt --ignore-eos --special --context-shift --keep"
    local types="native bl_t2 i2_s tq1_0 tq2_0 iq1_bn iq2_bn f16 bf16 f32"
    local embed_types="f32 f16 bf16 q8_0"
    local options="-h --help" IFS=$' \t\n'
    COMPREPLY=()

    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$cur")
        return
    fi
    case $cmd:$prev in
        help:*) mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur"); return ;;
        *:--type) mapfile -t COMPREPLY < <(compgen -W "$types" -- "$cur"); return ;;
        *:--embed-type) mapfile -t COMPREPLY < <(compgen -W "$embed_types" -- "$cur"); return ;;
        data:data)
            if [[ $cur != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "build info show" -- "$cur")
                return
            fi ;;
        *:-m | *:--model | *:-f | *:--file | *:-o | *:--output | *:--template-file | \
            *:--valid-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    esac
    case $cmd in
        run) options+=" $model $sampling -p --prompt -f --file -e --escape --no-bos --json -q --quiet" ;;
        chat) options+=" $model $sampling --system -sys --template-file -q --quiet" ;;
        convert) options+=" -o --output --type --embed-type -t --threads --json -q --quiet" ;;
        inspect) options+=" --json --tensors" ;;
        tokenize) options+=" -m --model --ids --json --decode --no-bos --no-special" ;;
        data)
            options+=" -m --model --json -o --output --valid --valid-file --field --special"
            options+=" -t --threads -q --quiet --check --doc --first -n --n-tokens --ids" ;;
        info) options+=" --json" ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [[ $cmd == convert || $cmd == inspect || $cmd == data ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -o filenames -F _bitloom bitloom
