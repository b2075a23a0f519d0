# shellcheck shell=bash
# The environment of all scripts in this folder, and functions that several of
# them use. It is sourced, not run.
#
# A variable such as PYTHONUNBUFFERED or PYTHONPATH changes Python's behaviour: a
# test that passes with it may fail on another machine. Only PYTHON is kept, which
# names the interpreter for scripts/bootstrap.

for variable in "${!PYTHON@}"; do
    [[ $variable == PYTHON ]] || unset "$variable"
done
unset variable

export LC_ALL=C.UTF-8

# A file that is opened later must not become the stdin of programs.
[[ -e /dev/fd/0 ]] || exec </dev/null

# Tests, chroots and images have processes of other users, which read these files.
umask 022

# A bare container, or cron, may set no HOME.
if [[ -z ${HOME-} ]]; then
    HOME=$(getent passwd "$EUID" | cut --delimiter=: --fields=6) || true
    export HOME
fi

# Prints the folder for files that are kept between runs; several checkouts use it. If it cannot
# be written to, it is a folder of this checkout, in which the calling script is.
cache_folder() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/pykcm
    { mkdir -p "$folder" && [[ -w $folder ]]; } 2>/dev/null || folder=$PWD/.cache/pykcm
    printf '%s\n' "$folder"
}

# Succeeds if the arguments for pytest name tests, and not only options.
names_tests() {
    local argument
    for argument; do
        [[ ! -e ${argument%%::*} ]] || return 0
    done
    return 1
}

# Makes a virtual environment in which pip has installed what the arguments say. It is
# kept until the interpreter, pyproject.toml or these arguments change.
#
# make_venv FOLDER INTERPRETER CONSTRAINTS PIP-ARGUMENTS...
make_venv() {
    local venv=$1 python=$2 constraints=$3 state
    shift 3
    state=$(
        "$python" -c 'import sys; print(sys.version, sys.executable)' &&
            printf '%s\n' "$constraints" "$@" && cat pyproject.toml
    )
    [[ ! -f $venv/stamp || $(<"$venv/stamp") != "$state" ]] || return 0
    printf '%s: making %s\n' "${0##*/}" "$venv" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv"
    printf '%s\n' "$constraints" >"$venv/constraints"
    "$venv/bin/python" -m pip --quiet --quiet --disable-pip-version-check install \
        --constraint "$venv/constraints" "$@" >&2
    printf '%s\n' "$state" >"$venv/stamp"
}

# What the tests of the packages protocol to cli import, besides pykcm.
# shellcheck disable=SC2034 # used by the scripts that source this file
test_tools=(anyio hypothesis prometheus-client pytest pytest-timeout pytest-xdist)
