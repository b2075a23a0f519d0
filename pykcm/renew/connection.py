"""A request to the daemon on its control socket, of which both sides may go on sending."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from pykcm.control.frames import FrameError, FrameType, FrameTypeError, encode
from pykcm.control.messages import LARGEST_FRAME, ControlError, ErrorCode, request
from pykcm.logs import User
from pykcm.peer.identity import ROOT, listener_of, uid_of
from pykcm.protocol.text import escape_path, printable
from pykcm.protocol.wire import U32

# The user of pykcm.service.
_DAEMON_USER = "pykcm"


class Limits(msgspec.Struct, frozen=True):
    """The first item of `renewals`: the largest number of attempts at the same time."""

    max_renewals: int
    max_realm_renewals: int


class Tgt(msgspec.Struct, frozen=True):
    """A TGT that is due: an item of `renewals`. Times are in seconds since the epoch."""

    id: bytes
    uid: int
    ccache: bytes
    client: str
    server: str
    realm: bytes
    credential: bytes
    kdc_offset: int
    end: float

    def __repr__(self) -> str:
        # The credential holds the session key.
        return f"<Tgt of {self.client}>"


class Answer(msgspec.Struct, frozen=True):
    """The daemon's answer to the result of an attempt: an item of `renewed`."""

    id: bytes
    result: str
    next_attempt: float | None = None


class Item(msgspec.Struct, frozen=True):
    """An item of either request has one of these."""

    renewals: Limits | None = None
    tgt: Tgt | None = None
    renewed: Answer | None = None


class End(msgspec.Struct, frozen=True):
    """The end of `renewals`: when the next TGT is due; None: no TGT is going to be due."""

    next_due: float | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Reply(msgspec.Struct, frozen=True):
    item: Item | None = None
    end: End | None = None
    error: _Error | None = None


_REPLY = FrameType(_Reply, LARGEST_FRAME)


class Connection:
    """One request; iterates over the items of its reply, and then has its `end`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.end = End()
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: str, name: str) -> "Connection":
        """Send the request; raises OSError, ControlError."""
        reader, writer = await asyncio.open_unix_connection(path)
        connection = cls(reader, writer)
        try:
            _check_listener(writer, path)
            await connection.send(request(name, {}))
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        self._writer.close()

    async def send(self, message: Any) -> None:
        """Raises OSError."""
        self._writer.write(encode(message))
        await self._writer.drain()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Raises ControlError for the daemon's errors, OSError if the connection ends before the reply."""
        while True:
            reply = await self._read()
            if reply.error is not None:
                raise ControlError(reply.error.code, printable(reply.error.message))
            if reply.end is not None:
                self.end = reply.end
                return
            # Of a later version there may be other items.
            yield reply.item or Item()

    async def _read(self) -> _Reply:
        try:
            (size,) = U32.unpack(await self._reader.readexactly(U32.size))
            if not 0 < size <= LARGEST_FRAME:
                raise FrameError(f"a frame of {size} bytes")  # noqa: TRY301
            return _REPLY.decode(await self._reader.readexactly(size))
        except asyncio.IncompleteReadError:
            raise ConnectionError("the daemon closed the connection before the end of its reply") from None
        except FrameTypeError:
            raise ControlError(
                ErrorCode.VERSION, "the daemon has another version: restart both services after an update"
            ) from None
        except FrameError as malformed:
            raise ControlError(
                ErrorCode.MALFORMED, f"the process that listens is not pykcmd ({malformed})"
            ) from None


def _check_listener(writer: asyncio.StreamWriter, path: str) -> None:
    """Raise ControlError unless root, the daemon's user or this user listens: it gets tickets."""
    _, uid = listener_of(writer.get_extra_info("socket"))
    if uid not in {ROOT, os.geteuid(), uid_of(_DAEMON_USER)}:
        raise ControlError(
            ErrorCode.PERMISSION,
            f"a process of {User(uid)} listens at {escape_path(path)}, and not root or {_DAEMON_USER}",
        )
