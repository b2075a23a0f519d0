"""The doctor's checks of the sockets, with real sockets."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykcm.cli.doctor import sockets
from pykcm.cli.doctor.results import Level
from pykcm.cli.names import format_user
from pykcm.config import DEFAULT_SOCKET
from tests.full_queue import connect_to_full_queue, full_queue

from .machine import CONTROL, ODD, Machine, words

ELSEWHERE = "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n"


def test_missing_socket_fails(machine: Machine) -> None:
    """The remedy starts the unit, if there is one."""
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (str(Path(sys.executable).with_name("pykcmd")),))
    machine.installed()
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, ("systemctl restart pykcm.socket",))


def test_listener_is_named(machine: Machine) -> None:
    """The process that listens is named with its UID."""
    machine.listen()
    result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.OK, result
    assert f"process {os.getpid()} (" in result.text
    assert f"of {format_user(os.geteuid())} listens" in result.text


def test_listener_is_found_when_queue_was_full(machine: Machine) -> None:
    """The check waits for a place in the queue of connections."""
    path = machine.path(DEFAULT_SOCKET)
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_queue(path) as listening:
        found = connect_to_full_queue(listening, lambda: sockets.find_listener(path))
    assert found.pid == os.getpid()


def test_full_queue_fails(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose queue stays full does not accept connections."""
    monkeypatch.setattr(sockets, "_CONNECT_TIMEOUT", 0.05)
    path = machine.path(DEFAULT_SOCKET)
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_queue(path):
        path.chmod(0o666)
        result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.FAILED
    assert "the server does not accept connections" in result.text


def test_kcm_socket_is_checked(machine: Machine) -> None:
    """The path in krb5.conf is checked, not the default one."""
    machine.write("/etc/krb5.conf", ELSEWHERE)
    machine.listen()
    assert sockets.kcm_socket(machine.environment()).level is Level.FAILED
    machine.listen("/run/kcm/kcm.sock")
    assert sockets.kcm_socket(machine.environment()).level is Level.OK


def test_socket_without_listener_fails(machine: Machine) -> None:
    """The remedy removes the socket first."""
    machine.listen().close()
    result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.FAILED
    assert "nobody listens" in result.text
    assert result.remedy[0] == f"rm -f {DEFAULT_SOCKET}"


def test_folder_instead_of_socket_fails(machine: Machine) -> None:
    """Container engines make a folder where a socket is missing."""
    machine.folder(DEFAULT_SOCKET)
    result = sockets.kcm_socket(machine.environment())
    assert "is not a socket" in result.text
    assert f"rmdir {DEFAULT_SOCKET}" in result.remedy


def test_remedy_removes_no_content(machine: Machine) -> None:
    """Whatever kcm_socket names, no remedy removes a file with content or a folder that is not empty."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /var/lib\n")
    machine.folder("/var/lib/precious")
    result = sockets.kcm_socket(machine.environment())
    assert result.remedy[:2] == ("ls -l /var/lib", "rmdir /var/lib")
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/text\n")
    machine.write("/run/text", "")
    assert sockets.kcm_socket(machine.environment()).remedy[:2] == ("ls -l /run/text", "rm /run/text")


def test_remedies_quote_path(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is one word of each command, whatever characters are in it."""
    odd = f"/run/{ODD}/s"
    machine.write("/etc/krb5.conf", f"[libdefaults]\n    kcm_socket = {odd}\n")
    machine.write("/etc/pykcm/pykcm.toml", f"control_socket_path = {json.dumps(odd)}\n")
    machine.folder(odd)
    environment = machine.environment(control_path=odd)
    assert words(sockets.kcm_socket(machine.environment()))[:2] == [["ls", "-l", odd], ["rmdir", odd]]
    assert words(sockets.control_socket(environment)) == [["ls", "-l", odd]]
    assert words(sockets.control_socket(machine.environment()))[0][1] == f"PYKCM_CONTROL_SOCKET={odd}"
    machine.path(odd).rmdir()
    listening = machine.listen(odd, 0o600)
    assert words(sockets.kcm_socket(machine.environment())) == [["chmod", "0666", odd]]
    machine.path(odd).chmod(0o666)
    assert words(sockets.control_socket(environment)) == [["chmod", "0600", odd]]
    folder = machine.path(odd).parent
    folder.chmod(0o700)
    assert words(sockets.kcm_socket(machine.environment())) == [["chmod", "o+x", str(folder)]]
    folder.chmod(0o755)
    listening.close()
    assert words(sockets.kcm_socket(machine.environment()))[0] == ["rm", "-f", odd]
    monkeypatch.setattr(sockets, "find_listener", refuse)
    assert words(sockets.kcm_socket(machine.environment())) == [["ls", "-lZd", odd, f"/run/{ODD}"]]


def refuse(_: Path) -> sockets.Listener:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_socket_closed_to_others_fails(machine: Machine) -> None:
    """A socket fails if some users may not connect to it or enter its folder."""
    machine.write("/etc/krb5.conf", ELSEWHERE)
    machine.listen("/run/kcm/kcm.sock", 0o660)
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, ("chmod 0666 /run/kcm/kcm.sock",))
    machine.path("/run/kcm/kcm.sock").chmod(0o666)
    folder = machine.folder("/run/kcm", 0o700)
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod o+x {folder}",))


LISTEN = """
import pathlib, socket, sys
pathlib.Path("/proc/self/comm").write_text(sys.argv[2])
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
pathlib.Path(sys.argv[1]).chmod(0o666)
print("listening", flush=True)
sys.stdin.read()
"""


@contextmanager
def server(path: Path, command: str) -> Iterator[int]:
    """A process that listens at `path` under the name of `command`; yields its PID."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(path), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize(("command", "name"), [("sssd_kcm", "sssd-kcm"), ("kcm", "Heimdal's kcm")])
def test_other_kcm_server_is_recognized(machine: Machine, command: str, name: str) -> None:
    with server(machine.path(DEFAULT_SOCKET), command) as pid:
        result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.FAILED
    assert f"{name} listens (process {pid} ({command})" in result.text


def test_socket_of_other_unit_fails(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """If systemd listens, it must listen for pykcm.socket."""
    machine.installed()
    machine.listen()
    monkeypatch.setattr(sockets, "_SYSTEMD", os.getpid())
    assert sockets.kcm_socket(machine.environment()).level is Level.OK
    right = machine.units["pykcm.socket"]
    for name, wrong in (("ActiveState", "inactive"), ("Listen", "/run/kcm/kcm.sock (Stream)")):
        machine.units["pykcm.socket"] = {**right, name: wrong}
        result = sockets.kcm_socket(machine.environment())
        assert result.level is Level.FAILED
        assert "not for pykcm.socket" in result.text
    # Without an answer of systemd, the unit is unknown.
    assert sockets.kcm_socket(machine.environment(run=lambda _: "")).level is Level.OK


def test_control_socket_is_for_root_only(machine: Machine) -> None:
    machine.listen(CONTROL, 0o600)
    result = sockets.control_socket(machine.environment())
    assert result.level is (Level.OK if os.geteuid() == 0 else Level.WARNING), result
    machine.path(CONTROL).chmod(0o666)
    result = sockets.control_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod 0600 {CONTROL}",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_control_socket_of_other_user_is_a_warning(machine: Machine) -> None:
    """A control socket should belong to root or to the service's user."""
    machine.installed()
    machine.listen(CONTROL, 0o600)
    os.chown(machine.path(CONTROL), 990, 990)
    assert sockets.control_socket(machine.environment()).level is Level.OK
    os.chown(machine.path(CONTROL), 991, 991)
    assert sockets.control_socket(machine.environment()).level is Level.WARNING


def test_replaceable_control_socket_fails(machine: Machine) -> None:
    """If others can replace the socket, import and rekey are not safe."""
    machine.listen(CONTROL, 0o600)
    folder = machine.folder("/run", 0o775)
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.FAILED
    assert str(folder) in result.text
    assert words(result)[-1] == ["chmod", "go-w", str(folder)]
    for mode in (0o1777, 0o755):
        folder.chmod(mode)
        assert sockets.control_socket(machine.environment()).level is not Level.FAILED


def test_missing_control_socket_is_a_warning(machine: Machine) -> None:
    """If the daemon is configured without one, the check is skipped."""
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.WARNING
    for toml in ('control_socket_path = ""\n', 'socket_path = "/run/kcm/kcm.sock"\n'):
        machine.write("/etc/pykcm/pykcm.toml", toml)
        assert sockets.control_socket(machine.environment()).level is Level.SKIPPED


def test_configured_control_socket_is_named(machine: Machine) -> None:
    """If the daemon's control socket has another path, the remedy names it."""
    machine.write("/etc/pykcm/pykcm.toml", 'control_socket_path = "/run/kcm/control.sock"\n')
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.WARNING
    assert result.remedy == ("export PYKCM_CONTROL_SOCKET=/run/kcm/control.sock",)


def test_control_socket_without_listener_fails(machine: Machine) -> None:
    """For root it fails; for other users it is skipped, because they cannot know."""
    machine.listen(CONTROL, 0o600).close()
    if os.geteuid() == 0:
        assert sockets.control_socket(machine.environment()).level is Level.FAILED
        assert sockets.control_socket(machine.environment(uid=1000)).level is Level.SKIPPED
