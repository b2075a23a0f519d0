# shellcheck shell=bash
# The environment that every script here starts with; sourced, not run.
#
# A variable such as PYTHONUNBUFFERED or PYTHONPATH changes how Python behaves, so
# a test that passes with it may fail on another machine. Only PYTHON, which names
# the interpreter for scripts/bootstrap, is kept.

for variable in "${!PYTHON@}"; do
    [[ $variable == PYTHON ]] || unset "$variable"
done
unset variable

export LC_ALL=C.UTF-8
