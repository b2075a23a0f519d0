"""backup and rekey as requests: who may ask, and what is answered."""

import asyncio
import hashlib

import pytest

from pykcm.control.messages import ControlError, ErrorCode
from pykcm.store.interface import Store
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.control.controlling import Controlling
from tests.peer.mcs import CONTAINER_1, HOST, HOST_LOW, Mcs
from tests.server.asking import Server

KEY = bytes(range(200, 232))


def trouble(control: Controlling, request: str, label: str | None = None, **arguments: object) -> ErrorCode:
    with pytest.raises(ControlError) as caught:
        control.ask(request, label=label, **arguments)
    return ErrorCode(caught.value.code)


@pytest.fixture
def has_no_files(store: Store) -> bool:
    return not isinstance(store, SQLCipherStore)


def test_backup_sends_size_data_and_checksum(control: Controlling, *, has_no_files: bool) -> None:
    """The size, then as many bytes; the end has their SHA-256 and the place of the key."""
    if has_no_files:
        assert trouble(control, "backup") == ErrorCode.UNSUPPORTED
        return
    first, *items = control.ask("backup")
    content = b"".join(item["data"] for item in items)
    assert first == {"size": len(content)}
    assert control.summary["sha256"] == hashlib.sha256(content).digest()
    assert control.summary["size"] == len(content)


def test_rekey_reports_the_place_of_the_key(control: Controlling, *, has_no_files: bool) -> None:
    """The end has the place of the given key."""
    if has_no_files:
        assert trouble(control, "rekey") == ErrorCode.UNSUPPORTED
        return
    control.ask("rekey", key=KEY)
    place = control.summary["place"]
    assert control.summary.pop("pause") > 0
    assert control.summary == {"key": place, "place": place, "credential": False, "pending": False}


def test_rekey_refuses_invalid_keys(control: Controlling, *, has_no_files: bool) -> None:
    """The present key, and a key of a wrong size, are refused."""
    if has_no_files:
        return
    control.ask("rekey", key=KEY)
    assert trouble(control, "rekey", key=KEY) == ErrorCode.UNSUPPORTED
    assert trouble(control, "rekey", key=b"short") == ErrorCode.UNSUPPORTED


@pytest.mark.parametrize("request_", ["backup", "rekey"])
def test_confined_root_may_neither_back_up_nor_rekey(
    store: Store, *, request_: str, has_no_files: bool
) -> None:
    """Root without some categories may neither copy all ccaches nor change the key."""
    if has_no_files:
        return
    with asyncio.Runner() as runner:
        control = Controlling(Server(runner, store, policy=Mcs()))
        for label in (CONTAINER_1, HOST_LOW):
            assert trouble(control, request_, label) == ErrorCode.PERMISSION
        control.ask(request_, label=HOST)
        reader = Controlling(Server(runner, store, policy=Mcs(HOST)))
        assert trouble(reader, request_, HOST) == ErrorCode.PERMISSION
