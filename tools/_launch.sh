# Sourced by dist_train.sh and dist_test.sh.

# Run a tool in several processes: launch GPUS SCRIPT [arguments].
launch() {
    local gpus=$1 script=$2 rendezvous
    shift 2
    if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
        rendezvous=(--standalone) # takes a free port
    else
        rendezvous=(
            --nnodes "${NNODES:-1}"
            --node-rank "${NODE_RANK:-0}"
            --master-addr "${MASTER_ADDR:-127.0.0.1}"
            --master-port "${PORT:-29500}"
        )
    fi
    exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/_launch.py" "${rendezvous[@]}" \
        --max-restarts "${MAX_RESTARTS:-0}" --nproc-per-node "$gpus" \
        "$script" "$@" --launcher pytorch
}
