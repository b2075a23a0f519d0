"""Open folders whose path users may control: their symbolic links are not followed."""

import errno
import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pykcm.peer.identity import ROOT
from pykcm.protocol.text import escape_path

_OPEN_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# As many as the kernel follows.
_MAX_LINKS = 40


class Folder:
    """An open folder and its owner's UID; its descriptor is an O_PATH one, for openat().

    `is_trusted`: only root and the calling user can put entries there. `trusts_subfolders`: the same holds
    for folders of these users in it. A sticky folder (/tmp) protects such subfolders, but is not trusted
    itself: other users can move a file of root's into it from a folder of their own.
    """

    def __init__(self, descriptor: int, parent: "Folder | None") -> None:
        status = os.fstat(descriptor)
        is_owned = status.st_uid in {ROOT, os.geteuid()}
        # With an access control list, the group bits are its mask, the most that it grants.
        is_closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_sticky = bool(status.st_mode & stat.S_ISVTX)
        self.descriptor = descriptor
        self.uid = status.st_uid
        self.is_trusted: bool = is_owned and is_closed and (parent is None or parent.trusts_subfolders)
        self.trusts_subfolders: bool = self.is_trusted or (
            is_owned and is_sticky and parent is not None and parent.is_trusted
        )

    @contextmanager
    def entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """An iterator over the folder's entries; raises OSError."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        finally:
            os.close(descriptor)


@contextmanager
def open_folder(path: str) -> Iterator[Folder]:
    """Open a folder. Symbolic links are followed only in trusted folders (/var/run). Raises OSError."""
    with ExitStack() as at_end:
        yield _open_path(path, at_end)


def match_files(pattern: str) -> Iterator[tuple[str, int]]:
    """Absolute paths that match a shell pattern, each with its owner's UID, in arbitrary order.

    Folders are opened with open_folder(). A path through a user's symbolic link is returned as it is; opening
    it fails then. Unreadable folders count as empty. Memory does not grow with the number of files.
    """
    return _match_files("", pattern.removeprefix("/").split("/"))


def _match_files(parent: str, parts: list[str]) -> Iterator[tuple[str, int]]:
    while len(parts) > 1 and not glob.has_magic(parts[0]):
        parent, parts = f"{parent}/{parts[0]}", parts[1:]
    name, *rest = parts
    matches = re.compile(fnmatch.translate(name)).match
    try:
        with open_folder(parent or "/") as folder, folder.entries() as entries:
            for entry in entries:
                # As in a shell, a wildcard does not match hidden files.
                if not matches(entry.name) or (entry.name.startswith(".") and not name.startswith(".")):
                    continue
                path = f"{parent}/{entry.name}"
                if rest:
                    yield from _match_files(path, rest)
                elif (owner := _owner(entry)) is not None:
                    yield path, owner
    except OSError as error:
        if error.errno == errno.ELOOP:
            # The caller opens the path, and reports the link.
            with suppress(OSError):
                yield "/".join([parent, *parts]), os.lstat(parent).st_uid


def _owner(entry: os.DirEntry[str]) -> int | None:
    """The owner's UID; None if the entry has vanished."""
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return None


def _open_path(path: str, at_end: ExitStack) -> Folder:
    """Open each folder relative to its parent, so that a checked folder cannot be exchanged."""
    opened = [_open("/", None, at_end)]
    remaining = _reversed_parts(str(Path(path).absolute()))
    links = 0
    while remaining:
        name = remaining.pop()
        if name == "..":
            # Return to the parent that was opened, even if the folder has been moved meanwhile.
            if len(opened) > 1:
                opened.pop()
            continue
        try:
            opened.append(_open(name, opened[-1], at_end))
        except NotADirectoryError:
            target = _read_link(name, opened[-1], path)
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
            remaining += _reversed_parts(target)
            if target.startswith("/"):
                del opened[1:]
    return opened[-1]


def _reversed_parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _open(name: str, parent: Folder | None, at_end: ExitStack) -> Folder:
    descriptor = os.open(name, _OPEN_FLAGS, dir_fd=None if parent is None else parent.descriptor)
    at_end.callback(os.close, descriptor)
    return Folder(descriptor, parent)


def _read_link(name: str, folder: Folder, path: str) -> str:
    """The target of a symbolic link; raises OSError if `name` is not a link, or the folder is not trusted."""
    try:
        target = os.readlink(name, dir_fd=folder.descriptor)
    except OSError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    if not folder.is_trusted:
        raise OSError(
            errno.ELOOP,
            f"{escape_path(name)} in the path is a symbolic link that others than root may have made",
            path,
        )
    return target
