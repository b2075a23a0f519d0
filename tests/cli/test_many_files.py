"""Users' files in /tmp: no user can slow down root's migrate, or keep it from other users' files."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.cli import migration, sources
from pykcm.cli.files import LOCK_TIMEOUT, RETRY_INTERVAL
from pykcm.cli.folders import match_files
from pykcm.cli.sources import SourceError, from_folder, retry_locked
from pykcm.control.records import CCacheRecord
from tests.cli.owned import ccache, folder

MANY, FEW = 20001, 20002

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


class FakeTime:
    """A clock for which sleeping takes no time; `meanwhile` is called on each sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        self.meanwhile()


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(sources, "time", fake)
    return fake


class Locks:
    """Locks on files, held by other processes."""

    def __init__(self) -> None:
        self._pids: list[tuple[int, int]] = []

    def hold(self, paths: list[Path]) -> None:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            kept = [path.open("r+b") for path in paths]
            for file in kept:
                fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(write, b"x")
            os.close(write)
            # Hold the locks until the process is killed.
            os.read(os.pipe()[0], 1)
        os.close(write)
        assert os.read(read, 1) == b"x"
        self._pids.append((pid, read))

    def end(self) -> None:
        while self._pids:
            pid, read = self._pids.pop()
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(read)


@pytest.fixture
def locks() -> Iterator[Locks]:
    locks = Locks()
    yield locks
    locks.end()


def imported_uids(found: list[CCacheRecord | SourceError]) -> list[int]:
    return [each.uid for each in found if isinstance(each, CCacheRecord)]


def reasons(found: list[CCacheRecord | SourceError]) -> list[str]:
    return [each.reason for each in found if isinstance(each, SourceError)]


def migrate(top: Path, kind: str = "FILE") -> list[CCacheRecord | SourceError]:
    """Migrate the files of this folder, and ignore those in /tmp."""
    return [
        each
        for each in migration._read_files([f"{kind}:{top}/cc_*"], {MANY, FEW})
        if isinstance(each, CCacheRecord) or str(top) in each.location or each.location.startswith("files of")
    ]


def test_locked_files_share_one_timeout(top: Path, fake_time: FakeTime, locks: Locks) -> None:
    """However many files are locked, migrate waits for all of them together, at the end."""
    for number in range(40):
        ccache(top / f"cc_{number}", MANY)
    ccache(top / "cc_few", FEW)
    locks.hold([top / f"cc_{number}" for number in range(40)])
    found = migrate(top)
    assert imported_uids(found[:1]) == [FEW]
    assert len(found) == 41
    assert all("locked" in reason for reason in reasons(found))
    assert {each.uid for each in found[1:]} == {MANY}
    assert LOCK_TIMEOUT <= fake_time.slept < LOCK_TIMEOUT + 2 * RETRY_INTERVAL


def test_file_unlocked_meanwhile_is_read(top: Path, fake_time: FakeTime, locks: Locks) -> None:
    """A file that a client locks for a moment is imported, also a folder's default ccache."""
    ccache(top / "cc_1", MANY)
    members = folder(top / "cc_2", FEW)
    ccache(members / "tkt", FEW)
    locks.hold([top / "cc_1", members / "tkt"])
    fake_time.meanwhile = locks.end
    assert imported_uids(list(retry_locked(sources.from_folder(str(members))))) == [FEW]
    assert fake_time.slept == RETRY_INTERVAL
    locks.hold([top / "cc_1", members / "tkt"])
    assert imported_uids(migrate(top)) == [MANY]
    locks.hold([top / "cc_1", members / "tkt"])
    (record,) = (each for each in migrate(top, "DIR") if isinstance(each, CCacheRecord))
    assert (record.uid, record.default) == (FEW, True)


def test_files_of_one_user_are_limited(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the limit are counted and reported; other users' files are read in between."""
    monkeypatch.setattr(migration, "_MAX_USER_FILES", 3)
    for number in range(7):
        ccache(top / f"cc_a{number}", MANY)
    for number in range(2):
        ccache(top / f"cc_b{number}", FEW)
    found = migrate(top)
    assert imported_uids(found) == [MANY, FEW, MANY, FEW, MANY]
    (left_out,) = (each for each in found if isinstance(each, SourceError))
    assert left_out.uid == MANY
    assert left_out.reason.startswith("4 more files are left out")


def test_time_for_one_user_is_limited(
    top: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_time: FakeTime,
) -> None:
    """A user whose files are slow to read does not use up the time of other users."""
    read = sources.from_file

    def slow(path: str) -> CCacheRecord:
        fake_time.now += 6 if "/cc_a" in path else 0.1
        return read(path)

    monkeypatch.setattr(migration, "time", fake_time)
    monkeypatch.setattr(migration, "from_file", slow)
    for number in range(5):
        ccache(top / f"cc_a{number}", MANY)
        ccache(top / f"cc_b{number}", FEW)
    found = migrate(top)
    assert imported_uids(found).count(FEW) == 5
    assert imported_uids(found).count(MANY) == 2
    assert reasons(found)[0].startswith("3 more files are left out")


def test_file_with_changed_owner_is_ignored(
    top: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With --uid, a file that has another owner than when it was found is not imported."""
    ccache(top / "cc_1", MANY)
    monkeypatch.setattr(
        migration, "match_files", lambda pattern: [(str(top / "cc_1"), FEW)] if str(top) in pattern else []
    )
    assert list(migration._read_files([f"{top}/cc_*"], {FEW})) == []


def test_other_kinds_of_files_are_refused_at_once(top: Path, fake_time: FakeTime) -> None:
    """Pipes, folders, links and huge sparse files are reported without waiting."""
    os.mkfifo(top / "cc_fifo")
    (top / "cc_folder").mkdir()
    (top / "cc_link").symlink_to("/dev/zero")
    with (top / "cc_sparse").open("wb") as file:
        file.write(b"\x05\x04")
        file.truncate(1 << 40)
    for path in top.iterdir():
        os.chown(path, MANY, MANY, follow_symlinks=False)
    found = migrate(top)
    assert len(reasons(found)) == 4
    assert fake_time.slept == 0


def test_files_of_one_folder_are_limited(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files beyond the limit is reported."""
    monkeypatch.setattr(sources, "_MAX_MEMBERS", 3)
    members = folder(top / "d", MANY)
    for number in range(5):
        ccache(members / f"tkt{number}", MANY)
    found = list(from_folder(str(members)))
    assert imported_uids(found) == [MANY] * 3
    assert reasons(found) == ["2 more files are left out: the limit is 3"]


def test_patterns_match_as_in_a_shell(top: Path, users: Path) -> None:
    """`*` matches no hidden files; a user's link is returned, but not entered."""
    for name in ("a1", "a2", ".a3", "b"):
        (top / name).touch()
    (users / "a4").touch()
    (users / "elsewhere").symlink_to(top)
    assert sorted(match_files(f"{top}/*")) == sorted(
        [(str(top / each), 0) for each in ("a1", "a2", "b")] + [(str(users), users.stat().st_uid)]
    )
    assert sorted(path for path, _ in match_files(f"{top}/a[12]")) == [f"{top}/a1", f"{top}/a2"]
    assert [path for path, _ in match_files(f"{top}/.a*")] == [f"{top}/.a3"]
    assert [path for path, _ in match_files(f"{top}/*/a?")] == [f"{users}/a4"]
    assert [path for path, _ in match_files(f"{users}/elsewhere/a*")] == [f"{users}/elsewhere/a*"]
    assert list(match_files(f"{top}/none/*")) == []
    assert list(match_files(f"{top}/b/*")) == []
