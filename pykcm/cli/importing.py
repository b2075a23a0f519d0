"""import, and what it has in common with migrate."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import click

from pykcm.cli import files, secrecy
from pykcm.cli.archive import ArchiveReader
from pykcm.cli.client import ControlClient
from pykcm.cli.files import PATIENCE_WITH_LOCKS
from pykcm.cli.names import UidType, ccache_shown, user_of
from pykcm.cli.output import Column, is_terminal, peeked, print_json_array, print_line, print_rows
from pykcm.cli.progress import followed
from pykcm.cli.sealing import Sealed
from pykcm.cli.sources import (
    KcmCCache,
    NothingReadError,
    SourceError,
    from_file,
    from_folder,
    from_server,
    patiently,
    uids_of_server,
)
from pykcm.control.records import CCacheRecord, to_item
from pykcm.protocol.codes import KcmError
from pykcm.protocol.text import printable

# Of the formats that can be read; a keytab begins with 5 and 2.
_CCACHE_FILES = (b"\x05\x03", b"\x05\x04")

# Nothing that an administrator needs to look at.
_AS_WANTED = ("imported", "unchanged")
_BAD = ("refused", "failed")

Found = CCacheRecord | SourceError


class ImportOptions(NamedTuple):
    """What is to be done, in the words of the request."""

    dry_run: bool
    replace: bool
    skip_expired: bool


def import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that import and migrate have in common."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON: an object for each ccache."),
        click.option("--skip-expired", is_flag=True, help="Leave out those whose tickets have all expired."),
        click.option("--replace", is_flag=True, help="Replace ccaches that are not older, too."),
        click.option("--dry-run", is_flag=True, help="Change nothing; tell what would happen."),
    ):
        command = option(command)
    return command


@click.command("import")
@click.option("--uid", type=UidType(), help="This one alone; a file's ccache becomes this user's.")
@click.option("--identity", "identities", multiple=True, metavar="PATH", help="A file with the age key.")
@secrecy.passphrase_file_option
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
    """Take ccaches from SOURCE: an export (`-` is stdin), FILE:, DIR: or KCM: with a path.

    An export is read as a whole first: a damaged one changes nothing. In a folder, each file that cannot be
    read is reported, and the others are taken. Each ccache is taken whole or not at all. One that is there
    already is replaced only by a newer one of the same principal, unless --replace is given. A KCM: path is
    the socket of another KCM server.
    """
    wanted = ImportOptions(**options)
    kind, colon, path = source.partition(":")
    if colon and kind in {"FILE", "DIR", "KCM"}:
        if identities or passphrase_file:
            raise click.UsageError("only an export is encrypted")
        if not path:
            raise click.UsageError(f"{kind}: needs a path behind it")
    if colon and kind == "FILE":
        try:
            record = from_file(path, uid, PATIENCE_WITH_LOCKS)
        except SourceError as error:
            raise click.ClickException(str(error)) from None
        transfer(client, [record], 1, wanted, as_json=as_json)
    elif colon and kind == "DIR":
        found = peeked(_of_folder(path, uid))
        transfer(client, found, None, wanted, as_json=as_json)
    elif colon and kind == "KCM":
        transfer(client, _of_server(client, path, uid), None, wanted, as_json=as_json)
    else:
        _import_export(client, source, uid, identities, passphrase_file, wanted, as_json=as_json)


def _of_folder(path: str, uid: int | None) -> Iterator[Found]:
    """A folder's ccaches, and each that cannot be read; raises ClickException where the folder cannot be."""
    for each in patiently(from_folder(path, uid)):
        if isinstance(each, NothingReadError):
            raise click.ClickException(str(each))
        yield each


def _of_server(client: ControlClient, path: str, uid: int | None) -> Iterator[Found]:
    try:
        uids = uids_of_server(path) if uid is None else {uid}
    except (OSError, KcmError) as error:
        raise click.ClickException(f"KCM:{path}: {error}") from None
    yield from from_server_of(client, path, sorted(uids))


def from_server_of(client: ControlClient, path: str, uids: Iterable[int]) -> Iterator[Found]:
    """What a KCM server has of these UIDs; raises ClickException where it is the daemon itself."""
    is_another = False
    for uid in uids:
        for each in from_server(path, uid):
            if isinstance(each, KcmCCache):
                if not is_another:
                    _check_another(client, path, uid, each.uuid)
                    is_another = True
                yield each.record
            else:
                yield each


def _check_another(client: ControlClient, path: str, uid: int, uuid: bytes) -> None:
    """No two servers have a UUID in common."""
    if any(item["ccache"]["uuid"] == uuid for item in client.ask("list", uid=uid) if "ccache" in item):
        raise click.ClickException(
            f"KCM:{path} is pykcm itself: name the other server's socket, which must be at another path"
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
    with ExitStack() as at_end:
        with secrecy.reported():
            file = at_end.enter_context(files.readable_twice(path))
            beginning = file.read(2)
        if beginning in _CCACHE_FILES:
            raise click.UsageError(f"{path} is a ccache and no export: name it FILE:{path}")
        sealed = Sealed(file)
        secrecy.unlock(sealed, identities, passphrase_file)
        number = sum(1 for _ in followed(_records(sealed, uid), None, "checking"))
        transfer(client, _records(sealed, uid), number, options, as_json=as_json)


def _records(sealed: Sealed, uid: int | None) -> Iterator[CCacheRecord]:
    """Those of this UID, or all; what is wrong with the file is seen at its end at the latest."""
    reader = ArchiveReader()
    with secrecy.reported():
        for piece in sealed.pieces():
            for record in reader.feed(piece):
                if uid is None or record.uid == uid:
                    yield record
        reader.finish()


def transfer(
    client: ControlClient,
    found: Iterable[Found],
    total: int | None,
    options: ImportOptions,
    *,
    as_json: bool,
    shows_all: bool = False,
) -> None:
    """Send the ccaches to the daemon and show what becomes of each; raises Exit where one could not be had.

    On a terminal only what needs to be looked at is shown, unless `shows_all` is given.
    """
    totals: Counter[str] = Counter()
    results = peeked(_counted(followed(_results(client, found, options), total, "importing"), totals))
    if as_json:
        print_json_array(results)
    else:
        everything = shows_all or not is_terminal()
        escape = (each for each in results if everything or each["result"] not in _AS_WANTED)
        print_rows(
            [
                Column("Result"),
                Column("User"),
                Column("UID", is_number=True),
                Column("Ccache"),
                Column("Principal"),
                Column("Reason"),
            ],
            map(_row, escape),
        )
    number = ", ".join(f"{count} {result}" for result, count in sorted(totals.items())) or "nothing found"
    print_line(f"{'dry run, nothing has changed: ' if options.dry_run else ''}{number}", err=True)
    if any(totals[bad] for bad in _BAD):
        raise click.exceptions.Exit(1)


def _results(
    client: ControlClient, found: Iterable[Found], options: ImportOptions
) -> Iterator[dict[str, Any]]:
    """What becomes of each, those that could not even be read among them."""
    failed: deque[SourceError] = deque()
    answer = client.ask("import", items=_sendable(found, failed), **options._asdict())
    for item in answer:
        yield from _failures(failed)
        result = item["ccache"]
        name = result["name"]
        yield _shown(
            result["result"],
            result["uid"],
            None if name is None else ccache_shown(name),
            result["principal"],
            result["reason"],
            default=result["default"],
        )
    yield from _failures(failed)


def _sendable(found: Iterable[Found], failed: deque[SourceError]) -> Iterator[dict[str, Any]]:
    for each in found:
        if isinstance(each, SourceError):
            failed.append(each)
        else:
            yield to_item(each)


def _failures(failed: deque[SourceError]) -> Iterator[dict[str, Any]]:
    while failed:
        error = failed.popleft()
        yield _shown("failed", error.uid, error.where, None, error.reason, default=False)


def _shown(
    result: str, uid: int | None, name: str | None, principal: str | None, reason: str, *, default: bool
) -> dict[str, Any]:
    return {
        "result": result,
        "uid": uid,
        "user": None if uid is None else user_of(uid),
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
