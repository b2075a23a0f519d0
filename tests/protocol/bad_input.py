"""The answers that a decoder may give to malformed bytes."""

import contextlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.wire import FormatError, Reader

Decoder = Callable[[Reader], Any]

# More than any decoder needs to find a lie, and less than any lie asks for.
FRUGAL = 64 * 1024


def assert_refused(decode: Decoder, message: bytes) -> None:
    """The decoder says that the message is malformed, in the one way that there is."""
    with pytest.raises(KcmError) as refused:
        decode(Reader(message))
    assert isinstance(refused.value, FormatError)
    assert refused.value.code == Code.CC_FORMAT


def assert_every_prefix_refused(decode: Decoder, message: bytes) -> None:
    """The whole message is valid, and nothing that ends before it is."""
    decode(Reader(message))
    for size in range(len(message)):
        assert_refused(decode, message[:size])


def assert_harmless(decode: Decoder, message: bytes) -> None:
    """The decoder either understands the message or says that it is malformed."""
    with contextlib.suppress(FormatError):
        decode(Reader(message))


def assert_refused_cheaply(decode: Decoder, message: bytes) -> None:
    """Refused, and no memory was spent on what the message only announces."""
    tracemalloc.start()
    try:
        assert_refused(decode, message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < FRUGAL + 2 * len(message)
