"""What the doctor says of the state folder, the key, the disk and SELinux."""

import json
import os
from types import SimpleNamespace

import pytest

from pykcm.cli.doctor import selinux, storage
from pykcm.cli.doctor.results import Level
from pykcm.peer.selinux import Policy, PolicyUnusableError
from tests.peer.mcs import Mcs

from .machine import ODD, Machine, words

STATE = "/var/lib/pykcm"
KEY = f"{STATE}/key"
CREDENTIAL = "/etc/credstore.encrypted/pykcm.key"
ALL = [storage.state_folder, storage.key_source, storage.pending_rekey, storage.disk_space]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class WithoutModule(Mcs):
    """A policy that has no types of pykcm's."""

    def has_context(self, context: str) -> bool:
        return ":pykcm_t:" not in context


@pytest.fixture
def state(machine: Machine) -> Machine:
    """With a state folder as the first start leaves it."""
    machine.folder(STATE, 0o700)
    machine.write(KEY, bytes(32), 0o600)
    machine.write(f"{STATE}/pykcm.db", b"", 0o600)
    return machine


def test_as_it_should_be(state: Machine) -> None:
    """A state folder as the daemon makes it is right."""
    for check in (storage.state_folder, storage.key_source, storage.pending_rekey):
        result = check(state.environment())
        assert result.level is Level.OK, result


@pytest.mark.parametrize("check", ALL)
def test_nothing_to_look_at(machine: Machine, check: "type[object]") -> None:
    """Before the first start, and with the memory store, there is nothing to look at."""
    assert check(machine.environment()).level is Level.SKIPPED  # type: ignore[call-arg, attr-defined]
    machine.folder(STATE, 0o777)
    machine.write("/etc/pykcm/pykcm.toml", 'store = "memory"\n')
    assert check(machine.environment()).level is Level.SKIPPED  # type: ignore[call-arg, attr-defined]


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_an_open_folder(state: Machine, mode: int) -> None:
    """A folder that others may use fails: the daemon does not start with it."""
    state.folder(STATE, mode)
    result = storage.state_folder(state.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod 0700 {STATE}",))


@only_root
def test_another_owner(state: Machine) -> None:
    """A folder, or a file in it, that is not the service's fails; what is root's can be read all the same."""
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


def test_a_key_beside_the_database(state: Machine) -> None:
    """It is right, and what it means is said."""
    result = storage.key_source(state.environment())
    assert result.level is Level.OK
    assert "next to the database" in result.text
    state.write("/etc/pykcm/key", bytes(32), 0o600)
    state.write("/etc/pykcm/pykcm.toml", 'key_file = "/etc/pykcm/key"\n')
    assert storage.key_source(state.environment()).text == "the key file /etc/pykcm/key"


@pytest.mark.parametrize(("size", "mode"), [(31, 0o600), (33, 0o600), (0, 0o600), (32, 0o640), (32, 0o604)])
def test_a_key_file_that_is_refused(state: Machine, size: int, mode: int) -> None:
    """A key of another size, or that others may read, fails as it does for the daemon."""
    state.write(KEY, bytes(size), mode)
    result = storage.key_source(state.environment())
    assert result.level is Level.FAILED
    assert "refuses to start" in result.text


@only_root
def test_a_key_of_another(state: Machine) -> None:
    """So does one that belongs to somebody else."""
    state.installed()
    os.chown(state.path(KEY), 991, 991)
    assert storage.key_source(state.environment()).remedy == (f"chown pykcm: {KEY}",)


def test_no_key(state: Machine) -> None:
    """A database without a key fails; without a database the first start makes the key."""
    state.path(KEY).unlink()
    assert storage.key_source(state.environment()).level is Level.FAILED
    state.path(f"{STATE}/pykcm.db").unlink()
    assert storage.key_source(state.environment()).level is Level.OK


def test_a_credential(state: Machine) -> None:
    """With a systemd credential a key file is not needed, and one that is left over is a warning."""
    state.write(CREDENTIAL, b"encrypted", 0o600)
    result = storage.key_source(state.environment())
    assert result.level is Level.WARNING
    assert f"shred -u {KEY}" in result.remedy[0]
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
def test_disk_space(free: int, inodes: int, flags: int, level: Level) -> None:
    """Little room, few inodes and a read-only disk are told, the last ones of them as failures."""
    disk = SimpleNamespace(f_bavail=free * 256, f_frsize=4096, f_files=10_000, f_favail=inodes, f_flag=flags)
    result = storage.space_result(f"/srv/{ODD}", disk)  # type: ignore[arg-type]
    assert result.level is level, result
    assert [command[-1] for command in words(result)][:1] == [f"/srv/{ODD}"] * (level is not Level.OK)


def test_a_disk_without_inodes() -> None:
    """File systems that make inodes as they need them have none to run out of."""
    disk = SimpleNamespace(f_bavail=1 << 20, f_frsize=4096, f_files=0, f_favail=0, f_flag=0)
    assert storage.space_result(STATE, disk).level is Level.OK  # type: ignore[arg-type]


def test_a_real_disk(state: Machine) -> None:
    """The disk that is asked is the state folder's."""
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
def test_a_change_of_keys(state: Machine, configuration: str, credential: bool, remedy: str) -> None:
    """A new key that waits to be put in its place is a warning, and the remedy puts it there."""
    state.write("/etc/pykcm/pykcm.toml", configuration)
    if credential:
        state.write(CREDENTIAL, b"", 0o600)
    state.write(f"{STATE}/key.next", b"", 0o600)
    result = storage.pending_rekey(state.environment())
    assert result.level is Level.WARNING
    assert f"{STATE}/key.next" in result.text
    assert result.remedy[0] == remedy
    assert result.remedy[-1] == "systemctl restart pykcm.service"


def test_odd_paths(machine: Machine) -> None:
    """Every command has the paths that are configured as one word each, whatever is in them."""
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
    assert words(storage.key_source(machine.environment()))[0][-1] == key


@only_root
def test_odd_paths_of_others(machine: Machine) -> None:
    """So it is of the commands that give them to the service."""
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


def test_no_selinux(machine: Machine) -> None:
    """Without SELinux in the kernel nothing is needed."""

    def never() -> Policy:
        raise AssertionError

    assert selinux.selinux(machine.environment(load_policy=never)).level is Level.OK


def test_selinux(machine: Machine) -> None:
    """With it the binding can ask the policy; it tells the mode, and whether pykcm has its module."""
    machine.write("/sys/fs/selinux/enforce", "1")
    result = selinux.selinux(machine.environment(load_policy=Mcs))
    assert result.level is Level.OK
    assert result.text.startswith("enforcing")
    machine.write("/sys/fs/selinux/enforce", "0")
    result = selinux.selinux(machine.environment(load_policy=WithoutModule))
    assert result.level is Level.WARNING
    assert result.text.startswith("permissive, and pykcm's policy module is not installed")

    def refuse() -> Policy:
        raise PolicyUnusableError("SELinux is enabled, but Python's module selinux cannot be loaded")

    result = selinux.selinux(machine.environment(load_policy=refuse))
    assert result.level is Level.FAILED
    assert "cannot be loaded" in result.text
