"""Clients that send random operations to hosts, each in a process of its own, and record their calls."""

import errno
import mmap
import os
import pickle
import random
import signal
import struct
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.opcodes import Opcode

from .collection_operations import CollectionOperation, CollectionState, RandomOperations, readings
from .linearizability import Answer, Call

# In seconds: longer than every limit of time of a host.
_PATIENCE = 60.0

# In seconds, between attempts while a host does not serve.
_PAUSE = 0.01

# Operations of a client until it goes on with another host.
_WITH_ONE_HOST = 12

_COUNT = struct.Struct("<q")

# The answer of a host that cannot use its database.
_UNKNOWN = errno.ETIMEDOUT


class Recorded(NamedTuple):
    """A call, as a client has written it to its file. `host`: its index."""

    host: int
    call: Call[CollectionState]


class Signal:
    """Tells other processes once that something has happened. It is made before they are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._memory[0] = 1

    @property
    def is_set(self) -> bool:
        return bool(self._memory[0])


class Client:
    """A process that makes at least `operations` calls as `uid`, and goes on until `over` is set.

    `always_change` is as in RandomOperations.
    """

    def __init__(
        self,
        number: int,
        uid: int,
        sockets: Sequence[Path],
        operations: int,
        seed: int,
        folder: Path,
        over: Signal,
        *,
        always_change: bool = False,
    ) -> None:
        self._over = over
        self._always_change = always_change
        self.number = number
        self.uid = uid
        self._path = folder / f"client{number}"
        self._count = mmap.mmap(-1, _COUNT.size)
        self._pid = os.fork()
        if not self._pid:
            self._run_in_child(sockets, operations, seed)

    @property
    def done(self) -> int:
        """Calls so far."""
        count: int = _COUNT.unpack_from(self._count)[0]
        return count

    @property
    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def calls(self) -> list[Recorded]:
        """All calls, after its end."""
        with self._path.open("rb") as file:
            result = pickle.load(file)
        assert isinstance(result, list), f"client {self.number} failed:\n{result}"
        return result

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _run_in_child(self, sockets: Sequence[Path], operations: int, seed: int) -> None:
        result: list[Recorded] | str = "interrupted"
        try:
            with self._path.open("wb") as file:
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(self.uid)
                    os.setuid(self.uid)
                made = RandomOperations(
                    random.Random(f"{seed} {self.number}"),
                    self.uid,
                    self.number,
                    always_change=self._always_change,
                )
                result = _Calls(self.number, made, sockets, seed, self._count).make(operations, self._over)
                pickle.dump(result, file)
        except BaseException:  # noqa: BLE001 - the parent shows it
            with self._path.open("wb") as file:
                pickle.dump(traceback.format_exc(), file)
        finally:
            os._exit(0)


class _Calls:
    def __init__(
        self, number: int, operations: RandomOperations, sockets: Sequence[Path], seed: int, count: mmap.mmap
    ) -> None:
        self._number = number
        self._rng = random.Random(f"{seed} {number} hosts")
        self._operations = operations
        self._sockets = sockets
        self._count = count
        self._host = 0
        self._connection: KcmClient | None = None
        self.recorded: list[Recorded] = []

    def make(self, operations: int, over: Signal) -> list[Recorded]:
        while len(self.recorded) < operations or not over.is_set:
            self._connect(self._rng.randrange(len(self._sockets)))
            for _ in range(self._rng.randint(1, _WITH_ONE_HOST)):
                if not self._call(self._operations.make()):
                    self._await_answers()
                    break
        return self.recorded

    def _call(self, operation: CollectionOperation) -> bool:
        """Make and record a call; returns whether its outcome is known."""
        begin = time.monotonic_ns()
        answer = self._ask(operation)
        self._record(begin, operation, answer)
        return answer is not None

    def _record(self, begin: int, operation: CollectionOperation, answer: Answer | None) -> None:
        end = time.monotonic_ns()
        self.recorded.append(Recorded(self._host, Call(self._number, begin, end, operation, answer)))
        _COUNT.pack_into(self._count, 0, len(self.recorded))

    def _await_answers(self) -> None:
        """Return when the host, or another one, answers again; only that call is recorded."""
        reading = CollectionOperation(Opcode.GET_CACHE_UUID_LIST)
        while True:
            if self._connection is None:
                self._connect(self._rng.randrange(len(self._sockets)))
            begin = time.monotonic_ns()
            answer = self._ask(reading)
            if answer is not None:
                return self._record(begin, reading, answer)
            time.sleep(_PAUSE)

    def _ask(self, operation: CollectionOperation) -> Answer | None:
        """The answer; None: the outcome is unknown."""
        assert self._connection is not None
        try:
            return Answer(0, self._connection.call(operation.opcode, operation.arguments))
        except KcmError as error:
            return None if error.code == _UNKNOWN else Answer(error.code, b"")
        except TimeoutError:
            raise
        except OSError:
            self._disconnect()
            return None

    def _connect(self, host: int) -> None:
        """Connect to this host, or to the next one that serves."""
        self._disconnect()
        self._host = host
        while self._connection is None:
            try:
                self._connection = KcmClient(self._sockets[self._host], _PATIENCE)
            except OSError:
                self._host = (self._host + 1) % len(self._sockets)
                time.sleep(_PAUSE)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read_everything(path: Path, client: int, uid: int, host: int) -> list[Recorded]:
    """All ccaches of the random operations, as one host shows them; the caller's effective UID is `uid`.

    A moment after a disturbance a host may not have found its database again: it is asked until it has.
    """
    recorded = []
    deadline = time.monotonic() + _PATIENCE
    with KcmClient(path, _PATIENCE) as kcm:
        for operation in readings(uid):
            answer = Answer(_UNKNOWN, b"")
            while answer.code == _UNKNOWN:
                assert time.monotonic() < deadline, f"host {host} does not find its database"
                begin = time.monotonic_ns()
                try:
                    answer = Answer(0, kcm.call(operation.opcode, operation.arguments))
                except KcmError as error:
                    answer = Answer(error.code, b"")
            recorded.append(Recorded(host, Call(client, begin, time.monotonic_ns(), operation, answer)))
    return recorded
