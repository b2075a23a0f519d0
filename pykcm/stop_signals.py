"""The signals that end the daemon, and which process sends them."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from struct import Struct

from pykcm.processes import shown_process

log = logging.getLogger(__name__)

# Of signalfd(2): number, errno, code, PID and UID of the sender; all in all 128 bytes.
_SIGNAL = Struct("=IiiII")
_SIGNAL_SIZE = 128

# Of the C library, in bytes; the first word has the signals up to 32.
_SET_SIZE = 128
_WORD = Struct("@L")


def on_signals(numbers: Sequence[signal.Signals], stop: Callable[[str], None]) -> None:
    """From now on the running event loop calls `stop` with a signal's name and its sender.

    The signals stay blocked when the loop has ended: nothing interrupts what is done after it. Where the
    kernel gives no signalfd, only the name is known.
    """
    loop = asyncio.get_running_loop()
    try:
        fd = _signalfd(numbers)
    except (ImportError, OSError) as error:
        log.debug("senders of signals are not known: %s", error)
        for number in numbers:
            loop.add_signal_handler(number, stop, number.name)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    loop.add_reader(fd, lambda: stop(described(os.read(fd, _SIGNAL_SIZE))))


def described(received: bytes) -> str:
    """A signal's name and its sender, from what was read of a signalfd."""
    number, _, code, pid, uid = _SIGNAL.unpack_from(received)
    name = signal.Signals(number).name
    if code > 0:
        return f"{name} from the kernel (Ctrl+C, or a terminal that has gone)"
    if not pid:
        return f"{name} from a process out of sight (outside the container?)"
    return f"{name} from {shown_process(pid)} of UID {uid}"


def _signalfd(numbers: Sequence[signal.Signals]) -> int:
    """A descriptor to read these signals from; raises ImportError, OSError."""
    # Of ctypes the innermost part alone: all of it would take 4 ms of every start.
    import _ctypes  # noqa: PLC0415 - where it is missing, senders are not known

    wanted = _WORD.pack(sum(1 << number - 1 for number in numbers)).ljust(_SET_SIZE, b"\0")
    function = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "signalfd")  # type: ignore[arg-type]
    fd: int = _ctypes.call_function(function, (-1, wanted, os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise OSError("the kernel gives no signalfd")
    return fd
