"""The commands backup and rekey."""

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

from pykcm.cli import files
from pykcm.cli.advice import how_to_restart, log_of_daemon
from pykcm.cli.client import ControlClient
from pykcm.cli.names import format_user
from pykcm.cli.output import format_size, print_json, print_line, print_text, shell_quote
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.store.disk import CREDENTIAL, KEY_SIZE, NEXT

# The path for a new key that rekey and doctor suggest.
NEW_KEY = f"/root/{CREDENTIAL}"

# In bytes.
_PIECE = 1024 * 1024
_SYNC_INTERVAL = 8 * 1024 * 1024

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@_json
@click.pass_obj
def backup_command(client: ControlClient, file: Path, *, force: bool, as_json: bool) -> None:
    """Copy the database to FILE while the daemon serves.

    The copy is encrypted like the database. The key is not in it, and without the key the copy is useless.
    """
    if str(file) == "-":
        raise click.UsageError(
            "a backup cannot go to stdout, because it is read back and checked; name a file"
        )
    attempt = f"{file}: cannot be written"
    with files.report_file_errors(attempt):
        files.check_not_taken(file, force=force)
    answer = client.ask("backup")
    try:
        items = iter(answer)
        size = next(items)["size"]
        with files.report_file_errors(attempt):
            _check_space(file, size)
            with files.open_new_file(file, force=force) as copy:
                _receive(copy, items, size)
                if copy.tell() != size or _digest(copy) != answer.summary["sha256"]:
                    raise click.ClickException(
                        f"{file}: differs from what the daemon sent, and was not kept; check the disk"
                    )
    finally:
        answer.close()
    key = answer.summary["key"]
    if as_json:
        print_json({"file": str(file), "size": size, "sha256": answer.summary["sha256"].hex(), "key": key})
        return
    if answer.summary["pending"]:
        key = "the new key that was given to the last rekey"
    print_line(f"{file}: {format_size(size)}, checked", err=True)
    print_line(f"The backup does not contain the key. To restore it you need this key: {key}", err=True)


def _check_space(file: Path, size: int) -> None:
    free = shutil.disk_usage(file.parent).free
    if free < size:
        text = f"{os.strerror(errno.ENOSPC)}: {format_size(size)} are needed, {format_size(free)} are free"
        raise OSError(errno.ENOSPC, text, str(file))


def _receive(copy: BinaryIO, items: Iterator[Any], size: int) -> None:
    slowed = _SlowedUids()
    with progress_bar("Copying", size) as show:
        done = synced = 0
        for item in items:
            copy.write(item["data"])
            done += len(item["data"])
            slowed.report(item)
            # One large sync at the end would delay the syncs of the daemon.
            if done - synced >= _SYNC_INTERVAL:
                files.make_durable(copy)
                synced = done
            show(done)
    files.make_durable(copy)


class _SlowedUids:
    """Reports, once each, the UIDs that write most and whose changes therefore wait for the copy."""

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def report(self, item: dict[str, Any]) -> None:
        for uid in item.get("slowed", ()):
            if uid not in self._reported:
                self._reported.add(uid)
                if sys.stderr.isatty():
                    print_line(err=True)  # below the progress bar
                print_line(f"{format_user(uid)} writes a lot: its changes wait for the copy", err=True)


def _digest(file: BinaryIO) -> bytes:
    """The SHA-256 of the file, read from the disk instead of the page cache where the kernel allows it."""
    with suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.digest()


@contextmanager
def progress_bar(label: str, size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, shown only on a terminal; yields a function that takes the number of bytes done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=size, label=label, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)
        bar.update(size - bar.pos)


@click.command("rekey")
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    help="A file with the new key, 32 random bytes; needed if the daemon cannot replace its key.",
)
@_json
@click.pass_obj
def rekey_command(client: ControlClient, new_key: Path | None, *, as_json: bool) -> None:
    """Encrypt the database with a new key while the daemon serves.

    The daemon makes the key and replaces its key file. If the key is a systemd credential, make the new key
    yourself and give it with --new-key; the remaining steps are printed.
    """
    key = None if new_key is None else _read_key(new_key)
    answer = client.ask("rekey", key=key)
    try:
        _show_rekey(iter(answer))
    except ControlError as error:
        if key is None and error.code == ErrorCode.UNSUPPORTED and "give it a new key" in error.message:
            error.message += (
                f"\n\n    (umask 077; head -c {KEY_SIZE} /dev/urandom >{NEW_KEY})"
                f"\n    pykcmctl rekey --new-key {NEW_KEY}"
            )
        raise
    except (KeyboardInterrupt, SystemExit):
        keep = "" if new_key is None else f"; keep {new_key} until then"
        print_line(
            "rekey: interrupted: the database has either the new key or the old one, and is complete; if the "
            f"daemon's log names no new key, repeat the command: see {log_of_daemon()}{keep}",
            err=True,
        )
        raise
    finally:
        answer.close()
    if as_json:
        print_json(answer.summary)
        return
    _print_next_steps(answer.summary, new_key)


def _show_rekey(items: Iterator[Any]) -> None:
    first = next(items, None)
    if first is None:
        return
    slowed = _SlowedUids()
    with progress_bar("Encrypting", first["size"]) as show:
        show(first["done"])
        slowed.report(first)
        for item in items:
            show(item["done"])
            slowed.report(item)


def _print_next_steps(summary: dict[str, Any], new_key: Path | None) -> None:
    if summary.get("shared"):
        _print_steps_of_all_hosts(summary)
        return
    if not summary["pending"]:
        print_line(f"The database has a new key: {summary['key']}", err=True)
    else:
        file = shell_quote(str(new_key or "FILE"))
        place = (
            f"systemd-creds encrypt --name={CREDENTIAL} {file} /etc/credstore.encrypted/{CREDENTIAL}"
            if summary["credential"]
            else f"install -m 0600 -o pykcm -g pykcm {file} {shell_quote(summary['place'])}"
        )
        print_text(
            "The database has the new key. Now replace the old key at its source. Until the daemon was "
            f"started with the new key, it accepts both:\n\n    {place}\n"
            f"    {how_to_restart()}\n    shred -u {file}\n",
            err=True,
        )
    print_line("Backups that were made before need the old key.", err=True)


def _print_steps_of_all_hosts(summary: dict[str, Any]) -> None:
    print_line("All rows in the database are sealed with the new key.", err=True)
    old, new = shell_quote(summary["place"]), shell_quote(f"{summary['place']}{NEXT}")
    if summary["credential"]:
        folder = "/etc/credstore.encrypted"
        step = (
            f"systemd-creds decrypt --name={CREDENTIAL}{NEXT} {folder}/{CREDENTIAL}{NEXT} - | "
            f"systemd-creds encrypt --name={CREDENTIAL} - {folder}/{CREDENTIAL}\n"
            f"    rm {folder}/{CREDENTIAL}{NEXT}"
        )
    else:
        step = f"mv {new} {old}"
    print_text(
        "A host that can write its key file replaces the old key by itself, when it next reaps. On others, "
        f"put the new key into the place of the old one:\n\n    {step}\n"
        f"    {how_to_restart()}\n\nBackups of the database from before need the old key.",
        err=True,
    )


def _read_key(path: Path) -> bytes:
    """The key in the file; raises ClickException."""
    with files.report_file_errors(f"{path}: the key cannot be read"), path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise files.FileError(f"{path} is not a regular file: name the file with the key")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise files.FileError(f"{path} can be read by users other than its owner: chmod 0600 it")
        key = file.read(KEY_SIZE + 1)
    if len(key) != KEY_SIZE:
        raise click.ClickException(f"{path}: is not a key; name a file of exactly {KEY_SIZE} raw bytes")
    return key


COMMANDS = (backup_command, rekey_command)
