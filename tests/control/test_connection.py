"""The control socket itself: who may use it, and what becomes of bad input."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pykcm.control import connection as connection_module
from pykcm.control.calls import Call
from pykcm.control.connection import ControlConnection, Controls
from pykcm.control.frames import FrameReader, encode
from pykcm.control.messages import LARGEST_FRAME, LARGEST_REQUEST, VERSION, request
from pykcm.control.requests import REQUESTS, Request
from pykcm.peer.access import RequestAccess
from pykcm.peer.identity import Kernel
from pykcm.protocol.codes import KcmError
from pykcm.server.connections import Connections
from pykcm.sockets.event_loop import EventLoop
from pykcm.store.interface import StoreError
from pykcm.store.memory import MemoryStore
from tests.control.controlling import Controlling
from tests.e2e.conftest import public_folder
from tests.server.asking import Server
from tests.server.waiting import until


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


LIST = encode(request("list", {}))


class NoArguments(msgspec.Struct):
    """There are none."""


class Listening:
    """A control socket in this process, with requests of the test's own beside the real ones."""

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
        """All that is answered to these bytes, until the daemon closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(data)
        if at_once:
            writer.write_eof()
        answer = await reader.read()
        writer.close()
        return list(decoded(answer))

    async def error(self, data: bytes) -> tuple[str, str]:
        """Code and message of the only item that is answered."""
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
    """What the requests of this test note."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.produced: list[int] = []
        self.endings: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


Scenario = Callable[[Listening], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture
def play() -> Play:
    """Plays a scenario against a listening control socket, on the daemon's event loop."""

    def played(scenario: Scenario) -> None:
        with asyncio.Runner(loop_factory=EventLoop) as runner, public_folder() as folder:
            server = Server(runner, MemoryStore())
            administration = Administration(Controlling(server).administration)
            listening = Listening(folder / "control.sock", administration, Kernel())

            async def play_it() -> None:
                loop = asyncio.get_running_loop()
                endpoint = await loop.create_unix_server(
                    lambda: ControlConnection(listening.controls), str(listening.path)
                )
                listening.path.chmod(0o666)
                try:
                    await asyncio.wait_for(scenario(listening), 20)
                finally:
                    endpoint.close()

            runner.run(play_it())

    return played


def test_one_request(play: Play) -> None:
    """Items, then the end with its summary, and the connection is closed."""

    async def scenario(listening: Listening) -> None:
        assert await listening.ask(LIST) == [{"end": {"users": 0, "ccaches": 0, "size": 0}}]
        assert await listening.ask(LIST, at_once=False) == await listening.ask(LIST)

    play(scenario)


def test_a_request_in_pieces(play: Play) -> None:
    """It may come byte by byte."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path))
        for at in range(len(LIST)):
            writer.write(LIST[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        (answer,) = decoded(await reader.read())
        assert "end" in answer
        writer.close()

    play(scenario)


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "malformed", "larger than 65536"),
        (b"\xa2gversion\x01grequestdlist", "malformed", "larger than 65536"),
        (b"\xff" * 4, "malformed", "larger than 65536"),
        ((LARGEST_REQUEST + 1).to_bytes(4), "malformed", "larger than 65536"),
        (bytes(4), "malformed", "without contents"),
        (framed(b"\xc1"), "malformed", "no MessagePack"),
        (framed(b"\x83\xa7version\x01"), "malformed", "no MessagePack"),
        (framed(encode(request("list", {}))[4:] + b"\xc0"), "malformed", "no MessagePack"),
        (framed(b"\x91" * LARGEST_REQUEST), "arguments", ""),
        (framed(b"\x82\xa7version\x01\xa1a" + b"\x91" * 60_000), "malformed", "no MessagePack"),
        (framed(b"\x83\xa7version\x01\xa7request\xa1a\xa9arguments" + b"\x91" * 60_000), "malformed", ""),
        (framed(b"\xdd\xff\xff\xff\xff"), "arguments", ""),
        (LIST + LIST, "malformed", "no frame may follow"),
        (encode(request("export", {})) + bytes(4), "malformed", "without contents"),
        (encode(request("import", {})) + (LARGEST_FRAME + 1).to_bytes(4), "malformed", "larger than"),
        (encode([]), "arguments", ""),
        (encode({}), "arguments", "version"),
        (encode(request("list", {}) | {"arguments": []}), "arguments", ""),
        (encode({"version": VERSION + 1, "anything": 1}), "version", "version 2"),
        (encode({"version": "1", "request": "list"}), "arguments", "version"),
        (encode({"version": VERSION, "request": "list", "more": 1}), "arguments", "more"),
        (encode({"version": VERSION, "request": "launch"}), "request", "list"),
        (encode(request("list", {"uid": "1000"})), "arguments", "uid"),
        (encode(request("list", {"who": 1000})), "arguments", "who"),
        (encode(request("list", {"uid": 2**40})), "arguments", "uid"),
        (encode(request("show", {"name": "text"})), "arguments", "name"),
        (encode(request("show", {"name": b"1000"})), "not-found", "no such"),
    ],
)
def test_bad_input(play: Play, data: bytes, code: str, said: str) -> None:
    """Whatever is wrong is answered with one error, the connection is closed, and others are served."""

    async def scenario(listening: Listening) -> None:
        answered, message = await listening.error(data)
        assert answered == code
        assert said in message
        assert "end" in (await listening.ask(LIST))[-1]

    play(scenario)


def test_a_request_that_is_broken_off(play: Play) -> None:
    """A client that ends in the middle of its request is told so; one that leaves before costs nothing."""

    async def scenario(listening: Listening) -> None:
        (answer,) = await listening.ask(LIST[:-1])
        assert answer["error"]["code"] == "malformed"
        assert await listening.ask(b"") == []
        await until(lambda: not listening.controls.open)

    play(scenario)


def test_a_request_that_is_not_made(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and says nothing is told so after a while, and closed."""
    monkeypatch.setattr(connection_module, "_PATIENCE_WITH_A_REQUEST", 0.05)

    async def scenario(listening: Listening) -> None:
        code, message = await listening.error(LIST[:5])
        assert (code, message) == ("malformed", "no complete request in time")

    play(scenario)


def test_a_bug(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """An error in pykcm is logged, and the client is told that much."""

    async def scenario(listening: Listening) -> None:
        code, message = await listening.error(encode(request("broken", {})))
        assert code == "internal"
        assert "secret" not in message

    play(scenario)
    assert "failed by an error in pykcm" in caplog.text


def test_a_damaged_ccache(play: Play) -> None:
    """What fails in what is stored is no error in pykcm, and where the disk fails it is named."""

    async def scenario(listening: Listening) -> None:
        code, message = await listening.error(encode(request("damaged", {})))
        assert (code, message) == ("store", "EIO: cannot be read")
        code, message = await listening.error(encode(request("full", {})))
        assert (code, message) == ("store", "ENOSPC: /var/lib/pykcm/pykcm.db: the disk is full")

    play(scenario)


def test_bad_frames_end_what_a_request_has_begun(play: Play) -> None:
    """The request is ended, and the client gets an error."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path))
        writer.write(encode(request("for ever", {})))
        await reader.readexactly(len(encode({"item": "begun"})))
        writer.write(bytes(4))
        (answer,) = decoded(await reader.read())
        writer.close()
        assert answer["error"]["code"] == "malformed"
        await until(lambda: listening.notes.endings)

    play(scenario)


def test_a_frame_that_is_cut_off_is_an_error(play: Play) -> None:
    """The request does not end well: not all that was to be sent has come."""

    async def scenario(listening: Listening) -> None:
        *_, last = await listening.ask(encode(request("echo", {})) + encode(b"whole") + encode(b"half")[:-1])
        assert last["error"]["code"] == "malformed"
        await until(lambda: not listening.controls.open)

    play(scenario)


def test_frames_behind_a_request_arrive_in_order(play: Play) -> None:
    """They reach the request in their order, until there are no more."""

    async def scenario(listening: Listening) -> None:
        items = [b"%d" % number for number in range(1000)]
        data = encode(request("echo", {})) + b"".join(map(encode, items))
        *echoed, end = await listening.ask(data)
        assert [each["item"] for each in echoed] == items
        assert end == {"end": {"all": True}}

    play(scenario)


def test_a_client_that_does_not_read(play: Play) -> None:
    """Only so much is made for it as it takes; others are served meanwhile, and its end is noticed."""

    async def scenario(listening: Listening) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(listening.path))
        sock.sendall(encode(request("many", {})))
        produced = listening.notes.produced
        before = -1
        while not produced or len(produced) != before:
            before = len(produced)
            await listening.ask(LIST)
        assert len(produced) < 5000
        sock.close()
        await until(lambda: not listening.controls.open)

    play(scenario)


def test_a_client_for_which_others_wait(play: Play) -> None:
    """Where others wait for the end of what it has asked for, that is given up, and it is told so."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path), limit=1)
        writer.write(encode(request("impatient", {})))
        await until(lambda: listening.notes.endings)
        *_, last = decoded(await reader.read())
        assert last["error"] == {
            "code": "busy",
            "message": "given up: the client read nothing of the answer for 0.05 seconds",
        }
        writer.close()

    play(scenario)


def test_frames_that_nobody_takes_are_not_read(play: Play) -> None:
    """They stay as they came until they are wanted, and the client waits: neither memory nor time is lost."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path))
        writer.write(encode(request("for ever", {})) + encode(1) * 1_000_000)
        await reader.readexactly(len(encode({"item": "begun"})))
        await until(lambda: listening.controls.untaken)
        for _ in range(100):
            await listening.ask(LIST)
        assert 0 < listening.controls.untaken <= 512 * 1024
        await listening.controls.finish()
        writer.close()

    play(scenario)


def test_too_much_at_once(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What clients have sent together and no request has taken is bounded; then there is room for others."""
    monkeypatch.setattr(connection_module, "_MOST_UNTAKEN", 100_000)

    async def scenario(listening: Listening) -> None:
        half = encode(request("for ever", {})) + encode(bytes(120_000))[:60_000]
        first, second = [await asyncio.open_unix_connection(str(listening.path)) for _ in range(2)]
        first[1].write(half)
        await until(lambda: listening.controls.untaken == 60_000)
        second[1].write(half)
        *_, answer = decoded(await second[0].read())
        assert answer["error"]["code"] == "busy"
        assert listening.controls.untaken == 60_000
        for _, writer in (first, second):
            writer.close()
        await until(lambda: not listening.controls.open)
        assert listening.controls.untaken == 0

    play(scenario)


def test_the_end_of_the_daemon(play: Play) -> None:
    """Requests that would never end are ended, and have time to tidy up."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path))
        writer.write(encode(request("for ever", {})))
        await reader.readexactly(len(encode({"item": "begun"})))
        await listening.controls.finish()
        assert listening.notes.endings == ["ended"]
        assert await reader.read() == b""
        writer.close()

    play(scenario)


def test_idleness(play: Play) -> None:
    """A daemon that is about to end when nobody needs it stays as long as an administrator is connected."""

    async def scenario(listening: Listening) -> None:
        reader, writer = await asyncio.open_unix_connection(str(listening.path))
        writer.write(encode(request("for ever", {})))
        await reader.readexactly(len(encode({"item": "begun"})))
        listening.connections.start_timer()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not listening.idle
        writer.close()
        await until(lambda: listening.idle)

    play(scenario)


def test_a_client_that_goes_away(play: Play) -> None:
    """That is noticed at once, or soon, when it had said before that it would send no more."""

    async def scenario(listening: Listening) -> None:
        for says_so in (False, True):
            reader, writer = await asyncio.open_unix_connection(str(listening.path))
            writer.write(encode(request("for ever", {})))
            await reader.readexactly(len(encode({"item": "begun"})))
            if says_so:
                writer.write_eof()
            writer.close()
            await until(lambda: not listening.controls.open)
            await until(lambda: listening.notes.endings)
            listening.notes.endings.clear()

    play(scenario)


def test_too_many(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit of connections; whoever is beyond it is told so."""
    monkeypatch.setattr(connection_module, "MOST_CONNECTIONS", 2)

    async def scenario(listening: Listening) -> None:
        waiting = [await asyncio.open_unix_connection(str(listening.path)) for _ in range(2)]
        await until(lambda: len(listening.controls.open) == 2)
        code, _ = await listening.error(LIST)
        assert code == "busy"
        for _, writer in waiting:
            writer.close()
        await until(lambda: not listening.controls.open)
        assert "end" in (await listening.ask(LIST))[-1]

    play(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_who_is_not_root(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """Is refused, whatever the socket's mode; the log has it, and not once for each try."""
    caplog.set_level(logging.WARNING)

    async def scenario(listening: Listening) -> None:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as sock:
                os.seteuid(20001)
                try:
                    sock.connect(str(listening.path))
                finally:
                    os.seteuid(0)
                reader, writer = await asyncio.open_unix_connection(sock=sock.dup())
                writer.write(LIST)
                (answer,) = decoded(await reader.read())
                writer.close()
            assert answer["error"] == {"code": "permission", "message": "only root may use it"}

    play(scenario)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["control socket: UID 20001 refused: only root may use it"] * 10


METRICS_USER = 20004
STATS = encode(request("stats", {}))


def uid_of(user: str) -> int | None:
    return {"pykcm-metrics": METRICS_USER}.get(user)


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
    """All that is answered to this UID."""
    reader, writer = await connected_as(uid, path)
    writer.write(data)
    try:
        return list(decoded(await reader.read()))
    finally:
        writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_a_user_may_make_the_requests_that_name_it_and_no_other(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """The user pykcm-metrics may ask for stats. Of other requests it does not even learn which there are."""
    caplog.set_level(logging.WARNING)

    async def scenario(listening: Listening) -> None:
        listening.controls.access = RequestAccess({0}, uid_of)
        item, end = await asked_as(METRICS_USER, listening.path, STATS)
        assert item["item"]["version"]
        assert end == {"end": {}}
        others = sorted(listening.controls.requests.keys() - {"stats"})
        for name in [*others, "launch", "\n"]:
            asked = encode(request(name, {}))
            (answer,) = await asked_as(METRICS_USER, listening.path, asked)
            assert answer["error"]["code"] == "permission"
            assert "only root may make the request" in answer["error"]["message"]
            assert answer["error"]["message"].endswith("(this user may make: stats)")
        for name in others:
            (answer,) = await asked_as(20001, listening.path, encode(request(name, {})))
            assert answer["error"] == {"code": "permission", "message": "only root may use it"}
        (answer,) = await asked_as(20001, listening.path, STATS)
        assert answer["error"]["code"] == "permission"

    play(scenario)
    assert f"control socket: UID {METRICS_USER} refused: only root may make the request" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_without_the_user_its_requests_are_roots_alone(play: Play) -> None:
    """Where there is no user pykcm-metrics, no other UID stands for it."""

    async def scenario(listening: Listening) -> None:
        listening.controls.access = RequestAccess({0}, lambda _: None)
        for uid in (METRICS_USER, 65534):
            (answer,) = await asked_as(uid, listening.path, STATS)
            assert answer["error"] == {"code": "permission", "message": "only root may use it"}
        assert "end" in (await listening.ask(STATS))[-1]

    play(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_other_users_leave_connections_and_memory_to_administrators(play: Play) -> None:
    """They have sixteen connections, and a request of theirs has at most 1,024 bytes."""

    async def scenario(listening: Listening) -> None:
        listening.controls.access = RequestAccess({0}, uid_of)
        waiting = []
        for _ in range(16):
            waiting.append(await connected_as(METRICS_USER, listening.path))
            await until(lambda: len(listening.controls.open) == len(waiting))
        (answer,) = await asked_as(METRICS_USER, listening.path, STATS)
        assert answer["error"]["code"] == "busy"
        assert "end" in (await listening.ask(STATS))[-1]
        for _, writer in waiting:
            writer.close()
        await until(lambda: not listening.controls.open)
        too_large = encode(request("stats", {"x": "x" * 1024}))
        (answer,) = await asked_as(METRICS_USER, listening.path, too_large)
        assert (answer["error"]["code"], answer["error"]["message"][-11:]) == ("malformed", " 1024 bytes")

    play(scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another")
def test_other_users_do_not_keep_the_daemon_awake(play: Play) -> None:
    """A connection of theirs is none for responder_idle_timeout, as long as it may last."""

    async def scenario(listening: Listening) -> None:
        listening.controls.access = RequestAccess({0}, uid_of)
        listening.connections.start_timer()
        _, writer = await connected_as(METRICS_USER, listening.path)
        await until(lambda: listening.controls.open)
        await until(lambda: listening.idle)
        writer.close()
        await until(lambda: not listening.controls.open)
        _, writer = await asyncio.open_unix_connection(str(listening.path))
        await until(lambda: listening.controls.open)
        assert not listening.connections.are_idle
        writer.close()
        await until(lambda: listening.connections.are_idle)

    play(scenario)
