"""Compilation of the C programs into the cache, when their source or any header is newer."""

import os
import shutil
from pathlib import Path

from bench.paths import CACHE, SOURCES
from bench.processes import PATH, BenchError, output_of

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def build(name: str, *options: str) -> Path:
    """Return the program built from `bench/<name>.c` with the compiler's `options`; raises BenchError."""
    source, program = SOURCES / f"{name}.c", CACHE / name
    newest = max(path.stat().st_mtime for path in [source, *SOURCES.glob("*.h")])
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which("cc", path=PATH) or shutil.which("gcc", path=PATH)
    if compiler is None:
        raise BenchError(
            f"{source.name} cannot be compiled: install a C compiler (Debian: gcc and libc6-dev)"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    # Two processes may build it at the same time.
    unfinished = program.with_suffix(f".{os.getpid()}")
    output_of([compiler, *_FLAGS, *options, "-o", unfinished, source])
    unfinished.rename(program)
    return program
