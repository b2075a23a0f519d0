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

# Succeeds if the arguments for pytest name tests, and not only options.
names_tests() {
    local argument
    for argument; do
        [[ ! -e ${argument%%::*} ]] || return 0
    done
    return 1
}
