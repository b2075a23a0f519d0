"""A daemon that cannot work does not start: it names the file and the reason, and changes nothing."""

import contextlib
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient

from .clients import MitClient
from .conftest import USER, client_files, public_folder, started, watched
from .credentials import for_server
from .daemon import Pykcmd, effective_uid
from .database import database_file, key_file, open_database
from .kdc import REALM, Kdc

PAGE = 4096


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file, except for the lock files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


@pytest.fixture(scope="module")
def used_state(kdc: Kdc) -> Iterator[Path]:
    """The state folder of a daemon that has run; its database has many pages."""
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon, started(daemon):
        krb5_conf, trace = client_files(kdc, folder)
        MitClient(USER, daemon.socket_path, krb5_conf, kdc.keytab, trace).kinit("alice")
        name = b"%d" % USER
        with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
            ticket = kcm.get_cred_list(name)[-1]
            blobs = [for_server(b"service%d" % index, ticket) for index in range(100)]
            kcm.replace(name, 0, kcm.get_principal(name), blobs)
        assert daemon.stop() == 0
        assert database_file(daemon.state_dir).stat().st_size > 20 * PAGE
        yield daemon.state_dir


@pytest.fixture
def used(used_state: Path, stopped_pykcmd: Pykcmd) -> Pykcmd:
    """A daemon that is not yet started, with a copy of that state."""
    shutil.copytree(used_state, stopped_pykcmd.state_dir)
    return stopped_pykcmd


def wrong_key(state_dir: Path) -> Path:
    key_file(state_dir).write_bytes(secrets.token_bytes(32))
    return database_file(state_dir)


def short_key(state_dir: Path) -> Path:
    key = key_file(state_dir)
    key.write_bytes(key.read_bytes()[:31])
    return key


def long_key(state_dir: Path) -> Path:
    key = key_file(state_dir)
    key.write_bytes(key.read_bytes() + b"\n")
    return key


def open_key(state_dir: Path) -> Path:
    key = key_file(state_dir)
    key.chmod(0o644)
    return key


def lost_key(state_dir: Path) -> Path:
    key = key_file(state_dir)
    key.unlink()
    return key


def open_folder(state_dir: Path) -> Path:
    state_dir.chmod(0o755)
    return state_dir


def _overwrite(database: Path, offset: int, size: int) -> Path:
    with database.open("r+b") as file:
        file.seek(offset)
        file.write(secrets.token_bytes(size))
    return database


def damaged_header(state_dir: Path) -> Path:
    return _overwrite(database_file(state_dir), 0, 100)


def damaged_page(state_dir: Path) -> Path:
    database = database_file(state_dir)
    return _overwrite(database, database.stat().st_size // PAGE // 2 * PAGE, PAGE)


def damaged_bytes(state_dir: Path) -> Path:
    database = database_file(state_dir)
    return _overwrite(database, database.stat().st_size // PAGE // 3 * PAGE + 1000, 16)


def truncated_database(state_dir: Path) -> Path:
    database = database_file(state_dir)
    os.truncate(database, 10 * PAGE)
    return database


def no_database(state_dir: Path) -> Path:
    database = database_file(state_dir)
    database.write_bytes(b"Not a database.\n" * 1000)
    return database


def newer_schema(state_dir: Path) -> Path:
    with open_database(state_dir) as database:
        database.execute("PRAGMA user_version = 99")
    return database_file(state_dir)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_key, "key"),
        (short_key, "31 bytes"),
        (long_key, "32"),
        (open_key, "0644"),
        (lost_key, "key"),
        (open_folder, "0755"),
        (damaged_header, "damaged"),
        (damaged_page, "damaged"),
        (damaged_bytes, "damaged"),
        (truncated_database, "malformed"),
        (no_database, "damaged"),
        (newer_schema, "99"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_unusable_state_is_refused_unchanged(used: Pykcmd, spoil: Callable[[Path], Path], words: str) -> None:
    """The daemon names the file and the fault, and does not change any file."""
    file = spoil(used.state_dir)
    before = snapshot(used.folder / "state")
    refused = used.refusal()
    assert refused.code > 0
    assert str(file) in refused.message
    assert words in refused.message
    assert snapshot(used.folder / "state") == before
    assert not used.answers()


def test_restored_key_opens_the_database(used: Pykcmd, mit: MitClient) -> None:
    """After a refused start with a wrong key, the right key works, and nothing is lost."""
    key = key_file(used.state_dir)
    right = key.read_bytes()
    wrong_key(used.state_dir)
    used.refusal()
    key.write_bytes(right)
    used.start()
    assert len(mit.klist().tickets) == 100


def test_database_damaged_under_running_daemon(used: Pykcmd, mit: MitClient) -> None:
    """Users get an error, and the daemon continues."""
    used.start()
    damaged_page(used.state_dir)
    for _ in range(2):
        assert mit.run("klist")[1:] == (1, "klist: Input/output error while resolving ccache\n")
    assert used.answers()
    assert f"UID {USER}: GET_DEFAULT_CACHE failed in the store" in used.log
    assert used.stop() == 0


CONFIGURATIONS = {
    "root_list_all = true\n": "root_list_all",
    "max_uid_ccaches = 'many'\n": "max_uid_ccaches",
    "max_uid_ccaches = 1.5\n": "max_uid_ccaches",
    "root_lists_all = 1\n": "root_lists_all",
    "max_ccache_size = -1\n": "max_ccache_size",
    "responder_idle_timeout = '10 parsecs'\n": "responder_idle_timeout",
    "responder_idle_timeout = '-5s'\n": "responder_idle_timeout",
    "responder_idle_timeout = true\n": "responder_idle_timeout",
    "responder_idle_timeout = inf\n": "responder_idle_timeout",
    "responder_idle_timeout = nan\n": "responder_idle_timeout",
    "store = 'postgres'\n": "store",
    "durability = 'maybe'\n": "durability",
    "log_level = 'loud'\n": "log_level",
    "[kcm]\nmax_ccaches = 1\n": "kcm",
    "max_ccaches = \n": "",
    "max_ccaches = 1\nmax_ccaches = 2\n": "line 2",
    "# \x00\n": "",
}


@pytest.mark.parametrize("toml", CONFIGURATIONS)
def test_unusable_configuration_is_refused(stopped_pykcmd: Pykcmd, toml: str) -> None:
    """An unknown option, a wrong type or an invalid value is refused with file and option."""
    stopped_pykcmd.configure(toml)
    refused = stopped_pykcmd.refusal()
    assert refused.code > 0
    assert str(stopped_pykcmd.config_path) in refused.message
    assert CONFIGURATIONS[toml] in refused.message
    assert not stopped_pykcmd.state_dir.exists()
    assert not stopped_pykcmd.socket_path.exists()


def test_configuration_that_is_not_utf8_is_refused(stopped_pykcmd: Pykcmd) -> None:
    stopped_pykcmd.config_path.write_bytes(b"store = '\xff'\n")
    refused = stopped_pykcmd.refusal()
    assert str(stopped_pykcmd.config_path) in refused.message


def test_missing_configuration_file_is_refused(stopped_pykcmd: Pykcmd) -> None:
    """A file that was named on the command line must exist."""
    stopped_pykcmd.config_path.unlink()
    refused = stopped_pykcmd.refusal()
    assert refused.code > 0
    assert str(stopped_pykcmd.config_path) in refused.message


@pytest.mark.parametrize(
    "options", [("--store", "paper"), ("--log-level", "loud"), ("--no-such-option",), ("word",)]
)
def test_unknown_option_is_refused(stopped_pykcmd: Pykcmd, options: tuple[str, ...]) -> None:
    refused = stopped_pykcmd.refusal(*options)
    assert refused.code == 2
    assert options[-1] in refused.message
    assert not stopped_pykcmd.state_dir.exists()


def test_socket_of_running_daemon_is_not_taken(pykcmd: Pykcmd, mit: MitClient) -> None:
    """A second daemon on the same socket refuses to start, and the first one continues."""
    mit.kinit("alice")
    second = Pykcmd(pykcmd.folder)
    second.state_dir = pykcmd.folder / "second-state"
    inode = pykcmd.socket_path.stat().st_ino
    process = second.launch()
    try:
        assert process.wait(60) > 0
    finally:
        second.end()
    assert str(pykcmd.socket_path) in pykcmd.log
    assert pykcmd.socket_path.stat().st_ino == inode
    assert mit.klist().principal == f"alice@{REALM}"


def test_state_of_running_daemon_is_not_taken(pykcmd: Pykcmd, mit: MitClient) -> None:
    """A second daemon on the same state folder refuses to start, and the first one continues."""
    mit.kinit("alice")
    second = Pykcmd(pykcmd.folder)
    second.socket_path = pykcmd.folder / "second.sock"
    second.control_path = pykcmd.folder / "second-control.sock"
    refused = second.refusal()
    assert refused.code > 0
    assert str(pykcmd.state_dir) in refused.message
    assert not second.socket_path.exists()
    assert mit.klist().principal == f"alice@{REALM}"


def test_stale_socket_is_replaced(pykcmd: Pykcmd, mit: MitClient) -> None:
    """The next daemon replaces the socket of a killed one."""
    pykcmd.kill()
    assert stat.S_ISSOCK(pykcmd.socket_path.stat().st_mode)
    assert not pykcmd.answers()
    pykcmd.start()
    assert stat.S_IMODE(pykcmd.socket_path.stat().st_mode) == 0o666
    mit.kinit("alice")


@contextlib.contextmanager
def _file(path: Path) -> Iterator[None]:
    path.write_text("precious\n")
    yield
    assert path.read_text() == "precious\n"


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    path.mkdir()
    yield
    assert path.is_dir()


@contextlib.contextmanager
def _link(path: Path) -> Iterator[None]:
    target = path.with_name("elsewhere")
    with _file(target):
        path.symlink_to(target)
        yield
        assert path.readlink() == target


@contextlib.contextmanager
def _datagram_socket(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        yield
        assert path.is_socket()


@pytest.mark.parametrize("occupy", [_file, _folder, _link, _datagram_socket])
def test_other_file_at_the_socket_path_is_kept(
    stopped_pykcmd: Pykcmd, occupy: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    """Anything except a stale socket of the right kind is named and not changed."""
    with occupy(stopped_pykcmd.socket_path):
        refused = stopped_pykcmd.refusal()
    assert refused.code > 0
    assert str(stopped_pykcmd.socket_path) in refused.message


def test_missing_folder_of_socket_is_refused(stopped_pykcmd: Pykcmd) -> None:
    stopped_pykcmd.socket_path = stopped_pykcmd.folder / "missing" / "kcm.sock"
    refused = stopped_pykcmd.refusal()
    assert refused.code > 0
    assert str(stopped_pykcmd.socket_path) in refused.message


def test_version_is_printed(stopped_pykcmd: Pykcmd) -> None:
    from pykcm import __version__

    process = stopped_pykcmd.launch("--version")
    assert process.wait(60) == 0
    assert __version__ in stopped_pykcmd.log
    assert not stopped_pykcmd.socket_path.exists()
