"""The key by the documents' commands: a credential that systemd decrypts, also without the right one."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENTS = Path(__file__).parents[2] / "docs"
_CREDENTIAL = Path("/etc/credstore.encrypted/pykcm.key")
_NO_SERVER = "klist: No KCM server found while resolving ccache\n"
_KEY_FILE = machine.STATE / "key"


@pytest.fixture
def user(client_as: Callable[..., LabelledClient]) -> LabelledClient:
    """A user of a machine that has never had a credential."""
    shutil.rmtree(_CREDENTIAL.parent, ignore_errors=True)
    return client_as(1000)


def _make_credential() -> None:
    """Make the credential by the documents' commands, before the first start."""
    machine.shell(commands_of(_DOCUMENTS / "key-and-backup.md", "The key")[0])


def _restart_until_given_up() -> None:
    """Restart the service, and wait until systemd has given up."""
    # Fewer starts than in the installed unit: on an emulated machine a start takes ten times as long.
    machine.drop_in(machine.SERVICE, "[Unit]\nStartLimitBurst=4\nStartLimitIntervalSec=1h\n")
    restarted = machine.attempt("systemctl", "restart", machine.SERVICE)
    assert restarted.returncode != 0
    machine.wait_until(
        lambda: machine.property_of(machine.SOCKET_UNIT, "ActiveState") == "failed", "systemd gives up"
    )
    assert machine.property_of(machine.SOCKET_UNIT, "Result") == "service-start-limit-hit"


def _start_again() -> None:
    """Run the document's commands for the time after the cause was removed."""
    machine.shell(commands_of(_DOCUMENTS / "operations.md", "When it does not start")[1])


def test_credential_at_the_first_start(user: LabelledClient) -> None:
    """With a credential there is no key file, and the next daemon opens the database with it."""
    _make_credential()
    user.kinit("alice")
    listed = user.klist()
    machine.run("systemctl", "restart", machine.SERVICE)
    assert user.klist() == listed
    assert (machine.STATE / "pykcm.db").exists()
    assert not _KEY_FILE.exists()
    assert _CREDENTIAL.stat().st_size > 32


def test_key_file_becomes_a_credential(user: LabelledClient) -> None:
    """The document's commands move the key into a credential; the tickets remain, and the file is removed."""
    user.kinit("alice")
    listed = user.klist()
    key = _KEY_FILE.read_bytes()
    machine.shell(commands_of(_DOCUMENTS / "key-and-backup.md", "The key")[1])
    assert not _KEY_FILE.exists()
    assert user.klist() == listed
    machine.run("systemctl", "restart", machine.SERVICE)
    assert user.klist() == listed
    assert key not in _CREDENTIAL.read_bytes()


def test_missing_credential_is_refused(user: LabelledClient) -> None:
    """The daemon does not start, logs why, and makes no new key; later all tickets are there."""
    _make_credential()
    user.kinit("alice")
    listed = user.klist()
    away = _CREDENTIAL.rename(_CREDENTIAL.with_name("away"))
    _restart_until_given_up()
    assert "there is a database, but no key" in machine.journal()
    assert user.run("klist")[1:] == (1, _NO_SERVER)
    assert not _KEY_FILE.exists()
    away.rename(_CREDENTIAL)
    _start_again()
    assert user.klist() == listed


def test_wrong_credential_is_refused(user: LabelledClient) -> None:
    """The daemon does not start, logs why, and keeps the database; documented commands begin a new one."""
    _make_credential()
    user.kinit("alice")
    machine.run("systemctl", "stop", machine.SERVICE)
    database = machine.STATE / "pykcm.db"
    before = database.read_bytes()
    _make_credential()
    _restart_until_given_up()
    assert f"{database}: " in machine.journal()
    assert user.run("klist")[1:] == (1, _NO_SERVER)
    assert database.read_bytes() == before
    machine.shell(commands_of(_DOCUMENTS / "operations.md", "When it does not start")[0])
    _start_again()
    assert user.klist_all() == []
    user.kinit("alice")
    assert user.klist().principal.startswith("alice@")
    assert (machine.STATE / "damaged" / "pykcm.db").read_bytes() == before
