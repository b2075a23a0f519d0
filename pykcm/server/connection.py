"""The protocol state of one client: bytes go in, requests come out one at a time. No I/O happens here.

                     receive                 next_request
    IDLE, RECEIVING ---------> REQUESTED ------------------> SERVING
       ^                           ^                            | replied
       |                           |                            v
       +---------------------------+------------------------ SENDING     (until all of the reply is sent)

Bytes are taken only in IDLE and RECEIVING. In other states the client's bytes stay in the kernel.
"""

from enum import Enum, auto

from pykcm.protocol.framing import Frame, FrameReader


class State(Enum):
    """The states of a connection, by the step that is next."""

    IDLE = auto()  # nothing of a request has come
    RECEIVING = auto()  # a part of a request has come
    REQUESTED = auto()  # a whole request has come
    SERVING = auto()  # a request is in progress
    SENDING = auto()  # the client has not taken all of the reply
    CLOSED = auto()


# Looked up at each request.
_IDLE, _SERVING = State.IDLE, State.SERVING


class Connection:
    """The requests of one client, of at most `max_request` bytes each.

    `unsent`: bytes of the reply that the client has not taken yet.
    """

    __slots__ = ("_reader", "_serving", "state", "unsent")

    def __init__(self, max_request: int) -> None:
        self._reader = FrameReader(max_request)
        self._serving = 0  # bytes of the request in progress
        self.state = State.IDLE
        self.unsent = 0

    @property
    def takes_bytes(self) -> bool:
        return self.state is State.IDLE or self.state is State.RECEIVING

    @property
    def memory(self) -> int:
        """Bytes of memory that its requests take."""
        return self._reader.memory + self._serving

    @property
    def missing(self) -> int:
        """Bytes that an incomplete request still lacks, as far as known."""
        return self._reader.missing

    def receive(self, data: bytes) -> Frame | None:
        """Take bytes; return the next request if it is complete. Raises FramingError."""
        frame = self._reader.take(data)
        if frame is not None:
            self._serving = len(frame.message)
            self.state = _SERVING
        elif self._reader.size:
            self.state = State.RECEIVING
        return frame

    def next_request(self) -> Frame | None:
        """Return the next request if it is complete. Raises FramingError."""
        frame = self._reader.next_frame()
        if frame is not None:
            self._serving = len(frame.message)
            self.state = _SERVING
        return frame

    def replied(self, unsent: int) -> None:
        """Note that the request is answered; `unsent` bytes of the reply wait for the client to take them."""
        self._serving = 0
        if unsent or self._reader.unread is not None:
            self.sent(unsent)
        else:
            self.state = _IDLE

    def sent(self, unsent: int) -> None:
        """Note that the client has taken bytes; `unsent` bytes of the reply are left."""
        self.unsent = unsent
        if unsent:
            self.state = State.SENDING
        elif not self._reader.size:
            self.state = State.IDLE
        elif self._reader.has_next:
            self.state = State.REQUESTED
        else:
            self.state = State.RECEIVING

    def close(self) -> None:
        """Drop everything; the connection stays in CLOSED."""
        self._reader = FrameReader(0)
        self._serving = 0
        self.unsent = 0
        self.state = State.CLOSED
