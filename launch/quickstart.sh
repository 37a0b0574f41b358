#!/usr/bin/env bash
# Sets up, pre-trains on the embedded images, prints kNN, writes a report, and
# says how to go on.
#   launch/quickstart.sh [--gpu] [--lane=LANE] [WORKDIR] [flags of `pretrain`]
# --gpu: installs CUDA for NVIDIA GPUs too (1.9 GB), which stays at updates.
# --lane: 2.15 (Python 3.11) or current (3.12, 3.13): docs/platform.md. Unless it
# is said, that of .venv, else the first whose Python is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

take_words "$@"
set -- ${words[@]+"${words[@]}"}
workdir=$root/runs/quickstart
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    workdir=$1
    shift
fi
setup_environment
"$python" -m moco_tf pretrain --config=quickstart --workdir="$workdir" \
    --report "$@"
printf '%s\n' "" "To go on, let this shell know the command moco-tf:" \
    "  source $(printf %q "$environment/bin/activate")" \
    "  moco-tf --help" \
    "or give its full path, from anywhere:" \
    "  $(printf %q "$environment/bin/moco-tf") --help"
