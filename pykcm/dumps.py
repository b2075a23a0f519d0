"""No copy of the daemon's memory for others: it holds session keys, and the key of the database."""

import os
import resource

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


class DumpsError(Exception):
    """Core dumps cannot be ruled out; the message says why."""


def forbid_dumps() -> None:
    """From now on nothing makes a core dump of this process, and no other of its user looks into it.

    For good, unless the process executes a program. Raises DumpsError.
    """
    try:
        # The limit alone is not enough: a core that goes to a program is not a file, and has none.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if _prctl(_PR_SET_DUMPABLE, 0) != 0 or _prctl(_PR_GET_DUMPABLE, 0) != 0:
            raise DumpsError("core dumps cannot be ruled out: the kernel refuses PR_SET_DUMPABLE")
    except (ImportError, OSError, ValueError) as error:
        raise DumpsError(f"core dumps cannot be ruled out: {error}") from error


def _prctl(option: int, value: int) -> int:
    # Of ctypes the innermost part alone: all of it would take 4 ms of every start.
    import _ctypes  # noqa: PLC0415 - what is missing is a refusal of its own

    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]
    result: int = _ctypes.call_function(function, (option, value, 0, 0, 0))
    return result
