"""Sources of ccaches for import: files, folders of files (DIR:), and other KCM servers."""

import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from pykcm.cli.files import LOCK_TIMEOUT, RETRY_INTERVAL, FileError, FileInUseError, read_user_file, reason_of
from pykcm.cli.folders import Folder, open_folder
from pykcm.cli.names import format_user
from pykcm.client import KcmClient
from pykcm.control.records import CCacheRecord, PrincipalRecord
from pykcm.peer.identity import ROOT
from pykcm.peer.labels import SYSTEM_LOW, LabelError, parse_label
from pykcm.peer.names import owner_of
from pykcm.protocol.ccache_file import parse_ccache_file
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import escape_path
from pykcm.protocol.wire import FormatError

# libkrb5's names for the files of a DIR: collection.
_PRIMARY = "primary"
_MEMBER = re.compile(r"tkt[^/\0]*", re.ASCII)
_MAX_MEMBERS = 4096

# In seconds, for each request to another server.
_REQUEST_TIMEOUT = 30.0


class SourceError(Exception):
    """Something cannot be brought over: `where` names it, the message says why."""

    def __init__(self, location: str, uid: int | None, reason: str) -> None:
        super().__init__(f"{location}: {reason}")
        self.location = location
        self.uid = uid
        self.reason = reason
        # Tries to read the ccache again; None if that is pointless.
        self.retry: Callable[[], CCacheRecord] | None = None


class UnreadableFolderError(SourceError):
    """A folder cannot be read at all."""


def from_file(path: str, uid: int | None = None, patience: float = 0.0) -> CCacheRecord:
    """The ccache in a file, for the file's owner, or for `uid` if the file is that user's or root's.

    Waits for a lock for at most `patience` seconds. Raises SourceError.
    """
    location = f"FILE:{escape_path(path)}"
    parent, slash, name = path.rpartition("/")
    try:
        with open_folder(parent + slash or ".") as folder:
            return _from_file(name, location, uid, folder, patience=patience)
    except FileInUseError as error:
        raise _in_use(location, uid, error, partial(from_file, path, uid)) from None
    except OSError as error:
        raise SourceError(location, uid, reason_of(error)) from None


def from_folder(path: str, uid: int | None = None) -> Iterator[CCacheRecord | SourceError]:
    """The ccaches of a DIR: collection, the primary one first; a SourceError for each that cannot be read."""
    location = f"DIR:{escape_path(path)}"
    try:
        with open_folder(path) as folder:
            if uid is None:
                uid = folder.uid
            elif folder.uid not in {uid, ROOT}:
                reason = f"the folder belongs to {format_user(folder.uid)}, not to {format_user(uid)} or root"
                yield UnreadableFolderError(location, uid, reason)
                return
            primary = _primary_name(folder)
            members, left_out = _member_names(folder)
            for name in sorted(members, key=lambda each: (each != primary, each)):
                try:
                    yield _from_file(
                        name, f"{location}/{escape_path(name)}", uid, folder, is_default=name == primary
                    )
                except SourceError as error:
                    yield error
                except FileInUseError as error:
                    retry = partial(_from_member, path, name, location, uid, is_default=name == primary)
                    yield _in_use(f"{location}/{escape_path(name)}", uid, error, retry)
            if left_out:
                yield SourceError(
                    location, uid, f"{left_out} more files are left out: the limit is {_MAX_MEMBERS}"
                )
    except OSError as error:
        yield UnreadableFolderError(location, uid, reason_of(error))


def _member_names(folder: Folder) -> tuple[list[str], int]:
    """The names of the folder's ccaches, and the number of those beyond the limit; raises OSError."""
    members: list[str] = []
    left_out = 0
    with folder.entries() as entries:
        for entry in entries:
            if not _MEMBER.fullmatch(entry.name):
                continue
            if len(members) < _MAX_MEMBERS:
                members.append(entry.name)
            else:
                left_out += 1
    return members, left_out


def _from_member(path: str, name: str, location: str, uid: int, *, is_default: bool) -> CCacheRecord:
    """One ccache of a folder; raises SourceError."""
    member = f"{location}/{escape_path(name)}"
    try:
        with open_folder(path) as folder:
            if folder.uid not in {uid, ROOT}:
                raise SourceError(location, uid, f"the folder belongs to {format_user(folder.uid)} now")
            return _from_file(name, member, uid, folder, is_default=is_default)
    except FileInUseError as error:
        retry = partial(_from_member, path, name, location, uid, is_default=is_default)
        raise _in_use(member, uid, error, retry) from None
    except OSError as error:
        raise SourceError(member, uid, reason_of(error)) from None


def _in_use(
    location: str, uid: int | None, error: FileInUseError, retry: Callable[[], CCacheRecord]
) -> SourceError:
    source_error = SourceError(location, uid, str(error))
    source_error.retry = retry
    return source_error


def retry_locked(found: Iterable[CCacheRecord | SourceError]) -> Iterator[CCacheRecord | SourceError]:
    """The same items, with locked files last. They are tried again, all together for LOCK_TIMEOUT seconds.

    A timeout for each file would not do: a user can lock any number of files forever.
    """
    locked: list[SourceError] = []
    for each in found:
        if isinstance(each, SourceError) and each.retry is not None:
            locked.append(each)
        else:
            yield each
    deadline = time.monotonic() + LOCK_TIMEOUT
    while locked and time.monotonic() < deadline:
        # As in lock(): a lock with a deadline can only be tried again.
        time.sleep(RETRY_INTERVAL)
        still_locked = []
        for error in locked:
            assert error.retry is not None
            try:
                yield error.retry()
            except SourceError as new_error:
                new_error.uid = error.uid
                if new_error.retry is None:
                    yield new_error
                else:
                    still_locked.append(new_error)
        locked = still_locked
    yield from locked


def _primary_name(folder: Folder) -> str:
    """The file name of the folder's default ccache: `tkt` unless the file `primary` names another."""
    try:
        content = read_user_file(_PRIMARY, folder.descriptor).content
        name = content.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    except (FileError, OSError):
        return "tkt"
    return name if _MEMBER.fullmatch(name) else "tkt"


def _from_file(
    name: str,
    location: str,
    uid: int | None,
    folder: Folder,
    *,
    is_default: bool = False,
    patience: float = 0.0,
) -> CCacheRecord:
    """The ccache in a file of an open folder; raises SourceError, FileInUseError."""
    try:
        content, owner, label = read_user_file(name, folder.descriptor, patience)
        _check_owner(location, owner, uid, folder)
        file = parse_ccache_file(content)
    except FormatError as error:
        raise SourceError(location, uid, f"{error.reason}; name the right file") from None
    except FileInUseError:
        raise
    except FileError as error:
        raise SourceError(location, uid, str(error)) from None
    except OSError as error:
        raise SourceError(location, uid, reason_of(error)) from None
    return CCacheRecord(
        uid=owner if uid is None else uid,
        principal=PrincipalRecord.of(file.principal),
        credentials=file.credentials,
        kdc_offset=file.kdc_offset,
        label=_meaningful_label(label),
        default=is_default,
    )


def _meaningful_label(label: str | None) -> str | None:
    """A file's label, unless its level is the lowest one.

    At the lowest level, the file's type keeps containers away, and pykcm does not use types.
    """
    try:
        is_lowest = label is not None and parse_label(label).level in {None, SYSTEM_LOW}
    except LabelError:
        # The daemon refuses it, with a reason.
        return label
    return None if is_lowest else label


def _check_owner(location: str, owner: int, uid: int | None, folder: Folder) -> None:
    """Raise SourceError unless the owner's file may become a ccache of `uid`."""
    if uid is None or owner == uid:
        return
    if owner != ROOT:
        raise SourceError(
            location,
            uid,
            f"the file belongs to {format_user(owner)}: it cannot become a ccache of {format_user(uid)}",
        )
    if not folder.is_trusted:
        # A user may have moved root's file into the folder.
        raise SourceError(
            location,
            uid,
            "the file belongs to root, but others can put files into its folder: it cannot become a ccache "
            f"of {format_user(uid)}",
        )


class ServerCCache(NamedTuple):
    """A ccache of another KCM server, with the UUID that it has there."""

    uuid: bytes
    record: CCacheRecord


def from_server(path: str, uid: int) -> Iterator[ServerCCache | SourceError]:
    """The ccaches that a KCM server shows to this UID; a SourceError for each that cannot be read."""
    location = f"KCM:{escape_path(path)}"
    try:
        kcm = _connect_as(path, uid)
    except OSError as error:
        yield SourceError(location, uid, reason_of(error))
        return
    with kcm:
        try:
            uuids = kcm.get_cache_uuid_list()
            default = kcm.get_default_cache() if uuids else b""
        except (KcmError, OSError) as error:
            # sssd's answer for a user without ccaches.
            if isinstance(error, KcmError) and error.code == Code.FCC_NOFILE:
                return
            yield SourceError(location, uid, reason_of(error) if isinstance(error, OSError) else str(error))
            return
        for uuid in uuids:
            try:
                name = kcm.get_cache_by_uuid(uuid)
                # A server may list other users' ccaches to root: those are read as their users.
                if owner_of(name) in {uid, None}:
                    yield ServerCCache(uuid, _from_kcm(kcm, name, uid, is_default=name == default))
            except KcmError as error:
                yield SourceError(location, uid, str(error))
            except OSError as error:
                yield SourceError(location, uid, reason_of(error))
                return


def uids_of_server(path: str) -> set[int]:
    """The UIDs whose ccaches a KCM server lists to root; raises OSError, KcmError."""
    with _connect_as(path, ROOT) as kcm:
        names = map(kcm.get_cache_by_uuid, kcm.get_cache_uuid_list())
        return {ROOT, *(owner for name in names if (owner := owner_of(name)) is not None)}


def _from_kcm(kcm: KcmClient, name: bytes, uid: int, *, is_default: bool) -> CCacheRecord:
    # In pykcm, a name without a UID belongs to root. On the other server it may belong to a user.
    kept_name = name if owner_of(name) == uid or uid == ROOT else None
    return CCacheRecord(
        uid=uid,
        principal=PrincipalRecord.of(kcm.get_principal(name)),
        credentials=_credentials(kcm, name),
        name=kept_name,
        kdc_offset=_kdc_offset(kcm, name),
        default=is_default,
    )


def _credentials(kcm: KcmClient, name: bytes) -> list[bytes]:
    try:
        return kcm.get_cred_list(name)
    except KcmError:
        # Heimdal's server does not have this operation.
        return [kcm.get_cred_by_uuid(name, uuid) for uuid in kcm.get_cred_uuid_list(name)]


def _kdc_offset(kcm: KcmClient, name: bytes) -> int:
    try:
        return kcm.get_kdc_offset(name)
    except KcmError:
        return 0


def _connect_as(path: str, uid: int) -> KcmClient:
    """A connection on which the kernel reports this UID to the server."""
    with _effective_uid(uid):
        return KcmClient(path, _REQUEST_TIMEOUT)


@contextmanager
def _effective_uid(uid: int) -> Iterator[None]:
    previous = os.geteuid(), os.getegid()
    if uid == previous[0]:
        yield
        return
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except (KeyError, OverflowError):
        gid = uid
    os.setegid(gid)
    try:
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(previous[0])
        os.setegid(previous[1])
