"""The SQLCipher store on a disk that fails, and killed afterwards.

What it refused does not come back, and what it acknowledged is there.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.disk.faults import Call, Faults, File
from tests.disk.storing import MODES, Storing, storing
from tests.e2e.daemon import LIMIT

PAGE = 4096

# This number of secrets needs more pages than the log may have before a checkpoint.
MANY = 700


class Disk:
    """One database on a disk that can fail, and the processes that use it one after the other."""

    def __init__(self, folder: Path, library: Path, mode: str) -> None:
        folder.mkdir()
        self.mode = mode
        self.log = folder / "pykcm.db-wal"
        self.faults = Faults(library, folder, folder.with_name("faults"))
        self._database = folder / "pykcm.db"

    def storing(self, durability: str = "full") -> AbstractContextManager[Storing]:
        return storing(self._database, self.faults.environment, durability, self.mode)

    def numbers_after_the_kill(self) -> list[int]:
        """The secrets that the next process finds, on a disk without faults."""
        self.faults.mend()
        with self.storing() as store:
            return store.numbers()


@pytest.fixture(params=MODES)
def disk(request: pytest.FixtureRequest, tmp_path: Path, faults_library: Path) -> Disk:
    """A sound disk with no database yet, for each way to commit."""
    return Disk(tmp_path / "state", faults_library, request.param)


def commit_fails(faults: Faults) -> None:
    faults.fail(Call.SYNC, errno.EIO, File.WAL, times=1)


def all_syncs_fail(faults: Faults) -> None:
    faults.fail(Call.SYNC, errno.EIO)


def disk_is_full(faults: Faults) -> None:
    faults.fail(Call.WRITE, errno.ENOSPC)


def disk_is_read_only(faults: Faults) -> None:
    faults.fail_all(errno.EROFS)


def disk_is_broken(faults: Faults) -> None:
    faults.fail_all(errno.EIO)


FAULTS = [
    ("full", commit_fails, errno.EIO),
    ("full", all_syncs_fail, errno.EIO),
    *[
        (durability, fault, code)
        for durability in ("full", "normal")
        for fault, code in [
            (disk_is_full, errno.ENOSPC),
            (disk_is_read_only, errno.EROFS),
            (disk_is_broken, errno.EIO),
        ]
    ],
]


@pytest.mark.parametrize(("durability", "fault", "code"), FAULTS)
def test_refused_commit_does_not_come_back(
    disk: Disk, durability: str, fault: Callable[[Faults], None], code: int
) -> None:
    """A commit that the disk refuses answers its errno; a kill does not bring it back."""
    with disk.storing(durability) as store:
        assert store.put(1, 2) == 0
        fault(disk.faults)
        assert store.put(3, 4) == code
        assert store.numbers() == [1, 2]
        store.kill()
    assert disk.numbers_after_the_kill() == [1, 2]


@pytest.mark.parametrize("wrote", range(0, 12, 2))
def test_commit_refused_at_any_write_does_not_come_back(disk: Disk, wrote: int) -> None:
    """Wherever among its writes a commit is refused, it is gone, and the next one is kept."""
    with disk.storing() as store:
        assert store.put(1) == 0
        disk.faults.fail(Call.WRITE, errno.EIO, File.WAL, skip=wrote, times=1)
        refused = store.put(2, 3)
        assert refused == (errno.EIO if disk.faults.hits(Call.WRITE) else 0)
        assert store.put(4) == 0
        before = store.numbers()
        assert before == ([1, 4] if refused else [1, 2, 3, 4])
        store.kill()
    assert disk.numbers_after_the_kill() == before


@pytest.mark.parametrize("times", [1, 2, 3])
def test_refused_commit_that_begins_the_log_again_does_not_come_back(disk: Disk, times: int) -> None:
    """A refused commit is gone also if it begins the log again, after a checkpoint."""
    first, later = list(range(MANY)), list(range(MANY, 2 * MANY))
    with disk.storing() as store:
        assert store.put(*first) == 0
        size = disk.log.stat().st_size
        disk.faults.fail(Call.SYNC, errno.EIO, File.WAL, times=times)
        refusals = 0
        while (answer := store.put(-1, -2)) != 0:
            assert answer == errno.EIO
            refusals += 1
            assert store.numbers() == first
        assert refusals
        assert disk.log.stat().st_size == size, "the log was not begun again"
        store.kill()
    assert disk.numbers_after_the_kill() == [*first, -1, -2]
    with disk.storing() as store:
        assert store.put(*later) == 0


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (Call.WRITE, errno.ENOSPC),
        (Call.WRITE, errno.EIO),
        (Call.SYNC, errno.EIO),
        (Call.TRUNCATE, errno.EIO),
    ],
)
@pytest.mark.parametrize("mended", [False, True])
def test_commits_go_on_while_the_log_cannot_be_copied(
    disk: Disk, call: Call, code: int, mended: bool
) -> None:
    """If only the log can be written, commits go on, and none is lost; later checkpoints make up for it."""
    with disk.storing() as store:
        disk.faults.fail(call, code, File.DATABASE)
        for turn in range(3):
            assert store.put(*range(turn * MANY, (turn + 1) * MANY)) == 0
        assert disk.faults.hits(call) == 3
        if mended:
            disk.faults.mend()
            assert store.put(3 * MANY) == 0
        numbers = store.numbers()
        assert len(numbers) == 3 * MANY + mended
        store.kill()
    assert disk.numbers_after_the_kill() == numbers


@pytest.fixture
def refused_and_not_covered(disk: Disk, tmp_path: Path, faults_library: Path) -> Iterator[Storing]:
    """A store whose second commit was refused, is complete in the log, and could not be overwritten.

    The disk still fails: once it works, the store overwrites the commit at any moment.
    """
    # As many writes, found out with a disk that is like it: two for each page.
    twin = Disk(tmp_path / "twin", faults_library, disk.mode)
    with twin.storing() as store:
        assert store.put(1) == 0
        size = twin.log.stat().st_size
        assert store.put(2) == 0
        writes = 2 * ((twin.log.stat().st_size - size) // PAGE)
    with disk.storing() as store:
        assert store.put(1) == 0
        disk.faults.fail(Call.SYNC, errno.EIO, File.WAL)
        disk.faults.fail(Call.WRITE, errno.EIO, File.WAL, skip=writes)
        assert store.put(2) == errno.EIO
        assert disk.faults.hits(Call.SYNC) == 1
        # Once, and again each second.
        assert disk.faults.hits(Call.WRITE) >= 1
        assert store.numbers() == [1]
        yield store


def test_refused_commit_is_overwritten_when_the_disk_accepts_writes(
    disk: Disk, refused_and_not_covered: Storing
) -> None:
    """A refused commit in the log is overwritten without a request once the disk accepts writes.

    A commit that changes nothing, and therefore writes nothing, is not enough.
    """
    left = disk.log.read_bytes()
    disk.faults.mend()
    assert refused_and_not_covered.put(1) == 0
    deadline = time.monotonic() + LIMIT
    while disk.log.read_bytes() == left:
        assert time.monotonic() < deadline
    refused_and_not_covered.kill()
    assert disk.numbers_after_the_kill() == [1]


def test_refused_commit_is_overwritten_by_the_next_one(disk: Disk, refused_and_not_covered: Storing) -> None:
    """The next commit overwrites a refused one in the log."""
    disk.faults.mend()
    assert refused_and_not_covered.put(3) == 0
    refused_and_not_covered.kill()
    assert disk.numbers_after_the_kill() == [1, 3]


def test_refused_commit_is_overwritten_when_the_store_is_closed(
    disk: Disk, refused_and_not_covered: Storing
) -> None:
    """Closing the store overwrites it, even if the log cannot be copied into the database."""
    disk.faults.mend()
    disk.faults.fail(Call.WRITE, errno.EIO, File.DATABASE)
    refused_and_not_covered.close()
    assert disk.numbers_after_the_kill() == [1]
