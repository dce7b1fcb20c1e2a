#!/usr/bin/env bash
# Test with several processes, one per GPU (or CPU processes on a machine without any):
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# On several machines run it on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set.
set -euo pipefail
folder=$(dirname "${BASH_SOURCE[0]}")
source "$folder/_launch.sh"

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
    exit 2
fi
launch "$3" "$folder/test.py" "$1" "$2" "${@:4}"
