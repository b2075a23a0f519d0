"""The command import, and the parts that it shares with migrate."""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click

from pykcm.cli.archive import ArchiveReader
from pykcm.cli.client import ControlClient
from pykcm.cli.encryption import EncryptedFile
from pykcm.cli.files import LOCK_TIMEOUT, open_seekable, reason_of, report_file_errors
from pykcm.cli.names import format_ccache, user_name
from pykcm.cli.output import (
    Column,
    fetch_first,
    is_terminal,
    print_json_array,
    print_line,
    print_rows,
    show_progress,
)
from pykcm.cli.parameters import UidType
from pykcm.cli.passphrases import passphrase_file_option, unlock
from pykcm.cli.sources import (
    ServerCCache,
    SourceError,
    UnreadableFolderError,
    from_file,
    from_folder,
    from_server,
    retry_locked,
    uids_of_server,
)
from pykcm.control.frames import encode
from pykcm.control.messages import LARGEST_MESSAGE
from pykcm.control.records import CCacheRecord
from pykcm.protocol.codes import KcmError
from pykcm.protocol.text import printable

# The first bytes of ccache files in formats 3 and 4. A keytab begins with 5 and 2.
_CCACHE_FILES = (b"\x05\x03", b"\x05\x04")

# Results that need no attention, and results that make the exit status 1.
# libkrb5's names of a ccache have its type first.
_OTHER_TYPE = re.compile(r"([A-Z]{2,}):")

_GOOD_RESULTS = ("imported", "unchanged")
_BAD_RESULTS = ("refused", "failed")

ReadResult = CCacheRecord | SourceError


class ImportOptions(NamedTuple):
    """Arguments of the request `import`."""

    dry_run: bool
    replace: bool
    skip_expired: bool


def import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that import and migrate share."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each ccache."),
        click.option(
            "--skip-expired", is_flag=True, help="Leave out ccaches whose tickets have all expired."
        ),
        click.option("--replace", is_flag=True, help="Also replace ccaches that are not older."),
        click.option("--dry-run", is_flag=True, help="Change nothing; show what would happen."),
    ):
        command = option(command)
    return command


@click.command("import")
@click.option(
    "--user",
    "--uid",
    "uid",
    type=UidType(),
    help="Only this user's ccaches; a file becomes a ccache of this user.",
)
@click.option("--identity", "identities", multiple=True, metavar="PATH", help="A file with the age key.")
@passphrase_file_option
@import_options
@click.argument("source")
@click.pass_obj
def import_command(
    client: ControlClient,
    /,
    source: str,
    uid: int | None,
    identities: tuple[str, ...],
    passphrase_file: str | None,
    *,
    as_json: bool,
    **options: bool,
) -> None:
    """Import ccaches from SOURCE.

    SOURCE is an export (`-` is stdin), or FILE:, DIR: or KCM: with a path. An export is checked
    completely first: a damaged one changes nothing. Unreadable files in a folder are reported, and the
    others are imported. Each ccache is imported completely or not at all. An existing one is replaced
    only by a newer one of the same principal, unless --replace is given. A KCM: path is the socket of
    another KCM server.
    """
    arguments = ImportOptions(**options)
    kind, colon, path = source.partition(":")
    if colon and kind in {"FILE", "DIR", "KCM"}:
        if identities or passphrase_file:
            raise click.UsageError("only exports are encrypted; leave out --identity and --passphrase-file")
        if not path:
            raise click.UsageError(f"{kind}: has no path; write {kind}:PATH")
    if colon and kind == "FILE":
        try:
            record = from_file(path, uid, LOCK_TIMEOUT)
        except SourceError as error:
            raise click.ClickException(str(error)) from None
        import_ccaches(client, [record], 1, arguments, as_json=as_json)
    elif colon and kind == "DIR":
        found = fetch_first(_read_folder(path, uid))
        import_ccaches(client, found, None, arguments, as_json=as_json)
    elif colon and kind == "KCM":
        import_ccaches(client, _read_server(client, path, uid), None, arguments, as_json=as_json)
    else:
        _import_export(client, source, uid, identities, passphrase_file, arguments, as_json=as_json)


def _read_folder(path: str, uid: int | None) -> Iterator[ReadResult]:
    """The ccaches of a folder, and the files that failed; raises ClickException if the folder fails."""
    for each in retry_locked(from_folder(path, uid)):
        if isinstance(each, UnreadableFolderError):
            raise click.ClickException(str(each))
        yield each


def _read_server(client: ControlClient, path: str, uid: int | None) -> Iterator[ReadResult]:
    try:
        uids = uids_of_server(path) if uid is None else {uid}
    except (OSError, KcmError) as error:
        raise click.ClickException(
            f"KCM:{path}: its ccaches cannot be read: "
            f"{(error.strerror or reason_of(error)) if isinstance(error, OSError) else error}; "
            "check that a KCM server runs there"
        ) from None
    yield from from_other_server(client, path, sorted(uids))


def from_other_server(client: ControlClient, path: str, uids: Iterable[int]) -> Iterator[ReadResult]:
    """The ccaches of these UIDs on another KCM server; raises ClickException if it is the daemon itself."""
    is_checked = False
    for uid in uids:
        for each in from_server(path, uid):
            if isinstance(each, ServerCCache):
                if not is_checked:
                    _check_other_server(client, path, uid, each.uuid)
                    is_checked = True
                yield each.record
            else:
                yield each


def _check_other_server(client: ControlClient, path: str, uid: int, uuid: bytes) -> None:
    """Compare a UUID with the daemon's: two servers never share one."""
    if any(item["ccache"]["uuid"] == uuid for item in client.ask("list", uid=uid) if "ccache" in item):
        raise click.ClickException(
            f"KCM:{path}: is the socket of pykcm itself; name the socket of the other server"
        )


def _import_export(
    client: ControlClient,
    path: str,
    uid: int | None,
    identities: tuple[str, ...],
    passphrase_file: str | None,
    options: ImportOptions,
    *,
    as_json: bool,
) -> None:
    kind = _OTHER_TYPE.match(path)
    if kind is not None and not Path(path).exists():
        raise click.ClickException(
            f"{path}: ccaches of the type {kind[1]} cannot be imported; give an export, or FILE:, DIR: or "
            "KCM: with a path"
        )
    with ExitStack() as at_end:
        with report_file_errors(f"{path}: cannot be read", path):
            file = at_end.enter_context(open_seekable(path))
            beginning = file.read(2)
        if beginning in _CCACHE_FILES:
            raise click.ClickException(f"{path}: a ccache, and not an export; name it FILE:{path}")
        export = EncryptedFile(file)
        unlock(export, identities, passphrase_file)
        count = sum(1 for _ in show_progress(_read_records(export, path, uid), None, "checking"))
        import_ccaches(client, _read_records(export, path, uid), count, options, as_json=as_json)


def _read_records(export: EncryptedFile, path: str, uid: int | None) -> Iterator[CCacheRecord]:
    """The records of this UID, or all. Damage is reported at its place, a missing end at the end."""
    reader = ArchiveReader()
    with report_file_errors(f"{path}: cannot be read", path):
        for piece in export.pieces():
            for record in reader.feed(piece):
                if uid is None or record.uid == uid:
                    yield record
        reader.finish()


def import_ccaches(
    client: ControlClient,
    found: Iterable[ReadResult],
    total: int | None,
    options: ImportOptions,
    *,
    as_json: bool,
    shows_all: bool = False,
) -> None:
    """Send the ccaches to the daemon and print the result of each; raises Exit if one was refused or failed.

    On a terminal, only results that need attention are printed, unless `shows_all` is given.
    """
    totals: Counter[str] = Counter()
    try:
        results = fetch_first(
            _counted(show_progress(_results(client, found, options), total, "importing"), totals)
        )
        if as_json:
            print_json_array(results)
        else:
            shows_all = shows_all or not is_terminal()
            _print_results(each for each in results if shows_all or each["result"] not in _GOOD_RESULTS)
    except (KeyboardInterrupt, SystemExit):
        # The daemon may have imported more, whose results have not come.
        print_line(
            f"{_start_of_summary(options)}interrupted after: {_format_totals(totals) or 'no result'}; "
            "repeat the command: ccaches that are complete stay",
            err=True,
        )
        raise
    print_line(f"{_start_of_summary(options)}{_format_totals(totals) or 'nothing found'}", err=True)
    if any(totals[result] for result in _BAD_RESULTS):
        raise click.exceptions.Exit(1)


def _start_of_summary(options: ImportOptions) -> str:
    return "dry run, nothing has changed: " if options.dry_run else ""


def _format_totals(totals: Counter[str]) -> str:
    return ", ".join(f"{count} {result}" for result, count in sorted(totals.items()))


def _print_results(results: Iterable[dict[str, Any]]) -> None:
    print_rows(
        [
            Column("Result"),
            Column("User"),
            Column("UID", is_number=True),
            Column("Ccache"),
            Column("Principal"),
            Column("Reason"),
        ],
        map(_row, results),
    )


def _results(
    client: ControlClient, found: Iterable[ReadResult], options: ImportOptions
) -> Iterator[dict[str, Any]]:
    """The result of each ccache, including those that could not be read."""
    failed: deque[SourceError] = deque()
    answer = client.ask("import", frames=_frames(found, failed), **options._asdict())
    for item in answer:
        yield from _failures(failed)
        result = item["ccache"]
        name = result["name"]
        yield _result_json(
            result["result"],
            result["uid"],
            None if name is None else format_ccache(name),
            result["principal"],
            result["reason"],
            default=result["default"],
        )
    yield from _failures(failed)


def _frames(found: Iterable[ReadResult], failed: deque[SourceError]) -> Iterator[Any]:
    """The frames behind the request: for each ccache its header, and then its credentials."""
    for each in found:
        if isinstance(each, SourceError):
            failed.append(each)
        elif len(encode(each.header)) > LARGEST_MESSAGE:
            name = "(no name)" if each.name is None else format_ccache(each.name)
            failed.append(SourceError(name, each.uid, "its principal is longer than any"))
        else:
            yield each.header
            yield from each.credentials


def _failures(failed: deque[SourceError]) -> Iterator[dict[str, Any]]:
    while failed:
        error = failed.popleft()
        yield _result_json("failed", error.uid, error.location, None, error.reason, default=False)


def _result_json(
    result: str, uid: int | None, name: str | None, principal: str | None, reason: str, *, default: bool
) -> dict[str, Any]:
    return {
        "result": result,
        "uid": uid,
        "user": None if uid is None else user_name(uid),
        "name": name,
        "principal": principal,
        "default": default,
        "reason": printable(reason) or None,
    }


def _counted(results: Iterable[dict[str, Any]], totals: Counter[str]) -> Iterator[dict[str, Any]]:
    for each in results:
        totals[each["result"]] += 1
        yield each


def _row(result: dict[str, Any]) -> list[str]:
    cells = (result[key] for key in ("result", "user", "uid", "name", "principal"))
    return [*("-" if cell is None else str(cell) for cell in cells), result["reason"] or ""]


COMMANDS = (import_command,)
