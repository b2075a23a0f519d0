"""The log of requests: refusals, errors of the store, and nothing secret."""

import asyncio
import errno
import logging

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.logs import LINE_COUNTS
from pykcm.protocol.opcodes import Opcode
from pykcm.server import dispatcher as service
from pykcm.store.interface import Store
from tests.builders import (
    ALICE,
    credential_bytes,
    peer,
    refused,
)
from tests.server.asking import Asking, Server
from tests.server.test_dispatcher import failing, store_ticket

__all__ = ["failing"]


def quota_warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == logging.WARNING]


def test_refusals_by_a_quota_are_logged_once(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals of a UID by a quota are logged once in a while, with option, UID and ccache."""
    now = 1000.0
    monkeypatch.setattr(LINE_COUNTS, "clock", lambda: now)
    server = Server(runner, store, quotas=Quotas(max_uid_ccaches=1))
    for uid in (1000, 2000):
        server.ask_as(uid).initialize(b"%d" % uid, ALICE)
    for _ in range(5):
        with refused(errno.EDQUOT):
            server.ask_as(1000).initialize(b"1000:a", ALICE)
    (record,) = quota_warnings(caplog)
    assert "max_uid_ccaches" in record.getMessage()
    assert "1000" in record.getMessage()
    assert record.__dict__["KCM_CCACHE"] == "1000:a"
    assert record.__dict__["KCM_RESULT"] == "EDQUOT"
    with refused(errno.EDQUOT):
        server.ask_as(2000).initialize(b"2000:a", ALICE)
    assert len(quota_warnings(caplog)) == 2
    now += 3600
    with refused(errno.EDQUOT):
        server.ask_as(1000).initialize(b"1000:a", ALICE)
    *_, summary, last = [record.getMessage() for record in quota_warnings(caplog)]
    assert summary == (
        "UID 1000: 4 further lines like it in the last 3600 s were left out: requests refused by a quota"
    )
    assert "max_uid_ccaches" in last


def test_store_error_is_logged(failing: Server, alice: Asking, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the store is logged with its cause, the operation and the UID."""
    alice.answer(*store_ticket(1000)[1:])
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "the disk is full" in record.getMessage()
    assert record.__dict__["KCM_OP"] == "STORE"
    assert record.__dict__["KCM_UID"] == 1000
    assert record.__dict__["KCM_PID"] == peer(1000).pid


def test_missing_ccache_is_not_logged(
    server: Server, alice: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    """A request for a missing or forbidden ccache is not logged."""
    caplog.set_level(logging.INFO)
    for name in (b"1000", b"2000", b"foobar"):
        alice.answer(Opcode.GET_PRINCIPAL, name + b"\0")
        alice.answer(Opcode.DESTROY, name + b"\0")
    alice.answer(999)
    assert caplog.records == []


def test_debug_log_has_no_secrets(
    runner: asyncio.Runner, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """At log level debug each request is a line with its result, without key or ticket."""
    caplog.set_level(logging.DEBUG)
    asking = Server(runner, store).ask_as(1000)
    asking.initialize(b"1000:\x1b[2J", ALICE)
    asking.store(b"1000:\x1b[2J", credential_bytes(key=b"SESSIONKEY", ticket=b"TICKETBYTES"))
    asking.answer(Opcode.STORE, b"1000\0" + credential_bytes(key=b"SESSIONKEY")[:-1])
    asking.answer(Opcode.GET_PRINCIPAL, b"1000:missing\0")
    asking.answer(999)
    lines = [record.getMessage() for record in caplog.records if record.name == service.__name__]
    assert len(lines) == 5
    assert "STORE" in lines[1]
    assert "CC_FORMAT" in lines[2]
    assert "FCC_NOFILE" in lines[3]
    assert "999" in lines[4]
    assert "\x1b" not in caplog.text.replace("\x1b[0m", "")
    for secret in ("SESSIONKEY", "TICKETBYTES"):
        assert secret not in caplog.text
        assert secret not in str([record.__dict__ for record in caplog.records])
