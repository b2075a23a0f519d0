"""`systemctl restart`, a crash and a stop: no acknowledged ticket is lost, and clients are served again."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import NamedTuple

from pykcm.client import KcmClient

from . import machine, stored
from .clients import LabelledClient

STORING = 3
# With the first start they are fewer than systemd allows in a minute.
RESTARTS = 8
# Credentials that are stored before each restart.
_LOAD = 20


class _Shared(NamedTuple):
    """Shared by the test and the processes that store; `acknowledged` counts the STOREs of all of them."""

    is_over: Event
    acknowledged: "Synchronized[int]"


_shared: _Shared


def _become_user(shared: _Shared) -> None:
    global _shared  # noqa: PLW0603 - each process has its own
    _shared = shared
    os.setgroups([])
    os.setgid(stored.USER)
    os.setuid(stored.USER)


def _store_on(label: str) -> tuple[list[str], int]:
    """Store credentials; returns the servers of the acknowledged ones, and the number of others.

    A connection may be closed, but not refused.
    """
    acknowledged: list[str] = []
    cut_off = 0
    while not _shared.is_over.is_set():
        with KcmClient(machine.SOCKET, timeout=machine.PATIENCE) as kcm:
            try:
                while not _shared.is_over.is_set():
                    server = f"{label}-{len(acknowledged)}-{cut_off}"
                    kcm.store(stored.NAME, stored.ticket_for(server))
                    acknowledged.append(server)
                    with _shared.acknowledged.get_lock():
                        _shared.acknowledged.value += 1
            except ConnectionError:
                cut_off += 1
    return acknowledged, cut_off


def _use_on(user: LabelledClient, is_over: Event) -> int:
    """Get tickets and list them in a loop; returns the number of rounds."""
    times = 0
    while not is_over.is_set():
        user.kinit("bob")
        user.kvno("host/server.pykcm.test")
        assert user.klist().tickets[-1] == "host/server.pykcm.test"
        times += 1
    return times


def test_restarts_under_load_lose_nothing(client_as: Callable[..., LabelledClient]) -> None:
    """Restarts under load lose no acknowledged STORE and refuse no client; libkrb5 repeats the rest."""
    machine.configure("max_ccache_size = 0\nmax_uid_size = 0\n")
    stored.begin()
    fork = multiprocessing.get_context("fork")
    shared = _Shared(fork.Event(), fork.Value("i", 0))
    pids = {machine.main_pid()}
    with (
        ProcessPoolExecutor(STORING, fork, _become_user, (shared,)) as storing,
        ThreadPoolExecutor(1) as using,
    ):
        try:
            results = [storing.submit(_store_on, f"client{number}") for number in range(STORING)]
            uses = using.submit(_use_on, client_as(1001), shared.is_over)
            for _ in range(RESTARTS):
                _wait_for_load(shared, [*results, uses])
                machine.run("systemctl", "restart", machine.SERVICE)
                pids.add(machine.main_pid())
            _wait_for_load(shared, [*results, uses])
        finally:
            shared.is_over.set()
        ended = [result.result() for result in results]
        assert uses.result()
    assert len(pids) == RESTARTS + 1
    there = stored.servers()
    acknowledged = {server for servers, _ in ended for server in servers}
    assert acknowledged <= set(there)
    # What was not acknowledged is there or not, and nothing twice.
    assert len(there) <= len(acknowledged) + sum(cut_off for _, cut_off in ended)
    assert machine.property_of(machine.SERVICE, "NRestarts") == "0"
    assert "cut off" not in machine.journal()


def _wait_for_load(shared: _Shared, running: list[Future[tuple[list[str], int]] | Future[int]]) -> None:
    enough = shared.acknowledged.value + _LOAD

    def is_loaded() -> bool:
        for each in running:
            if each.done():
                # It ends by an error only.
                each.result()
        return shared.acknowledged.value >= enough

    machine.wait_until(is_loaded, "credentials are stored")


def test_crash_leaves_no_core(client_as: Callable[..., LabelledClient]) -> None:
    """After a SIGSEGV systemd starts the daemon again; the tickets are there, and there is no core."""
    user = client_as(1000)
    user.kinit("alice")
    user.kvno("host/server.pykcm.test")
    listed = user.klist()
    crashed = machine.main_pid()
    os.kill(crashed, signal.SIGSEGV)
    machine.wait_until(lambda: machine.main_pid() not in {0, crashed}, "another daemon")
    assert user.klist() == listed
    assert machine.property_of(machine.SERVICE, "NRestarts") == "1"
    # With a core it would be code=dumped.
    assert "code=killed, status=11/SEGV" in machine.journal()


def test_stopped_socket_unit_removes_the_socket(client_as: Callable[..., LabelledClient]) -> None:
    """Without the socket unit there is neither socket nor daemon; after a start, all tickets are there."""
    user = client_as(1000)
    user.kinit("alice")
    listed = user.klist()
    machine.run("systemctl", "stop", machine.SOCKET_UNIT)
    assert not machine.SOCKET.exists()
    assert machine.main_pid() == 0
    assert user.run("klist").code == 1
    machine.run("systemctl", "stop", machine.SERVICE, machine.SOCKET_UNIT)
    machine.run("systemctl", "start", machine.SOCKET_UNIT)
    assert machine.main_pid() == 0
    assert user.klist() == listed
