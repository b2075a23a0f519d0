"""The command migrate: import all users' ccaches from files or from another KCM server."""

import os
import pwd
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from pykcm.cli.client import ControlClient
from pykcm.cli.files import reason_of
from pykcm.cli.folders import match_files
from pykcm.cli.importing import ImportOptions, ReadResult, from_other_server, import_ccaches, import_options
from pykcm.cli.names import format_user
from pykcm.cli.parameters import UidType
from pykcm.cli.profile import ProfileError, read_profile
from pykcm.cli.sources import SourceError, from_file, from_folder, retry_locked, uids_of_server
from pykcm.client import KcmClient
from pykcm.config import DEFAULT_SOCKET
from pykcm.protocol.codes import KcmError

_SSSD_DATABASE = "/var/lib/sss/secrets/secrets.ldb"
_KRB5_CONF = "/etc/krb5.conf"

# The built-in default of libkrb5. sshd and pam_krb5 use it even if krb5.conf says something else.
_BUILT_IN_PATTERN = "FILE:/tmp/krb5cc_*"

# Limits for each user: files, and seconds spent on reading them.
_MAX_USER_FILES = 4096
_MAX_USER_SECONDS = 10.0

# sssd's name for the entries of a UID. The database file is searched as plain bytes.
_SSSD_UID = re.compile(rb"cn=(\d{1,10}),cn=persistent,cn=kcm", re.IGNORECASE)
_OVERLAP = 256

_VARIABLE = re.compile(r"%\{([A-Za-z_]+)\}")
_VARIABLES = {"TEMP": "/tmp", "null": ""}  # noqa: S108 - libkrb5's values
_USER_VARIABLES = {"uid", "euid", "USERID", "username"}


@click.command("migrate")
@click.option(
    "--from",
    "origin",
    type=click.Choice(["sssd", "heimdal", "files"]),
    required=True,
    help="Where the tickets are now.",
)
@click.option(
    "--user", "--uid", "uids", type=UidType(), multiple=True, help="Only this user; by default all users."
)
@click.option(
    "--source-socket",
    default=DEFAULT_SOCKET,
    show_default=True,
    metavar="PATH",
    help="The socket of the other KCM server.",
)
@click.option(
    "--path",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Further files, such as FILE:/srv/%{uid}/cc, as in default_ccache_name.",
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
    """Import the ccaches of all users, and report each.

    sssd and heimdal: from a running server, at another path than pykcm (see --source-socket). files: from
    /tmp/krb5cc_*, from default_ccache_name in krb5.conf, and from --path. The originals are not changed.
    """
    if origin == "files":
        found = _read_files([*patterns, *_configured_patterns()], set(uids))
    else:
        if patterns:
            raise click.UsageError("--path needs --from files")
        _check_server(source_socket)
        found = from_other_server(client, source_socket, _select_uids(origin, source_socket, uids))
    import_ccaches(client, found, None, ImportOptions(**options), as_json=as_json, shows_all=True)


def _check_server(source_socket: str) -> None:
    try:
        with KcmClient(source_socket):
            return
    except OSError as error:
        raise click.ClickException(
            f"{source_socket}: no KCM server answers: {error.strerror or error}; start the other server "
            "there, or name its socket with --source-socket"
        ) from None


# Users of other servers


def _select_uids(origin: str, source_socket: str, uids: tuple[int, ...]) -> list[int]:
    if uids:
        return sorted(set(uids))
    if origin == "sssd":
        # sssd does not list other users' ccaches, not even to root.
        return sorted({*_known_uids(), *_uids_in_sssd(_SSSD_DATABASE)})
    try:
        return sorted(uids_of_server(source_socket))
    except (OSError, KcmError) as error:
        raise click.ClickException(
            f"{source_socket}: the server does not list its users: "
            f"{reason_of(error) if isinstance(error, OSError) else error}; name them with --uid"
        ) from None


def _known_uids() -> set[int]:
    """The UIDs of all accounts, processes and sessions on this host."""
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
    """The UIDs that have or had ccaches in sssd's database, including users of a directory service."""
    uids: set[int] = set()
    try:
        with Path(path).open("rb") as file:
            previous = b""
            while piece := file.read(1 << 20):
                window = previous + piece
                uids.update(int(match[1]) for match in _SSSD_UID.finditer(window))
                previous = window[-_OVERLAP:]
    except OSError:
        return set()
    return {uid for uid in uids if uid < 2**32 - 1}


# Files


class _Owner:
    """A user's files. Their number and reading time are limited, so that no user stops the others."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []  # FILE or DIR, and a path
        self.left_out = 0
        self.seconds = 0.0  # spent on reading


def _read_files(patterns: list[str], uids: set[int]) -> Iterator[ReadResult]:
    owners = _find_files(dict.fromkeys(map(_expand, [_BUILT_IN_PATTERN, *patterns])), uids)
    for each in retry_locked(_read_in_rounds(owners)):
        # The owner may have changed since the file was found.
        if not uids or each.uid in uids:
            yield each
    for uid, owner in owners.items():
        if owner.left_out:
            yield SourceError(
                f"files of {format_user(uid)}",
                uid,
                f"{owner.left_out} more files are left out: the limit for one user is {_MAX_USER_FILES} "
                f"files and {_MAX_USER_SECONDS:.0f} s; import them with `pykcmctl import`",
            )


def _find_files(patterns: Iterable[tuple[str, str]], uids: set[int]) -> dict[int, _Owner]:
    owners: dict[int, _Owner] = {}
    seen: set[str] = set()
    for kind, pattern in patterns:
        for path, uid in match_files(pattern):
            if (uids and uid not in uids) or path in seen:
                continue
            owner = owners.setdefault(uid, _Owner())
            if len(owner.places) < _MAX_USER_FILES:
                owner.places.append((kind, path))
                seen.add(path)
            else:
                owner.left_out += 1
    return dict(sorted(owners.items()))


def _read_in_rounds(owners: dict[int, _Owner]) -> Iterator[ReadResult]:
    """Read each user's first file, then each user's second one, and so on: nobody waits for one with many."""
    for owner in owners.values():
        owner.places.sort(key=lambda place: (place[0] == "DIR", place[1]))
    remaining = dict(owners)
    index = 0
    while remaining:
        for uid, owner in list(remaining.items()):
            if index >= len(owner.places):
                del remaining[uid]
            else:
                yield from _read_place(uid, owner, *owner.places[index])
        index += 1


def _read_place(uid: int, owner: _Owner, kind: str, path: str) -> Iterator[ReadResult]:
    found = from_folder(path) if kind == "DIR" else _read_file(path)
    has_begun = False
    while owner.seconds < _MAX_USER_SECONDS or (has_begun and kind == "FILE"):
        has_begun = True
        start = time.monotonic()
        each = next(found, None)
        owner.seconds += time.monotonic() - start
        if each is None:
            return
        if isinstance(each, SourceError) and each.uid is None:
            each.uid = uid
        yield each
    owner.left_out += 1


def _read_file(path: str) -> Iterator[ReadResult]:
    try:
        yield from_file(path)
    except SourceError as error:
        yield error


def _expand(pattern: str) -> tuple[str, str]:
    """FILE or DIR, and a shell pattern. %{uid} becomes `*`: a file's owner counts, not its name."""
    kind, colon, path = pattern.partition(":")
    if not colon:
        kind, path = "FILE", pattern
    parts = []
    at = 0
    for variable in _VARIABLE.finditer(path):
        name = variable[1]
        if name not in _VARIABLES and name not in _USER_VARIABLES:
            known = ", ".join(f"%{{{each}}}" for each in sorted({*_VARIABLES, *_USER_VARIABLES}))
            raise click.UsageError(f"{pattern}: %{{{name}}} is not supported; use one of {known}")
        parts += [path[at : variable.start()], "*" if name in _USER_VARIABLES else _VARIABLES[name]]
        at = variable.end()
    expanded = "".join([*parts, path[at:]])
    if kind not in {"FILE", "DIR"} or not expanded.startswith("/"):
        raise click.UsageError(f"{pattern}: give FILE: or DIR: with an absolute path")
    return kind, expanded


def _configured_patterns() -> list[str]:
    """default_ccache_name in krb5.conf, if it names files."""
    try:
        profile = read_profile((os.environ.get("KRB5_CONFIG") or _KRB5_CONF).split(":"), Path)
    except ProfileError as error:
        raise click.ClickException(str(error)) from None
    found = profile.get("libdefaults", "default_ccache_name")
    return [found.value] if found is not None and found.value.startswith(("FILE:", "DIR:", "/", "%")) else []


COMMANDS = (migrate_command,)
