"""The way to a folder in which users may have a say: no link of theirs is followed."""

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

_WALKED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


class Folder:
    """An open folder and its owner's UID; the descriptor is good for openat() alone.

    `is_ours`: only root, or whoever runs this, can have put there what is there. `keeps_ours`: so it is of
    folders of ours in it. A sticky one (/tmp) keeps them, but others can move a file of ours into it from a
    folder of theirs.
    """

    def __init__(self, descriptor: int, parent: "Folder | None") -> None:
        status = os.fstat(descriptor)
        is_owned = status.st_uid in {ROOT, os.geteuid()}
        # Where there is an access control list, the group's bits are the most that it gives to anybody.
        is_closed = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_sticky = bool(status.st_mode & stat.S_ISVTX)
        self.descriptor = descriptor
        self.uid = status.st_uid
        self.is_ours: bool = is_owned and is_closed and (parent is None or parent.keeps_ours)
        self.keeps_ours: bool = self.is_ours or (
            is_owned and is_sticky and parent is not None and parent.is_ours
        )

    @contextmanager
    def entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """Yields its entries, one after the other; raises OSError."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            with os.scandir(descriptor) as entries:
                yield entries
        finally:
            os.close(descriptor)


@contextmanager
def opened_folder(path: str) -> Iterator[Folder]:
    """Symbolic links are followed only in folders that are ours, as /var/run is; raises OSError."""
    with ExitStack() as at_end:
        yield _walked(path, at_end)


def matching(pattern: str) -> Iterator[tuple[str, int]]:
    """Absolute paths that a shell's pattern matches, each with its owner's UID, in no order.

    Folders are entered as opened_folder() does: no user leads the way elsewhere. A path on which there is a
    user's link is given as it is, to be refused. Folders that cannot be read have nothing in them. The files
    are never all in memory, however many there are.
    """
    return _matching("", pattern.removeprefix("/").split("/"))


def _matching(parent: str, parts: list[str]) -> Iterator[tuple[str, int]]:
    while len(parts) > 1 and not glob.has_magic(parts[0]):
        parent, parts = f"{parent}/{parts[0]}", parts[1:]
    name, *rest = parts
    fits = re.compile(fnmatch.translate(name)).match
    try:
        with opened_folder(parent or "/") as folder, folder.entries() as entries:
            for entry in entries:
                # As in a shell.
                if not fits(entry.name) or (entry.name.startswith(".") and not name.startswith(".")):
                    continue
                path = f"{parent}/{entry.name}"
                if rest:
                    yield from _matching(path, rest)
                elif (owner := _owner(entry)) is not None:
                    yield path, owner
    except OSError as error:
        if error.errno == errno.ELOOP:
            # For whoever opens it to be told of the link.
            with suppress(OSError):
                yield "/".join([parent, *parts]), os.lstat(parent).st_uid


def _owner(entry: os.DirEntry[str]) -> int | None:
    """None: it is gone."""
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return None


def _walked(path: str, at_end: ExitStack) -> Folder:
    """Each folder is opened in the one before it, so that nobody can exchange what has been looked at."""
    way = [_opened("/", None, at_end)]
    left = _parts(str(Path(path).absolute()))
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            # Back on the way that was walked: where the folder has been moved to meanwhile does not count.
            if len(way) > 1:
                way.pop()
            continue
        try:
            way.append(_opened(name, way[-1], at_end))
        except NotADirectoryError:
            target = _target(name, way[-1], path)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
            left += _parts(target)
            if target.startswith("/"):
                del way[1:]
    return way[-1]


def _parts(path: str) -> list[str]:
    """The last one first."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _opened(name: str, parent: Folder | None, at_end: ExitStack) -> Folder:
    descriptor = os.open(name, _WALKED, dir_fd=None if parent is None else parent.descriptor)
    at_end.callback(os.close, descriptor)
    return Folder(descriptor, parent)


def _target(name: str, folder: Folder, path: str) -> str:
    """Where a link leads; raises OSError where `name` is none, or one that a user can lay."""
    try:
        target = os.readlink(name, dir_fd=folder.descriptor)
    except OSError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    if not folder.is_ours:
        raise OSError(errno.ELOOP, f"{name} on the way is a symbolic link, and not root's alone", path)
    return target
