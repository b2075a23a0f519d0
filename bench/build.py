"""The C programs, compiled into the cache when their source is newer."""

import shutil
from pathlib import Path

from bench.paths import CACHE, SOURCES
from bench.processes import PATH, BenchError, output_of

_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")
_HEADER = SOURCES / "samples.h"


def build(name: str) -> Path:
    """The program of `bench/<name>.c`; raises BenchError."""
    source, program = SOURCES / f"{name}.c", CACHE / name
    if program.exists() and program.stat().st_mtime > max(_changed(source), _changed(_HEADER)):
        return program
    compiler = shutil.which("cc", path=PATH) or shutil.which("gcc", path=PATH)
    if compiler is None:
        raise BenchError("a C compiler is needed (Debian: gcc and libc6-dev)")
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".new")
    output_of([compiler, *_FLAGS, "-o", unfinished, source])
    unfinished.rename(program)
    return program


def _changed(path: Path) -> float:
    return path.stat().st_mtime
