"""Another clock for a program, by libfaketime."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from pykcm.testing.guarded import report_missing

_NAME = "libfaketime.so.1"
# Of Debian, Fedora and others.
_FOLDERS = ("*/faketime", "faketime", "../lib64/faketime", "../local/lib/faketime")


_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its own files, by its program's PID


@cache
def find_libfaketime() -> str | None:
    """The path of the library; None if it is not installed."""
    paths = (path for pattern in _FOLDERS for path in sorted(Path("/usr/lib").glob(f"{pattern}/{_NAME}")))
    return next(map(str, paths), None)


def faketime(offset: float) -> dict[str, str]:
    """Return the variables of a program whose clock is so many seconds ahead, or behind.

    Raises KerberosMissingError without the library.
    """
    if not offset:
        return {}
    library = find_libfaketime()
    if library is None:
        report_missing("no other clock: libfaketime is missing (install the package faketime)")
    assert library is not None
    return {"LD_PRELOAD": library, "FAKETIME": f"{offset:+.3f}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def remove_clock(pid: int) -> None:
    """Remove the shared memory of libfaketime that a program leaves behind if a signal ends it."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        with suppress(FileNotFoundError, PermissionError):
            (_SHARED_MEMORY / name).unlink()
