#!/usr/bin/env bash
# Sets up, pre-trains on the embedded images, prints kNN, writes a report.
#   launch/quickstart.sh [--gpu] [WORKDIR] [flags of `moco-tf pretrain`]
# --gpu: installs CUDA for NVIDIA GPUs too (1.9 GB), which stays at updates.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

take_gpu "$@"
set -- ${words[@]+"${words[@]}"}
workdir=$root/runs/quickstart
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    workdir=$1
    shift
fi
setup_environment
exec "$python" -m moco_tf pretrain --config=quickstart --workdir="$workdir" \
    --report "$@"
