"""What the doctor says of the sockets, which are real ones here."""

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
from pykcm.config import DEFAULT_SOCKET

from .machine import CONTROL, ODD, Machine, words

ELSEWHERE = "[libdefaults]\n    kcm_socket = /run/kcm/kcm.sock\n"


def test_no_socket(machine: Machine) -> None:
    """Where clients connect to, something must be; the remedy is the unit's where there is one."""
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, ("pykcmd",))
    machine.installed()
    result = sockets.kcm_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, ("systemctl restart pykcm.socket",))


def test_listening(machine: Machine) -> None:
    """Who listens is named by process and UID."""
    machine.listen()
    result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.OK, result
    assert f"process {os.getpid()} (" in result.text
    assert f"of UID {os.geteuid()} listens" in result.text


def test_where_clients_connect_to(machine: Machine) -> None:
    """What krb5.conf names is looked at."""
    machine.write("/etc/krb5.conf", ELSEWHERE)
    machine.listen()
    assert sockets.kcm_socket(machine.environment()).level is Level.FAILED
    machine.listen("/run/kcm/kcm.sock")
    assert sockets.kcm_socket(machine.environment()).level is Level.OK


def test_a_dead_socket(machine: Machine) -> None:
    """A socket that nobody listens at fails, and is removed first."""
    machine.listen().close()
    result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.FAILED
    assert "nobody listens" in result.text
    assert result.remedy[0] == f"rm {DEFAULT_SOCKET}"


def test_no_socket_but_a_folder(machine: Machine) -> None:
    """A folder at the path, as container engines make one for a missing socket, fails."""
    machine.folder(DEFAULT_SOCKET)
    result = sockets.kcm_socket(machine.environment())
    assert "is not a socket" in result.text
    assert f"rmdir {DEFAULT_SOCKET}" in result.remedy


def test_no_socket_but_something_else(machine: Machine) -> None:
    """Whatever kcm_socket names, no remedy takes anything away with what is in it."""
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /var/lib\n")
    machine.folder("/var/lib/precious")
    result = sockets.kcm_socket(machine.environment())
    assert result.remedy[:2] == ("ls -l /var/lib", "rmdir /var/lib")
    machine.write("/etc/krb5.conf", "[libdefaults]\n    kcm_socket = /run/text\n")
    machine.write("/run/text", "")
    assert sockets.kcm_socket(machine.environment()).remedy[:2] == ("ls -l /run/text", "rm /run/text")


def test_an_odd_path(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has the path as one word, whatever is in it."""
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
    assert words(sockets.kcm_socket(machine.environment()))[0] == ["rm", odd]
    monkeypatch.setattr(sockets, "find_listener", refuse)
    assert words(sockets.kcm_socket(machine.environment())) == [["ls", "-lZd", odd, f"/run/{ODD}"]]


def refuse(_: Path) -> sockets.Listener:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_closed_to_others(machine: Machine) -> None:
    """A socket that not everyone may connect to, or get at, fails."""
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
    """A process that listens there under the name of a command; gives its PID."""
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
def test_another_server(machine: Machine, command: str, name: str) -> None:
    """Another KCM server is known by the process that listens."""
    with server(machine.path(DEFAULT_SOCKET), command) as pid:
        result = sockets.kcm_socket(machine.environment())
    assert result.level is Level.FAILED
    assert f"{name} listens (process {pid} ({command})" in result.text


def test_systemd_for_another(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd listens at must be pykcm.socket's."""
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
    # Where systemd does not say for which unit, nothing is made of it.
    assert sockets.kcm_socket(machine.environment(run=lambda _: "")).level is Level.OK


def test_control_socket(machine: Machine) -> None:
    """The control socket is root's alone."""
    machine.listen(CONTROL, 0o600)
    result = sockets.control_socket(machine.environment())
    assert result.level is (Level.OK if os.geteuid() == 0 else Level.WARNING), result
    machine.path(CONTROL).chmod(0o666)
    result = sockets.control_socket(machine.environment())
    assert (result.level, result.remedy) == (Level.FAILED, (f"chmod 0600 {CONTROL}",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_control_socket_of_another(machine: Machine) -> None:
    """One that belongs to neither root nor the service's user is a warning."""
    machine.installed()
    machine.listen(CONTROL, 0o600)
    os.chown(machine.path(CONTROL), 990, 990)
    assert sockets.control_socket(machine.environment()).level is Level.OK
    os.chown(machine.path(CONTROL), 991, 991)
    assert sockets.control_socket(machine.environment()).level is Level.WARNING


def test_control_socket_in_a_folder_of_others(machine: Machine) -> None:
    """Where others can put another socket in its place, import and rekey are not safe."""
    machine.listen(CONTROL, 0o600)
    folder = machine.folder("/run", 0o775)
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.FAILED
    assert str(folder) in result.text
    assert words(result)[-1] == ["chmod", "go-w", str(folder)]
    for mode in (0o1777, 0o755):
        folder.chmod(mode)
        assert sockets.control_socket(machine.environment()).level is not Level.FAILED


def test_no_control_socket(machine: Machine) -> None:
    """A missing one is a warning, unless the daemon is to have none."""
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.WARNING
    for toml in ('control_socket_path = ""\n', 'socket_path = "/run/kcm/kcm.sock"\n'):
        machine.write("/etc/pykcm/pykcm.toml", toml)
        assert sockets.control_socket(machine.environment()).level is Level.SKIPPED


def test_a_control_socket_elsewhere(machine: Machine) -> None:
    """Where the daemon has it at another path, that one is named."""
    machine.write("/etc/pykcm/pykcm.toml", 'control_socket_path = "/run/kcm/control.sock"\n')
    result = sockets.control_socket(machine.environment())
    assert result.level is Level.WARNING
    assert result.remedy == ("export PYKCM_CONTROL_SOCKET=/run/kcm/control.sock",)


def test_a_dead_control_socket(machine: Machine) -> None:
    """One that nobody listens at fails for root; another user cannot know."""
    machine.listen(CONTROL, 0o600).close()
    if os.geteuid() == 0:
        assert sockets.control_socket(machine.environment()).level is Level.FAILED
        assert sockets.control_socket(machine.environment(uid=1000)).level is Level.SKIPPED
