"""Where ccaches are besides pykcm: files, folders of files, and other KCM servers."""

import os
import pwd
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from pykcm.cli.files import PATIENCE_WITH_LOCKS, RETRY, FileError, FileInUseError, read_owned
from pykcm.cli.folders import Folder, opened_folder
from pykcm.client import KcmClient
from pykcm.control.records import CCacheRecord, PrincipalRecord
from pykcm.peer.identity import ROOT
from pykcm.peer.labels import SYSTEM_LOW, LabelError, parse_label
from pykcm.peer.names import owner_of
from pykcm.protocol.ccache_file import parse_ccache_file
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.text import escape_path
from pykcm.protocol.wire import FormatError

# libkrb5's names for the files in a folder.
_PRIMARY = "primary"
_MEMBER = re.compile(r"tkt[^/\0]*", re.ASCII)
_MOST_MEMBERS = 4096

# In seconds: a server may have thousands of ccaches, but gives one at a time.
_PATIENCE = 30.0


class SourceError(Exception):
    """Something cannot be brought over: `where` names it, the message says why."""

    def __init__(self, where: str, uid: int | None, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.uid = uid
        self.reason = reason
        # Reads it once more; None where it would be of no use.
        self.again: Callable[[], CCacheRecord] | None = None


class NothingReadError(SourceError):
    """A folder cannot be read at all."""


def from_file(path: str, uid: int | None = None, patience: float = 0.0) -> CCacheRecord:
    """The ccache in a file, which becomes its owner's; `uid`'s where it is that one's or root's.

    A lock is waited for at most `patience` seconds. Raises SourceError.
    """
    where = f"FILE:{escape_path(path)}"
    parent, slash, name = path.rpartition("/")
    try:
        with opened_folder(parent + slash or ".") as folder:
            return _from_file(name, where, uid, folder, patience=patience)
    except FileInUseError as error:
        raise _in_use(where, uid, error, partial(from_file, path, uid)) from None
    except OSError as error:
        raise SourceError(where, uid, error.strerror or str(error)) from None


def from_folder(path: str, uid: int | None = None) -> Iterator[CCacheRecord | SourceError]:
    """The ccaches in a folder (`DIR:`), the primary one first, and each that cannot be read in its place."""
    where = f"DIR:{escape_path(path)}"
    try:
        with opened_folder(path) as folder:
            if uid is None:
                uid = folder.uid
            elif folder.uid not in {uid, ROOT}:
                reason = f"it belongs to UID {folder.uid}, neither to {uid} nor to root"
                yield NothingReadError(where, uid, reason)
                return
            primary = _primary(folder)
            members, left_out = _members(folder)
            for name in sorted(members, key=lambda each: (each != primary, each)):
                try:
                    yield _from_file(
                        name, f"{where}/{escape_path(name)}", uid, folder, is_default=name == primary
                    )
                except SourceError as error:
                    yield error
                except FileInUseError as error:
                    again = partial(_from_member, path, name, where, uid, is_default=name == primary)
                    yield _in_use(f"{where}/{escape_path(name)}", uid, error, again)
            if left_out:
                yield SourceError(
                    where, uid, f"{left_out} more files are left out: there are more than {_MOST_MEMBERS}"
                )
    except OSError as error:
        yield NothingReadError(where, uid, error.strerror or str(error))


def _members(folder: Folder) -> tuple[list[str], int]:
    """The names of its ccaches, and how many more there are; raises OSError."""
    members: list[str] = []
    left_out = 0
    with folder.entries() as entries:
        for entry in entries:
            if not _MEMBER.fullmatch(entry.name):
                continue
            if len(members) < _MOST_MEMBERS:
                members.append(entry.name)
            else:
                left_out += 1
    return members, left_out


def _from_member(path: str, name: str, where: str, uid: int, *, is_default: bool) -> CCacheRecord:
    """One ccache of a folder; raises SourceError."""
    member = f"{where}/{escape_path(name)}"
    try:
        with opened_folder(path) as folder:
            if folder.uid not in {uid, ROOT}:
                raise SourceError(where, uid, f"it belongs to UID {folder.uid} now")
            return _from_file(name, member, uid, folder, is_default=is_default)
    except FileInUseError as error:
        again = partial(_from_member, path, name, where, uid, is_default=is_default)
        raise _in_use(member, uid, error, again) from None
    except OSError as error:
        raise SourceError(member, uid, error.strerror or str(error)) from None


def _in_use(
    where: str, uid: int | None, error: FileInUseError, again: Callable[[], CCacheRecord]
) -> SourceError:
    refusal = SourceError(where, uid, str(error))
    refusal.again = again
    return refusal


def patiently(found: Iterable[CCacheRecord | SourceError]) -> Iterator[CCacheRecord | SourceError]:
    """The same, but files in use come last: they are tried again for a while, which is common to all.

    A user can lock any number of files for good.
    """
    locked: list[SourceError] = []
    for each in found:
        if isinstance(each, SourceError) and each.again is not None:
            locked.append(each)
        else:
            yield each
    deadline = time.monotonic() + PATIENCE_WITH_LOCKS
    while locked and time.monotonic() < deadline:
        time.sleep(RETRY)
        still_locked = []
        for error in locked:
            assert error.again is not None
            try:
                yield error.again()
            except SourceError as refusal:
                refusal.uid = error.uid
                if refusal.again is None:
                    yield refusal
                else:
                    still_locked.append(refusal)
        locked = still_locked
    yield from locked


def _primary(folder: Folder) -> str:
    """The name of the folder's default ccache; libkrb5 takes `tkt` where nothing else is said."""
    try:
        content = read_owned(_PRIMARY, folder.descriptor).content
        name = content.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    except (FileError, OSError):
        return "tkt"
    return name if _MEMBER.fullmatch(name) else "tkt"


def _from_file(
    name: str,
    where: str,
    uid: int | None,
    folder: Folder,
    *,
    is_default: bool = False,
    patience: float = 0.0,
) -> CCacheRecord:
    """Raises SourceError, FileInUseError."""
    try:
        content, owner, label = read_owned(name, folder.descriptor, patience)
        _check_given(where, owner, uid, folder)
        file = parse_ccache_file(content)
    except FormatError as error:
        raise SourceError(where, uid, error.reason) from None
    except FileInUseError:
        raise
    except FileError as error:
        raise SourceError(where, uid, str(error)) from None
    except OSError as error:
        raise SourceError(where, uid, error.strerror or str(error)) from None
    return CCacheRecord(
        uid=owner if uid is None else uid,
        principal=PrincipalRecord.of(file.principal),
        credentials=file.credentials,
        kdc_offset=file.kdc_offset,
        label=_with_categories(label),
        default=is_default,
    )


def _with_categories(label: str | None) -> str | None:
    """A file's label, where it tells who may read the file.

    At the lowest level it is the file's type that keeps containers away, and types play no part in pykcm.
    """
    try:
        is_lowest = label is not None and parse_label(label).level in {None, SYSTEM_LOW}
    except LabelError:
        # For the daemon to refuse.
        return label
    return None if is_lowest else label


def _check_given(where: str, owner: int, uid: int | None, folder: Folder) -> None:
    """The owner's file may become `uid`'s; raises SourceError."""
    if uid is None or owner == uid:
        return
    if owner != ROOT:
        raise SourceError(where, uid, f"it belongs to UID {owner}: it cannot become {uid}'s")
    if not folder.is_ours:
        # They may have moved there what root has in a folder of theirs.
        raise SourceError(
            where, uid, f"it is root's, but others can put files there: it cannot become {uid}'s"
        )


class KcmCCache(NamedTuple):
    """A ccache of another KCM server, and its UUID there."""

    uuid: bytes
    record: CCacheRecord


def from_server(path: str, uid: int) -> Iterator[KcmCCache | SourceError]:
    """The ccaches that a KCM server gives to this UID, and each that cannot be read in its place."""
    where = f"KCM:{escape_path(path)}"
    try:
        kcm = _connect_as(path, uid)
    except OSError as error:
        yield SourceError(where, uid, error.strerror or str(error))
        return
    with kcm:
        try:
            uuids = kcm.get_cache_uuid_list()
            default = kcm.get_default_cache() if uuids else b""
        except (KcmError, OSError) as error:
            # So sssd answers where a user has none.
            if isinstance(error, KcmError) and error.code == Code.FCC_NOFILE:
                return
            yield SourceError(where, uid, str(error))
            return
        for uuid in uuids:
            try:
                name = kcm.get_cache_by_uuid(uuid)
                # What a server gives of others to root is asked for as those.
                if owner_of(name) in {uid, None}:
                    yield KcmCCache(uuid, _from_kcm(kcm, name, uid, is_default=name == default))
            except KcmError as error:
                yield SourceError(where, uid, str(error))
            except OSError as error:
                yield SourceError(where, uid, str(error))
                return


def uids_of_server(path: str) -> set[int]:
    """Whose ccaches a KCM server lists to root; raises OSError, KcmError."""
    with _connect_as(path, ROOT) as kcm:
        names = map(kcm.get_cache_by_uuid, kcm.get_cache_uuid_list())
        return {ROOT, *(owner for name in names if (owner := owner_of(name)) is not None)}


def _from_kcm(kcm: KcmClient, name: bytes, uid: int, *, is_default: bool) -> CCacheRecord:
    # A name of no UID is root's here, where it may have been a user's.
    kept = name if owner_of(name) == uid or uid == ROOT else None
    return CCacheRecord(
        uid=uid,
        principal=PrincipalRecord.of(kcm.get_principal(name)),
        credentials=_credentials(kcm, name),
        name=kept,
        kdc_offset=_kdc_offset(kcm, name),
        default=is_default,
    )


def _credentials(kcm: KcmClient, name: bytes) -> list[bytes]:
    try:
        return kcm.get_cred_list(name)
    except KcmError:
        # Heimdal's has no such operation.
        return [kcm.get_cred_by_uuid(name, uuid) for uuid in kcm.get_cred_uuid_list(name)]


def _kdc_offset(kcm: KcmClient, name: bytes) -> int:
    try:
        return kcm.get_kdc_offset(name)
    except KcmError:
        return 0


def _connect_as(path: str, uid: int) -> KcmClient:
    """A connection whose peer is this UID to the server, as the kernel tells it."""
    with _effective_uid(uid):
        return KcmClient(path, _PATIENCE)


@contextmanager
def _effective_uid(uid: int) -> Iterator[None]:
    before = os.geteuid(), os.getegid()
    if uid == before[0]:
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
        os.seteuid(before[0])
        os.setegid(before[1])
