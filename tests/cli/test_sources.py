"""Files of users, read as root: who becomes their owner, and which files are refused."""

import fcntl
import os
import socket
import threading
from pathlib import Path

import pytest

from pykcm.cli import files, migration, sources
from pykcm.cli.sources import SourceError, from_file, from_folder
from pykcm.control.records import CCacheRecord
from tests.builders import ALICE, BOB, TGS, credential_bytes
from tests.cli.owned import ccache

USER, OTHER = 20001, 20002

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")


def refused(path: Path, uid: int | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        from_file(str(path), uid)
    return caught.value.reason


@as_root
def test_ccache_gets_owner_of_file(tmp_path: Path) -> None:
    """A file of root can be given to another user; a file of a user cannot."""
    record = from_file(str(ccache(tmp_path / "cc", USER)))
    assert (record.uid, record.principal.principal, record.kdc_offset) == (USER, ALICE, -3)
    assert record.credentials == [credential_bytes(TGS)]
    assert record.name is None
    assert from_file(str(tmp_path / "cc"), USER).uid == USER
    assert f"belongs to UID {USER}" in refused(tmp_path / "cc", OTHER)
    assert from_file(str(ccache(tmp_path / "roots", 0)), OTHER).uid == OTHER


def test_other_kinds_of_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are not followed, and pipes and devices do not block; hard links and large files are refused."""
    ccache(tmp_path / "cc")
    (tmp_path / "link").symlink_to(tmp_path / "cc")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for link in ("link", "dangling"):
        wanted = "a symbolic link, which is not followed; name the file that it leads to"
        assert refused(tmp_path / link) == wanted
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "a pipe, not a file"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    assert refused(tmp_path / "socket") == "a socket, not a file; name a KCM server's with KCM:"
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder") == "a folder, not a file; name it with DIR:"
    assert refused(Path("/dev/null")) == "a device, not a file"
    (tmp_path / "empty").touch()
    assert (
        refused(tmp_path / "empty")
        == "the file is empty; get a ticket with kinit first, or name another file"
    )
    assert "No such file" in refused(tmp_path / "none")
    os.link(tmp_path / "cc", tmp_path / "second")
    assert "2 hard links" in refused(tmp_path / "cc")
    (tmp_path / "second").unlink()
    monkeypatch.setattr(files, "LARGEST_CCACHE_FILE", 100)
    assert "too large" in refused(tmp_path / "cc")


@as_root
def test_ccache_gets_label_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SELinux hosts a ccache gets its file's level; a file with an unreadable label is refused."""
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    path = ccache(tmp_path / "cc")
    try:
        os.setxattr(path, "security.selinux", label.encode() + b"\0")
    except OSError as error:
        pytest.skip(f"no labels can be set here: {error}")
    assert from_file(str(path)).label is None
    monkeypatch.setattr(files, "_SELINUX", path)
    assert from_file(str(path)).label == label
    # At the lowest level the type protects the file, so the ccache gets the level of the importing process.
    os.setxattr(path, "security.selinux", b"system_u:object_r:user_tmp_t:s0\0")
    assert from_file(str(path)).label is None
    os.removexattr(path, "security.selinux")
    assert "label" in refused(path)


def test_locked_file_is_refused(tmp_path: Path) -> None:
    """A user who keeps a lock does not block root."""
    path = ccache(tmp_path / "cc")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(write, b"locked")
            threading.Event().wait(60)
        os._exit(0)
    try:
        assert os.read(read, 6) == b"locked"
        assert "locked" in refused(path)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert from_file(str(path)).principal.principal == ALICE


def test_primary_ccache_is_first_and_default(tmp_path: Path) -> None:
    """Files that cannot be read are reported."""
    for name in ("tkta", "tktb", "other"):
        ccache(tmp_path / name, principal=BOB if name == "tktb" else ALICE)
    (tmp_path / "tktc").write_bytes(b"nonsense")
    (tmp_path / "primary").write_text("tktb\n")
    found = list(from_folder(str(tmp_path)))
    assert [(each.principal.principal, each.default) for each in found if isinstance(each, CCacheRecord)] == [
        (BOB, True),
        (ALICE, False),
    ]
    (error,) = (each for each in found if isinstance(each, SourceError))
    assert (error.location, error.reason) == (
        f"DIR:{tmp_path}/tktc",
        "not a ccache file; name the right file",
    )


@pytest.mark.parametrize("primary", ["../tkt", "tkt/../x", "", "x" * 5000])
def test_invalid_primary_is_ignored(tmp_path: Path, primary: str) -> None:
    ccache(tmp_path / "tkta")
    (tmp_path / "primary").write_text(primary)
    assert [each.default for each in from_folder(str(tmp_path)) if isinstance(each, CCacheRecord)] == [False]


@as_root
def test_folder_with_files_of_other_users(tmp_path: Path) -> None:
    """Root's file in a user's folder is not given to the user, who may have moved it there."""
    folder = tmp_path / "cc"
    folder.mkdir()
    os.chown(folder, USER, USER)
    ccache(folder / "tkta", USER)
    ccache(folder / "tktb", 0)
    ccache(folder / "tktc", OTHER)
    found = list(from_folder(str(folder)))
    assert [isinstance(each, CCacheRecord) for each in found] == [True, False, False]
    (refusal,) = from_folder(str(folder), OTHER)
    assert isinstance(refusal, SourceError)


def test_missing_server_is_reported_once(tmp_path: Path) -> None:
    (error,) = sources.from_server(str(tmp_path / "kcm.sock"), os.geteuid())
    assert isinstance(error, SourceError)
    assert error.reason == "No such file or directory; check the path"


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("FILE:/tmp/krb5cc_%{uid}", ("FILE", "/tmp/krb5cc_*")),
        ("/run/%{username}/cc", ("FILE", "/run/*/cc")),
        ("DIR:%{TEMP}/%{null}d%{euid}", ("DIR", "/tmp/d*")),
    ],
)
def test_pattern_is_expanded_for_all_users(pattern: str, expanded: tuple[str, str]) -> None:
    """Patterns have the form of default_ccache_name in krb5.conf."""
    assert migration._expand(pattern) == expanded


def test_default_ccache_name_is_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first default_ccache_name counts, also in a folder that is included."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "hidden.rpmsave").write_text("[libdefaults]\ndefault_ccache_name = FILE:/wrong\n")
    (tmp_path / "d" / "own.conf").write_text("[libdefaults]\n default_ccache_name = FILE:/a/%{uid}\n")
    conf = tmp_path / "krb5.conf"
    conf.write_text(f"includedir {tmp_path}/d\n[libdefaults]\ndefault_ccache_name = DIR:/b\n")
    monkeypatch.setenv("KRB5_CONFIG", f"{tmp_path}/none:{conf}")
    assert migration._configured_patterns() == ["FILE:/a/%{uid}"]
    (tmp_path / "d" / "own.conf").write_text("[realms]\n default_ccache_name = FILE:/a/%{uid}\n")
    assert migration._configured_patterns() == ["DIR:/b"]
    conf.write_text("[libdefaults]\ndefault_ccache_name = KCM:\n")
    assert migration._configured_patterns() == []
