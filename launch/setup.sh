# Sourced by the scripts of this folder: makes and reuses the environment.
#
# After `setup_environment [dev]`, $python runs the product. Everything is kept
# in .venv of the checkout, installed from requirements.txt (and, for dev,
# requirements-dev.txt) with every hash checked. With --gpu among the words of a
# script it gets CUDA too, from requirements-gpu.txt, now and at every update.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$root/.venv
python=$environment/bin/python

# For GPUs that are newer than TensorFlow's kernels the driver compiles these at
# the first start, for many minutes: it is to keep them all (4 GiB at most).
export CUDA_CACHE_MAXSIZE=${CUDA_CACHE_MAXSIZE:-4294967296}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Prints a Python 3.11 that can make environments; returns 1 without one.
find_python() {
    local candidate
    local check='import sys, venv, ensurepip
sys.exit(sys.version_info[:2] != (3, 11))'
    for candidate in python3.11 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c "$check" >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    if command -v uv >/dev/null 2>&1 &&
        candidate=$(uv python find 3.11 2>/dev/null) &&
        "$candidate" -c "$check" >/dev/null 2>&1; then
        printf '%s\n' "$candidate"
        return 0
    fi
    return 1
}

require_python() {
    find_python || fail \
        "Python 3.11 with venv is needed and was not found." \
        "Install it by one of these, then start this script again:" \
        "  Debian 12:     apt-get install python3.11 python3.11-venv" \
        "  Fedora:        dnf install python3.11" \
        "  macOS:         brew install python@3.11" \
        "  anywhere else: uv python install 3.11"
}

# Prints what a stage of the setup is made from, as one digest.
digest() {
    { printf '%s\n' "$root" && cat "$@"; } | "$base" -c \
        'import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# Prints the block of the named packages from the lock, hashes included.
locked() {
    awk -v names=" $* " '
        /^[a-z]/ { split($1, part, "=="); on = index(names, " " part[1] " ") }
        on' "$root/requirements.txt"
}

install() {
    "$python" -m pip --disable-pip-version-check install -qq "$@"
}

install_locked() {
    # That CUDA is wanted stays known, however this ends.
    find "$environment/" -mindepth 1 -maxdepth 1 ! -name wants-gpu \
        -exec rm -rf {} + 2>/dev/null
    "$base" -m venv "$environment" || return 1
    # What builds the few packages that come as source is checked as well.
    locked setuptools wheel packaging >"$environment/build.txt" &&
        install --require-hashes -r "$environment/build.txt" &&
        install --require-hashes --no-build-isolation \
            -r "$root/requirements.txt"
}

# stage NAME FILE COMMAND...: runs the command unless it has succeeded with
# this content of the file. The stamp is written last, so what was interrupted
# never counts as ready.
stage() {
    local stamp=$environment/stamp-${1%% *} wanted
    wanted=$(digest "$root/$2") || return 1
    if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    echo "Setting up .venv: $1 ..."
    shift 2
    "$@" && printf '%s\n' "$wanted" >"$stamp"
}

make_environment() {
    if [ -n "${wants_gpu:-}" ]; then
        mkdir -p "$environment" && : >"$environment/wants-gpu" || return 1
    fi
    stage "packages (2.5 GB, a few minutes)" requirements.txt install_locked &&
        stage moco-tf pyproject.toml \
            install --no-deps --no-build-isolation -e "$root" || return 1
    if [ -e "$environment/wants-gpu" ]; then
        stage "CUDA (1.9 GB)" requirements-gpu.txt install --no-deps \
            --require-hashes -r "$root/requirements-gpu.txt" || return 1
    fi
    if [ "$1" = dev ]; then
        stage "test tools" requirements-dev.txt \
            install --require-hashes -r "$root/requirements-dev.txt"
    fi
}

# Sets $wants_gpu if --gpu is among the arguments, and $words to the others.
take_gpu() {
    local word
    wants_gpu=''
    words=()
    for word in "$@"; do
        if [ "$word" = --gpu ]; then wants_gpu=1; else words+=("$word"); fi
    done
}

# $1: "" for the product alone, "dev" to run its tests too.
setup_environment() {
    base=$(require_python) || exit 1
    # The lock is the file's, not the shell's: it ends with the process.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$root/.setup.lock"
        flock -n 9 || { echo "Waiting for another setup ..."; flock 9; }
    fi
    make_environment "${1:-}" ||
        fail "The environment could not be made; see the lines above."
    if command -v flock >/dev/null 2>&1; then exec 9>&-; fi
}
