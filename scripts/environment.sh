# shellcheck shell=bash
# The environment that every script here starts with, and what several of them
# need; sourced, not run.
#
# A variable such as PYTHONUNBUFFERED or PYTHONPATH changes how Python behaves, so
# a test that passes with it may fail on another machine. Only PYTHON, which names
# the interpreter for scripts/bootstrap, is kept.

for variable in "${!PYTHON@}"; do
    [[ $variable == PYTHON ]] || unset "$variable"
done
unset variable

export LC_ALL=C.UTF-8

# Whether the arguments for pytest name tests, and not only options.
names_tests() {
    local argument
    for argument; do
        [[ ! -e ${argument%%::*} ]] || return 0
    done
    return 1
}
