"""The way to users' files: what users do to it gives them nothing of root's."""

import os
from pathlib import Path

import pytest

from pykcm.cli import folders, migration
from pykcm.cli.folders import Folder, open_folder
from pykcm.cli.sources import SourceError, from_file, from_folder
from pykcm.control.records import CCacheRecord
from tests.builders import ALICE
from tests.cli.owned import USER, folder
from tests.e2e.daemon import effective_uid
from tests.protocol.test_ccache_file import file_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def ccache(path: Path, owner: int = 0) -> Path:
    path.write_bytes(file_bytes())
    path.chmod(0o600)
    os.chown(path, owner, owner)
    return path


def why_not(path: Path | str, uid: int | None = USER) -> str:
    with pytest.raises(SourceError) as refused:
        from_file(str(path), uid)
    return refused.value.reason


def test_roots_file_in_a_folder_of_roots(top: Path) -> None:
    """Where nobody else can put files root's becomes the user's, also below a sticky folder such as /tmp."""
    assert from_file(str(ccache(top / "cc")), USER).uid == USER
    sticky = folder(top / "sticky", mode=0o1777)
    assert from_file(str(ccache(folder(sticky / "roots") / "cc")), USER).uid == USER
    (record,) = from_folder(str(folder_with_ccache(top / "d")), USER)
    assert isinstance(record, CCacheRecord)


def folder_with_ccache(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    ccache(folder(path, owner, mode) / "tkt")
    return path


@pytest.mark.parametrize(("owner", "mode"), [(USER, 0o755), (0, 0o775), (0, 0o757), (0, 0o1777)])
def test_roots_file_where_others_can_put_it(top: Path, owner: int, mode: int) -> None:
    """It stays root's: they may have moved it there."""
    path = folder_with_ccache(top / "d", owner, mode)
    assert "others can put files there" in why_not(path / "tkt")
    (refused,) = from_folder(str(path), USER)
    assert isinstance(refused, SourceError)
    assert "others can put files there" in refused.reason
    assert from_file(str(path / "tkt")).uid == 0


def test_roots_file_moved_to_a_sticky_folder(top: Path, users: Path) -> None:
    """What a user has moved to a folder such as /tmp is root's there, and does not become the user's."""
    sticky = folder(top / "sticky", mode=0o1777)
    ccache(users / "roots")
    with effective_uid(USER):
        (users / "roots").rename(sticky / "cc")
    assert (sticky / "cc").stat().st_uid == 0
    assert "others can put files there" in why_not(sticky / "cc")


def test_roots_folder_in_a_users_folder(users: Path) -> None:
    """Which of root's folders it is the user decides, by renaming them: so nothing of it is given away."""
    folder_with_ccache(users / "one")
    with effective_uid(USER):
        (users / "one").rename(users / "other")
    assert "others can put files there" in why_not(users / "other" / "tkt")


def test_a_users_link_on_the_way(top: Path, users: Path) -> None:
    """It is not followed, wherever it leads and whoever made it: for FILE, DIR and migrate."""
    folder_with_ccache(top / "roots")
    with effective_uid(USER):
        (users / "d").symlink_to(top / "roots")
    assert "symbolic link" in why_not(users / "d" / "tkt")
    assert "symbolic link" in why_not(users / "d" / "tkt", None)
    for path in (users / "d", f"{users}/d/", f"{users}/d/../roots"):
        (refused,) = from_folder(str(path), USER)
        assert isinstance(refused, SourceError)
        assert "symbolic link" in refused.reason
    found = migration._read_files([f"FILE:{top}/*/d/tkt", f"DIR:{top}/*/d"], {0, USER})
    own = [each for each in found if isinstance(each, SourceError) and str(top) in each.location]
    assert [each.location for each in own] == [f"FILE:{users}/d/tkt", f"DIR:{users}/d"]


@pytest.mark.parametrize(("owner", "mode"), [(USER, 0o755), (0, 0o775), (0, 0o1777)])
def test_roots_link_where_others_can_put_it(top: Path, owner: int, mode: int) -> None:
    """It counts as theirs."""
    folder_with_ccache(top / "roots")
    path = folder(top / "d", owner, mode)
    (path / "link").symlink_to(top / "roots")
    assert "symbolic link" in why_not(path / "link" / "tkt")


@pytest.mark.parametrize("target", ["{top}/there/deep", "there/deep", "./there/../there//deep/", "again"])
def test_roots_link(top: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that is root's alone it is followed as the kernel does, as /var/run is to be."""
    folder(top / "there")
    folder_with_ccache(top / "there" / "deep")
    ccache(top / "there" / "cc")
    (top / "again").symlink_to("there/deep")
    (top / "link").symlink_to(target.format(top=top))
    monkeypatch.chdir(top / "there")
    for path in (f"{top}/link/tkt", f"{top}//link/./../cc", "../link/tkt", "cc", "deep/../../link/../cc"):
        assert from_file(path, USER).principal.principal == ALICE
    assert why_not("../link/../tkt") == "No such file or directory"
    assert len(list(from_folder("../link/"))) == 1


def test_links_in_a_circle(top: Path) -> None:
    """They come to an end."""
    (top / "one").symlink_to("two")
    (top / "two").symlink_to("one")
    assert "symbolic links" in why_not(top / "one" / "cc")


def test_a_file_on_the_way(top: Path) -> None:
    """What is no folder leads nowhere."""
    ccache(top / "cc")
    assert why_not(top / "cc" / "cc") == "Not a directory"
    assert why_not(f"{top}/none/../cc") == "No such file or directory"


def test_a_folder_that_is_moved_meanwhile(top: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` leads back to where the way came from, not to where the user has moved the folder."""
    folder(top / "sticky", mode=0o1777)
    ccache(top / "sticky" / "cc", USER)
    folder(users / "d", USER)
    real = os.open

    def moving(path: str, *arguments: int, dir_fd: int | None = None) -> int:
        descriptor = real(path, *arguments, dir_fd=dir_fd)
        if path == "d":
            with effective_uid(USER):
                (users / "d").rename(top / "sticky" / "d")
        return descriptor

    monkeypatch.setattr("pykcm.cli.folders.os.open", moving)
    with open_folder(f"{users}/d/..") as opened:
        assert os.fstat(opened.descriptor).st_ino == users.stat().st_ino
    assert (top / "sticky" / "d").is_dir()


def test_nothing_stays_open(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder on the way is closed, also where it leads nowhere."""
    opened: list[int] = []

    class Noted(Folder):
        def __init__(self, descriptor: int, parent: Folder | None) -> None:
            super().__init__(descriptor, parent)
            opened.append(descriptor)

    monkeypatch.setattr(folders, "Folder", Noted)
    why_not(users / "none" / "cc")
    why_not(users / "cc")
    assert len(opened) > 4
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
