"""The checker for hosts with notifications: what it must accept, and what it must refuse."""

from typing import Any

import pytest

from pykcm.protocol.opcodes import Opcode
from tests.builders import principal

from .collection_operations import CollectionOperation, CollectionState
from .linearizability import Answer, Call, NotLinearizableError, check
from .recording import Recorded
from .staleness import with_stale_reads

_UID = 1000
_NAME = b"1000"
_MOST = 10
_DONE = Answer(0, b"")


def change(host: int, begin: int, end: int, mark: str, answer: Answer | None = _DONE) -> Recorded:
    operation = CollectionOperation(Opcode.INITIALIZE, (_NAME, principal(mark)))
    return Recorded(host, Call(host, begin, end, operation, answer))


def read(host: int, begin: int, end: int, mark: str) -> Recorded:
    """A read that shows the ccache with this mark."""
    initialize: Any = CollectionOperation(Opcode.INITIALIZE, (_NAME, principal(mark)))
    _, state = initialize.run(CollectionState.empty(_UID))
    operation = CollectionOperation(Opcode.GET_PRINCIPAL, (_NAME,))
    return Recorded(host, Call(host, begin, end, operation, operation.run(state)[0]))


ONE, TWO = change(0, 0, 1, "1.1"), change(0, 100, 101, "1.2")

ACCEPTED = {
    "other host within the time": [ONE, TWO, read(1, 105, 106, "1.1"), read(1, 120, 121, "1.2")],
    "own host": [ONE, TWO, read(0, 102, 103, "1.2")],
    "while the change is made": [ONE, TWO, read(0, 100, 101, "1.1")],
    "unknown change that was made": [ONE, change(0, 100, 101, "1.2", None), read(1, 150, 151, "1.2")],
    "unknown change that was not made": [ONE, change(0, 100, 101, "1.2", None), read(1, 150, 151, "1.1")],
}

REFUSED = {
    "other host after the time": [ONE, TWO, read(1, 112, 113, "1.1")],
    "own host that does not show its change": [ONE, TWO, read(0, 102, 103, "1.1")],
    "lost change": [ONE, TWO, read(1, 120, 121, "1.2"), read(1, 140, 141, "1.1")],
    "unknown change that was made twice": [
        ONE,
        change(0, 100, 101, "1.2", None),
        read(1, 150, 151, "1.2"),
        change(1, 200, 201, "1.3"),
        read(1, 220, 221, "1.3"),
        read(1, 240, 241, "1.2"),
    ],
    "change that was never made": [ONE, read(1, 50, 51, "1.2")],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_history_with_stale_reads_is_accepted(name: str) -> None:
    """A read of an earlier state within the time is right, except on the host that has changed it."""
    check(CollectionState.empty(_UID), with_stale_reads(ACCEPTED[name], _MOST))


@pytest.mark.parametrize("name", REFUSED)
def test_history_that_stale_reads_do_not_explain_is_refused(name: str) -> None:
    """Reads that are too old or hide an own change, lost changes and repeated ones are found."""
    with pytest.raises(NotLinearizableError):
        check(CollectionState.empty(_UID), with_stale_reads(REFUSED[name], _MOST))
