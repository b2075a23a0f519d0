"""A user floods the daemon over hundreds of connections: others are served, and the daemon stays small."""

import time
from collections.abc import Callable

import pytest

from pykcm.cli.names import format_user
from pykcm.client import KcmClient
from pykcm.protocol.opcodes import Opcode

from .clients import MitClient
from .conftest import OTHER, USER, started
from .daemon import LIMIT, Pykcmd, effective_uid
from .flooding import LISTED, flooding
from .raw import RawConnection, request
from .waiting import wait_until

MIB = 1 << 20

# In seconds, for 200 requests on a loaded machine. They take some 0.2 s without the load.
TOGETHER = 20.0

# Descriptors of the database, the listening socket, the event loop and a client of the test; and two of the
# write-ahead log, which the store opens to look at its length and to extend it.
FEW = 5 + 2


@pytest.mark.parametrize("connections", [200, 400], ids=["200", "more than a UID may have"])
def test_another_users_clients_work_during_a_flood(
    several_uids: None,
    stopped_pykcmd: Pykcmd,
    mit_as: Callable[[int], MitClient],
    connections: int,
) -> None:
    """While a user floods, another user's clients work; the daemon's descriptors and memory are bounded."""
    pykcmd, other = stopped_pykcmd, mit_as(OTHER)
    pykcmd.start("--log-level", "warning")
    other.kinit("alice")
    listed = other.klist()
    before = pykcmd.descriptors
    size_before = pykcmd.resident_size
    with flooding(pykcmd, connections):
        wait_until(lambda: pykcmd.descriptors >= min(connections, 256))
        with effective_uid(OTHER), KcmClient(pykcmd.socket_path, timeout=LIMIT) as kcm:
            name = kcm.get_default_cache()
            begin = time.monotonic()
            for _ in range(200):
                assert kcm.get_principal(name).components == (b"alice",)
            assert time.monotonic() - begin < TOGETHER
        assert other.klist() == listed
        other.kvno("host/server.pykcm.test")
        assert pykcmd.descriptors <= min(connections, 256) + before + FEW
        assert pykcmd.resident_size - size_before < 128 * MIB
    # All connections are closed; the store opens further files when it first needs them.
    wait_until(lambda: pykcmd.descriptors <= before + FEW)
    assert len(other.klist().tickets) == len(listed.tickets) + 1
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert len(kcm.get_cred_list(b"%d:flood1" % USER)) == LISTED
    assert ("max_uid_connections (256) reached" in pykcmd.log) is (connections > 256)
    assert pykcmd.stop() == 0


def test_longest_idle_connection_is_closed_at_max_uid_connections(stopped_pykcmd: Pykcmd) -> None:
    """At max_uid_connections the longest idle connection is closed, and none with a request in progress."""
    stopped_pykcmd.configure("max_uid_connections = 3\n")
    with started(stopped_pykcmd) as pykcmd:
        half, idle, last = [RawConnection(pykcmd.socket_path, USER) for _ in range(3)]
        with half, idle, last:
            half.send(request(Opcode.NOOP)[:6])
            assert idle.ask(Opcode.NOOP) == 0
            assert last.ask(Opcode.NOOP) == 0
            with RawConnection(pykcmd.socket_path, USER) as new:
                assert new.ask(Opcode.NOOP) == 0
                assert idle.is_closed()
                half.send(request(Opcode.NOOP)[6:])
                assert half.reply() == (0, b"")
                assert last.ask(Opcode.NOOP) == 0
        assert f"{format_user(USER)}: max_uid_connections (3) reached" in pykcmd.log


def test_a_user_at_its_limit_keeps_no_other_out(several_uids: None, stopped_pykcmd: Pykcmd) -> None:
    """A user at its limit keeps nobody else out; at max_connections the user with the most gives way."""
    stopped_pykcmd.configure("max_uid_connections = 3\nmax_connections = 4\n")
    with started(stopped_pykcmd) as pykcmd:
        connections = [RawConnection(pykcmd.socket_path, USER) for _ in range(3)]
        for connection in connections:
            assert connection.ask(Opcode.NOOP) == 0
        with RawConnection(pykcmd.socket_path, OTHER) as first:
            assert first.ask(Opcode.NOOP) == 0
            with RawConnection(pykcmd.socket_path, OTHER) as second:
                assert second.ask(Opcode.NOOP) == 0
                assert first.ask(Opcode.NOOP) == 0
                assert connections[0].is_closed()
                assert [connection.ask(Opcode.NOOP) for connection in connections[1:]] == [0, 0]
        for connection in connections:
            connection.__exit__()
        assert (
            f"{format_user(OTHER)}: max_connections (4) reached: an idle connection of {format_user(USER)} "
            in pykcmd.log
        )
