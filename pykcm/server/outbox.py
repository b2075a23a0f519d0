"""Sends replies to a socket: bytes that the kernel does not take at once are sent later."""

import socket
from bisect import bisect_right
from itertools import accumulate

from pykcm.protocol.framing import Sendable

# Pieces in one system call; the kernel takes at most 1,024.
_PIECES_AT_ONCE = 512


class Outbox:
    """The bytes of replies that the kernel has not taken yet, in their order.

    `size`: bytes still to be sent. `memory`: bytes kept, the whole reply until its last byte is sent.
    """

    __slots__ = ("_first", "_pieces", "_socket", "memory", "size")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pieces: list[bytes | memoryview] = []
        self._first = 0  # the pieces before this index are sent
        self.memory = 0
        self.size = 0

    def send(self, reply: Sendable) -> int:
        """Send as much as the kernel takes at once; return the number of bytes left. Raises OSError."""
        if isinstance(reply, bytes):
            try:
                sent = self._socket.send(reply)
            except BlockingIOError:
                sent = 0
            if sent == len(reply):
                return 0
            self._pieces = [memoryview(reply)[sent:]]
            self.size = len(reply) - sent
            self.memory = len(reply)
            return self.size
        self._pieces = list(reply.pieces)
        self.size = self.memory = reply.size
        return self.send_more()

    def send_more(self) -> int:
        """Send more of the rest, with one system call, which bounds the time; return as `send`."""
        pieces = self._pieces[self._first : self._first + _PIECES_AT_ONCE]
        try:
            sent = self._socket.sendmsg(pieces)
        except BlockingIOError:
            return self.size
        self.size -= sent
        if not self.size:
            self.clear()
            return 0
        ends = list(accumulate(map(len, pieces)))
        whole = bisect_right(ends, sent)
        self._first += whole
        if whole < len(pieces):
            rest = sent - (ends[whole - 1] if whole else 0)
            self._pieces[self._first] = memoryview(pieces[whole])[rest:]
        return self.size

    def clear(self) -> None:
        """Drop the rest."""
        self._pieces = []
        self._first = 0
        self.memory = 0
        self.size = 0
