"""Opening the folders of users' files: no user can make root read or give away a file of root."""

import os
from pathlib import Path

import pytest

from pykcm.cli import folders, migration
from pykcm.cli.folders import Folder, open_folder
from pykcm.cli.sources import SourceError, from_file, from_folder
from pykcm.control.records import CCacheRecord
from tests.builders import ALICE, file_bytes
from tests.cli.owned import USER, folder
from tests.e2e.daemon import effective_uid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def ccache(path: Path, owner: int = 0) -> Path:
    path.write_bytes(file_bytes())
    path.chmod(0o600)
    os.chown(path, owner, owner)
    return path


def refusal(path: Path | str, uid: int | None = USER) -> str:
    """The reason why the file cannot be imported."""
    with pytest.raises(SourceError) as refused:
        from_file(str(path), uid)
    return refused.value.reason


def test_file_of_root_in_trusted_folder_is_given_to_user(top: Path) -> None:
    """The folder must be writable only for root; it may be below a sticky one such as /tmp."""
    assert from_file(str(ccache(top / "cc")), USER).uid == USER
    sticky = folder(top / "sticky", mode=0o1777)
    assert from_file(str(ccache(folder(sticky / "roots") / "cc")), USER).uid == USER
    (record,) = from_folder(str(folder_with_ccache(top / "d")), USER)
    assert isinstance(record, CCacheRecord)


def folder_with_ccache(path: Path, owner: int = 0, mode: int = 0o755) -> Path:
    ccache(folder(path, owner, mode) / "tkt")
    return path


@pytest.mark.parametrize(("owner", "mode"), [(USER, 0o755), (0, 0o775), (0, 0o757), (0, 0o1777)])
def test_file_of_root_in_open_folder_is_not_given_away(top: Path, owner: int, mode: int) -> None:
    """Another user may have moved the file there."""
    path = folder_with_ccache(top / "d", owner, mode)
    assert "others can put files into its folder" in refusal(path / "tkt")
    (refused,) = from_folder(str(path), USER)
    assert isinstance(refused, SourceError)
    assert "others can put files into its folder" in refused.reason
    assert from_file(str(path / "tkt")).uid == 0


def test_file_of_root_moved_to_sticky_folder_is_not_given_away(top: Path, users: Path) -> None:
    """A user can move a file of root from an own folder to /tmp."""
    sticky = folder(top / "sticky", mode=0o1777)
    ccache(users / "roots")
    with effective_uid(USER):
        (users / "roots").rename(sticky / "cc")
    assert (sticky / "cc").stat().st_uid == 0
    assert "others can put files into its folder" in refusal(sticky / "cc")


def test_folder_of_root_in_users_folder_is_not_given_away(users: Path) -> None:
    """The user decides which folder of root it is, by renaming it."""
    folder_with_ccache(users / "one")
    with effective_uid(USER):
        (users / "one").rename(users / "other")
    assert "others can put files into its folder" in refusal(users / "other" / "tkt")


def test_users_link_in_path_is_refused(top: Path, users: Path) -> None:
    """A user's link is not followed, wherever it leads: for FILE, DIR and migrate."""
    folder_with_ccache(top / "roots")
    with effective_uid(USER):
        (users / "d").symlink_to(top / "roots")
    assert "symbolic link" in refusal(users / "d" / "tkt")
    assert "symbolic link" in refusal(users / "d" / "tkt", None)
    for path in (users / "d", f"{users}/d/", f"{users}/d/../roots"):
        (refused,) = from_folder(str(path), USER)
        assert isinstance(refused, SourceError)
        assert "symbolic link" in refused.reason
    found = migration._read_files([f"FILE:{top}/*/d/tkt", f"DIR:{top}/*/d"], {0, USER})
    own = [each for each in found if isinstance(each, SourceError) and str(top) in each.location]
    assert [each.location for each in own] == [f"FILE:{users}/d/tkt", f"DIR:{users}/d"]


@pytest.mark.parametrize(("owner", "mode"), [(USER, 0o755), (0, 0o775), (0, 0o1777)])
def test_roots_link_in_open_folder_is_refused(top: Path, owner: int, mode: int) -> None:
    """Another user may have moved the link there."""
    folder_with_ccache(top / "roots")
    path = folder(top / "d", owner, mode)
    (path / "link").symlink_to(top / "roots")
    assert "symbolic link" in refusal(path / "link" / "tkt")


@pytest.mark.parametrize("target", ["{top}/there/deep", "there/deep", "./there/../there//deep/", "again"])
def test_roots_link_in_trusted_folder_is_followed(
    top: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links such as /var/run are resolved as the kernel does it."""
    folder(top / "there")
    folder_with_ccache(top / "there" / "deep")
    ccache(top / "there" / "cc")
    (top / "again").symlink_to("there/deep")
    (top / "link").symlink_to(target.format(top=top))
    monkeypatch.chdir(top / "there")
    for path in (f"{top}/link/tkt", f"{top}//link/./../cc", "../link/tkt", "cc", "deep/../../link/../cc"):
        assert from_file(path, USER).principal.principal == ALICE
    assert refusal("../link/../tkt") == "No such file or directory; check the path"
    assert len(list(from_folder("../link/"))) == 1


def test_circular_links_end(top: Path) -> None:
    (top / "one").symlink_to("two")
    (top / "two").symlink_to("one")
    assert "symbolic link" in refusal(top / "one" / "cc")


def test_file_in_path_is_an_error(top: Path) -> None:
    """A path through a file leads nowhere."""
    ccache(top / "cc")
    assert refusal(top / "cc" / "cc") == "Not a directory; check the path"
    assert refusal(f"{top}/none/../cc") == "No such file or directory; check the path"


def test_dot_dot_returns_to_opened_folder(top: Path, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` is the folder that was opened before, even if a user has moved the child meanwhile."""
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


def test_all_folders_are_closed(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are closed again, also after an error."""
    opened: list[int] = []

    class Noted(Folder):
        def __init__(self, descriptor: int, parent: Folder | None) -> None:
            super().__init__(descriptor, parent)
            opened.append(descriptor)

    monkeypatch.setattr(folders, "Folder", Noted)
    refusal(users / "none" / "cc")
    refusal(users / "cc")
    assert len(opened) > 4
    for descriptor in opened:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
