"""Replays a record: the state of the disk, and the requests and replies of each client, at each moment."""

import struct
from collections import deque

from fuzz.frames import all_frames
from pykcm.protocol.credential import Credential
from pykcm.protocol.framing import FrameReader
from pykcm.protocol.messages import ARGUMENTS, read_arguments
from pykcm.protocol.opcodes import Opcode
from tests.disk.history import History
from tests.disk.power import DiskFile, DiskFolder
from tests.disk.record import Accepted, Closed, Event, Received, Sent

_LENGTH = struct.Struct(">I")
_REPLY = struct.Struct(">IIi")
_LARGEST = 1 << 24
_CHANGES = {Opcode.INITIALIZE, Opcode.STORE, Opcode.REPLACE, Opcode.DESTROY}

_DATABASE = ("pykcm.db", "pykcm.db-wal")
_WAL = "pykcm.db-wal"


class _Connection:
    """A client's connection.

    `asked`: for each unanswered change, its ccache and the number of writes to the write-ahead log before it;
    None for a request that changes nothing.
    """

    def __init__(self) -> None:
        self.reader = FrameReader(_LARGEST)
        self.asked: deque[tuple[bytes, int] | None] = deque()
        self.sent = b""


class Replay:
    """The state after the events so far.

    `histories`: the history of each ccache. `answered`: the number of answered changes; `early`: those that
    were answered before a later write to the write-ahead log was durable.
    """

    def __init__(self, names: list[bytes]) -> None:
        self.disk = DiskFolder()
        self.histories = {name: History() for name in names}
        self.answered = 0
        self.early = 0
        self._connections: dict[int, _Connection] = {}

    def apply(self, event: Event) -> None:
        match event:
            case Accepted(fd):
                self._connections[fd] = _Connection()
            case Received(fd, data):
                self._receive(self._connections[fd], data)
            case Sent(fd, data):
                self._send(self._connections[fd], data)
            case Closed(fd) if fd in self._connections:
                del self._connections[fd]
            case _:
                self.disk.apply(event)

    def killed(self) -> None:
        """The process was killed; its writes remain."""
        self._connections.clear()

    def _receive(self, connection: _Connection, data: bytes) -> None:
        for frame in all_frames(connection.reader, data):
            if frame.opcode not in _CHANGES:
                connection.asked.append(None)
                continue
            name, *values = read_arguments(ARGUMENTS[Opcode(frame.opcode)], frame.message)
            credentials = values[-1] if frame.opcode == Opcode.REPLACE else values
            blobs = tuple(value.blob for value in credentials if isinstance(value, Credential))
            self.histories[name].ask(frame.opcode, blobs)
            connection.asked.append((name, self._wal.written))

    def _send(self, connection: _Connection, data: bytes) -> None:
        connection.sent += data
        while len(connection.sent) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(connection.sent)
            if len(connection.sent) < length + 8:
                return
            code = _REPLY.unpack_from(connection.sent)[2]
            connection.sent = connection.sent[length + 8 :]
            change = connection.asked.popleft()
            if change is None:
                continue
            name, written_before = change
            assert code == 0
            self.answered += 1
            history = self.histories[name]
            before = history.acknowledged
            history.acknowledge()
            if history.acknowledged == before:
                continue
            assert self._wal.written > written_before, "it wrote nothing"
            is_durable = self._wal.durable > written_before and self.disk.is_durable("key")
            self.early += not (is_durable and all(map(self.disk.has_durable_name, _DATABASE)))

    @property
    def _wal(self) -> DiskFile:
        return self.disk.names.get(_WAL) or DiskFile()
