"""The doctor's check of the store that hosts share, with a real database."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pykcm.cli.doctor import shared_store, storage
from pykcm.cli.doctor.environment import Environment
from pykcm.cli.doctor.results import Level
from pykcm.control.frames import encode
from tests.store.postgresql.administrator import RAW, Administrator, administrator
from tests.store.postgresql.conftest import postgresql

from .machine import CONTROL, Machine

__all__ = ["administrator", "postgresql"]


def environment_of(administrator: Administrator, root: Path = Path("/nowhere")) -> Environment:
    """The machine of the administrator, whose other files are at `root`."""
    return Environment(root=root, config_file=administrator.config, control_path=CONTROL, uid=0)


def test_right_database_is_ok(administrator: Administrator) -> None:
    """A database that a daemon can use is ok, except that the tests' server does not sync."""
    administrator.init()
    result = shared_store.shared_store(environment_of(administrator))
    assert result.level is Level.WARNING
    assert result.text.startswith("fsync: off")
    assert ";" not in result.text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("DROP SCHEMA pykcm CASCADE", "schema: there is none: run `pykcmctl store init`"),
        ("UPDATE pykcm.schema SET version = 2", "install the newer pykcm"),
        ("UPDATE pykcm.keys SET id = '\\x0011223344556677'", "give all hosts the same key"),
    ],
)
def test_wrong_database_fails_with_a_way_out(administrator: Administrator, damage: str, reason: str) -> None:
    """A schema or key that a daemon refuses is a failure, and the remedy is the check that says more."""
    administrator.init()
    administrator.execute(damage)
    result = shared_store.shared_store(environment_of(administrator))
    assert result.level is Level.FAILED
    assert reason in result.text
    assert result.remedy == ("pykcmctl store check",)


def test_database_that_is_away_fails(administrator: Administrator) -> None:
    """The failure names the database, and no password."""
    administrator.configure("host=/nowhere dbname=tickets password=secret-word")
    result = shared_store.shared_store(environment_of(administrator))
    assert (result.level, "postgresql /nowhere/tickets" in result.text) == (Level.FAILED, True)
    assert "secret-word" not in result.text


def test_missing_key_fails_and_none_is_promised(administrator: Administrator, machine: Machine) -> None:
    """Without a key both checks fail; a systemd credential, which only the daemon has, is no failure."""
    administrator.key_file.unlink()
    machine.has_systemd()
    machine.folder("/var/lib/pykcm", 0o700)
    environment = environment_of(administrator, machine.environment().root)
    assert shared_store.shared_store(environment).level is Level.FAILED
    assert "none is made" in storage.key_source(environment).text
    machine.write("/etc/credstore.encrypted/pykcm.key", RAW, 0o600)
    result = shared_store.shared_store(environment_of(administrator, environment.root))
    assert (result.level, "systemd-run" in result.text) == (Level.SKIPPED, True)


def test_key_file_is_not_used_where_the_daemon_has_a_credential(
    administrator: Administrator, machine: Machine
) -> None:
    """The daemon takes the credential first: an old key file, or no password here, is no failure."""
    machine.has_systemd()
    machine.write("/etc/credstore.encrypted/pykcm.pgpass", "", 0o600)
    result = shared_store.shared_store(environment_of(administrator, machine.root))
    assert result.level is Level.SKIPPED
    assert "pykcm.pgpass" in result.text
    administrator.init()
    administrator.configure(f"{administrator.role} passfile=/nowhere")
    assert shared_store.shared_store(environment_of(administrator, machine.root)).level is Level.WARNING


@pytest.mark.parametrize("has_credential", [False, True])
def test_daemon_that_does_not_reach_the_database_fails(
    administrator: Administrator, machine: Machine, *, has_credential: bool
) -> None:
    """The unit's sandbox or the policy may keep the daemon from a database that this command reaches."""
    administrator.init()
    machine.has_systemd()
    if has_credential:
        machine.write("/etc/credstore.encrypted/pykcm.key", RAW, 0o600)
    with answering(machine, {"away_since": 1.0, "reason": "Permission denied"}):
        result = shared_store.shared_store(environment_of(administrator, machine.root))
    assert result.level is Level.FAILED
    assert "Permission denied" in result.text
    with answering(machine, {"away_since": None, "reason": ""}):
        result = shared_store.shared_store(environment_of(administrator, machine.root))
    assert result.level is (Level.OK if has_credential else Level.WARNING)


def test_database_that_only_the_daemon_reaches_is_a_warning(
    administrator: Administrator, machine: Machine
) -> None:
    """The role may be that of the service's user; the remedy checks as this user."""
    machine.has_systemd()
    administrator.configure(f"{administrator.role} user=nobody-such")
    with answering(machine, {"away_since": None, "reason": ""}):
        result = shared_store.shared_store(environment_of(administrator, machine.root))
    assert result.level is Level.WARNING
    assert "nobody-such" in result.text
    assert "User=pykcm" in result.remedy[0]


@contextmanager
def answering(machine: Machine, store: dict[str, Any]) -> Iterator[None]:
    """A daemon whose statistics have this state of the store."""
    with machine.listen(CONTROL, 0o600) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(encode({"item": {"store": store}}) + encode({"end": {}}))

        thread = Thread(target=answer)
        thread.start()
        yield
        thread.join()
    machine.path(CONTROL).unlink()


def test_missing_library_fails(administrator: Administrator) -> None:
    """Without psycopg the failure says how to install it."""
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from pathlib import Path\n"
        "from pykcm.cli.doctor import environment, shared_store\n"
        "machine = environment.Environment(config_file=Path(sys.argv[1]))\n"
        "print(*shared_store.shared_store(machine))"
    )
    command = [sys.executable, "-c", program, str(administrator.config)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.startswith("failed")
    assert 'pip install "pykcm[postgresql]"' in printed


def test_other_stores_are_skipped(machine: Machine) -> None:
    """The check is for the shared store alone."""
    assert shared_store.shared_store(machine.environment()).level is Level.SKIPPED
