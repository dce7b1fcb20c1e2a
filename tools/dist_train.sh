#!/usr/bin/env bash
# Train with several processes, one per GPU (or CPU processes on a machine without any):
#   tools/dist_train.sh CONFIG GPUS [options of train.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set. With
# MAX_RESTARTS=N and --resume a run of which a process dies starts again, up to N times.
set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
source "$folder/_launch.sh"

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
launch "$2" "$folder/train.py" "$1" "${@:3}"
