"""backup and rekey."""

import errno
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from pykcm.cli import files, secrecy
from pykcm.cli.client import ControlClient
from pykcm.cli.output import print_json, print_line, print_text, quoted, shown_size
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.store.names import CREDENTIAL, KEY_SIZE

# Where rekey proposes to make the new key.
NEW_KEY = f"/root/{CREDENTIAL}"

_PIECE = 1024 * 1024
_SYNCED_AT_A_TIME = 8 * 1024 * 1024

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
@_json
@click.pass_obj
def backup_command(client: ControlClient, file: Path, *, force: bool, as_json: bool) -> None:
    """Copy the database to FILE while the daemon serves.

    The copy is encrypted as the database is; the key is not in it, and without it nobody can use the copy.
    """
    if str(file) == "-":
        raise click.UsageError("a backup is checked on the disk that it is for: name a file")
    try:
        files.check_free(file, force=force)
    except files.FileError as error:
        raise click.UsageError(str(error)) from None
    answer = client.ask("backup")
    try:
        items = iter(answer)
        size = next(items)["size"]
        with secrecy.reported():
            _check_room(file, size)
            with files.written_file(file, force=force) as copy:
                _receive(copy, items, size)
                if copy.tell() != size or _digest(copy) != answer.summary["sha256"]:
                    raise click.ClickException(f"{file} is not what the daemon has sent: see to the disk")
    finally:
        answer.close()
    key = answer.summary["key"]
    if as_json:
        print_json({"file": str(file), "size": size, "sha256": answer.summary["sha256"].hex(), "key": key})
        return
    if answer.summary["pending"]:
        key = "the one that rekey was given last"
    print_line(f"{file}: {shown_size(size)}, checked", err=True)
    print_line(f"The key is not in it. To restore it the same key is needed: {key}", err=True)


def _check_room(file: Path, size: int) -> None:
    room = shutil.disk_usage(file.parent).free
    if room < size:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {shown_size(size)} are needed", str(file))


def _receive(copy: BinaryIO, items: Iterator[Any], size: int) -> None:
    slowed = _SlowedUids()
    with _progress("Copying", size) as show:
        done = synced = 0
        for each in items:
            copy.write(each["data"])
            done += len(each["data"])
            slowed.name(each)
            # All at once in the end, it would be in the way of the daemon's own syncs.
            if done - synced >= _SYNCED_AT_A_TIME:
                files.make_durable(copy)
                synced = done
            show(done)
    files.make_durable(copy)


class _SlowedUids:
    """Names each UID once whose changes have to wait for the copy, because it writes most."""

    def __init__(self) -> None:
        self._named: set[int] = set()

    def name(self, item: dict[str, Any]) -> None:
        for uid in item.get("slowed", ()):
            if uid not in self._named:
                self._named.add(uid)
                if sys.stderr.isatty():
                    print_line(err=True)  # below the progress bar
                print_line(f"UID {uid} writes much: its changes wait for the copy", err=True)


def _digest(file: BinaryIO) -> bytes:
    """Of what the disk has, as far as one can be made to tell."""
    with suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.digest()


@contextmanager
def _progress(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """Shown on a terminal alone."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label=what, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)
        bar.update(size - bar.pos)


@click.command("rekey")
@click.option(
    "--new-key",
    type=click.Path(path_type=Path, exists=True),
    help="A file with the new key, 32 random bytes; needed where the daemon cannot replace its key.",
)
@_json
@click.pass_obj
def rekey_command(client: ControlClient, new_key: Path | None, *, as_json: bool) -> None:
    """Encrypt the database with another key while the daemon serves.

    The daemon makes the key and replaces its key file. Where the key is a systemd credential, make the new
    one yourself and give it with --new-key; what is to be done then is printed.
    """
    raw = None if new_key is None else _read_key(new_key)
    answer = client.ask("rekey", key=raw)
    try:
        _follow(iter(answer))
    except ControlError as error:
        if raw is None and error.code == ErrorCode.UNSUPPORTED:
            error.message += (
                f"\n\n    (umask 077; head -c {KEY_SIZE} /dev/urandom >{NEW_KEY})"
                f"\n    pykcmctl rekey --new-key {NEW_KEY}"
            )
        raise
    finally:
        answer.close()
    if as_json:
        print_json(answer.summary)
        return
    _tell(answer.summary, new_key)


def _follow(items: Iterator[Any]) -> None:
    first = next(items, None)
    if first is None:
        return
    slowed = _SlowedUids()
    with _progress("Encrypting", first["size"]) as show:
        show(first["done"])
        slowed.name(first)
        for each in items:
            show(each["done"])
            slowed.name(each)


def _tell(summary: dict[str, Any], new_key: Path | None) -> None:
    if not summary["pending"]:
        print_line(f"The database has a new key: {summary['key']}", err=True)
    else:
        file = quoted(str(new_key or "FILE"))
        place = (
            f"systemd-creds encrypt --name={CREDENTIAL} {file} /etc/credstore.encrypted/{CREDENTIAL}"
            if summary["credential"]
            else f"install -m 0600 -o pykcm -g pykcm {file} {quoted(summary['place'])}"
        )
        print_text(
            "The database has the new key. Now put it where the old one came from; until the daemon has been "
            f"started with it, either works:\n\n    {place}\n    systemctl restart pykcm.service\n"
            f"    shred -u {file}\n",
            err=True,
        )
    print_line("Backups made before need the old key.", err=True)


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise click.UsageError(f"{path} is no regular file")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise click.UsageError(f"{path}: others than its owner have access to the key; chmod 0600")
        raw = file.read(KEY_SIZE + 1)
    if len(raw) != KEY_SIZE:
        raise click.UsageError(f"{path}: a key must be exactly {KEY_SIZE} raw bytes")
    return raw


COMMANDS = (backup_command, rekey_command)
