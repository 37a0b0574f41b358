#!/usr/bin/env bash
# Sets up and runs the tests: launch/test.sh [--gpu] [--lane=LANE] [flags of
# pytest]; the quick ones: launch/test.sh -m quick. --gpu, --lane as of
# quickstart.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

take_words "$@"
set -- ${words[@]+"${words[@]}"}
setup_environment dev
cd "$root"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# A test process that dies ends the run: replaced, it can wait for ever. The files'
# order is that of tests/conftest.py, not by how many tests they hold.
exec "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
    --max-worker-restart=0 "$@"
