# Sourced by the scripts of this folder: makes and reuses the environment.
#
# After `setup_environment [dev]`, $python runs the product. There are two lanes,
# docs/platform.md: 2.15 (Python 3.11), kept in .venv of the checkout and
# installed from requirements.txt, and current (Python 3.12 or 3.13), kept in
# .venv-current and installed from requirements-current.txt; for dev also from
# the file of that name with -dev, every hash checked. .venv is a link to
# .venv-current where that lane was set up first. With --gpu among the words of
# a script the lane gets CUDA too, now and at every update.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# For GPUs that are newer than TensorFlow's kernels the driver compiles these at
# the first start, for many minutes: it is to keep them all (4 GiB at most).
export CUDA_CACHE_MAXSIZE=${CUDA_CACHE_MAXSIZE:-4294967296}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Whether a program is a Python of a version that can make environments.
is_python() {
    "$1" -c 'import sys, venv, ensurepip
sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$2" >/dev/null 2>&1
}

# Prints a Python of one of the versions, the first that is there; returns 1
# without one.
find_python() {
    local version candidate
    for version in "$@"; do
        for candidate in "python$version" python3 python \
            "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python; do
            if is_python "$candidate" "$version"; then
                command -v "$candidate"
                return 0
            fi
        done
    done
    command -v uv >/dev/null 2>&1 || return 1
    for version in "$@"; do
        if candidate=$(uv python find "$version" 2>/dev/null) &&
            is_python "$candidate" "$version"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

# Prints a Python of a lane; returns 1 without one.
python_of() {
    case $1 in
    2.15) find_python 3.11 ;;
    current) find_python 3.12 3.13 ;;
    esac
}

# Sets $base to a Python and $lane to its lane, unless that was chosen: the one
# of .venv, if it is there, else that of Python 3.11, else the current one.
choose_lane() {
    if [ -z "${lane:-}" ] && [ -L "$root/.venv" ]; then
        lane=current
    elif [ -z "${lane:-}" ] && [ -d "$root/.venv" ]; then
        lane=2.15
    fi
    case ${lane:-any} in
    2.15) base=$(python_of 2.15) || needs_python 3.11 ;;
    current) base=$(python_of current) || needs_python "3.12 or 3.13" ;;
    any)
        if base=$(python_of 2.15); then
            lane=2.15
        elif base=$(python_of current); then
            lane=current
        else
            needs_python "3.11, 3.12 or 3.13"
        fi
        ;;
    *) fail "--lane must be 2.15 or current. Received --lane=$lane." ;;
    esac
    suffix=''
    [ "$lane" = 2.15 ] || suffix=-current
    environment=$root/.venv$suffix
    python=$environment/bin/python
}

needs_python() {
    local lines=("Python $1 with venv is needed and was not found.")
    [ -z "${lane:-}" ] || lines=("The lane $lane needs Python $1 with venv," \
        "which was not found. --lane=2.15 needs 3.11, --lane=current newer ones.")
    lines+=("Install it by one of these, then start this script again:")
    case $1 in *3.11*) lines+=(
        "  Debian 12:     apt-get install python3.11 python3.11-venv") ;;
    esac
    case $1 in *3.12*) lines+=(
        "  Debian 13:     apt-get install python3.13 python3.13-venv"
        "  Ubuntu 24.04:  apt-get install python3.12 python3.12-venv") ;;
    esac
    # The first of the versions that were named.
    set -- "${1%%[, ]*}"
    fail "${lines[@]}" \
        "  Fedora:        dnf install python$1" \
        "  macOS:         brew install python@$1" \
        "  anywhere else: uv python install $1"
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
        on' "$root/requirements$suffix.txt"
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
            -r "$root/requirements$suffix.txt"
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
    echo "Setting up ${environment##*/}: $1 ..."
    shift 2
    "$@" && printf '%s\n' "$wanted" >"$stamp"
}

make_environment() {
    # A link is to the other lane's environment, which stays.
    [ ! -L "$environment" ] || rm "$environment" || return 1
    if [ -n "${wants_gpu:-}" ]; then
        mkdir -p "$environment" && : >"$environment/wants-gpu" || return 1
    fi
    stage "packages (2.5 GB, a few minutes)" "requirements$suffix.txt" \
        install_locked &&
        stage moco-tf pyproject.toml \
            install --no-deps --no-build-isolation -e "$root" || return 1
    if [ -e "$environment/wants-gpu" ]; then
        stage "CUDA (1.9 GB)" "requirements$suffix-gpu.txt" install --no-deps \
            --require-hashes -r "$root/requirements$suffix-gpu.txt" || return 1
    fi
    # Commands of the documentation begin with .venv/bin.
    [ -d "$root/.venv" ] || ln -sfn "${environment##*/}" "$root/.venv" ||
        return 1
    if [ "$1" = dev ]; then
        stage "test tools" "requirements$suffix-dev.txt" \
            install --require-hashes -r "$root/requirements$suffix-dev.txt"
    fi
}

# Sets $wants_gpu if --gpu is among the arguments, $lane to what --lane says,
# and $words to the others.
take_words() {
    wants_gpu=''
    lane=''
    words=()
    while [ $# -gt 0 ]; do
        case $1 in
        --gpu) wants_gpu=1 ;;
        --lane=*) lane=${1#*=} ;;
        --lane)
            [ $# -gt 1 ] || fail "--lane must be 2.15 or current."
            lane=$2
            shift
            ;;
        *) words+=("$1") ;;
        esac
        shift
    done
}

# $1: "" for the product alone, "dev" to run its tests too.
setup_environment() {
    choose_lane
    # The lock is the file's, not the shell's: it ends with the process.
    if command -v flock >/dev/null 2>&1; then
        exec 9>"$root/.setup.lock"
        flock -n 9 || { echo "Waiting for another setup ..."; flock 9; }
    fi
    make_environment "${1:-}" ||
        fail "The environment could not be made; see the lines above."
    if command -v flock >/dev/null 2>&1; then exec 9>&-; fi
}
