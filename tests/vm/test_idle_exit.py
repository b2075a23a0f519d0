"""The daemon's exit when idle, which clients do not notice."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from . import machine, stored
from .clients import LabelledClient

ROUNDS = 100

# In seconds: long enough for the round's own work.
_TIMEOUT = 0.3


def test_client_starts_the_daemon_after_an_idle_exit(client_as: Callable[..., LabelledClient]) -> None:
    """The daemon ends after responder_idle_timeout; the next client starts it, and all tickets are there."""
    machine.configure('responder_idle_timeout = "2s"\n')
    user = client_as(1000)
    user.kinit("alice")
    user.kvno("host/server.pykcm.test")
    listed = user.klist()
    machine.wait_for_the_end()
    assert machine.SOCKET.is_socket()
    assert user.klist() == listed
    machine.wait_for_the_end()
    assert user.kvno("host/server.pykcm.test")
    assert user.klist() == listed


class _Aim:
    """The time to connect, in seconds after the end of the last connection; it follows the last hits.

    One third of the rounds each: around the moment in which the daemon decides to end; from there to when
    its process is gone; right after that.
    """

    def __init__(self) -> None:
        self._decided = _TIMEOUT
        self._gone = 2 * _TIMEOUT
        self.hits: Counter[str] = Counter()

    def wait(self, number: int, since: float, pid: int) -> None:
        """Wait until the time to connect: the wait is the race that is tested, and not for a condition."""
        process = Path(f"/proc/{pid}")
        if number % 3 == 2:
            while process.exists():
                pass
            self._gone = time.monotonic() - since
            return
        part = number % 3 * (number % 16 + 1) / 16
        due = since + self._decided + part * (self._gone - self._decided)
        while time.monotonic() < due:
            pass

    def tell(self, number: int, *, was_there: bool, is_same: bool) -> None:
        self.hits["before" if is_same else "during" if was_there else "after"] += 1
        if number % 3 == 0:
            self._decided += 0.01 if is_same else -0.01


# A hundred starts take 4 to 25 minutes, as fast as the emulation is.
@pytest.mark.timeout(1500)
def test_clients_during_an_idle_exit_lose_nothing(client_as: Callable[..., LabelledClient]) -> None:
    """A hundred clients that connect around the time of the exit get no error and lose nothing."""
    machine.configure(f"responder_idle_timeout = {_TIMEOUT}\n")
    machine.drop_in(machine.SERVICE, "[Unit]\nStartLimitBurst=1000\n")
    stored.begin()
    aim = _Aim()
    expected = []
    since = time.monotonic()
    for number in range(ROUNDS):
        before = machine.processes()
        if before:
            aim.wait(number, since, before[0])
        was_there = bool(machine.processes())
        with stored.connected() as kcm:
            expected.append(f"service{number}")
            kcm.store(stored.NAME, stored.ticket_for(expected[-1]))
            is_same = before == machine.processes()
        since = time.monotonic()
        aim.tell(number, was_there=was_there, is_same=is_same)
    print(aim.hits)  # noqa: T201 - shown by pytest where the test failed
    assert min(aim.hits[moment] for moment in ("before", "during", "after")) >= ROUNDS // 20
    assert stored.servers() == expected
    log = machine.journal()
    assert sum(line.startswith("stopping: idle for ") for line in log.splitlines()) >= ROUNDS // 3
    for trouble in ("cut off", "warning", "error", "Failed", "start-limit-hit"):
        assert trouble not in log
    user = client_as(1000)
    user.kinit("alice")
    assert user.kvno("host/server.pykcm.test")
    assert user.klist().tickets[-1] == "host/server.pykcm.test"
