"""Repeated SIGKILLs at random moments, while clients of several UIDs change their ccaches.

PYKCM_KILLS: the number of kills; PYKCM_SEED: the seed for the random moments, which a failure prints.
"""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk.faults import Call, Faults, File

from .conftest import OTHER, USER
from .crashes import Crashes, look_into
from .daemon import Pykcmd
from .waiting import wait_until

KILLS = int(os.environ.get("PYKCM_KILLS", "200"))
SEED = int(os.environ.get("PYKCM_SEED", random.SystemRandom().randrange(10**6)))

# In seconds: the longest time until a kill, after the clients have started and after a start of the daemon.
WRITING = 0.06
STARTING = 0.25

AT_THE_START = 8  # one kill of so many
LOOKED_INTO = 20  # after one kill of so many, and the last

OWNERS = (USER, USER, OTHER, 0) if os.geteuid() == 0 else (USER,) * 4
NAMES = {b"%d:written%d" % (owner, index): owner for index, owner in enumerate(OWNERS)}


@pytest.fixture
def crashes(stopped_pykcmd: Pykcmd, faults_library: Path) -> Iterator[Crashes]:
    """A daemon that is not yet started."""
    faults = Faults(faults_library, stopped_pykcmd.state_dir, stopped_pykcmd.folder / "faults")
    yield Crashes(stopped_pykcmd, faults, NAMES, random.Random(SEED))
    print(f"PYKCM_SEED={SEED}")  # noqa: T201


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.timeout(300 + 4 * KILLS)
def test_kill_at_any_moment_loses_nothing(crashes: Crashes, durability: str) -> None:
    """The next daemon has all acknowledged changes, and every ccache is complete."""
    daemon, rng = crashes.daemon, crashes.rng
    daemon.configure(f'durability = "{durability}"\n')
    kills = -(-KILLS // 2)  # the other half has the other durability
    for kill in range(1, kills + 1):
        if kill % AT_THE_START == 1:
            daemon.launch(environment=crashes.faults.environment)
            time.sleep(rng.uniform(0, STARTING))
            daemon.kill()
        else:
            crashes.start()
            crashes.check()
            writers = crashes.write()
            # On a slow machine there must be changes to lose as well.
            wait_until(lambda: crashes.acknowledged + sum(each.answers for each in writers) > kill + 1)  # noqa: B023
            time.sleep(rng.uniform(0, WRITING))
            daemon.kill()
            crashes.end(writers)
        if kill % LOOKED_INTO == 0 or kill == kills:
            look_into(daemon)
    crashes.start()
    crashes.check()
    print(f"{kills} kills, {crashes.acknowledged} changes acknowledged")  # noqa: T201
    assert crashes.acknowledged > kills
    assert not crashes.refusals


WOUNDS = [
    (Call.WRITE, File.WAL, 40),  # within a commit
    (Call.SYNC, File.WAL, 20),  # before it is durable
    (Call.WRITE, File.DATABASE, 200),  # during a checkpoint
    (Call.TRUNCATE, File.DATABASE, 1),
    (Call.SYNC, File.DATABASE, 1),
]


@pytest.mark.parametrize(("call", "file", "most"), WOUNDS)
def test_kill_before_a_write_or_sync_loses_nothing(
    crashes: Crashes, call: Call, file: File, most: int
) -> None:
    """The kill hits a write or a sync of the write-ahead log or of the database."""
    crashes.start()
    for _ in range(4):
        crashes.check()
        crashes.faults.kill(call, file, skip=crashes.rng.randrange(most))
        writers = crashes.write()
        crashes.daemon.wait()
        crashes.end(writers)
        assert crashes.faults.hits(call) == 1
        crashes.faults.mend()
        look_into(crashes.daemon)
        crashes.start()
    crashes.check()
