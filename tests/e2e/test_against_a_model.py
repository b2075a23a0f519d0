"""Random operations of several UIDs, compared with an independent model of a KCM server.

PYKCM_OPERATIONS: how many for each store; PYKCM_SEED: the seed that a failure names.
"""

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pykcm.protocol.opcodes import Opcode

from .conftest import OTHER, USER, public_folder, watched
from .daemon import Pykcmd
from .model.broken_models import BROKEN, TakesTheFirstForTheDefault
from .model.collections_model import Asker, Model
from .model.comparison import Comparison, DivergenceError, Sent
from .model.driver import Driver, Traffic
from .model.operations import Operation

OPERATIONS = int(os.environ.get("PYKCM_OPERATIONS", "20000"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))
UIDS = [0, USER, OTHER]

# Operations between two ends of the daemon.
_BETWEEN = 500

# Operations that are enough to find each broken model.
_ENOUGH = 4000

several_uids = pytest.mark.usefixtures("several_uids")


@contextmanager
def driver_of(
    daemon: Pykcmd, seed: int, *, model: type[Model] = Model, records: bool = False
) -> Iterator[Driver]:
    print(f"PYKCM_SEED={seed}")  # noqa: T201
    # Enough for a crash of the daemon. Other tests are about a loss of power.
    daemon.configure('durability = "normal"\nmax_uid_connections = 64\n')
    daemon.start("--log-level", "warning")
    driver = Driver(daemon, UIDS, seed, model=model, records=records)
    try:
        yield driver
    finally:
        driver.end()


def run_with_ends(driver: Driver, operations: int, between: int) -> None:
    """Run; after each `between` operations the daemon is killed, and each third time restarted in order."""
    ends = 0
    while driver.sent < operations:
        driver.run(min(between, operations - driver.sent))
        ends += 1
        if ends % 3 == 2:
            driver.restart()
        else:
            driver.kill()


@several_uids
@pytest.mark.timeout(600)
def test_persistent_store_answers_as_the_model_across_kills_and_restarts(stopped_pykcmd: Pykcmd) -> None:
    """Every answer is the model's, and no SIGKILL or restart loses an acknowledged change."""
    with driver_of(stopped_pykcmd, SEED) as driver:
        run_with_ends(driver, OPERATIONS, _BETWEEN)
        assert driver.interruptions


@several_uids
@pytest.mark.timeout(600)
def test_memory_store_answers_as_the_model_and_is_empty_after_each_start(folder: Path) -> None:
    """Every answer is the model's, and after a SIGKILL or a restart nothing is left."""
    with watched(Pykcmd(folder, store="memory")) as daemon, driver_of(daemon, SEED) as driver:
        run_with_ends(driver, OPERATIONS, 2 * _BETWEEN)
        assert driver.interruptions


@pytest.fixture(scope="module")
def traffic(several_uids: None) -> Iterator[Traffic]:
    """The requests and answers of a run in which the right model agreed with the daemon."""
    with (
        public_folder() as folder,
        watched(Pykcmd(folder)) as daemon,
        driver_of(daemon, 1, records=True) as driver,
    ):
        run_with_ends(driver, _ENOUGH, _BETWEEN)
        yield driver.traffic


def replay(traffic: Traffic, model: type[Model]) -> None:
    comparison = Comparison(model(UIDS))
    for event in traffic:
        event(comparison)


def test_right_model_passes_with_recorded_traffic(traffic: Traffic) -> None:
    """The traffic that finds the wrong models holds no divergence of the daemon."""
    replay(traffic, Model)


@pytest.mark.parametrize("broken", BROKEN)
def test_model_with_one_wrong_rule_does_not_pass(traffic: Traffic, broken: type[Model]) -> None:
    """A model with one wrong rule does not agree with traffic that the right model agrees with."""
    with pytest.raises(DivergenceError, match="instead of"):
        replay(traffic, broken)


@several_uids
def test_failure_names_seed_store_and_last_operations(folder: Path) -> None:
    """The message of a divergence has all that is needed to repeat it."""
    with (
        watched(Pykcmd(folder, store="memory")) as daemon,
        driver_of(daemon, 5, model=TakesTheFirstForTheDefault) as driver,
        pytest.raises(DivergenceError) as failure,
    ):
        driver.run(_ENOUGH)
    wrong, _, circumstances = str(failure.value).partition("\nstore ")
    found = re.match(r"UID \d+, connection \d+: (.+) instead of ", wrong)
    assert found is not None
    assert circumstances.startswith(f"memory, {driver.sent} operations sent, 0 kills\n")
    assert "repeat with PYKCM_SEED=5\n" in circumstances
    assert f"{found[1]}\n" in f"{circumstances}\n"


@several_uids
def test_seed_repeats_all_operations_also_after_kills(folder: Path) -> None:
    """Two runs with one seed send the same operations on the same connections, except for UUIDs."""
    runs = []
    for _ in range(2):
        with (
            watched(Pykcmd(folder, store="memory")) as daemon,
            driver_of(daemon, SEED, records=True) as driver,
        ):
            run_with_ends(driver, 800, 200)
            runs.append([re.sub("[0-9a-f]{32}", "UUID", each) for each in driver.descriptions])
    assert runs[0] == runs[1]


# The comparison itself

_ONE, _OTHER = Asker(USER, 1, 1), Asker(USER, 1, 2)
_A, _B = b"%d:a" % USER, b"%d:b" % USER


def set_default(name: bytes) -> Operation:
    return Operation(
        Opcode.SET_DEFAULT_CACHE,
        name,
        "SET_DEFAULT_CACHE",
        lambda model, asker: model.set_default(asker, name),
    )


_GET_DEFAULT = Operation(
    Opcode.GET_DEFAULT_CACHE, b"", "GET_DEFAULT_CACHE", lambda model, asker: model.get_default(asker)
)


def test_overlapping_requests_are_compared_in_each_order() -> None:
    """Requests of two connections may run in any order; later answers decide between the states."""
    comparison = Comparison(Model(UIDS))
    comparison.take([Sent(_ONE, [set_default(_A)], [(0, b"")]), Sent(_OTHER, [set_default(_B)], [(0, b"")])])
    assert len(comparison.states) == 2
    comparison.take([Sent(_ONE, [_GET_DEFAULT], [(0, _B + b"\0")])])
    assert [state.collections[USER].chosen for state in comparison.states] == [_B]


def test_overlapping_requests_keep_the_order_of_each_connection() -> None:
    """Answers that need the requests of one connection in another order are a divergence."""
    first = Sent(_ONE, [_GET_DEFAULT, _GET_DEFAULT], [(0, b"%d\0" % USER), (0, _A + b"\0")])
    second = Sent(_OTHER, [set_default(_A)], [(0, b"")])
    Comparison(Model(UIDS)).take([first, second])
    first.answers.reverse()
    with pytest.raises(DivergenceError, match="instead of"):
        Comparison(Model(UIDS)).take([first, second])


def test_at_most_one_unanswered_request_of_a_connection_took_effect() -> None:
    """After a kill, the first unanswered request has taken effect or has not, and later ones have not."""
    comparison = Comparison(Model(UIDS))
    comparison.take([Sent(_ONE, [set_default(_A), set_default(_B)], [])])
    assert {state.collections[USER].chosen for state in comparison.states} == {b"%d" % USER, _A}
