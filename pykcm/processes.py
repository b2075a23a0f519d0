"""Other processes: their names for messages, and which of them sends the signal that ends this one."""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct

from pykcm.protocol.text import escape

log = logging.getLogger(__name__)

# signalfd(2): number, errno, code, PID and UID of the sender; 128 bytes in all.
_SIGNAL = Struct("=IiiII")
_SIGNAL_SIZE = 128

# In bytes: the C library's set of signals. Its first word has the signals up to 32.
_SET_SIZE = 128
_WORD = Struct("@L")


def describe_process(pid: int) -> str:
    """Return `process 4711 (pykcmd)`; without the command if that cannot be read."""
    try:
        command = Path(f"/proc/{pid}/comm").read_bytes().strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({escape(command)})"


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
        return f"{name} from the kernel (Ctrl+C, or a terminal that has gone)"
    if not pid:
        return f"{name} from a process out of sight (outside the container?)"
    return f"{name} from {describe_process(pid)} of UID {uid}"


def _signalfd(numbers: Sequence[signal.Signals]) -> int:
    """Return a descriptor that these signals are read from; raises ImportError, OSError."""
    # Only the innermost part of ctypes: all of it would add 4 ms to every start.
    import _ctypes  # noqa: PLC0415 - where it is missing, senders are not known

    wanted = _WORD.pack(sum(1 << number - 1 for number in numbers)).ljust(_SET_SIZE, b"\0")
    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "signalfd")  # type: ignore[arg-type]
    fd: int = _ctypes.call_function(function, (-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise OSError("the kernel gives no signalfd")
    return fd
