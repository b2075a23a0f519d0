"""The work of a request for the kernel: system calls and bytes, counted by strace."""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, TGS, service, ticket
from tests.e2e.daemon import LIMIT, Pykcmd, effective_uid
from tests.e2e.raw import request
from tests.e2e.waiting import wait_until

NAME = b"%d:work" % os.geteuid()
ROUNDS = 200
SYNCS = ("fsync", "fdatasync")

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    # A daemon that is kept from the CPU wakes up more often.
    pytest.mark.alone,
]

_CALL = re.compile(r"^\d+ +(\w+)\(")
_WRITTEN = re.compile(r"^\d+ +(?:write|pwrite64|writev)\(.*= (\d+)$")


def lasting(server: Principal) -> bytes:
    """A ticket that stays valid: removing expired ones would be work as well."""
    return ticket(server, ends=2**32 - 1, size=1200).blob


@pytest.fixture
def quiet(stopped_pykcmd: Pykcmd) -> Pykcmd:
    """A daemon that does not log each request, and has no work of its own."""
    stopped_pykcmd.configure("reap_interval = 0\n")
    stopped_pykcmd.start_settled("--log-level", "info")
    return stopped_pykcmd


class Trace:
    """The daemon's system calls from now on, until end()."""

    def __init__(self, pykcmd: Pykcmd, file: Path) -> None:
        assert pykcmd.process is not None
        self._file = file
        self._file.touch()
        self._strace = subprocess.Popen(
            ["strace", "-f", "-qq", "-s", "0", "-o", str(file), "-p", str(pykcmd.process.pid)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Open until the end: its last call must not be recorded.
        self._client = KcmClient(pykcmd.socket_path)
        # strace attaches to one thread after the other, and records calls when it is attached to all.
        wait_until(self._has_begun)
        # No other reply has this length.
        size = 12 + len(self._client.get_default_cache() + bytes(1))
        last = re.compile(rf"sendto.* = {size}$", re.MULTILINE)
        wait_until(lambda: last.search(self._file.read_text()))
        match = last.search(self._file.read_text())
        assert match is not None
        self._begin = match.end()

    def _has_begun(self) -> bool:
        assert self._strace.poll() is None, "strace may not trace here"
        self._client.noop()
        return "sendto" in self._file.read_text()

    def end(self) -> list[str]:
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(LIMIT)
        self._client.close()
        return self._file.read_text()[self._begin :].splitlines()


def calls(lines: list[str]) -> Counter[str]:
    return Counter(match[1] for line in lines if (match := _CALL.match(line)))


def test_cached_request_is_three_system_calls(quiet: Pykcmd, folder: Path) -> None:
    """A request that is answered from memory waits, receives and sends, and nothing else."""
    with KcmClient(quiet.socket_path) as kcm:
        kcm.initialize(NAME, ALICE)
        kcm.get_principal(NAME)
        trace = Trace(quiet, folder / "trace")
        for _ in range(ROUNDS):
            kcm.get_principal(NAME)
        lines = trace.end()
    counted = calls(lines)
    # asyncio calls getpid() when the loop schedules a call, which happens on a slow machine.
    del counted["getpid"]
    assert sum(counted.values()) <= 3.1 * ROUNDS, counted
    assert not [line for line in lines if any(sync in line for sync in SYNCS)]


def test_new_connection_is_few_system_calls(quiet: Pykcmd, folder: Path) -> None:
    """A connection with one request costs its own calls, and none that finds nothing or fails."""
    with KcmClient(quiet.socket_path) as kcm:
        kcm.initialize(NAME, ALICE)
    trace = Trace(quiet, folder / "trace")
    for _ in range(ROUNDS):
        with KcmClient(quiet.socket_path) as kcm:
            kcm.get_principal(NAME)
    lines = trace.end()
    counted = calls(lines)
    del counted["getpid"]
    once = ("accept4", "getsockname", "getsockopt", "ioctl", "poll", "sendto", "close")
    twice = ("epoll_ctl", "recvfrom")
    for call in once:
        assert counted.pop(call) <= ROUNDS + 1, call
    for call in twice:
        assert counted.pop(call) <= 2 * ROUNDS + 2, call
    # For the connection, the request and the end, some of them together.
    assert counted.pop("epoll_wait") <= 3 * ROUNDS + 3
    assert sum(counted.values()) <= 0.1 * ROUNDS, counted
    assert sum("= -1 " in line for line in lines) <= 0.1 * ROUNDS


def test_store_is_one_sync(quiet: Pykcmd, folder: Path) -> None:
    """A STORE syncs once and writes a few pages, however many credentials there are."""
    written = []
    with KcmClient(quiet.socket_path) as kcm:
        for filled in (0, 1500):
            credentials = [lasting(service(number)) for number in range(filled + ROUNDS)]
            kcm.replace(NAME, 0, ALICE, credentials[: min(filled, 1000)])
            for credential in credentials[1000:filled]:
                kcm.store(NAME, credential)
            trace = Trace(quiet, folder / f"trace{filled}")
            for credential in credentials[filled:]:
                kcm.store(NAME, credential)
            lines = trace.end()
            syncs = sum(calls(lines)[sync] for sync in SYNCS)
            # Sometimes there is a checkpoint, which syncs the write-ahead log and the database.
            assert ROUNDS <= syncs <= 1.05 * ROUNDS, calls(lines)
            written.append(sum(int(match[1]) for line in lines if (match := _WRITTEN.match(line))) / ROUNDS)
    assert max(written) <= 24 * 1024
    assert written[1] <= 1.5 * written[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other UIDs")
def test_concurrent_stores_share_a_sync(quiet: Pykcmd, folder: Path) -> None:
    """Sixteen UIDs whose requests arrive together wait for one sync."""
    assert quiet.process is not None
    names = []
    clients = []
    for uid in range(30000, 30016):
        names.append(b"%d:work" % uid)
        with effective_uid(uid):
            clients.append(KcmClient(quiet.socket_path))
        clients[-1].initialize(names[-1], ALICE)
    trace = Trace(quiet, folder / "trace")
    quiet.process.send_signal(signal.SIGSTOP)
    credential = lasting(TGS)
    for client, name in zip(clients, names, strict=True):
        client._socket.sendall(request(Opcode.STORE, name + b"\0" + credential))
    quiet.process.send_signal(signal.SIGCONT)
    for client in clients:
        assert client._receive(12) == b"\0\0\0\4" + bytes(8)
        client.close()
    lines = trace.end()
    assert 1 <= sum(calls(lines)[sync] for sync in SYNCS) <= 3, calls(lines)
