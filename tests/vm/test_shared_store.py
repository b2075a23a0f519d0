"""The shared store on a machine: Debian's PostgreSQL, the drop-in, SELinux, and systemd credentials."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_DOCUMENT = Path(__file__).parents[2] / "docs" / "shared-store.md"
_DROP_INS = Path("/etc/systemd/system/pykcm.service.d")
_CREDENTIALS = Path("/etc/credstore.encrypted")
_BOOLEAN = "pykcm_use_postgresql"

ClientAs = Callable[..., LabelledClient]

# Connection strings by the way to the server. The daemon's user is the role of its name on the Unix socket.
BY_SOCKET = "host=/run/postgresql dbname=pykcm"
BY_ADDRESS = "host=127.0.0.1 dbname=pykcm user=pykcm sslmode=require"
BY_NAME = "host=localhost dbname=pykcm user=pykcm sslmode=require"

# The only access that the policy denies on each of these ways, by class and permission.
DENIED = {BY_SOCKET: ("dir", "search"), BY_ADDRESS: ("tcp_socket", "create")}


def _as_postgres(commands: str) -> str:
    return machine.run(
        "runuser", "-u", "postgres", "--", "bash", "-euo", "pipefail", "-c", f"cd /\n{commands}"
    )


def _encrypt(name: str, path: Path) -> None:
    """Make a file a systemd credential."""
    _CREDENTIALS.mkdir(0o700, exist_ok=True)
    machine.run("systemd-creds", "encrypt", f"--name={name}", str(path), str(_CREDENTIALS / name))


def _make_key(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(os.urandom(32))


def _store(command: str) -> str:
    """Run a command of `pykcmctl store` with the service's credentials, as the document says."""
    (line,) = (
        line
        for block in commands_of(_DOCUMENT, "Connecting")
        for line in block.splitlines()
        if line.startswith("systemd-run ")
    )
    assert line.endswith(" pykcmctl store check")
    return machine.shell(line.removesuffix("check") + command)


class Configure(Protocol):
    """Sets the connection string, and other options, for the next start."""

    def __call__(self, conninfo: str, options: str = "") -> None: ...


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the service's encrypted credentials. PostgreSQL runs, with the schema for their key."""
    (cluster,) = Path("/etc/postgresql").glob("*/main")
    unit = f"postgresql@{cluster.parent.name}-main.service"
    machine.run("systemctl", "start", unit)
    for_database, *_, for_both = commands_of(_DOCUMENT, "Setting it up")
    _as_postgres(for_database)
    machine.shell(next(line for line in for_both.splitlines() if line.startswith("install ")))
    folder = tmp_path_factory.mktemp("credentials")
    _make_key(folder / "key")
    (folder / "pgpass").write_text("*:*:pykcm:pykcm:choose-one\n")
    _encrypt("pykcm.key", folder / "key")
    _encrypt("pykcm.pgpass", folder / "pgpass")
    _configure(BY_NAME)
    schema = folder / "schema.sql"
    schema.write_text(_store("init --sql --role pykcm"))
    machine.shell(f"runuser -u postgres -- psql -X -v ON_ERROR_STOP=1 -1 pykcm <{schema}")
    kept = folder / "kept"
    shutil.copytree(_CREDENTIALS, kept)
    yield kept
    machine.run("systemctl", "stop", machine.SOCKET_UNIT, machine.SERVICE, unit)
    shutil.rmtree(_CREDENTIALS)
    (_DROP_INS / "postgresql.conf").unlink()
    machine.run("systemctl", "daemon-reload")


@pytest.fixture
def configure(credentials: Path, pykcm: None) -> Iterator[Configure]:
    """A function. The service has its credentials, which the test may change for those after it."""
    shutil.copytree(credentials, _CREDENTIALS, dirs_exist_ok=True)
    yield _configure
    shutil.rmtree(credentials)
    shutil.copytree(_CREDENTIALS, credentials)


def _configure(conninfo: str, options: str = "") -> None:
    machine.configure(f'store = "postgresql"\npostgresql = "{conninfo}"\n{options}')


@pytest.fixture
def allowed() -> Iterator[None]:
    """The policy allows the connection, until the machine ends or the test."""
    machine.run("setsebool", _BOOLEAN, "on")
    yield
    machine.run("setsebool", _BOOLEAN, "off")


def _denied(since: str) -> set[tuple[str, str]]:
    """The classes and permissions of the daemon's denials since `since`, the earlier ones."""
    denials = machine.denials("--comm", "pykcmd").removeprefix(since)
    found = re.findall(r"denied  \{ ([^}]+) \}.* tclass=(\w+)", denials)
    return {(kind, permission) for permissions, kind in found for permission in permissions.split()}


@pytest.mark.parametrize("conninfo", DENIED)
def test_policy_decides_whether_the_daemon_may_connect(
    client_as: ClientAs, configure: Configure, conninfo: str
) -> None:
    """Without the boolean, requests fail and the log and doctor name it; with it, the same daemon serves."""
    before = machine.denials("--comm", "pykcmd")
    configure(conninfo, "store_timeout = 3\n")
    user = client_as(1000)
    refused = user.run("kinit", "-k", "-t", str(user.keytab), "alice")
    assert refused.code == 1
    assert "Connection timed out" in refused.output
    log = machine.journal()
    assert "the database cannot be reached" in log
    assert f"setsebool -P {_BOOLEAN} on" in log
    pid = machine.main_pid()
    check = machine.doctor()["shared store"]
    assert check["outcome"] == "failed"
    assert f"setsebool -P {_BOOLEAN} on" in check["text"]
    assert _denied(before) == {DENIED[conninfo]}
    before = machine.denials("--comm", "pykcmd")
    # Not -P, which compiles the policy.
    machine.run("setsebool", _BOOLEAN, "on")
    try:
        machine.wait_until(lambda: "the database is back" in machine.journal(), "the daemon connects")
        user.kinit("alice")
        assert user.klist().principal == "alice@PYKCM.TEST"
        assert machine.main_pid() == pid
        assert machine.doctor()["shared store"]["outcome"] == "ok"
        user.ok("kdestroy")
        # The daemon may have tried once more before the boolean was on.
        assert _denied(before) <= {DENIED[conninfo]}
    finally:
        machine.run("setsebool", _BOOLEAN, "off")


def test_tickets_are_in_the_database_after_an_idle_exit(
    client_as: ClientAs, configure: Configure, allowed: None
) -> None:
    """Key and password are credentials; another daemon serves the tickets, and no key is on the disk."""
    before = machine.denials("--comm", "pykcmd")
    configure(BY_NAME, 'store_timeout = 30\nresponder_idle_timeout = "2s"\n')
    user = client_as(1001)
    user.kinit("bob")
    user.kvno("host/server.pykcm.test")
    listed = user.klist()
    machine.wait_for_the_end()
    assert user.klist() == listed
    assert not {"key", "pykcm.db"} & {path.name for path in machine.STATE.iterdir()}
    found = _store("check")
    assert "as the other hosts'" in found
    assert "FAILED" not in found
    assert "1001" in _as_postgres("psql -AtX -c 'SELECT uid FROM pykcm.secrets' pykcm").splitlines()
    assert _denied(before) == set()


def test_rekey_with_credentials(
    client_as: ClientAs, configure: Configure, allowed: None, tmp_path: Path
) -> None:
    """The daemon seals with pykcm.key.next; the steps that rekey prints make it the key."""
    before = machine.denials("--comm", "pykcmd")
    configure(BY_SOCKET, "store_timeout = 30\n")
    # The start takes longer than kinit may on a slow machine.
    machine.run("systemctl", "start", machine.SERVICE)
    user = client_as(1002)
    user.kinit("alice")
    listed = user.klist()
    old = _key_id(_store("check"))
    _make_key(tmp_path / "new")
    _encrypt("pykcm.key.next", tmp_path / "new")
    machine.run("systemctl", "restart", machine.SERVICE)
    assert user.klist() == listed
    said = machine.run("/usr/bin/pykcmctl", "rekey")
    assert "All rows in the database are sealed with the new key" in said
    assert user.klist() == listed
    machine.shell("\n".join(re.findall(r"^    (.+)$", said, re.MULTILINE)))
    assert not (_CREDENTIALS / "pykcm.key.next").exists()
    assert user.klist() == listed
    found = _store("check")
    assert "as the other hosts'" in found
    assert _key_id(found) != old
    assert machine.doctor()["shared store"]["outcome"] == "ok"
    assert _denied(before) == set()


def _key_id(found: str) -> str:
    """The id of the present key in the output of `store check`."""
    (key,) = re.findall(r"^ok +key: ([0-9a-f]{16}),", found, re.MULTILINE)
    return str(key)
