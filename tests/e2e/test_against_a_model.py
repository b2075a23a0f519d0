"""Random operations of several UIDs, pipelined in random pieces, beside an independent model of a KCM server.

PYKCM_OPERATIONS: how many; PYKCM_SEED: of their choice, as a failure names it.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import OTHER, USER, watched
from .daemon import Pykcmd
from .model.broken_models import BROKEN
from .model.collections_model import Model
from .model.driver import DivergenceError, Driver

OPERATIONS = int(os.environ.get("PYKCM_OPERATIONS", "20000"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))
UIDS = [0, USER, OTHER]

# Operations between two ends of the daemon.
_BETWEEN = 500

# So many operations find out any of the broken models.
_ENOUGH = 4000

pytestmark = pytest.mark.usefixtures("several_uids")


@contextmanager
def driver_of(daemon: Pykcmd, model: Model, seed: int) -> Iterator[Driver]:
    # The durability is that of a crash of the daemon; a loss of power is tried elsewhere.
    daemon.configure('durability = "normal"\nmax_uid_connections = 64\n')
    daemon.start("--log-level", "warning")
    driver = Driver(daemon, model, UIDS, random.Random(seed))
    try:
        yield driver
    finally:
        driver.end()


@pytest.mark.timeout(300)
def test_store_that_persists(stopped_pykcmd: Pykcmd) -> None:
    """Every answer is the model's, and SIGKILLs and restarts lose nothing that was acknowledged."""
    print(f"PYKCM_SEED={SEED}")  # noqa: T201
    with driver_of(stopped_pykcmd, Model(UIDS), SEED) as driver:
        while driver.operations < OPERATIONS:
            driver.run(min(_BETWEEN, OPERATIONS - driver.operations))
            if driver.operations // _BETWEEN % 3 == 2:
                driver.restart()
            else:
                driver.kill()
        assert driver.kills


@pytest.mark.timeout(300)
def test_store_in_memory(folder: Path) -> None:
    """Every answer is the model's; a restart begins with nothing."""
    print(f"PYKCM_SEED={SEED}")  # noqa: T201
    with watched(Pykcmd(folder, store="memory")) as daemon, driver_of(daemon, Model(UIDS), SEED) as driver:
        while driver.operations < OPERATIONS:
            driver.run(min(5 * _BETWEEN, OPERATIONS - driver.operations))
            driver.restart()


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_model_is_found_out(folder: Path, broken: type[Model]) -> None:
    """A model with one wrong rule does not pass: the comparison would notice such a fault of the daemon's."""
    with (
        watched(Pykcmd(folder, store="memory")) as daemon,
        driver_of(daemon, broken(UIDS), 1) as driver,
        pytest.raises(DivergenceError, match="instead of"),
    ):
        driver.run(_ENOUGH)
