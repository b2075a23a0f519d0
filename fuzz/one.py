"""Fuzzes one target with atheris, in its own process.

Usage: python -m fuzz.one TARGET [libFuzzer's options and corpus folders]
"""

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["pykcm", "fuzz"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    # To merge, libFuzzer starts this program again through the shell.
    command = f"{shlex.quote(sys.executable)} -m fuzz.one {name}"
    atheris.Setup([command, *options], TARGETS[name].attempt)
    atheris.Fuzz()
