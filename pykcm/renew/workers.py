"""Worker processes, which renew TGTs, and the spawner, which forks them.

The program forks the spawner before it has seen a ticket. The spawner loads libkrb5 once, and forks a worker
for each socket that it gets, in about a millisecond. Thus a worker that is killed is replaced at little cost,
and workers share most of their memory. No worker gets the secrets of another one's attempts.
"""

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

import msgspec

from pykcm.control.frames import FrameError, FrameReader, FrameType, FrameTypeError, encode
from pykcm.control.messages import LARGEST_FRAME
from pykcm.processes import forbid_dumps
from pykcm.renew.failures import RenewalError

# In bytes: the address space of the spawner and of each worker.
_MOST_MEMORY = 512 * 1024 * 1024

# In seconds: a worker whose pool has gone ends this long after the pool would have killed it.
_GRACE = 5.0

_PIECE = 256 * 1024

# A worker sends it when it can be killed, with a descriptor of itself.
HELLO = b"w"

# In bytes: a frame between the pool and a worker.
LARGEST = LARGEST_FRAME

EXIT_NO_LIBRARY = 3

Renew = Callable[[bytes, int], bytes]


class Job(msgspec.Struct, frozen=True):
    """A TGT to renew; see exchange.renew()."""

    credential: bytes
    kdc_offset: int

    def __repr__(self) -> str:
        return "<Job>"


class Outcome(msgspec.Struct, frozen=True):
    """The renewed TGT, or the reason for which there is none."""

    credential: bytes | None = None
    reason: str = ""
    code: int = 0
    message: str = ""
    again: bool = True

    def __repr__(self) -> str:
        return f"<Outcome {self.reason or 'renewed'}>"


JOB = FrameType(Job, LARGEST)
OUTCOME = FrameType(Outcome, LARGEST)


def outcome_of(error: RenewalError) -> Outcome:
    return Outcome(None, error.reason, error.code, error.message, error.again)


def error_of(outcome: Outcome) -> RenewalError:
    return RenewalError(outcome.reason, outcome.code, outcome.message, again=outcome.again)


class SpawnerError(Exception):
    """The spawner does not run; the message says why."""


class Spawner:
    """The process that forks workers. It ends when this object is closed, or when this process ends.

    `timeout`: in seconds, for one attempt. `load` returns the function that renews, in the spawner.
    """

    def __init__(self, timeout: float, load: Callable[[], Renew]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _become_spawner(theirs, timeout, load)
        theirs.close()
        self._socket = ours
        # It is ready, or it has ended because libkrb5 is missing.
        why = ours.recv(4096)
        if why != HELLO:
            self.close()
            raise SpawnerError(why.decode() or "the process that forks workers has ended")
        ours.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that becomes readable when the spawner ends."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def spawn(self) -> socket.socket:
        """Return the socket of a new worker, from which HELLO comes first; raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._socket, [HELLO], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours


def load_libkrb5() -> Renew:
    """Return the function that renews; raises SpawnerError."""
    # libkrb5 must never ask the daemon, which is waiting for us.
    os.environ["KRB5CCNAME"] = "MEMORY:"
    try:
        from pykcm.renew import exchange  # noqa: PLC0415 - only the spawner and its workers have libkrb5
    except ImportError as error:
        raise SpawnerError(
            f"the package krb5 cannot be imported ({error}): pip install 'pykcm[renew]'"
        ) from None
    if not exchange.CAN_RENEW:
        raise SpawnerError(
            "libkrb5 is older than MIT's 1.20, or is Heimdal's; the package krb5 needs a newer one"
        )
    return exchange.renew


def _become_spawner(pool: socket.socket, timeout: float, load: Callable[[], Renew]) -> NoReturn:
    """Never returns: this process is a fork of the program, whose code above must not go on."""
    status = 1
    try:
        _restore_signals()
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
        forbid_dumps()
        try:
            renew = load()
        except SpawnerError as error:
            pool.send(str(error).encode())
            status = EXIT_NO_LIBRARY
        else:
            pool.send(HELLO)
            _fork_workers(pool, timeout, renew)
            status = 0
    except BaseException as error:  # noqa: BLE001 - the process ends, whatever it is
        with contextlib.suppress(OSError):
            pool.send(f"the process that forks workers failed: {type(error).__name__}".encode())
    finally:
        os._exit(status)


def _restore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C in a terminal reaches all processes: the program ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # The kernel removes ended workers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _fork_workers(pool: socket.socket, timeout: float, renew: Renew) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(pool, len(HELLO), 1)
        if not message:
            return
        for fd in descriptors:
            with socket.socket(fileno=fd) as connection:
                try:
                    pid = os.fork()
                except OSError:
                    # The pool sees the end of the connection.
                    continue
                if pid == 0:
                    pool.close()
                    _work(connection, timeout, renew)
                    os._exit(0)


def _work(connection: socket.socket, timeout: float, renew: Renew) -> None:
    """Answer jobs until the pool closes the connection."""
    with contextlib.suppress(OSError, FrameError, FrameTypeError):
        socket.send_fds(connection, [HELLO], [descriptor := os.pidfd_open(os.getpid())])
        os.close(descriptor)
        reader = FrameReader(LARGEST)
        while True:
            while reader.has_frame():
                connection.sendall(encode(_attempt(reader.take(), timeout, renew)))
            data = connection.recv(_PIECE)
            if not data:
                return
            reader.feed(data)


def _attempt(frame: bytes, timeout: float, renew: Renew) -> Outcome:
    job = JOB.decode(frame)
    # The kernel ends this process even in a call of libkrb5, if the pool no longer can.
    signal.setitimer(signal.ITIMER_REAL, timeout + _GRACE)
    try:
        return Outcome(renew(job.credential, job.kdc_offset))
    except RenewalError as error:
        return outcome_of(error)
    except Exception as error:  # noqa: BLE001 - a bug costs one attempt; a message could quote the ticket
        return Outcome(None, "internal", 0, f"an error in pykcm-renew: {type(error).__name__}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
