"""The C programs, compiled into the cache when their source or any header is newer."""

import os
import shutil
from pathlib import Path

from bench.paths import CACHE, SOURCES
from bench.processes import PATH, BenchError, output_of

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def build(name: str, *options: str) -> Path:
    """The program of `bench/<name>.c`; raises BenchError. `options` are the compiler's."""
    source, program = SOURCES / f"{name}.c", CACHE / name
    newest = max(_changed(each) for each in [source, *SOURCES.glob("*.h")])
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which("cc", path=PATH) or shutil.which("gcc", path=PATH)
    if compiler is None:
        raise BenchError("a C compiler is needed (Debian: gcc and libc6-dev)")
    CACHE.mkdir(parents=True, exist_ok=True)
    # Two processes may build it at once.
    unfinished = program.with_suffix(f".{os.getpid()}")
    output_of([compiler, *_FLAGS, *options, "-o", unfinished, source])
    unfinished.rename(program)
    return program


def _changed(path: Path) -> float:
    return path.stat().st_mtime
