"""Files with secrets in them: written whole or not at all, and read only where they are what they seem."""

import errno
import fcntl
import io
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pykcm.store.disk import sync_folder

STANDARD = "-"

# What a file system says that has none, vfat among them.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}

# A passphrase or identity file is a few lines.
_LARGEST_KEY_FILE = 64 * 1024

# In bytes; larger than any ccache that a daemon takes by default.
LARGEST_CCACHE_FILE = 32 * 1024 * 1024

# In seconds.
PATIENCE_WITH_LOCKS = 2.0
RETRY = 0.05

_SELINUX = Path("/sys/fs/selinux/enforce")


class FileError(Exception):
    """A file is not what it has to be; the message names it."""


class FileInUseError(FileError):
    """Another process holds the file's lock."""


@contextmanager
def written(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """As written_file(), but `-` is stdout."""
    if path != STANDARD:
        with written_file(Path(path), force=force) as file:
            yield file
        return
    if sys.stdout.isatty():
        raise FileError("an export is nothing for a terminal: name a file, or use a pipe")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def written_file(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file to be written and read, of mode 0600, that is at `target` only when all was written and synced.

    Where the file system can, it has no name before: even a SIGKILL leaves nothing. Raises FileError, where
    `target` is there already unless it is a file and `force` is given.
    """
    check_free(target, force=force)
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    unnamed = _open_unnamed(target.parent)
    try:
        with open(_open_new(hidden) if unnamed is None else unnamed, "w+b") as file:  # noqa: PTH123
            yield file
            make_durable(file)
            has_target = unnamed is not None and _name(file, target, hidden, force=force)
        if not has_target and force:
            check_free(target, force=True)
            hidden.rename(target)
        elif not has_target:
            _take_name(hidden, target)
        sync_folder(target.parent)
    except _NameTakenError:
        _remove(hidden)
        raise FileError(f"{target} has come meanwhile: nothing was written") from None
    except BaseException:
        _remove(hidden)
        raise


class _NameTakenError(Exception):
    """Another file has the name by now."""


def _open_new(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _open_unnamed(folder: Path) -> int | None:
    """A new file without a name, which is gone when it is closed; None where the file system has none."""
    # It gets its name by way of /proc.
    if not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        # Where the folder is at fault, a file with a name cannot be made either, and the error is clearer.
        return None


def _name(file: BinaryIO, target: Path, hidden: Path, *, force: bool) -> bool:
    """Give a file without a name `target`, or `hidden`, to be renamed then; whether it is `target`."""
    source = f"/proc/self/fd/{file.fileno()}"
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With a folder's descriptor, and only then, Python follows the link to the file.
        wanted = hidden if force else target
        os.link(source, wanted.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise _NameTakenError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(_open_new(hidden), "wb") as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy)
            make_durable(copy)
        return False
    finally:
        os.close(folder)
    return not force


def _take_name(unfinished: Path, target: Path) -> None:
    """Rename the file, but take nobody's place; raises _NameTakenError."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise _NameTakenError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        unfinished.unlink()
        return
    # What is carried to another host is often on a disk without links: the name is taken by an empty file.
    try:
        target.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise _NameTakenError from None
    try:
        unfinished.rename(target)
    except BaseException:
        target.unlink()
        raise


def make_durable(file: BinaryIO) -> None:
    """What was written to it so far; raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def check_free(target: Path, *, force: bool) -> None:
    """Whether a file may be written there; raises FileError."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{target} is there already, and no file")
    if not force:
        raise FileError(f"{target} is there already: --force overwrites it")


@contextmanager
def readable_twice(path: str) -> Iterator[BinaryIO]:
    """A file to be read more than once; what comes from a pipe (`-` is stdin) is kept in memory."""
    with sys.stdin.buffer if path == STANDARD else Path(path).open("rb") as file:
        if file.seekable():
            yield file
            return
        with open(os.memfd_create("pykcm-import", os.MFD_CLOEXEC), "w+b") as kept:  # noqa: PTH123
            shutil.copyfileobj(file, kept)
            kept.seek(0)
            yield kept


def read_key_file(path: str) -> str:
    """The text of a file with a passphrase or key; raises FileError where others may read it."""
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
            raise FileError(f"{path}: others than its owner have access to it; chmod 0600")
        content = file.read(_LARGEST_KEY_FILE + 1)
    if len(content) > _LARGEST_KEY_FILE:
        raise FileError(f"{path} is too large for what it should hold")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise FileError(f"{path} is no text") from None


class Owned(NamedTuple):
    """A user's file: what is in it, whose it is, and its SELinux label, where there is one."""

    content: bytes
    uid: int
    label: str | None


def read_owned(name: str, folder: int, patience: float = 0.0) -> Owned:
    """A ccache file as it is at one moment, in the folder that the descriptor is of.

    The folder may be one where everybody writes: nothing is followed, and no device or pipe is waited for. A
    lock is waited for at most `patience` seconds, then FileInUseError is raised. Raises FileError, OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        # Links and sockets cannot be opened, and what the kernel says of it does not tell that they are such.
        _check_kind(os.stat(name, dir_fd=folder, follow_symlinks=False))
        raise
    try:
        status = os.fstat(descriptor)
        _check_kind(status)
    except BaseException:
        os.close(descriptor)
        raise
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
        if status.st_size == 0:
            raise FileError("an empty file: no ccache has been stored in it")
        if status.st_nlink != 1:
            raise FileError(f"{name} has {status.st_nlink} names: who made the others is not known")
        if status.st_size > LARGEST_CCACHE_FILE:
            raise FileError(f"{name} is too large for a ccache: {status.st_size} bytes")
        _lock(file, name, patience)
        content = _read_bounded(file)
        if len(content) > LARGEST_CCACHE_FILE:
            raise FileError(f"{name} is too large for a ccache")
        return Owned(content, status.st_uid, _label(descriptor))


_KINDS = {
    stat.S_IFLNK: "a symbolic link, which is not followed: name the file that it leads to",
    stat.S_IFDIR: "a folder and no file: name it with DIR:",
    stat.S_IFIFO: "a pipe and no file",
    stat.S_IFSOCK: "a socket and no file: name a KCM server's with KCM:",
    stat.S_IFCHR: "a device and no file",
    stat.S_IFBLK: "a device and no file",
}


def _check_kind(status: os.stat_result) -> None:
    """Raises FileError where it is no regular file."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise FileError(_KINDS.get(kind, "no file"))


def _lock(file: io.FileIO, name: str, patience: float) -> None:
    """Wait until no client writes to it, but not for ever: the file's owner may hold the lock for good."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FileInUseError(f"{name} is in use: try again") from None
            time.sleep(RETRY)
        else:
            return


def _read_bounded(file: io.FileIO) -> bytes:
    content = bytearray()
    while len(content) <= LARGEST_CCACHE_FILE and (piece := file.read(1 << 20)):
        content += piece
    return bytes(content)


def _label(descriptor: int) -> str | None:
    if not _SELINUX.exists():
        return None
    try:
        return os.getxattr(descriptor, "security.selinux").rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        # Then it is nobody's to read: not what everybody may.
        raise FileError("its SELinux label cannot be read") from None
