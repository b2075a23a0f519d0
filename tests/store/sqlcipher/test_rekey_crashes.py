"""Kills, failing calls and losses of power during a rekey."""

import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.store.keys import load_key
from tests.disk.faults import Call, Faults
from tests.disk.power import Choice, DiskFolder, newest, oldest, torn
from tests.disk.record import Event, Opened, Renamed, Unlinked, read_record, strace, wait_for
from tests.disk.rekeying import DATABASE, files, opens, rekeying, secrets

SEED = 20261121


async def check_after_a_crash(folder: Path) -> None:
    """All that was acknowledged is there, and one key."""
    acknowledged = (folder / "acknowledged").stat().st_size
    found = await secrets(folder)
    # A commit that was under way may be there as well.
    assert found[:acknowledged] == list(range(acknowledged))
    assert len(found) in {acknowledged, acknowledged + 26}
    assert files(folder) == {"key", DATABASE}
    assert opens(folder / DATABASE, (folder / "key").read_bytes())


CALLS = (Call.WRITE, Call.SYNC, Call.TRUNCATE, Call.OPEN, Call.UNLINK)


async def disturb_each_call(
    tmp_path: Path, state: Path, library: Path, call: Call, disturb: Callable[[Faults, int], None]
) -> list[int]:
    """Disturb one call of a rekey after the other, and check what is left; return each exit status.

    `disturb` gets the number of calls before. The last rekey was not disturbed.
    """
    faults = Faults(library, tmp_path, tmp_path.with_name(tmp_path.name + "-faults"))
    statuses: list[int] = []
    with rekeying(faults.environment) as processes:
        hit = True
        while hit:
            attempt = tmp_path / "attempt"
            shutil.copytree(state, attempt)
            disturb(faults, len(statuses))
            statuses.append(processes.run(attempt))
            hit = bool(faults.hits(call))
            faults.mend()
            await check_after_a_crash(attempt)
            shutil.rmtree(attempt)
    return statuses


@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.lower())
async def test_kill_before_each_call_loses_nothing(
    tmp_path: Path, state: Path, faults_library: Path, call: Call
) -> None:
    """After a kill before any call to the disk, all acknowledged secrets are there, and one key."""
    *killed, last = await disturb_each_call(
        tmp_path, state, faults_library, call, lambda faults, skip: faults.kill(call, skip=skip)
    )
    assert set(killed) == {-9}
    assert last == 0
    assert len(killed) >= 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name.lower())
async def test_failure_of_each_call_loses_nothing(
    tmp_path: Path, state: Path, faults_library: Path, call: Call
) -> None:
    """If any call to the disk fails, the rekey is undone, or the next start completes it."""
    *failed, _ = await disturb_each_call(
        *(tmp_path, state, faults_library, call),
        lambda faults, skip: faults.fail(call, errno.EIO, skip=skip, times=1),
    )
    assert len(failed) >= 5


@pytest.fixture
def recorded(tmp_path: Path) -> list[Event]:
    """All that a first start, a few commits and a change of keys ask of the disk."""
    folder = tmp_path / "recorded"
    folder.mkdir(0o700)
    record = tmp_path / "record"
    with rekeying({"PREPARE": "1"}, strace(record)) as processes:
        assert processes.run(folder) == 0
    wait_for(record)
    return list(read_record(record, folder))


@pytest.mark.timeout(600)
async def test_power_cut_loses_nothing(tmp_path: Path, recorded: list[Event]) -> None:
    """Wherever power is lost, and whatever the disk keeps, all acknowledged secrets are there."""
    disk = DiskFolder()
    cuts = 0
    begun = False
    for number, event in enumerate(recorded):
        disk.apply(event)
        begun = begun or (isinstance(event, Opened) and event.name == "key.next.new")
        if not begun or (isinstance(event, Opened) and not event.may_make):
            continue
        choices = [oldest, newest, torn(SEED + number)]
        if isinstance(event, Renamed | Unlinked):
            choices += [torn_names(disk, seed, then) for seed in range(20) for then in (oldest, newest)]
        for choose in choices:
            await cut(tmp_path / "cut", disk, choose)
            cuts += 1
    assert any(isinstance(event, Renamed) and event.new == DATABASE for event in recorded)
    assert cuts > 100


def torn_names(disk: DiskFolder, seed: int, contents: Choice) -> Choice:
    """Any of the names that came and went; what is in the files is chosen by `contents`."""
    names = len(disk._names_before)
    rng = random.Random(seed)

    def choose(states: int) -> int:
        nonlocal names
        names -= 1
        return rng.randrange(states) if names >= 0 else contents(states)

    return choose


async def cut(folder: Path, disk: DiskFolder, choose: Choice) -> None:
    disk.write_left(folder, choose)
    # Others have seen each acknowledged change: no disk may lose it.
    (folder / "acknowledged").write_bytes(bytes(disk.names["acknowledged"].now))
    await check_after_a_crash(folder)
    assert load_key(folder / "key", may_create=False)
    shutil.rmtree(folder)
