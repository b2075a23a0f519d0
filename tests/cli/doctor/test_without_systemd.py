"""Remedies on hosts and in containers without systemd name none of its commands."""

import socket
import threading

import pytest

from pykcm.cli.doctor import round_trip, storage, users
from pykcm.cli.doctor.configuration import configuration
from pykcm.cli.doctor.results import Level
from pykcm.config import DEFAULT_SOCKET
from pykcm.control.frames import encode

from .machine import CONTROL, Machine

STATE = "/var/lib/pykcm"

RESTART = {True: "systemctl restart pykcm.service", False: "# restart pykcmd"}
LOG = {True: "journalctl -u pykcm.service -n 20", False: "# read the log of pykcmd"}


@pytest.fixture(params=[True, False], ids=["systemd", "no systemd"])
def has_systemd(request: pytest.FixtureRequest, machine: Machine) -> bool:
    """Whether the machine has systemd."""
    if request.param:
        machine.has_systemd()
    return bool(request.param)


def test_wrong_configuration(machine: Machine, has_systemd: bool) -> None:
    """The daemon is started again after the change."""
    machine.write("/etc/pykcm/pykcm.toml", "nonsense\n")
    assert configuration(machine.environment()).remedy[-1] == RESTART[has_systemd]


def test_unfinished_rekey(machine: Machine, has_systemd: bool) -> None:
    """A restart ends it."""
    machine.folder(STATE, 0o700)
    machine.write(f"{STATE}/key.next", b"", 0o600)
    assert storage.pending_rekey(machine.environment()).remedy == (RESTART[has_systemd],)


def test_server_that_hangs_up(machine: Machine, has_systemd: bool) -> None:
    """The reason is in the daemon's log."""
    thread = answer_once(machine.listen(DEFAULT_SOCKET), b"")
    result = round_trip.round_trip(machine.environment())
    thread.join()
    assert (result.level, result.remedy) == (Level.FAILED, (LOG[has_systemd],))


def test_refused_list(machine: Machine, has_systemd: bool) -> None:
    """The reason is in the daemon's log."""
    refusal = encode({"error": {"code": "store", "message": "the disk is gone"}})
    thread = answer_once(machine.listen(CONTROL, 0o600), refusal)
    result = users.damage(machine.environment())
    thread.join()
    assert (result.level, result.remedy) == (Level.FAILED, (LOG[has_systemd],))


def answer_once(listening: socket.socket, answer: bytes) -> threading.Thread:
    """Read from the first client, answer, and hang up."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread
