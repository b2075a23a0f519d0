"""Queries of the journal, and the absence of secrets in it."""

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.builders import ALICE, credential_bytes
from tests.e2e.traces import traces

from . import machine, stored
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs/operations.md"


def _found(*matches: str) -> list[dict[str, str]]:
    """Return the entries with these fields."""
    lines = machine.run(
        "journalctl", "--boot", "--quiet", "--output=json", f"--unit={machine.SERVICE}", *matches
    )
    return [json.loads(line) for line in lines.splitlines()]


def test_what_a_user_did(client_as: Callable[..., LabelledClient]) -> None:
    """With log_level debug each operation can be found by user, operation, ccache and result."""
    machine.configure('log_level = "debug"\n')
    client_as(1001).kinit("bob")
    name = b"%d:journal" % stored.USER
    with stored.connected() as kcm:
        kcm.initialize(name, ALICE)
        kcm.store(name, stored.ticket_for("host/server.pykcm.test"))
    user = client_as(stored.USER)
    assert user.run("klist", ccache="KCM:1000:nothing").code == 1
    machine.run("journalctl", "--sync")

    wanted = {"KCM_OP": "STORE", "KCM_UID": "1000", "KCM_CCACHE": name.decode(), "KCM_RESULT": "OK"}
    matches = [f"{field}={value}" for field, value in wanted.items()]
    (entry,) = _found(*matches)
    assert entry.items() >= wanted.items()
    for match in matches:
        assert entry in _found(match)
    assert _found("KCM_UID=1001")
    assert _found("KCM_UID=1001", "KCM_CCACHE=" + name.decode()) == []

    refused = _found("KCM_UID=1000", "KCM_RESULT=FCC_NOFILE")
    assert {entry["KCM_CCACHE"] for entry in refused} >= {"1000:nothing"}
    # The document's command for that.
    command = commands_of(_DOCUMENT, "Debugging")[-1].splitlines()[-1]
    assert "KCM_RESULT=FCC_NOFILE" in command
    assert "1000:nothing" in machine.shell(command)


def test_journal_has_no_tickets(pykcm: None) -> None:
    """With log_level debug, the journal has neither session keys nor tickets in any encoding."""
    machine.configure('log_level = "debug"\n')
    hidden = {
        name: name.encode() + b"'\"\\\n\0\xc3\xa9\xff" + secrets.token_bytes(24) for name in ("key", "ticket")
    }
    credential = credential_bytes(key=hidden["key"], ticket=hidden["ticket"])
    stored.begin()
    with stored.connected() as kcm:
        kcm.store(stored.NAME, credential)
        assert kcm.get_cred_list(stored.NAME) == [credential]
        kcm.replace(stored.NAME, 0, ALICE, [credential])
    machine.run("systemctl", "restart", machine.SERVICE)
    with stored.connected() as kcm:
        assert kcm.get_cred_list(stored.NAME) == [credential]
    machine.run("journalctl", "--sync")
    journal = subprocess.run(
        ["journalctl", "--boot", "--output=export"], check=True, capture_output=True
    ).stdout
    assert b"KCM_OP=REPLACE" in journal
    assert traces({"the journal": journal}, hidden) == []
