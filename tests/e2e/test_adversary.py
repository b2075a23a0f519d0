"""Users who try to stop everybody else: a short form of what `scripts/bench fairness` measures, and more."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.adversary import LOOPS, PROMISED, PROMISED_SIZE, measure_variation
from bench.build import build
from bench.processes import BenchError
from bench.variations import VARIATIONS, Variation
from pykcm.protocol.opcodes import Opcode

from .conftest import OTHER, USER, started
from .daemon import LIMIT, Pykcmd
from .raw import RawConnection, request
from .waiting import wait_until

# For machines that have other work to do. Before UIDs took turns in reading and connecting, waits were of six
# seconds to two minutes.
LONGEST = 5.0

# Other work of the machine may lengthen the waits of one run; those of a wrong daemon are long in each.
_ATTEMPTS = 3

# A daemon that gives requests less time.
_WITH_PATIENCE = """
import sys
from pykcm import daemon
daemon._PATIENCE_WITH_A_REQUEST = {patience}
sys.exit(daemon.main())
"""


@pytest.fixture(scope="session")
def attackers() -> None:
    """For tests that need the programs that attack."""
    try:
        build("flood"), build("storm")
    except BenchError as error:
        pytest.skip(f"the attackers cannot be built: {error}")


@pytest.mark.alone
@pytest.mark.usefixtures("several_uids", "attackers")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("variation", VARIATIONS[1:], ids=lambda each: each.name)
def test_another_user_is_served(folder: Path, variation: Variation, loop: str) -> None:
    """Whatever one or several UIDs do, another one is served soon, and the daemon stays small."""
    late: list[str] = []
    for attempt in range(_ATTEMPTS):
        waits = measure_variation(folder / f"attacked{attempt}", variation, loop, seconds=0.5)
        assert waits.failed == {}
        assert waits.size <= PROMISED_SIZE
        for kind in PROMISED:
            assert max(waits.seconds[kind]) <= LONGEST, kind
        late = [kind for kind, promised in PROMISED.items() if waits.percentile(kind, 50) > promised]
        if not late:
            return
    pytest.fail(f"in each of {_ATTEMPTS} runs half of the waits were longer than promised: {late}")


def test_a_daemon_that_was_stopped(stopped_pykcmd: Pykcmd) -> None:
    """A request whose second half came while the daemon was stopped is answered, however long that was."""
    patience = 0.5
    stopped_pykcmd.command = (
        *stopped_pykcmd.command[:1],
        "-c",
        _WITH_PATIENCE.format(patience=patience),
    )
    with started(stopped_pykcmd) as pykcmd, RawConnection(pykcmd.socket_path, USER) as late:
        assert pykcmd.process is not None
        late.send(request(Opcode.NOOP)[:6])
        with RawConnection(pykcmd.socket_path, USER) as other:
            # Its first half has been read.
            assert other.ask(Opcode.NOOP) == 0
        pykcmd.process.send_signal(signal.SIGSTOP)
        late.send(request(Opcode.NOOP)[6:])
        time.sleep(2 * patience)
        pykcmd.process.send_signal(signal.SIGCONT)
        assert late.reply() == (0, b"")
        with RawConnection(pykcmd.socket_path, USER) as never:
            never.send(request(Opcode.NOOP)[:6])
            assert never.is_closed()


@pytest.mark.usefixtures("several_uids")
def test_root_gets_in(stopped_pykcmd: Pykcmd) -> None:
    """Where other UIDs have taken all connections, root and a user with few are served nevertheless."""
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


def test_few_descriptors(stopped_pykcmd: Pykcmd) -> None:
    """With few descriptors a user has a quarter of them, and the others are left for others."""
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
        # Which of them go depends on what of them has been read by then.
        wait_until(lambda: sum(not half.has_been_closed for half in halves) < len(halves))
        if USER != OTHER:
            with RawConnection(stopped_pykcmd.socket_path, 0 if USER == 20001 else USER) as other:
                assert other.ask(Opcode.NOOP) == 0
    assert stopped_pykcmd.stop() == 0
