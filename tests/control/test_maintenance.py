"""backup and rekey as requests: who may ask, and what is answered."""

import asyncio
import hashlib

import pytest

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.store.interface import Store
from pykcm.store.memory import MemoryStore
from tests.control.controlling import Controlling
from tests.peer.mcs import CONTAINER_1, HOST, HOST_LOW, Mcs
from tests.server.asking import Server

KEY = bytes(range(200, 232))


def trouble(control: Controlling, request: str, label: str | None = None, **arguments: object) -> ErrorCode:
    with pytest.raises(ControlError) as caught:
        control.ask(request, label=label, **arguments)
    return ErrorCode(caught.value.code)


@pytest.fixture
def is_in_memory(store: Store) -> bool:
    return isinstance(store, MemoryStore)


def test_backup(control: Controlling, *, is_in_memory: bool) -> None:
    """First the size, then as many bytes; the end has their SHA-256 and where the key is."""
    if is_in_memory:
        assert trouble(control, "backup") == ErrorCode.UNSUPPORTED
        return
    first, *items = control.ask("backup")
    content = b"".join(item["data"] for item in items)
    assert first == {"size": len(content)}
    assert control.summary["sha256"] == hashlib.sha256(content).digest()
    assert control.summary["size"] == len(content)


def test_rekey(control: Controlling, *, is_in_memory: bool) -> None:
    """The end says where the key is that was given."""
    if is_in_memory:
        assert trouble(control, "rekey") == ErrorCode.UNSUPPORTED
        return
    control.ask("rekey", key=KEY)
    place = control.summary["place"]
    assert control.summary.pop("pause") > 0
    assert control.summary == {"key": place, "place": place, "credential": False, "pending": False}


def test_the_same_again(control: Controlling, *, is_in_memory: bool) -> None:
    """A key that the database has, and one of a wrong size, are no new keys."""
    if is_in_memory:
        return
    control.ask("rekey", key=KEY)
    assert trouble(control, "rekey", key=KEY) == ErrorCode.UNSUPPORTED
    assert trouble(control, "rekey", key=b"short") == ErrorCode.UNSUPPORTED


@pytest.mark.parametrize("request_", ["backup", "rekey"])
def test_confined(store: Store, *, request_: str, is_in_memory: bool) -> None:
    """A root that the policy keeps from some categories can neither copy all ccaches nor change their key."""
    if is_in_memory:
        return
    with asyncio.Runner() as runner:
        control = Controlling(Server(runner, store, policy=Mcs()))
        for label in (CONTAINER_1, HOST_LOW):
            assert trouble(control, request_, label) == ErrorCode.PERMISSION
        control.ask(request_, label=HOST)
        reader = Controlling(Server(runner, store, policy=Mcs(HOST)))
        assert trouble(reader, request_, HOST) == ErrorCode.PERMISSION
