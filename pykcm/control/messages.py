"""What is said on the control socket: one request, then items, then an end or an error.

    {"version": 1, "request": "list", "arguments": {"uid": 1000}}      the client, then further items where
                                                                       the request takes any
    {"item": …}                                                        the daemon, any number of times
    {"end": {…}}  or  {"error": {"code": "not-found", "message": "…"}} the daemon, once, and it closes

docs/control-protocol.md is its description for others.
"""

from enum import StrEnum
from typing import Any

import msgspec

from pykcm.protocol.text import excerpt

VERSION = 1

# In bytes: one ccache as an export has it may be as large as one request of a KCM client.
LARGEST_REQUEST = 64 * 1024 * 1024

# Of a client's item: arrays and maps of so many elements are decoded within 50 ms, and meanwhile nobody is
# served. A ccache has one for each credential, and a few more.
MOST_ELEMENTS_OF_REQUEST = 1 << 15


class ErrorCode(StrEnum):
    """The codes of error items."""

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
    """A request cannot be answered: for the client, as an error item."""

    def __init__(self, code: ErrorCode | str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request: `arguments` are told apart by its name."""

    version: int
    request: str
    arguments: dict[str, Any] = {}


def read_envelope(item: Any) -> Envelope:
    """Raises ControlError."""
    # Whatever else another version has, it is the version that is wrong.
    version = item.get("version") if isinstance(item, dict) else None
    if isinstance(version, int) and version != VERSION:
        raise ControlError(ErrorCode.VERSION, f"version {version} of the protocol (only {VERSION} is known)")
    envelope: Envelope = convert(item, Envelope)
    return envelope


def convert(item: Any, shape: Any) -> Any:
    """`item` as a struct of this type; raises ControlError, which names the field."""
    try:
        # Without builtin_types text would do where bytes are wanted, as base64.
        return msgspec.convert(item, shape, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise ControlError(ErrorCode.ARGUMENTS, f"not as it should be: {excerpt(str(error))}") from None


def request(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, "request": name, "arguments": arguments}


def item(value: Any) -> dict[str, Any]:
    return {"item": value}


def end(summary: dict[str, Any]) -> dict[str, Any]:
    return {"end": summary}


def error(trouble: ControlError) -> dict[str, Any]:
    return {"error": {"code": str(trouble.code), "message": trouble.message}}
