"""pykcmctl import and migrate of FILE: and DIR: ccaches, which MIT's clients have written."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.cli.files import LARGEST_CCACHE_FILE

from .clients import Listed, MitClient
from .conftest import OTHER, USER
from .control import Pykcmctl
from .daemon import Pykcmd
from .exports import results
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
HOST = "host/server.pykcm.test"

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture
def users_folder(folder: Path) -> Path:
    """A folder that only USER may enter."""
    path = folder / "users"
    path.mkdir(0o700)
    os.chown(path, USER, USER)
    return path


def test_file_of_kinit_is_imported(users_folder: Path, mit: MitClient, ctl: Pykcmctl) -> None:
    """A user's FILE: ccache becomes the user's default, with all its tickets, and works."""
    file = f"FILE:{users_folder}/cc"
    mit.kinit("alice", ccache=file)
    mit.kvno(HOST, ccache=file)
    assert mit.klist(ccache=file).tickets == [TGT, HOST]
    assert results(ctl, "import", file) == [("imported", f"KCM:{USER}")]
    assert mit.klist() == Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT, HOST])
    mit.kvno("HTTP/www.pykcm.test")
    # Importing the file again does not remove tickets that were added meanwhile.
    assert results(ctl, "import", file) == [("skipped", f"KCM:{USER}")]
    assert len(mit.klist().tickets) == 3


def test_unusable_file_is_named(ctl: Pykcmctl, folder: Path) -> None:
    """A file that is missing or not a ccache is named in one line."""
    (folder / "text").write_text("no ccache")
    for name, reason in (
        ("nothing", "No such file or directory; check the path"),
        ("text", "not a ccache file; name the right file"),
    ):
        said = ctl.run("import", f"FILE:{folder}/{name}")
        assert said == (1, "", f"pykcmctl: FILE:{folder}/{name}: {reason}\n")


def test_folder_of_kinit_is_imported(users_folder: Path, mit: MitClient, ctl: Pykcmctl) -> None:
    """All ccaches of a DIR: collection are imported, and the primary one is the default."""
    collection = f"DIR:{users_folder}"
    for user in ("alice", "bob"):
        mit.kinit(user, ccache=collection)
    mit.ok("kswitch", "-p", "bob", ccache=collection)
    assert [result for result, _ in results(ctl, "import", collection)] == ["imported", "imported"]
    assert mit.klist().principal == f"bob@{REALM}"
    assert sorted(each.principal for each in mit.klist_all()) == [f"alice@{REALM}", f"bob@{REALM}"]


def test_unreadable_files_of_folder_are_reported(users_folder: Path, mit: MitClient, ctl: Pykcmctl) -> None:
    """The other files are imported, and the exit status is 1."""
    collection = f"DIR:{users_folder}"
    mit.kinit("alice", ccache=collection)
    mit.kinit("bob", ccache=collection)
    (users_folder / "tktbroken").write_bytes(b"\5\4\0\0nonsense")
    (users_folder / "tktempty").touch()
    (users_folder / "tktlink").symlink_to(users_folder / "tkt")
    (users_folder / "tktdangling").symlink_to(users_folder / "tktnone")
    (users_folder / "tktfolder").mkdir()
    os.mkfifo(users_folder / "tktpipe")
    (users_folder / "tktlarge").touch()
    os.truncate(users_folder / "tktlarge", LARGEST_CCACHE_FILE + 1)
    for each in users_folder.glob("tkt*"):
        os.chown(each, USER, USER, follow_symlinks=False)
    for options in (["--dry-run"], []):
        said = ctl.run("import", "--json", *options, collection)
        assert said.status == 1
        found = {each["name"].rpartition("/")[2]: each for each in json.loads(said.output)}
        reasons = {name: each["reason"] for name, each in found.items() if each["result"] == "failed"}
        assert sorted(reasons) == [
            *("tktbroken", "tktdangling", "tktempty", "tktfolder", "tktlarge", "tktlink", "tktpipe")
        ]
        assert {reasons["tktlink"], reasons["tktdangling"]} == {
            "a symbolic link, which is not followed; name the file that it leads to"
        }
        assert "empty" in reasons["tktempty"]
        assert "too large" in reasons["tktlarge"]
        assert [each["result"] for each in found.values()].count("imported") == 2
    assert sorted(each.principal for each in mit.klist_all()) == [f"alice@{REALM}", f"bob@{REALM}"]
    assert ctl.run("import", collection).status == 1
    for each in reasons:
        (users_folder / each).rmdir() if each == "tktfolder" else (users_folder / each).unlink()
    assert [result for result, _ in results(ctl, "import", collection)] == ["unchanged", "unchanged"]


def test_unreadable_folder_is_named(ctl: Pykcmctl, folder: Path) -> None:
    """A path that is missing or not a folder is named in one line."""
    (folder / "file").write_text("no folder")
    for name, reason in (
        ("none", "No such file or directory; check the path"),
        ("file", "Not a directory; check the path"),
    ):
        said = ctl.run("import", f"DIR:{folder}/{name}")
        assert said == (1, "", f"pykcmctl: DIR:{folder}/{name}: {reason}\n")


def test_keytab_is_refused(ctl: Pykcmctl, folder: Path) -> None:
    """A keytab begins with the same byte as a ccache."""
    for content, said in ((b"\5\2" + bytes(40), "not an export"), (b"\5\4" + bytes(40), "name it FILE:")):
        (folder / "file").write_bytes(content)
        assert said in ctl.run("import", str(folder / "file")).errors


def test_source_without_path_is_wrong_usage(ctl: Pykcmctl) -> None:
    for kind in ("FILE", "DIR", "KCM"):
        said = ctl.run("import", f"{kind}:")
        assert said.status == 2
        assert f"{kind}: has no path; write {kind}:PATH" in said.errors


def test_migrate_imports_files_of_all_users(
    pykcmd: Pykcmd, mit_as: Callable[[int], MitClient], ctl: Pykcmctl
) -> None:
    """Each file is reported; a damaged one makes the exit status 1."""
    folder = pykcmd.folder / "run"
    for uid, user in ((USER, "alice"), (OTHER, "bob")):
        (folder / str(uid)).mkdir(0o700, parents=True)
        os.chown(folder / str(uid), uid, uid)
        folder.chmod(0o755)
        mit_as(uid).kinit(user, ccache=f"FILE:{folder}/{uid}/krb5cc")
    uids = ("--uid", str(USER), "--uid", str(OTHER))
    arguments = ("migrate", "--from", "files", *uids, "--path", f"FILE:{folder}/%{{uid}}/krb5cc")
    done = json.loads(ctl.ok(*arguments, "--json"))
    assert [(each["result"], each["uid"], each["principal"]) for each in done] == [
        ("imported", USER, f"alice@{REALM}"),
        ("imported", OTHER, f"bob@{REALM}"),
    ]
    assert mit_as(OTHER).klist() == Listed(f"KCM:{OTHER}", f"bob@{REALM}", [TGT])
    (folder / str(USER) / "krb5cc").write_bytes(b"\5\4")
    broken = ctl.run(*arguments)
    assert broken.status == 1
    assert [line.split("\t")[0] for line in broken.output.splitlines()] == ["failed", "unchanged"]
