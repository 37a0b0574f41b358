#!/usr/bin/env bash
# Sets up, pre-trains on the embedded images and prints kNN accuracy.
#   launch/quickstart.sh [WORKDIR] [flags of `moco-tf pretrain`]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

workdir=$root/runs/quickstart
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    workdir=$1
    shift
fi
setup_environment
exec "$python" -m moco_tf pretrain --config=quickstart --workdir="$workdir" "$@"
