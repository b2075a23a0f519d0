"""The messages of the control socket: one request, its answer as items, then an end or an error.

    {"version": 1, "request": "list", "arguments": {"uid": 1000}}      the client, then further frames if
                                                                       the request takes any
    {"item": …}                                                        the daemon, any number of times
    {"end": {…}}  or  {"error": {"code": "not-found", "message": "…"}} the daemon, once, and it closes

docs/control-protocol.md describes it for other programs.
"""

from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from pykcm.config import Config
from pykcm.control.frames import FrameError, FrameType, FrameTypeError

VERSION = 1

# In bytes: the first frame of a client. It is bounded for clients that may make few requests.
LARGEST_REQUEST = 64 * 1024

# In bytes: a frame without a credential, behind a request or in an answer.
LARGEST_MESSAGE = 1024 * 1024

# In bytes: a frame with a credential. No request of a KCM client is larger by default.
LARGEST_FRAME = 16 * 1024 * 1024

T = TypeVar("T")


def largest_frame(config: Config) -> int:
    """In bytes: the largest frame with a credential that the daemon takes behind a request."""
    return max(LARGEST_FRAME, config.max_request_size * 1024)


class ErrorCode(StrEnum):
    """The codes of error messages."""

    VERSION = "version"
    REQUEST = "request"
    ARGUMENTS = "arguments"
    MALFORMED = "malformed"
    PERMISSION = "permission"
    NOT_FOUND = "not-found"
    QUOTA = "quota"
    STORE = "store"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"
    INTERNAL = "internal"


class ControlError(Exception):
    """A request cannot be answered. The client gets code and message."""

    def __init__(self, code: ErrorCode | str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Versioned(msgspec.Struct, frozen=True):
    """The part of a request that all versions of the protocol have."""

    version: int


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request; the type of `arguments` depends on its name."""

    version: int
    request: str
    arguments: msgspec.Raw = msgspec.Raw(b"\x80")


_VERSIONED = FrameType(_Versioned, LARGEST_REQUEST)
_ENVELOPE = FrameType(Envelope, LARGEST_REQUEST)


def read_envelope(frame: bytes) -> Envelope:
    """Raises ControlError."""
    # The version is compared first: another version may have other fields.
    version = _decode(frame, _VERSIONED).version
    if version != VERSION:
        raise ControlError(ErrorCode.VERSION, f"version {version} of the protocol (only {VERSION} is known)")
    return _decode(frame, _ENVELOPE)


def read_arguments(packed: bytes | msgspec.Raw, shape: type[T]) -> T:
    """Return the arguments as a struct of this type; raises ControlError, which names the field."""
    return _decode(packed, FrameType(shape, LARGEST_REQUEST))


def _decode(packed: bytes | msgspec.Raw, shape: FrameType[T]) -> T:
    try:
        return shape.decode(packed)
    except FrameTypeError as error:
        raise ControlError(ErrorCode.ARGUMENTS, f"not valid: {error}") from None
    except FrameError as error:
        raise ControlError(ErrorCode.MALFORMED, str(error)) from None


def request(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "request": name, "arguments": arguments}


def item(value: Any) -> dict[str, Any]:
    return {"item": value}


def end(summary: dict[str, Any]) -> dict[str, Any]:
    return {"end": summary}


def error(failure: ControlError) -> dict[str, Any]:
    return {"error": {"code": str(failure.code), "message": failure.message}}
