"""A control socket that listens in the test's own event loop."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from pykcm.control.calls import Call
from pykcm.control.connection import Controls
from pykcm.control.frames import FrameReader, encode
from pykcm.control.messages import request
from pykcm.control.requests import REQUESTS, Request
from pykcm.peer.identity import Kernel
from pykcm.protocol.codes import KcmError
from pykcm.server.connections import Connections
from pykcm.store.interface import StoreError


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


LIST = encode(request("list", {}))


class NoArguments(msgspec.Struct):
    """The request has no arguments."""


class Listening:
    """A control socket in this process, with requests of the tests besides the real ones."""

    def __init__(self, path: Path, administration: Any, kernel: Kernel) -> None:
        self.path = path
        self.notes: Administration = administration
        self.idle = 0
        self.connections = administration.connections = Connections(0.001, self._is_idle)
        self.controls = Controls(
            administration,
            {
                **REQUESTS,
                "broken": Request(NoArguments, broken),
                "damaged": Request(NoArguments, damaged),
                "echo": Request(NoArguments, echo, takes_frames=True),
                "impatient": Request(NoArguments, impatient),
                "many": Request(NoArguments, many),
                "full": Request(NoArguments, full),
                "for ever": Request(NoArguments, for_ever, takes_frames=True),
            },
            kernel,
        )

    def _is_idle(self) -> None:
        self.idle += 1

    async def ask(self, data: bytes, *, at_once: bool = True) -> list[Any]:
        """The whole answer to these bytes, until the daemon closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(data)
        if at_once:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return list(decoded(answer))

    async def begin(self, more: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with a request that never ends; `more` is sent behind it."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(encode(request("for ever", {})) + more)
        await reader.readexactly(len(encode({"item": "begun"})))
        return reader, writer

    async def error(self, data: bytes) -> tuple[str, str]:
        """Code and message of the error that is the whole answer."""
        (answer,) = await self.ask(data, at_once=False)
        return answer["error"]["code"], answer["error"]["message"]


def decoded(stream: bytes) -> Iterator[Any]:
    reader = FrameReader(1 << 30)
    reader.feed(stream)
    while reader.has_frame():
        yield msgspec.msgpack.decode(reader.take())
    assert not reader.size


async def broken(call: Call) -> None:
    raise RuntimeError("secret")


async def damaged(call: Call) -> None:
    raise KcmError(errno.EIO, "cannot be read")


async def full(call: Call) -> None:
    raise StoreError("/var/lib/pykcm/pykcm.db: the disk is full", errno.ENOSPC)


async def echo(call: Call) -> AsyncIterator[Any]:
    while (frame := await call.receive()) is not None:
        yield msgspec.msgpack.decode(frame)
    call.summary = {"all": True}


async def many(call: Call) -> AsyncIterator[Any]:
    for number in range(100_000):
        notes(call).produced.append(number)
        yield bytes(1000)


async def impatient(call: Call) -> AsyncIterator[Any]:
    call.patience = 0.05
    try:
        async for each in many(call):
            yield each
    finally:
        notes(call).endings.append("ended")


async def for_ever(call: Call) -> AsyncIterator[Any]:
    try:
        yield "begun"
        await asyncio.Event().wait()
    finally:
        notes(call).endings.append("ended")


def notes(call: Call) -> "Administration":
    return cast("Administration", call.administration)


class Administration:
    """Notes of the test's own requests; everything else is the real administration's."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.produced: list[int] = []
        self.endings: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


async def connected_as(uid: int, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose peer has this UID."""
    with socket.socket(socket.AF_UNIX) as sock:
        os.seteuid(uid)
        try:
            sock.connect(str(path))
        finally:
            os.seteuid(0)
        return await asyncio.open_unix_connection(sock=sock.dup())


async def asked_as(uid: int, path: Path, data: bytes) -> list[Any]:
    """The whole answer to this UID."""
    reader, writer = await connected_as(uid, path)
    writer.write(data)
    try:
        return list(decoded(await reader.read()))
    finally:
        writer.close()
