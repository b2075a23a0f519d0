"""Processes: names for messages, the senders of stop signals, and protection of this one from dumps."""

import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct

from pykcm.logs import User
from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# signalfd(2): number, errno, code, PID and UID of the sender; 128 bytes in all.
_SIGNAL = Struct("=IiiII")
_SIGNAL_SIZE = 128

# In bytes: the C library's set of signals. Its first word has the signals up to 32.
_SET_SIZE = 128
_WORD = Struct("@L")

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


class DumpsError(Exception):
    """Core dumps cannot be forbidden; the message says why."""


def describe_process(pid: int) -> str:
    """Return `process 4711 (pykcmd)`; without the command if that cannot be read."""
    program = program_of(pid)
    return f"process {pid} ({program})" if program else f"process {pid}"


def program_of(pid: int) -> str:
    """Return the program's name, which the process itself may change; empty if that cannot be read."""
    try:
        return escape(Path(f"/proc/{pid}/comm").read_bytes().strip())
    except OSError:
        return ""


def on_signals(numbers: Sequence[signal.Signals], stop: Callable[[str], None]) -> None:
    """Let the running event loop call `stop` with the name of each of these signals and its sender.

    The signals stay blocked when the loop has ended: nothing interrupts the work after it. Without signalfd
    only the name is known.
    """
    import asyncio  # noqa: PLC0415 - most users of this module have no event loop

    loop = asyncio.get_running_loop()
    try:
        fd = _signalfd(numbers)
    except (ImportError, OSError) as error:
        log.debug("senders of signals are not known: %s", error)
        for number in numbers:
            loop.add_signal_handler(number, stop, number.name)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    loop.add_reader(fd, lambda: stop(describe_signal(os.read(fd, _SIGNAL_SIZE))))


def describe_signal(received: bytes) -> str:
    """Return a signal's name and its sender; `received` was read from a signalfd."""
    number, _, code, pid, uid = _SIGNAL.unpack_from(received)
    name = signal.Signals(number).name
    if code > 0:
        return f"{name} from the kernel (Ctrl+C, or the terminal was closed)"
    if not pid:
        return f"{name} from an unknown process (outside the container?)"
    return f"{name} from {describe_process(pid)} of {User(uid)}"


def _signalfd(numbers: Sequence[signal.Signals]) -> int:
    """Return a descriptor that these signals are read from; raises ImportError, OSError."""
    wanted = _WORD.pack(sum(1 << number - 1 for number in numbers)).ljust(_SET_SIZE, b"\0")
    fd = _call_c("signalfd", -1, wanted, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError("the kernel refuses signalfd()")
    return fd


def forbid_dumps() -> None:
    """Forbid core dumps of this process, and access to its memory by other processes of its user.

    The daemon's memory holds session keys and the key of the database. The protection lasts until the process
    executes a program. Raises DumpsError.
    """
    try:
        # The limit alone is not enough: it does not apply to a core dump that the kernel pipes to a program.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if _prctl(_PR_SET_DUMPABLE, 0) != 0 or _prctl(_PR_GET_DUMPABLE, 0) != 0:
            raise DumpsError("core dumps cannot be forbidden: the kernel refuses PR_SET_DUMPABLE")
    except (ImportError, OSError, ValueError) as error:
        raise DumpsError(f"core dumps cannot be forbidden: {error}") from error


def _prctl(option: int, value: int) -> int:
    return _call_c("prctl", option, value, 0, 0, 0)


def _call_c(name: str, *arguments: int | bytes) -> int:
    """Call a function of the C library; raises ImportError, OSError."""
    # Only the C part of ctypes: importing all of it would add 4 ms to every start.
    import _ctypes  # noqa: PLC0415 - the callers handle that it is missing

    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), name)  # type: ignore[arg-type]
    result: int = _ctypes.call_function(function, arguments)
    return result
