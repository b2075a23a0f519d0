"""A new key, and a backup, by the document's commands: with the service's sandbox and the policy module."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs/key-and-backup.md"
_CREDENTIAL = Path("/etc/credstore.encrypted/pykcm.key")
_DATABASE = machine.STATE / "pykcm.db"
_KEY_FILE = machine.STATE / "key"
_SUCCESSOR = machine.STATE / "key.next"


@pytest.fixture
def user(client_as: Callable[..., LabelledClient]) -> Iterator[LabelledClient]:
    """A user whose tickets are to be there at the end, for whom nothing was denied."""
    shutil.rmtree(_CREDENTIAL.parent, ignore_errors=True)
    yield client_as(1000)
    assert machine.denials("--comm", "pykcmd") == ""


def test_rekey_replaces_the_key_file(user: LabelledClient) -> None:
    """The daemon replaces its key file while it serves, and the old key opens nothing."""
    user.kinit("alice")
    listed = user.klist()
    pid = machine.main_pid()
    old_key, old_database = _KEY_FILE.read_bytes(), _DATABASE.read_bytes()
    machine.shell(commands_of(_DOCUMENT, "Another key")[0])
    assert machine.main_pid() == pid
    assert _KEY_FILE.read_bytes() != old_key
    assert _DATABASE.read_bytes()[:16] != old_database[:16], "the salt, and so all pages, are others"
    assert not _SUCCESSOR.exists()
    assert user.klist() == listed
    machine.run("systemctl", "restart", machine.SERVICE)
    assert user.klist() == listed


def test_rekey_with_a_credential(user: LabelledClient) -> None:
    """The old credential works until the new one replaces it; then only the new one works."""
    machine.shell(commands_of(_DOCUMENT, "The key")[0])
    user.kinit("alice")
    listed = user.klist()
    make_key, rekey, put, restart, shred = commands_of(_DOCUMENT, "Another key")[1].splitlines()
    machine.shell(f"{make_key}\n{rekey}")
    assert _SUCCESSOR.exists()
    machine.run("systemctl", "restart", machine.SERVICE)
    assert user.klist() == listed
    machine.shell(f"{put}\n{restart}\n{shred}")
    assert user.klist() == listed
    assert not _SUCCESSOR.exists()
    assert not _KEY_FILE.exists()


def test_restored_backup_has_its_tickets(user: LabelledClient, tmp_path: Path) -> None:
    """A restored backup has the tickets of its time, and no later ones."""
    user.kinit("alice")
    listed = user.klist_all()
    file = tmp_path / "backup"
    backup, restore = commands_of(_DOCUMENT, "Backups")
    machine.shell(backup.replace("FILE", str(file)))
    assert file.stat().st_mode & 0o777 == 0o600
    user.kinit("bob")
    assert user.klist_all() != listed
    *commands, start = restore.replace("FILE", str(file)).splitlines()
    machine.shell("\n".join([*commands, "restorecon -R /var/lib/pykcm", start]))
    assert user.klist_all() == listed
