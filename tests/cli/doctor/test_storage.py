"""The doctor's checks of the state folder, the key and the disk."""

import json
import os
from types import SimpleNamespace

import pytest

from pykcm.cli.doctor import storage
from pykcm.cli.doctor.results import Level

from .machine import ODD, Machine, words

STATE = "/var/lib/pykcm"
KEY = f"{STATE}/key"
CREDENTIAL = "/etc/credstore.encrypted/pykcm.key"
ALL = [storage.state_folder, storage.key_source, storage.pending_rekey, storage.disk_space]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def state(machine: Machine) -> Machine:
    """A machine whose state folder is as the first start leaves it."""
    machine.folder(STATE, 0o700)
    machine.write(KEY, bytes(32), 0o600)
    machine.write(f"{STATE}/pykcm.db", b"", 0o600)
    return machine


def test_state_of_daemon_is_ok(state: Machine) -> None:
    for check in (storage.state_folder, storage.key_source, storage.pending_rekey):
        result = check(state.environment())
        assert result.level is Level.OK, result


@pytest.mark.parametrize("check", ALL)
def test_missing_state_is_skipped(machine: Machine, check: "type[object]") -> None:
    """Before the first start, and with the memory store, there is nothing to check."""
    assert check(machine.environment()).level is Level.SKIPPED  # type: ignore[call-arg, attr-defined]
    machine.folder(STATE, 0o777)
    machine.write("/etc/pykcm/pykcm.toml", 'store = "memory"\n')
    assert check(machine.environment()).level is Level.SKIPPED  # type: ignore[call-arg, attr-defined]


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_open_state_folder_fails(state: Machine, mode: int) -> None:
    """The daemon refuses to start if other users have access to the folder."""
    state.folder(STATE, mode)
    result = storage.state_folder(state.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod 0700 {STATE}",))


@only_root
def test_wrong_owner_fails(state: Machine) -> None:
    """The folder and its files must belong to the service's user; files of root are accepted."""
    state.installed()
    result = storage.state_folder(state.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chown -R pykcm: {STATE}",))
    os.chown(state.path(STATE), 990, 990)
    os.chown(state.path(KEY), 990, 990)
    assert storage.state_folder(state.environment()).level is Level.OK
    os.chown(state.path(f"{STATE}/pykcm.db"), 991, 991)
    result = storage.state_folder(state.environment())
    assert result.level is Level.FAILED
    assert "pykcm.db in it does not belong to pykcm" in result.text


def test_key_next_to_database_is_ok(state: Machine) -> None:
    """The result says that a copy of the folder contains both."""
    result = storage.key_source(state.environment())
    assert result.level is Level.OK
    assert "next to the database" in result.text
    state.write("/etc/pykcm/key", bytes(32), 0o600)
    state.write("/etc/pykcm/pykcm.toml", 'key_file = "/etc/pykcm/key"\n')
    assert storage.key_source(state.environment()).text == "the key file /etc/pykcm/key"


@pytest.mark.parametrize(("size", "mode"), [(31, 0o600), (33, 0o600), (0, 0o600), (32, 0o640), (32, 0o604)])
def test_unusable_key_file_fails(state: Machine, size: int, mode: int) -> None:
    """The daemon refuses a key of another size, or one that other users may read."""
    state.write(KEY, bytes(size), mode)
    result = storage.key_source(state.environment())
    assert result.level is Level.FAILED
    assert "refuses to start" in result.text


@only_root
def test_key_of_other_user_fails(state: Machine) -> None:
    state.installed()
    os.chown(state.path(KEY), 991, 991)
    assert storage.key_source(state.environment()).remedy == (f"chown pykcm: {KEY}",)


def test_missing_key_of_database_fails(state: Machine) -> None:
    """Without a database, the daemon makes a key when it first starts."""
    state.path(KEY).unlink()
    assert storage.key_source(state.environment()).level is Level.FAILED
    state.path(f"{STATE}/pykcm.db").unlink()
    assert storage.key_source(state.environment()).level is Level.OK


def test_key_file_next_to_credential_is_a_warning(state: Machine) -> None:
    """With a systemd credential no key file is needed."""
    state.has_systemd()
    state.write(CREDENTIAL, b"encrypted", 0o600)
    result = storage.key_source(state.environment())
    assert result.level is Level.WARNING
    assert result.remedy[0] == f"mv {KEY} {KEY}.unused"
    assert not [each for each in result.remedy if "shred" in each or "rm " in each]
    state.path(KEY).unlink()
    result = storage.key_source(state.environment())
    assert (result.level, result.text) == (Level.OK, f"the systemd credential {CREDENTIAL}")


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("free", "inodes", "flags", "level"),
    [
        (1000, 1000, 0, Level.OK),
        (63, 1000, 0, Level.WARNING),
        (3, 1000, 0, Level.FAILED),
        (1000, 99, 0, Level.WARNING),
        (1000, 0, 0, Level.FAILED),
        (1000, 1000, os.ST_RDONLY, Level.FAILED),
    ],
)
def test_little_disk_space_is_reported(free: int, inodes: int, flags: int, level: Level) -> None:
    """Little free space is a warning; too little, no inodes, or a read-only file system fail."""
    disk = SimpleNamespace(f_bavail=free * 256, f_frsize=4096, f_files=10_000, f_favail=inodes, f_flag=flags)
    result = storage.space_result(f"/srv/{ODD}", disk)  # type: ignore[arg-type]
    assert result.level is level, result
    assert [command[-1] for command in words(result)][:1] == [f"/srv/{ODD}"] * (level is not Level.OK)


def test_file_system_without_inodes_is_ok() -> None:
    """Some file systems make inodes as needed, and report 0."""
    disk = SimpleNamespace(f_bavail=1 << 20, f_frsize=4096, f_files=0, f_favail=0, f_flag=0)
    assert storage.space_result(STATE, disk).level is Level.OK  # type: ignore[arg-type]


def test_disk_of_state_folder_is_checked(state: Machine) -> None:
    disk = os.statvfs(state.path(STATE))
    result = storage.disk_space(state.environment())
    assert result.level is storage.space_result(STATE, disk).level
    assert result.text.startswith(f"{STATE}: ")


@pytest.mark.parametrize(
    ("configuration", "credential", "remedy"),
    [
        ("", False, "systemctl restart pykcm.service"),
        ("", True, f"systemd-creds encrypt --name=pykcm.key /root/pykcm.key {CREDENTIAL}"),
        (
            'key_file = "/etc/pykcm/key"\n',
            False,
            "install -m 0600 -o pykcm -g pykcm /root/pykcm.key /etc/pykcm/key",
        ),
    ],
)
def test_unfinished_rekey_is_a_warning(
    state: Machine, configuration: str, credential: bool, remedy: str
) -> None:
    """The remedy puts the new key where the old one is."""
    state.has_systemd()
    state.write("/etc/pykcm/pykcm.toml", configuration)
    if credential:
        state.write(CREDENTIAL, b"", 0o600)
    state.write(f"{STATE}/key.next", b"", 0o600)
    result = storage.pending_rekey(state.environment())
    assert result.level is Level.WARNING
    assert f"{STATE}/key.next" in result.text
    assert result.remedy[0] == remedy
    assert result.remedy[-1] == "systemctl restart pykcm.service"


def test_remedies_quote_configured_paths(machine: Machine) -> None:
    """Each path is one word of the commands, whatever characters are in it."""
    machine.has_systemd()
    state, key = f"/srv/{ODD}", f"/etc/{ODD}"
    machine.write("/etc/pykcm/pykcm.toml", f"state_dir = {json.dumps(state)}\nkey_file = {json.dumps(key)}\n")
    machine.write(f"{state}/pykcm.db", b"", 0o600)
    machine.write(f"{state}/key.next", b"", 0o600)
    assert words(storage.state_folder(machine.environment())) == [["chmod", "0700", state]]
    assert words(storage.key_source(machine.environment())) == [
        ["mkdir", "-m", "0700", f"{state}/damaged"],
        ["mv", f"{state}/pykcm.db*", f"{state}/damaged/"],
    ]
    assert words(storage.pending_rekey(machine.environment()))[0][-1] == key
    machine.write(key, b"", 0o600)
    assert words(storage.key_source(machine.environment())) == [["ls", "-l", key]]
    machine.write(key, bytes(32), 0o644)
    assert words(storage.key_source(machine.environment())) == [["chmod", "0600", key]]
    machine.write(CREDENTIAL, b"encrypted", 0o600)
    assert words(storage.key_source(machine.environment()))[0] == ["mv", key, f"{key}.unused"]


@only_root
def test_chown_remedies_quote_paths(machine: Machine) -> None:
    """The same holds for the commands that change the owner."""
    state, key = f"/srv/{ODD}", f"/etc/{ODD}"
    machine.installed()
    machine.write("/etc/pykcm/pykcm.toml", f"state_dir = {json.dumps(state)}\nkey_file = {json.dumps(key)}\n")
    folder = machine.folder(state, 0o700)
    database = machine.write(f"{state}/pykcm.db", b"", 0o600)
    os.chown(machine.write(key, bytes(32), 0o600), 991, 991)
    assert words(storage.state_folder(machine.environment())) == [["chown", "-R", "pykcm:", state]]
    assert words(storage.key_source(machine.environment())) == [["chown", "pykcm:", key]]
    os.chown(folder, 990, 990)
    os.chown(database, 991, 991)
    assert words(storage.state_folder(machine.environment())) == [["chown", "-R", "pykcm:", state]]


def test_credential_is_not_used_without_systemd(state: Machine) -> None:
    """Nothing gives it to the daemon: the key file must stay."""
    state.write(CREDENTIAL, b"encrypted", 0o600)
    result = storage.key_source(state.environment())
    assert (result.level, "the key file" in result.text) == (Level.OK, True)
