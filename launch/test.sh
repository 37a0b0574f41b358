#!/usr/bin/env bash
# Sets up and runs the tests: launch/test.sh [flags of pytest].
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

setup_environment dev
cd "$root"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# A test process that dies ends the run: replaced, it can wait for ever.
exec "$python" -m pytest -q -n 2 --dist loadfile --max-worker-restart=0 "$@"
