"""Sends random operations to a daemon, ends and starts it, and compares its answers with a model."""

import itertools
import os
import random
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from struct import pack, unpack

from tests.e2e.daemon import NotStartedError, Pykcmd

from .collections_model import Answer, Model
from .comparison import Comparison, DivergenceError, Sent, describe
from .operations import Operation, Operations
from .processes import ConnectingProcess, Connection

_PROCESSES_OF_A_UID = 3
_CONNECTIONS_OF_A_UID = 6

# The most operations of one connection: on its own, with another one of its UID, with one of each UID.
_MOST_ALONE, _MOST_OF_TWO, _MOST_OF_ALL = 15, 5, 3

# Sets of operations that a failure's message shows.
_SETS_SHOWN = 8

# What happened between clients and a daemon, in order: each event is told to a comparison.
Traffic = list[Callable[[Comparison], None]]


class Driver:
    """The daemon runs. `uids` are those of the clients, root first.

    `sent` counts the operations that were sent, and `kills` the SIGKILLs. `interruptions` counts the SIGKILLs
    that left operations of a running daemon without an answer. If `records` is true, `traffic` holds all that
    was sent and answered, for the comparison with other models, and `descriptions` what was sent.
    """

    def __init__(
        self,
        daemon: Pykcmd,
        uids: list[int],
        seed: int,
        *,
        model: type[Model] = Model,
        records: bool = False,
    ) -> None:
        self.sent = 0
        self.kills = 0
        self.interruptions = 0
        self.traffic: Traffic = []
        self.descriptions: list[str] = []
        self._records = records
        self._daemon = daemon
        self._seed = seed
        self._uids = uids
        self._rng = random.Random(seed)
        self._comparison = Comparison(model(uids))
        self._operations = Operations(self._rng, uids)
        self._last: deque[tuple[int, list[Sent]]] = deque(maxlen=_SETS_SHOWN)
        numbers, connection_numbers = itertools.count(1), (itertools.count(1), itertools.count(1_000_001))
        self._processes, self._readers = (
            {
                uid: [
                    ConnectingProcess(uid, next(numbers), daemon.socket_path, counter) for _ in range(number)
                ]
                for uid in uids
            }
            for number, counter in zip((_PROCESSES_OF_A_UID, 1), connection_numbers, strict=True)
        )

    @property
    def states(self) -> int:
        """How many states the daemon can be in, as far as the answers tell."""
        return len(self._comparison.states)

    def end(self) -> None:
        for processes in (*self._processes.values(), *self._readers.values()):
            for process in processes:
                process.end()

    def run(self, operations: int) -> None:
        """Send and compare this many operations or a few more. Raises DivergenceError."""
        end = self.sent + operations
        with self._explained():
            while self.sent < end:
                groups = self._plan()
                self._send(groups, lambda sent: sent.operations)
                self._receive(groups, lambda sent: len(sent.operations))
                self._compare(groups)
                if self.states > 1:
                    self._read_collections()

    def restart(self) -> None:
        """End the daemon in order, start it again, and compare all that is stored. Raises DivergenceError."""
        with self._explained():
            self._drop_connections()
            assert self._daemon.stop() == 0
            self._start()

    def kill(self) -> None:
        """Kill the daemon while requests are pending, start it again, and compare all that is stored.

        The kill follows a chosen number of replies on each connection, and the sending of further requests.
        Each request that was answered must have taken effect. Of the others, at most one of each connection
        may have. Raises DivergenceError.
        """
        with self._explained():
            groups = self._plan_overlap()
            counts = {sent.asker: self._rng.randrange(len(sent.operations)) for _, sent in _flat(groups)}
            self._send(groups, lambda sent: sent.operations[: counts[sent.asker]])
            self._receive(groups, lambda sent: counts[sent.asker])
            # Stopped first, it surely answers nothing more; otherwise it is caught at work.
            is_stopped = self._rng.random() < 0.2
            if is_stopped:
                self._stop_process()
            for connection, sent in _flat(groups):
                connection.send(b"".join(map(_packed, sent.operations[counts[sent.asker] :])))
            self._daemon.kill()
            self._receive(groups, lambda sent: len(sent.operations), may_end=True)
            self.kills += 1
            self.interruptions += not is_stopped and any(sent.unanswered for _, sent in _flat(groups))
            self._compare(groups)
            self._drop_connections()
            self._start()

    # What is sent

    def _plan(self) -> "list[_Group]":
        """Groups of connections that do not concern each other."""
        chance = self._rng.random()
        if chance < 0.15:
            return [self._group(self._uids[:1], 1, _MOST_ALONE)]
        if chance < 0.6:
            return [self._group([uid], 1, _MOST_ALONE) for uid in self._uids[1:]]
        return self._plan_overlap()

    def _plan_overlap(self) -> "list[_Group]":
        """Two connections of each UID except root, or one of each UID: root's concerns all collections."""
        if self._rng.random() < 0.6:
            return [self._group([uid], 2, _MOST_OF_TWO) for uid in self._uids[1:]]
        return [self._group(self._uids, 1, _MOST_OF_ALL)]

    def _group(self, uids: Sequence[int], connections: int, most: int) -> "_Group":
        return [
            (connection, Sent(connection.asker, self._batch(uid, most), []))
            for uid in uids
            for connection in self._connections(uid, connections)
        ]

    def _connections(self, uid: int, number: int) -> list[Connection]:
        """Some of the UID's; now and then another one is opened, or one closed."""
        opened = [each for process in self._processes[uid] for each in process.connections]
        chance = self._rng.random()
        if len(opened) > number and chance > 0.9:
            self._close(opened.pop(self._rng.randrange(len(opened))))
        while len(opened) < number or (len(opened) < _CONNECTIONS_OF_A_UID and chance < 0.1):
            opened.append(self._rng.choice(self._processes[uid]).connect())
            chance = 1
        return self._rng.sample(opened, number)

    def _batch(self, uid: int, most: int) -> list[Operation]:
        state = self._comparison.states[0]
        return [self._operations.make(state, uid) for _ in range(self._rng.randint(1, most))]

    def _send(self, groups: "list[_Group]", part: Callable[[Sent], Sequence[Operation]]) -> None:
        """Send in random pieces, by turns."""
        flat = _flat(groups)
        pieces = [self._cut(b"".join(map(_packed, part(sent)))) for _, sent in flat]
        self._last.append((self.sent, [sent for _, sent in flat]))
        for together in zip_longest(*pieces, fillvalue=b""):
            for (connection, _), piece in zip(flat, together, strict=True):
                if piece:
                    connection.send(piece)

    def _cut(self, sent: bytes) -> list[bytes]:
        cuts = sorted(self._rng.randrange(len(sent) + 1) for _ in range(self._rng.randrange(6)))
        return [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    # What is received and compared

    def _receive(
        self, groups: "list[_Group]", number: Callable[[Sent], int], *, may_end: bool = False
    ) -> None:
        """Receive answers until each connection has this many."""
        for connection, sent in _flat(groups):
            while len(sent.answers) < number(sent):
                answer = _read_reply(connection)
                if answer is None and may_end:
                    break
                if answer is None:
                    following = sent.operations[len(sent.answers)].description
                    raise DivergenceError(f"UID {sent.asker.uid}: no answer to {following}")
                sent.answers.append(answer)

    def _compare(self, groups: "list[_Group]") -> None:
        for group in groups:
            sent = [sent for _, sent in group]
            self.sent += sum(len(each.operations) for each in sent)
            if self._records:
                self.descriptions += [
                    f"{each.asker}: {operation.description}" for each in sent for operation in each.operations
                ]
            self._tell(lambda comparison, sent=sent: comparison.take(sent))  # type: ignore[misc]

    def _tell(self, event: Callable[[Comparison], None]) -> None:
        if self._records:
            self.traffic.append(event)
        event(self._comparison)

    def _read_collections(self) -> None:
        """Read and compare all ccaches that are stored."""
        for uid in self._uids:
            connection = self._readers[uid][0].connect()
            group = [(connection, Sent(connection.asker, self._operations.readings(uid), []))]
            # In one piece: how often this is done depends on timing, and must not draw random numbers.
            connection.send(b"".join(map(_packed, group[0][1].operations)))
            self._receive([group], lambda sent: len(sent.operations))
            self._tell(lambda comparison, sent=group[0][1]: comparison.take([sent]))  # type: ignore[misc]
            self._close(connection)

    # The daemon and the connections

    def _start(self) -> None:
        self._daemon.start("--log-level", "warning")
        persists = self._daemon.store != "memory"
        self._tell(lambda comparison: comparison.restart(persists=persists))
        self._read_collections()

    def _stop_process(self) -> None:
        """Stop the daemon's process, without ending it."""
        assert self._daemon.process is not None
        self._daemon.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._daemon.process.pid, os.WSTOPPED)

    def _close(self, connection: Connection) -> None:
        asker, is_last = connection.asker, connection.close()
        self._tell(lambda comparison: comparison.close(asker, is_last=is_last))

    def _drop_connections(self) -> None:
        for processes in self._processes.values():
            for process in processes:
                for connection in list(process.connections):
                    self._close(connection)

    # A failure

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add to a failure all that is needed to repeat it."""
        try:
            yield
        except (DivergenceError, NotStartedError, OSError, AssertionError) as error:
            kind = "" if isinstance(error, DivergenceError) else f"{type(error).__name__}: "
            raise DivergenceError(f"{kind}{error}\n{self._circumstances()}") from error

    def _circumstances(self) -> str:
        lines = [
            f"store {self._daemon.store}, {self.sent} operations sent, {self.kills} kills",
            f"repeat with PYKCM_SEED={self._seed}",
            "the last operations, by connection:",
        ]
        for number, together in self._last:
            lines.append(f"  sent together after {number} operations:")
            for sent in together:
                for operation, answer in zip_longest(sent.operations, sent.answers):
                    lines.append(
                        f"    UID {sent.asker.uid}, process {sent.asker.process}, connection "
                        f"{sent.asker.connection}: {operation.description}: "
                        + ("no answer" if answer is None else describe(operation, answer))
                    )
        return "\n".join(lines)


# The connections whose requests concern each other, with what they send.
_Group = list[tuple[Connection, Sent]]


def _flat(groups: list[_Group]) -> list[tuple[Connection, Sent]]:
    return [each for group in groups for each in group]


def _packed(operation: Operation) -> bytes:
    return pack(">IBBH", 4 + len(operation.arguments), 2, 0, operation.opcode) + operation.arguments


def _read_reply(connection: Connection) -> Answer | None:
    """The next reply; None if the connection ends before it is complete."""
    head = connection.receive(12)
    if len(head) < 12:
        return None
    length, outer, code = unpack(">IIi", head)
    if outer != 0:
        raise DivergenceError(f"UID {connection.asker.uid}: the outer status is {outer}")
    payload = connection.receive(length - 4)
    return (code, payload) if len(payload) == length - 4 else None
