"""Fuzzes one target with atheris, in a process of its own.

Usage: python -m fuzz.one TARGET [libFuzzer's options and corpus folders]
"""

import sys

import atheris

with atheris.instrument_imports(include=["pykcm", "fuzz"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]].attempt)
    atheris.Fuzz()
