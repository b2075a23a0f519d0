"""Replies that the kernel takes in parts."""

import random
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pykcm.protocol.framing import Pieces
from pykcm.server.outbox import Outbox


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, neither of which blocks."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def in_pieces(pieces: list[bytes]) -> Pieces:
    return Pieces(sum(map(len, pieces)), pieces)


def test_short_reply_is_sent_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    """A reply that the kernel takes at once leaves nothing in the outbox."""
    outbox = Outbox(ends[0])
    assert outbox.send(b"a reply") == 0
    assert (outbox.size, outbox.memory) == (0, 0)
    assert ends[1].recv(100) == b"a reply"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_joined", [True, False], ids=["joined", "pieces"])
def test_reply_is_sent_completely_in_parts(
    ends: tuple[socket.socket, socket.socket], seed: int, is_joined: bool
) -> None:
    """However little is taken at a time, all bytes arrive in order, and the rest is counted exactly."""
    chosen = random.Random(seed)
    pieces = [chosen.randbytes(chosen.choice([1, 4, 1200, 70_000])) for _ in range(600 if seed else 3)]
    whole = b"".join(pieces)
    outbox = Outbox(ends[0])
    left = outbox.send(whole if is_joined else in_pieces(pieces))
    got = bytearray()
    while len(got) < len(whole):
        assert left == outbox.size
        assert (outbox.memory == len(whole)) is bool(left)
        got += ends[1].recv(chosen.choice([1000, 300_000]))
        if left:
            left = outbox.send_more()
    assert got == whole
    assert (outbox.size, outbox.memory) == (0, 0)


def test_reply_stays_while_the_kernel_takes_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """If the kernel takes nothing, the whole reply is left."""
    outbox = Outbox(ends[0])
    with suppress(BlockingIOError):
        while True:
            ends[0].send(bytes(65536))
    assert outbox.send(b"a reply") == 7
    assert outbox.send_more() == 7


def test_long_pieces_are_not_copied(ends: tuple[socket.socket, socket.socket]) -> None:
    """The rest of a long reply is the credentials' own memory."""
    piece = bytes(10 << 20)
    outbox = Outbox(ends[0])
    outbox.send(in_pieces([b"header", piece]))
    assert any(isinstance(each, memoryview) and each.obj is piece for each in outbox._pieces)


def test_client_that_has_gone_is_an_error(ends: tuple[socket.socket, socket.socket]) -> None:
    """Sending to a client that has gone raises OSError."""
    ends[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        Outbox(ends[0]).send(b"a reply")


def test_cleared_outbox_holds_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """After `clear` the outbox holds no memory."""
    outbox = Outbox(ends[0])
    outbox.send(bytes(1 << 20))
    outbox.clear()
    assert (outbox.size, outbox.memory) == (0, 0)
