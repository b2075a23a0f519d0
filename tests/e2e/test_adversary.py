"""Users who try to stop all others: a short form of `scripts/bench fairness`, and more."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.adversary import PROMISED, PROMISED_SIZE, measure_variation
from bench.processes import LateError
from bench.variations import VARIATIONS, Variation
from pykcm.protocol.opcodes import Opcode

from .conftest import OTHER, USER, started
from .daemon import LIMIT, Pykcmd
from .flooding import built
from .raw import RawConnection, request
from .waiting import wait_until

# In seconds, for a loaded machine. Before UIDs took turns in reading and connecting, waits lasted from six
# seconds to two minutes.
LONGEST = 5.0

# Other load on the machine may lengthen the waits of one run; those of a faulty daemon are long in each run.
_ATTEMPTS = 3

_RUNS = [pytest.param(variation, id=f"{variation.kind}: {variation.name}") for variation in VARIATIONS[1:]]

# A daemon in which a request must be complete sooner. It stops itself when it has read the first half of one.
_WITH_PATIENCE = """
import os, signal, sys
from pykcm import daemon
from pykcm.server.deadlines import Deadlines

begin = Deadlines.begin

def begin_and_stop(self, late):
    begin(self, late)
    Deadlines.begin = begin
    os.kill(os.getpid(), signal.SIGSTOP)

Deadlines.begin = begin_and_stop
daemon._PATIENCE_WITH_A_REQUEST = {patience}
sys.exit(daemon.main())
"""


@pytest.fixture(scope="session")
def attackers() -> None:
    """The C programs of the attackers, compiled."""
    for program in ("flood", "storm"):
        built(program)


@pytest.mark.alone
@pytest.mark.usefixtures("several_uids", "attackers")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("variation", _RUNS)
def test_another_user_is_served(folder: Path, variation: Variation) -> None:
    """While UIDs attack, another one is served, pykcmctl does its work, and daemon and log stay small."""
    late: list[str] = []
    for attempt in range(_ATTEMPTS):
        waits = measure_variation(folder / f"attacked{attempt}", variation, seconds=0.5)
        assert waits.failed == {}
        assert [error for error in waits.uncompleted if not isinstance(error, LateError)] == []
        assert waits.size <= PROMISED_SIZE
        assert waits.has_few_lines
        for kind in PROMISED:
            assert max(waits.seconds[kind]) <= LONGEST, kind
        late = [kind for kind, promised in PROMISED.items() if waits.percentile(kind, 50) > promised]
        late += map(str, waits.uncompleted)
        if not late:
            return
    pytest.fail(
        f"in each of {_ATTEMPTS} runs half of the waits were too long, or pykcmctl took too long: {late}"
    )


def test_time_while_the_daemon_was_stopped_does_not_count(stopped_pykcmd: Pykcmd) -> None:
    """A request is answered if its second half came while the daemon was stopped for any time."""
    patience = 0.5
    stopped_pykcmd.command = (
        *stopped_pykcmd.command[:1],
        "-c",
        _WITH_PATIENCE.format(patience=patience),
    )
    with started(stopped_pykcmd) as pykcmd, RawConnection(pykcmd.socket_path, USER) as late:
        assert pykcmd.process is not None
        late.send(request(Opcode.NOOP)[:6])
        status = Path(f"/proc/{pykcmd.pid}/status")
        wait_until(lambda: "State:\tT" in status.read_text())
        late.send(request(Opcode.NOOP)[6:])
        time.sleep(2 * patience)
        pykcmd.process.send_signal(signal.SIGCONT)
        assert late.reply() == (0, b"")
        with RawConnection(pykcmd.socket_path, USER) as never:
            never.send(request(Opcode.NOOP)[:6])
            assert never.is_closed()


@pytest.mark.usefixtures("several_uids")
def test_root_and_small_users_get_in_when_connections_are_taken(stopped_pykcmd: Pykcmd) -> None:
    """When other UIDs have taken all connections, root and a user with few connections are served."""
    stopped_pykcmd.configure("max_connections = 8\n")
    with started(stopped_pykcmd) as pykcmd, ExitStack() as at_end:
        for uid in (USER, OTHER):
            for _ in range(4):
                half = at_end.enter_context(RawConnection(pykcmd.socket_path, uid))
                half.send(request(Opcode.NOOP)[:6])
        with RawConnection(pykcmd.socket_path, 0) as root:
            assert root.ask(Opcode.NOOP) == 0
        with RawConnection(pykcmd.socket_path, USER + 10) as third:
            assert third.ask(Opcode.NOOP) == 0


def test_a_user_has_a_quarter_of_few_descriptors(stopped_pykcmd: Pykcmd) -> None:
    """With few descriptors a user gets a quarter of them, and other users are served."""
    stopped_pykcmd.configure("max_uid_connections = 0\nmax_connections = 0\n")
    stopped_pykcmd.launch(wrapper=("prlimit", "--nofile=256"))
    deadline = time.monotonic() + LIMIT
    while not stopped_pykcmd.answers():
        assert time.monotonic() < deadline
    with ExitStack() as at_end:
        halves = [at_end.enter_context(RawConnection(stopped_pykcmd.socket_path, USER)) for _ in range(40)]
        for half in halves:
            try:
                half.send(request(Opcode.NOOP)[:6])
            except (BrokenPipeError, ConnectionResetError):
                continue
        # The daemon closes some of them; which ones depends on how much it has read by then.
        wait_until(lambda: sum(not half.has_been_closed for half in halves) < len(halves))
        if USER != OTHER:
            with RawConnection(stopped_pykcmd.socket_path, 0 if USER == 20001 else USER) as other:
                assert other.ask(Opcode.NOOP) == 0
    assert stopped_pykcmd.stop() == 0
