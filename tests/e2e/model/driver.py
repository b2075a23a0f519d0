"""Runs random operations of several UIDs against a daemon, and compares it with a model."""

import copy
import random
from collections.abc import Sequence
from itertools import zip_longest
from struct import pack, unpack

from pykcm.protocol.opcodes import Opcode
from tests.e2e.daemon import Pykcmd

from .collections_model import Answer, Asker, Model, Process
from .operations import Operation, Operations, set_default
from .processes import ConnectingProcess, Connection

_PROCESSES_OF_A_UID = 3
_CONNECTIONS_OF_A_UID = 6
_MOST_PIPELINED = 15
_SHOWN = 12


class DivergenceError(Exception):
    """The daemon has answered something else than the model; the message holds no key."""


class Driver:
    """The daemon runs; `uids` are those of the clients, root first. `operations` counts those compared."""

    def __init__(self, daemon: Pykcmd, model: Model, uids: list[int], rng: random.Random) -> None:
        self.operations = 0
        self.kills = 0
        self._daemon = daemon
        self._model = model
        self._uids = uids
        self._rng = rng
        self._made = Operations(rng, uids)
        self._processes = {
            uid: [ConnectingProcess(uid, daemon.socket_path) for _ in range(_PROCESSES_OF_A_UID)]
            for uid in uids
        }
        self._history: dict[int, list[str]] = {uid: [] for uid in uids}

    def end(self) -> None:
        for processes in self._processes.values():
            for process in processes:
                process.end()

    def run(self, operations: int) -> None:
        """Compare so many operations; raises DivergenceError."""
        end = self.operations + operations
        while self.operations < end:
            # Root changes others' collections, and so has rounds of its own.
            uids = self._uids[:1] if self._rng.random() < 0.2 else self._uids[1:]
            batches = {self._connection(uid): self._batch(uid) for uid in uids}
            self._send(batches)
            for connection, batch in batches.items():
                for operation in batch:
                    self._compare(connection, operation, _read_reply(connection))

    def restart(self) -> None:
        """An orderly one, after which a store that persists has everything."""
        self._forget_connections()
        assert self._daemon.stop() == 0
        self._daemon.start("--log-level", "warning")
        if self._daemon.store == "memory":
            self._model.collections = type(self._model)(self._uids).collections

    def kill(self) -> None:
        """A SIGKILL in the middle of a round: all that was answered is there, of the rest a first part."""
        batches = {self._connection(uid): self._batch(uid) for uid in self._uids[1:]}
        self._send(batches)
        for connection, batch in batches.items():
            for operation in batch[: self._rng.randrange(len(batch))]:
                self._compare(connection, operation, _read_reply(connection))
                batches[connection] = batches[connection][1:]
        self._daemon.kill()
        self.kills += 1
        left: dict[int, list[Model]] = {}
        for connection, batch in batches.items():
            acknowledged = 0
            while (answer := _read_reply(connection, may_end=True)) is not None:
                self._compare(connection, batch[acknowledged], answer)
                acknowledged += 1
            left[connection.asker.uid] = self._outcomes(connection.asker, batch[acknowledged:])
        self._forget_connections()
        self._daemon.start("--log-level", "warning")
        for uid, outcomes in left.items():
            self._model.collections[uid] = self._outcome_found(uid, outcomes).collections[uid]

    # What is sent

    def _connection(self, uid: int) -> Connection:
        """One of the UID's; now and then another is opened, or one closed."""
        opened = [each for process in self._processes[uid] for each in process.connections]
        if not opened or (len(opened) < _CONNECTIONS_OF_A_UID and self._rng.random() < 0.1):
            return self._rng.choice(self._processes[uid]).connect()
        if len(opened) > 1 and self._rng.random() < 0.1:
            closed = opened.pop(self._rng.randrange(len(opened)))
            closed.close()
        return self._rng.choice(opened)

    def _batch(self, uid: int) -> list[Operation]:
        number = self._rng.randint(1, _MOST_PIPELINED)
        return [self._made.make(self._model, uid) for _ in range(number)]

    def _send(self, batches: dict[Connection, list[Operation]]) -> None:
        """In random pieces, by turns."""
        pieces = {
            connection: self._cut(b"".join(map(_packed, batch))) for connection, batch in batches.items()
        }
        for together in zip_longest(*pieces.values(), fillvalue=b""):
            for connection, piece in zip(pieces, together, strict=True):
                if piece:
                    connection.send(piece)

    def _cut(self, sent: bytes) -> list[bytes]:
        cuts = sorted(self._rng.randrange(len(sent) + 1) for _ in range(self._rng.randrange(6)))
        return [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    # What is compared

    def _compare(self, connection: Connection, operation: Operation, answer: Answer | None) -> None:
        asker = connection.asker
        expected = operation.run(self._model, asker)
        self.operations += 1
        history = self._history[asker.uid]
        history.append(operation.words)
        del history[:-_SHOWN]
        if answer is None:
            raise DivergenceError(f"UID {asker.uid}: no answer to {operation.words}")
        is_right = (
            expected == answer if operation.check is None else operation.check(self._model, asker, answer)
        )
        if not is_right:
            raise DivergenceError(
                f"UID {asker.uid}: {_shown(operation, answer)} instead of {_shown(operation, expected)} "
                f"after operation {self.operations}; the last ones were\n  " + "\n  ".join(history)
            )

    def _outcomes(self, asker: Asker, unanswered: Sequence[Operation]) -> list[Model]:
        """The models after none, one, two … of the operations."""
        model, asker = copy.deepcopy((self._model, asker))
        outcomes = [copy.deepcopy(model)]
        for operation in unanswered:
            operation.run(model, asker)
            outcomes.append(copy.deepcopy(model))
        return outcomes

    def _outcome_found(self, uid: int, outcomes: list[Model]) -> Model:
        connection = self._processes[uid][0].connect()
        asker = Asker(uid, Process())
        found = self._contents(connection)
        for model in outcomes:
            if found == _expected_contents(model, asker):
                # Which name was chosen cannot be seen where no ccache has it.
                chosen = set_default(b"%d" % uid)
                connection.send(_packed(chosen))
                assert _read_reply(connection) == chosen.run(model, connection.asker)
                return model
        raise DivergenceError(
            f"UID {uid}: after a SIGKILL there is none of the {len(outcomes)} states that there may be; "
            "the last operations were\n  " + "\n  ".join(self._history[uid])
        )

    def _contents(self, connection: Connection) -> list[tuple[bytes, Answer, Answer, Answer]]:
        """The default, then each ccache in order: name, principal, KDC offset, credentials."""

        def ask(opcode: Opcode, arguments: bytes = b"") -> Answer:
            connection.send(_packed(Operation(opcode, arguments, "", lambda _, __: (0, b""))))
            answer = _read_reply(connection)
            assert answer is not None
            return answer

        _, uuids = ask(Opcode.GET_CACHE_UUID_LIST)
        each = [uuids[at : at + 16] for at in range(0, len(uuids), 16)]
        names = [ask(Opcode.GET_DEFAULT_CACHE)[1], *[ask(Opcode.GET_CACHE_BY_UUID, uuid)[1] for uuid in each]]
        return [
            (
                name.removesuffix(b"\0"),
                ask(Opcode.GET_PRINCIPAL, name),
                ask(Opcode.GET_KDC_OFFSET, name),
                ask(Opcode.GET_CRED_LIST, name),
            )
            for name in names
        ]

    def _forget_connections(self) -> None:
        for processes in self._processes.values():
            for process in processes:
                process.drop_connections()
        for collection in self._model.collections.values():
            for ccache in collection.ccaches:
                # They are stored; that they stay the same is held while the daemon runs.
                ccache.uuid = None


def _expected_contents(model: Model, asker: Asker) -> list[tuple[bytes, Answer, Answer, Answer]]:
    names = [model.default(asker), *[each.name for each in model.collections[asker.uid].ccaches]]
    return [
        (
            name,
            model.get_principal(asker, name),
            model.get_offset(asker, name),
            model.list_credentials(asker, name),
        )
        for name in names
    ]


def _packed(operation: Operation) -> bytes:
    return pack(">IBBH", 4 + len(operation.arguments), 2, 0, operation.opcode) + operation.arguments


def _read_reply(connection: Connection, *, may_end: bool = False) -> Answer | None:
    head = connection.receive(12)
    if may_end and len(head) < 12:
        return None
    if len(head) < 12:
        raise DivergenceError(f"UID {connection.asker.uid}: the connection was closed")
    length, outer, code = unpack(">IIi", head)
    assert outer == 0
    payload = connection.receive(length - 4)
    return None if may_end and len(payload) < length - 4 else (code, payload)


def _shown(operation: Operation, answer: Answer) -> str:
    code, payload = answer
    is_secret = operation.opcode in {Opcode.RETRIEVE, Opcode.GET_CRED_LIST}
    return f"code {code} and " + (f"{len(payload)} bytes" if is_secret or not payload else repr(payload))
