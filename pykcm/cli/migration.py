"""migrate: all users' ccaches from what a host had before."""

import os
import pwd
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.folders import matching
from pykcm.cli.importing import Found, ImportOptions, from_server_of, import_options, transfer
from pykcm.cli.names import UidType
from pykcm.cli.profile import ProfileError, read_profile
from pykcm.cli.sources import SourceError, from_file, from_folder, patiently, uids_of_server
from pykcm.client import KcmClient
from pykcm.config import DEFAULT_SOCKET
from pykcm.protocol.codes import KcmError

_SSSD_DATABASE = "/var/lib/sss/secrets/secrets.ldb"
_KRB5_CONF = "/etc/krb5.conf"

# Where kinit, sshd and pam_krb5 put files, whatever krb5.conf says.
_USUAL = "FILE:/tmp/krb5cc_*"

# Of one user's files so many are read, and in all for so many seconds.
_MOST_OF_ONE = 4096
_MOST_SECONDS = 10.0

# How sssd names what it keeps for a UID; the database is read as the bytes that it is.
_SSSD_UID = re.compile(rb"cn=(\d{1,10}),cn=persistent,cn=kcm", re.IGNORECASE)
_OVERLAP = 256

_VARIABLE = re.compile(r"%\{([A-Za-z_]+)\}")
_VARIABLES = {"TEMP": "/tmp", "null": ""}  # noqa: S108 - so libkrb5 has it
_USERS_OWN = {"uid", "euid", "USERID", "username"}


@click.command("migrate")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["sssd", "heimdal", "files"]),
    required=True,
    help="What kept the tickets before.",
)
@click.option("--uid", "uids", type=UidType(), multiple=True, help="Of this user; by default of all users.")
@click.option(
    "--source-socket",
    default=DEFAULT_SOCKET,
    show_default=True,
    metavar="PATH",
    help="The other KCM server's socket.",
)
@click.option(
    "--path",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Where else users have ccaches, written as default_ccache_name is: FILE:/run/user/%{uid}/krb5cc.",
)
@import_options
@click.pass_obj
def migrate_command(
    client: ControlClient,
    /,
    origin: str,
    uids: tuple[int, ...],
    source_socket: str,
    patterns: tuple[str, ...],
    *,
    as_json: bool,
    **options: bool,
) -> None:
    """Bring over the ccaches of all users, and report each.

    sssd and heimdal: from a server that still runs, at another path than pykcm (see --source-socket). files:
    from /tmp/krb5cc_*, from where default_ccache_name in krb5.conf says, and from --path. What was brought
    over stays where it was, too.
    """
    if origin == "files":
        found = _of_files([*patterns, *_configured()], set(uids))
    else:
        if patterns:
            raise click.UsageError("--path goes with --from files")
        _check_answers(source_socket)
        found = from_server_of(client, source_socket, _users(origin, source_socket, uids))
    transfer(client, found, None, ImportOptions(**options), as_json=as_json, shows_all=True)


def _check_answers(source_socket: str) -> None:
    try:
        with KcmClient(source_socket):
            return
    except OSError as error:
        raise click.ClickException(
            f"{source_socket}: {error.strerror or error}: start the other server there, or name its socket "
            "with --source-socket"
        ) from None


# Whose


def _users(origin: str, source_socket: str, uids: tuple[int, ...]) -> list[int]:
    if uids:
        return sorted(set(uids))
    if origin == "sssd":
        # It tells nobody, root neither, whose ccaches it has.
        return sorted({*_known_uids(), *_uids_in_sssd(_SSSD_DATABASE)})
    try:
        return sorted(uids_of_server(source_socket))
    except (OSError, KcmError) as error:
        raise click.ClickException(f"{source_socket}: {error}") from None


def _known_uids() -> set[int]:
    """Of all who have an account here, a process or a session."""
    uids = {entry.pw_uid for entry in pwd.getpwall()}
    for folder in ("/proc", "/run/user"):
        try:
            paths = [path for path in Path(folder).iterdir() if path.name.isdigit()]
        except OSError:
            continue
        for path in paths:
            try:
                uids.add(path.stat().st_uid)
            except OSError:
                continue
    return uids


def _uids_in_sssd(path: str) -> set[int]:
    """Those that have had ccaches in sssd's database, users of a directory among them."""
    uids: set[int] = set()
    try:
        with Path(path).open("rb") as file:
            before = b""
            while piece := file.read(1 << 20):
                window = before + piece
                uids.update(int(match[1]) for match in _SSSD_UID.finditer(window))
                before = window[-_OVERLAP:]
    except OSError:
        return set()
    return {uid for uid in uids if uid < 2**32 - 1}


# Files


class _Owner:
    """A user's files: so many that the one user's cannot keep those of others from being brought over."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []  # FILE or DIR, and a path
        self.left_out = 0
        self.spent = 0.0  # seconds


def _of_files(patterns: list[str], uids: set[int]) -> Iterator[Found]:
    owners = _owners(dict.fromkeys(map(_expanded, [_USUAL, *patterns])), uids)
    for each in patiently(_in_rounds(owners)):
        # The owner may have become another since.
        if not uids or each.uid in uids:
            yield each
    for uid, owner in owners.items():
        if owner.left_out:
            yield SourceError(
                f"files of UID {uid}",
                uid,
                f"{owner.left_out} more of them are left out: for one user at most {_MOST_OF_ONE} files are "
                f"read, and for {_MOST_SECONDS:.0f} s; name them with `pykcmctl import`",
            )


def _owners(patterns: Iterable[tuple[str, str]], uids: set[int]) -> dict[int, _Owner]:
    owners: dict[int, _Owner] = {}
    seen: set[str] = set()
    for kind, pattern in patterns:
        for path, uid in matching(pattern):
            if (uids and uid not in uids) or path in seen:
                continue
            owner = owners.setdefault(uid, _Owner())
            if len(owner.places) < _MOST_OF_ONE:
                owner.places.append((kind, path))
                seen.add(path)
            else:
                owner.left_out += 1
    return dict(sorted(owners.items()))


def _in_rounds(owners: dict[int, _Owner]) -> Iterator[Found]:
    """The first file of each user, then the second ones, and so on: nobody waits for a user who has many."""
    for owner in owners.values():
        owner.places.sort(key=lambda place: (place[0] == "DIR", place[1]))
    left = dict(owners)
    number = 0
    while left:
        for uid, owner in list(left.items()):
            if number >= len(owner.places):
                del left[uid]
            else:
                yield from _read(uid, owner, *owner.places[number])
        number += 1


def _read(uid: int, owner: _Owner, kind: str, path: str) -> Iterator[Found]:
    found = from_folder(path) if kind == "DIR" else _one(path)
    has_begun = False
    while owner.spent < _MOST_SECONDS or (has_begun and kind == "FILE"):
        has_begun = True
        begun = time.monotonic()
        each = next(found, None)
        owner.spent += time.monotonic() - begun
        if each is None:
            return
        if isinstance(each, SourceError) and each.uid is None:
            each.uid = uid
        yield each
    owner.left_out += 1


def _one(path: str) -> Iterator[Found]:
    try:
        yield from_file(path)
    except SourceError as error:
        yield error


def _expanded(pattern: str) -> tuple[str, str]:
    """FILE or DIR, and a pattern for glob: whose a file is, its owner tells and not its name."""
    kind, colon, path = pattern.partition(":")
    if not colon:
        kind, path = "FILE", pattern
    parts = []
    at = 0
    for variable in _VARIABLE.finditer(path):
        name = variable[1]
        if name not in _VARIABLES and name not in _USERS_OWN:
            raise click.UsageError(f"{pattern}: %{{{name}}} is not known")
        parts += [path[at : variable.start()], "*" if name in _USERS_OWN else _VARIABLES[name]]
        at = variable.end()
    expanded = "".join([*parts, path[at:]])
    if kind not in {"FILE", "DIR"} or not expanded.startswith("/"):
        raise click.UsageError(f"{pattern}: FILE: or DIR: with an absolute path is needed")
    return kind, expanded


def _configured() -> list[str]:
    """What krb5.conf says, where that is files."""
    try:
        profile = read_profile((os.environ.get("KRB5_CONFIG") or _KRB5_CONF).split(":"), Path)
    except ProfileError as error:
        raise click.ClickException(str(error)) from None
    found = profile.get("libdefaults", "default_ccache_name")
    return [found.value] if found is not None and found.value.startswith(("FILE:", "DIR:", "/", "%")) else []


COMMANDS = (migrate_command,)
