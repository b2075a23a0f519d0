"""Random operations of several UIDs, compared with an independent model of a KCM server.

PYKCM_OPERATIONS: how many for each store; PYKCM_SEED: the seed that a failure names.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import OTHER, USER, public_folder, watched
from .daemon import Pykcmd
from .model.broken_models import BROKEN
from .model.collections_model import Model
from .model.comparison import Comparison, DivergenceError
from .model.driver import Driver

OPERATIONS = int(os.environ.get("PYKCM_OPERATIONS", "20000"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))
UIDS = [0, USER, OTHER]

# Operations between two ends of the daemon.
_BETWEEN = 500

# Operations that are enough to find each broken model.
_ENOUGH = 4000

pytestmark = pytest.mark.usefixtures("several_uids")


@contextmanager
def driver_of(daemon: Pykcmd, seed: int, *, records: bool = False) -> Iterator[Driver]:
    print(f"PYKCM_SEED={seed}")  # noqa: T201
    # Enough for a crash of the daemon. Other tests are about a loss of power.
    daemon.configure('durability = "normal"\nmax_uid_connections = 64\n')
    daemon.start("--log-level", "warning")
    driver = Driver(daemon, UIDS, seed, records=records)
    try:
        yield driver
    finally:
        driver.end()


def run_with_ends(driver: Driver, operations: int, between: int) -> None:
    """Run; after each `between` operations the daemon is killed, and each third time restarted in order."""
    while driver.sent < operations:
        driver.run(min(between, operations - driver.sent))
        if driver.sent // between % 3 == 2:
            driver.restart()
        else:
            driver.kill()
    print(f"{driver.kills} kills, {driver.interruptions} of them with requests in progress")  # noqa: T201


@pytest.mark.timeout(300)
def test_persistent_store_answers_as_the_model_across_kills_and_restarts(stopped_pykcmd: Pykcmd) -> None:
    """Every answer is the model's, and no SIGKILL or restart loses an acknowledged change."""
    with driver_of(stopped_pykcmd, SEED) as driver:
        run_with_ends(driver, OPERATIONS, _BETWEEN)
        assert driver.interruptions


@pytest.mark.timeout(300)
def test_memory_store_answers_as_the_model_and_is_empty_after_each_start(folder: Path) -> None:
    """Every answer is the model's, and after a SIGKILL or a restart nothing is left."""
    with watched(Pykcmd(folder, store="memory")) as daemon, driver_of(daemon, SEED) as driver:
        run_with_ends(driver, OPERATIONS, 2 * _BETWEEN)
        assert driver.interruptions


@pytest.fixture(scope="module")
def traffic() -> Iterator[list[Callable[[Comparison], None]]]:
    """The requests and answers of one run, in which the right model agreed with the daemon."""
    with (
        public_folder() as folder,
        watched(Pykcmd(folder)) as daemon,
        driver_of(daemon, seed=1, records=True) as driver,
    ):
        run_with_ends(driver, _ENOUGH, _BETWEEN)
        yield driver.traffic


def replay(traffic: list[Callable[[Comparison], None]], model: type[Model]) -> None:
    comparison = Comparison(model(UIDS))
    for event in traffic:
        event(comparison)


def test_model_without_a_wrong_rule_passes(traffic: list[Callable[[Comparison], None]]) -> None:
    """The traffic that finds the wrong models holds no divergence of the daemon's."""
    replay(traffic, Model)


@pytest.mark.parametrize("broken", BROKEN)
def test_model_with_one_wrong_rule_does_not_pass(
    traffic: list[Callable[[Comparison], None]], broken: type[Model]
) -> None:
    """The answers of a run with which the right model agrees do not pass with a wrong model."""
    with pytest.raises(DivergenceError, match="instead of"):
        replay(traffic, broken)
