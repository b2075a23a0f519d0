"""Requests on the control socket: answers, invalid input, and how requests end."""

import asyncio

import pytest

from pykcm.control.frames import encode
from pykcm.control.messages import LARGEST_FRAME, LARGEST_REQUEST, VERSION, request
from tests.control.listening import LIST, Listening, decoded, framed
from tests.server.waiting import until


async def test_answer_is_items_then_the_end(listening: Listening) -> None:
    """The answer has the items, then the end with its summary; then the connection is closed."""
    assert await listening.ask(LIST) == [{"end": {"users": 0, "ccaches": 0, "size": 0}}]
    assert await listening.ask(LIST, at_once=False) == await listening.ask(LIST)


async def test_request_may_come_byte_by_byte(listening: Listening) -> None:
    """A request is read from any pieces of the stream."""
    reader, writer = await asyncio.open_unix_connection(str(listening.path))
    for at in range(len(LIST)):
        writer.write(LIST[at : at + 1])
        await writer.drain()
        await asyncio.sleep(0)
    (answer,) = decoded(await reader.read())
    assert "end" in answer
    writer.close()


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
async def test_invalid_request_is_answered_with_one_error(
    listening: Listening, data: bytes, code: str, said: str
) -> None:
    """An invalid request gets one error, its connection is closed, and other clients are served."""
    answered, message = await listening.error(data)
    assert answered == code
    assert said in message
    assert "end" in (await listening.ask(LIST))[-1]


async def test_incomplete_request_is_malformed(listening: Listening) -> None:
    """A client that ends within its request gets an error; one that sends nothing gets no answer."""
    (answer,) = await listening.ask(LIST[:-1])
    assert answer["error"]["code"] == "malformed"
    assert await listening.ask(b"") == []
    await until(lambda: not listening.controls.open)


async def test_exception_is_logged_and_answered_as_internal(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in pykcm is logged, and the client's error does not quote it."""
    code, message = await listening.error(encode(request("broken", {})))
    assert code == "internal"
    assert "secret" not in message
    assert "failed by an error in pykcm" in caplog.text


async def test_store_errors_are_answered_with_their_reason(listening: Listening) -> None:
    """A damaged ccache and a full disk are errors of the store, not of pykcm."""
    code, message = await listening.error(encode(request("damaged", {})))
    assert (code, message) == ("store", "EIO: cannot be read")
    code, message = await listening.error(encode(request("full", {})))
    assert (code, message) == ("store", "ENOSPC: /var/lib/pykcm/pykcm.db: the disk is full")


async def test_malformed_frame_ends_the_request(listening: Listening) -> None:
    """After a malformed frame the request in progress is ended, and the client gets an error."""
    reader, writer = await listening.begin()
    writer.write(bytes(4))
    (answer,) = decoded(await reader.read())
    writer.close()
    assert answer["error"]["code"] == "malformed"
    await until(lambda: listening.notes.endings)


async def test_incomplete_frame_is_malformed(listening: Listening) -> None:
    """A stream that ends within a frame ends the request with an error."""
    *_, last = await listening.ask(encode(request("echo", {})) + encode(b"whole") + encode(b"half")[:-1])
    assert last["error"]["code"] == "malformed"
    await until(lambda: not listening.controls.open)


async def test_frames_behind_a_request_arrive_in_order(listening: Listening) -> None:
    """The request gets the client's frames in order, until the end of the stream."""
    items = [b"%d" % number for number in range(1000)]
    data = encode(request("echo", {})) + b"".join(map(encode, items))
    *echoed, end = await listening.ask(data)
    assert [each["item"] for each in echoed] == items
    assert end == {"end": {"all": True}}


async def test_finish_ends_requests_in_order(listening: Listening) -> None:
    """Requests that would never end are ended, and release their resources."""
    reader, writer = await listening.begin()
    await listening.controls.finish()
    assert listening.notes.endings == ["ended"]
    assert await reader.read() == b""
    writer.close()


async def test_closed_connection_ends_its_request(listening: Listening) -> None:
    """A closed connection is noticed, also after a shutdown for writing."""
    for says_so in (False, True):
        _, writer = await listening.begin()
        if says_so:
            writer.write_eof()
        writer.close()
        await until(lambda: not listening.controls.open)
        await until(lambda: listening.notes.endings)
        listening.notes.endings.clear()
