"""Output files of export and backup: written completely or not at all, and never over another file."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click
import pytest
from click.testing import CliRunner, Result

from pykcm.cli import exporting, files
from pykcm.cli.client import ControlClient
from pykcm.cli.maintenance import backup_command, rekey_command
from tests.cli.answers import answering

CONTENT = b"a database" * 1000
SUMMARY = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).digest(), "key": "/key", "pending": False}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for output."""
    path = tmp_path / "place"
    path.mkdir()
    return path


def backup(tmp_path: Path, *arguments: str, content: bytes = CONTENT) -> Result:
    items = [
        {"item": {"size": len(CONTENT)}},
        {"item": {"data": content[:99]}},
        {"item": {"data": content[99:]}},
    ]
    with answering(tmp_path / "control.sock", *items, {"end": SUMMARY}) as client:
        return CliRunner().invoke(backup_command, arguments, obj=client)


@click.command
@click.option("--force", is_flag=True)
@click.argument("path")
def export_command(path: str, *, force: bool) -> None:
    """The part of export that writes the file."""
    with files.report_file_errors(f"cannot write {path}"), files.open_output(path, force=force) as file:
        file.write(CONTENT)


def export(_: Path, *arguments: str) -> Result:
    return CliRunner().invoke(export_command, arguments)


BOTH = pytest.mark.parametrize("write", [backup, export])


@pytest.fixture(params=["unnamed", "hidden"], autouse=True)
def unfinished(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The kind of an unfinished file: without a name, or a hidden one if the file system needs a name."""
    kind: str = request.param
    if kind == "hidden":
        monkeypatch.setattr(files, "_open_unnamed", lambda _: None)
    elif (unnamed := files._open_unnamed(tmp_path)) is None:
        pytest.skip("the file system has no files without a name")
    else:
        os.close(unnamed)
    return kind


@BOTH
def test_unfinished_files_have_no_name(
    tmp_path: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[..., Result],
    unfinished: str,
) -> None:
    """Before the file is complete and synced, a SIGKILL leaves nothing, if the file system allows that."""
    seen: list[list[str]] = []
    sync = files.make_durable

    def look(file: BinaryIO) -> None:
        seen.append([path.name for path in place.iterdir()])
        sync(file)

    monkeypatch.setattr(files, "make_durable", look)
    assert write(tmp_path, str(place / "file")).exit_code == 0
    assert seen
    assert all(len(names) == (unfinished == "hidden") for names in seen)
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (place / "file").stat().st_nlink == 1


@BOTH
def test_file_is_complete_and_private(tmp_path: Path, place: Path, write: Callable[..., Result]) -> None:
    """The content is complete, only its owner has access, and no other file is left."""
    done = write(tmp_path, str(place / "file"))
    assert done.exit_code == 0, done.output
    assert (place / "file").read_bytes() == CONTENT
    assert (place / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.iterdir()] == ["file"]


@BOTH
def test_file_that_appears_meanwhile_is_kept(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Result]
) -> None:
    """A file that appears just before the end is not replaced without --force."""
    for name in ("link", "rename"):
        real = getattr(os, name)

        def late(source: str, target: str, real: Callable[..., None] = real, **options: object) -> None:
            (place / "file").write_text("another's")
            real(source, target, **options)

        monkeypatch.setattr(os, name, late)
    done = write(tmp_path, str(place / "file"))
    assert (place / "file").read_text() == "another's"
    assert done.exit_code == 1
    assert f"{place}/file: another program has created it meanwhile" in done.output
    assert [path.name for path in place.iterdir()] == ["file"]


@BOTH
def test_force_replaces_only_files(tmp_path: Path, place: Path, write: Callable[..., Result]) -> None:
    """With --force a file is replaced, but never a link, a folder or a device."""
    (place / "file").write_text("before")
    assert write(tmp_path, "--force", str(place / "file")).exit_code == 0
    assert (place / "file").read_bytes() == CONTENT
    (place / "link").symlink_to("file")
    refused = write(tmp_path, "--force", str(place / "link"))
    assert "not a regular file" in refused.output
    assert (place / "link").is_symlink()


def real_export(tmp_path: Path, *arguments: str) -> Result:
    """The command export, as root runs it."""
    with answering(tmp_path / "control.sock", {"item": {"count": 0}}, {"end": {}}) as client:
        return CliRunner().invoke(exporting.export_command, ["--plain", *arguments], obj=client)


def real_rekey(tmp_path: Path, path: str) -> Result:
    return CliRunner().invoke(rekey_command, ["--new-key", path], obj=ControlClient(tmp_path / "none"))


@pytest.mark.parametrize(
    ("run", "name"),
    [
        *(
            (run, name)
            for run in (backup, real_export)
            for name in ("folder", "/dev/full", "file", "none/file")
        ),
        *((real_rekey, name) for name in ("folder", "/dev/null", "file", "none")),
    ],
)
def test_unusable_file_fails_with_status_1(
    tmp_path: Path, place: Path, run: Callable[..., Result], name: str
) -> None:
    """Status 2 is for a wrong command line; a file that cannot be used is a failure of any command."""
    (place / "folder").mkdir()
    (place / "file").write_text("something else")
    (place / "file").chmod(0o600)
    done = run(tmp_path, str(place / name))
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert str(place / name) in done.output
    assert (place / "file").read_text() == "something else"
    assert sorted(path.name for path in place.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "check the permissions"),
        (errno.ENOENT, "check the path"),
    ],
)
def test_os_error_names_file_and_advice(number: int, advice: str) -> None:
    """A message is never only the text of an errno."""
    with pytest.raises(click.ClickException) as caught, files.report_file_errors("cannot write /a"):
        raise OSError(number, os.strerror(number))
    assert caught.value.message.startswith(f"cannot write /a: {os.strerror(number)}; {advice}")


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)


@BOTH
@pytest.mark.usefixtures("_no_links")
def test_file_system_without_links_works(tmp_path: Path, place: Path, write: Callable[..., Result]) -> None:
    """vfat, for example, has no hard links."""
    assert write(tmp_path, str(place / "file")).exit_code == 0
    assert (place / "file").read_bytes() == CONTENT
    assert [path.name for path in place.iterdir()] == ["file"]


@BOTH
@pytest.mark.usefixtures("_no_links")
def test_file_that_appears_meanwhile_is_kept_without_links(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Result]
) -> None:
    (place / "file").write_text("another's")
    monkeypatch.setattr(files, "check_not_taken", lambda *_, **__: None)
    done = write(tmp_path, str(place / "file"))
    assert (place / "file").read_text() == "another's"
    assert f"{place}/file: another program has created it meanwhile" in done.output
    assert [path.name for path in place.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"b" + CONTENT[1:]])
def test_backup_with_wrong_content_is_not_kept(tmp_path: Path, place: Path, content: bytes) -> None:
    """A backup that differs from the database that the daemon sent is an error."""
    done = backup(tmp_path, str(place / "file"), content=content)
    assert done.exit_code == 1
    assert "differs from what the daemon sent" in done.output
    assert list(place.iterdir()) == []


def test_incomplete_backup_is_not_kept(tmp_path: Path, place: Path) -> None:
    """If the daemon ends, the error is about the connection and not about the file."""
    with answering(tmp_path / "control.sock", {"item": {"size": 9}}, {"item": {"data": b"some"}}) as client:
        done = CliRunner().invoke(backup_command, [str(place / "file")], obj=client)
    assert isinstance(done.exception, ConnectionError)
    assert list(place.iterdir()) == []
