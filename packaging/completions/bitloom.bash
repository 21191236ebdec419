# Completion of bitloom(1) for bash. tests/e2e/options.sh holds it to the program's option tables.

_bitloom() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}
    local commands="run chat serve convert compress inspect verify tokenize data tokenizer train plot bench perplexity compare eval dummy info help"
    local model="-m --model -t --threads -c --ctx-size -b --batch-size --numa --cache-type --head
        --sparsity"
    local sampling="-n --n-predict --predict -s --seed --temp -temp --top-k --top-p --min-p
        --repeat-penalty --frequency-penalty --presence-penalty --repeat-last-n -r --stop
        --reverse-prompt --ignore-eos --special --context-shift --keep"
    local speculation="--speculate --draft-model -md --draft-max --draft"
    local constraint="--grammar --grammar-file --json-schema --json-schema-file --json-object"
    local types="native bl_t2 bl_t5 bl_b1 i2_s tq1_0 tq2_0 iq1_bn iq2_bn f16 bf16 f32"
    local dummy_types="native bl_t2 bl_t5 bl_b1 i2_s tq1_0 tq2_0 q1_0 q2_0 iq1_bn iq2_bn f32 f16 bf16 q8_0 q4_0 q4_1"
    local shapes="125M 350M 700M 760M 1B 1.3B 1.5B 2B4T 2.5B 2.7B 3B 3.8B 3.9B 6.7B 7B 13B 30B 70B
        100B"
    local kinds="llama3 gpt2 sentencepiece"
    local embed_types="f32 f16 bf16 q8_0"
    local presets="tiny-1m small-3m 5m 15m 25m 125m 350m 700m 760m 1.3b 2.7b 3b 3.9b"
    local methods="rtn gptq1 pb-llm billm arb arb-rc haar sign-h arb-h onebit ternary"
    local options="-h --help" IFS=$' \t\n'
    COMPREPLY=()

    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands --help --version" -- "$cur")
        return
    fi
    case $cmd:$prev in
        help:*) mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur"); return ;;
        dummy:--type) mapfile -t COMPREPLY < <(compgen -W "$dummy_types" -- "$cur"); return ;;
        dummy:--shape) mapfile -t COMPREPLY < <(compgen -W "$shapes" -- "$cur"); return ;;
        compress:-m | compress:--method)
            mapfile -t COMPREPLY < <(compgen -W "$methods" -- "$cur"); return ;;
        *:--dense) mapfile -t COMPREPLY < <(compgen -W "f16 f32" -- "$cur"); return ;;
        *:--type) mapfile -t COMPREPLY < <(compgen -W "$types" -- "$cur"); return ;;
        train:--preset) mapfile -t COMPREPLY < <(compgen -W "$presets" -- "$cur"); return ;;
        train:--recipe) mapfile -t COMPREPLY < <(compgen -W "b1.58 bitnet" -- "$cur"); return ;;
        train:--weights)
            mapfile -t COMPREPLY < <(compgen -W "ternary binary float" -- "$cur"); return ;;
        train:--precision) mapfile -t COMPREPLY < <(compgen -W "auto float32 bf16 int8" -- "$cur"); return ;;
        train:--memory) mapfile -t COMPREPLY < <(compgen -W "store recompute" -- "$cur"); return ;;
        plot:--x) mapfile -t COMPREPLY < <(compgen -W "tokens step seconds" -- "$cur"); return ;;
        *:--sparsity) mapfile -t COMPREPLY < <(compgen -W "auto on off" -- "$cur"); return ;;
        *:--i2s-order) mapfile -t COMPREPLY < <(compgen -W "x86 arm" -- "$cur"); return ;;
        *:--embed-type) mapfile -t COMPREPLY < <(compgen -W "$embed_types" -- "$cur"); return ;;
        *:--kind) mapfile -t COMPREPLY < <(compgen -W "$kinds" -- "$cur"); return ;;
        tokenizer:tokenizer)
            if [[ $cur != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W train -- "$cur")
                return
            fi ;;
        data:data)
            if [[ $cur != -* ]]; then
                mapfile -t COMPREPLY < <(compgen -W "build generate info show" -- "$cur")
                return
            fi ;;
        *:-m | *:--model | *:-f | *:--file | *:-o | *:--output | *:--template-file | \
            *:--grammar | *:--grammar-file | *:--json-schema | *:--json-schema-file | \
            *:--api-key-file | *:--tls-cert | *:--tls-key | \
            *:--valid-file | *:--calibration | *:--test | *:--report | *:--state | *:--out | *:--data | *:--tokenizer | *:--export)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    esac
    case $cmd in
        run)
            options+=" $model $sampling $speculation $constraint -p --prompt -f --file -e --escape"
            options+=" --no-bos --json -v --verbose -q --quiet" ;;
        chat) options+=" $model $sampling $speculation $constraint --system -sys --template-file -q --quiet" ;;
        serve)
            options+=" $model --host --port --model-dir --memory --parallel -np --queue --cache-tokens"
            options+=" --store --no-store --api-key-file --tls-cert --tls-key --cors --user --no-sandbox --rate-limit"
            options+=" --max-body --max-connections --patience --max-time --grace --log-json -q --quiet" ;;
        convert)
            options+=" -o --output --type --embed-type --known-answer --i2s-order -t --threads --json"
            options+=" -q --quiet" ;;
        compress)
            options+=" -o --output -m --method --calibration --samples --length -s --seed --damping"
            options+=" --released --follow --dense --state --keep-state --report --test -c --ctx-size"
            options+=" --windows --chunks -t --threads --json -q --quiet" ;;
        inspect) options+=" --json --tensors" ;;
        verify) options+=" -t --threads --json -q --quiet" ;;
        tokenize) options+=" -m --model --ids --json --decode --no-bos --no-special" ;;
        data)
            options+=" -m --model --json -o --output --valid --valid-file --field --special"
            options+=" -t --threads -q --quiet --check --doc --first -n --n-tokens --ids"
            options+=" -s --seed --temp --top-k --top-p --doc-tokens --parallel" ;;
        train)
            options+=" -o --output --out --resume -t --threads --json -q --quiet --data --tokenizer"
            options+=" --from --teacher --lambda-steps --preset --recipe --weights --groups --tensor-parallel"
            options+=" --precision --memory --steps --rows --tokens --accumulate --lr --rate -s --seed --set"
            options+=" --export --masters" ;;
        plot) options+=" -o --output --title --x --top -q --quiet" ;;
        tokenizer)
            options+=" -o --output --kind --vocab --coverage --bos --eos --special --field --json"
            options+=" -q --quiet" ;;
        bench)
            options+=" -m --model -p --n-prompt -n --n-gen -S --streams -d --n-depth -t --threads"
            options+=" -b --batch-size -r --repetitions --numa --cache-type --head --sparsity -f --file"
            options+=" --json --csv -q --quiet" ;;
        perplexity)
            options+=" -m --model -f --file -c --ctx-size --protocol --bos --windows --chunks"
            options+=" -t --threads --numa --cache-type --json -q --quiet" ;;
        compare)
            options+=" -f --file -c --ctx-size --protocol --bos --windows --chunks --kernels --max-kl"
            options+=" --cache-type --min-agreement -t --threads --json -q --quiet" ;;
        eval)
            options+=" -m --model -f --file --task --items --limit -c --ctx-size -b --batch-size"
            options+=" -t --threads --numa --cache-type --samples --json -q --quiet" ;;
        dummy)
            options+=" -o --output --shape --type --embed-type --vocab -s --seed -t --threads --json"
            options+=" -q --quiet" ;;
        info) options+=" --memory -c --ctx-size --energy -n --tokens --json" ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [[ $cmd =~ ^(convert|compress|inspect|verify|data|tokenizer|train|plot|compare)$ ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -o filenames -F _bitloom bitloom
