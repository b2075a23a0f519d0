"""Files that hold secrets: written completely or not at all, and checked before they are read."""

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

import click

from pykcm.store.disk import sync_folder
from pykcm.streams import output_error

# The name that stands for stdin and stdout.
STANDARD = "-"

# Errors of link() on file systems without hard links, such as vfat.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}

# In bytes. A passphrase or identity file has a few lines.
_LARGEST_KEY_FILE = 64 * 1024

# In bytes. By default the daemon refuses ccaches of this size anyway.
LARGEST_CCACHE_FILE = 32 * 1024 * 1024

# In seconds: how long to wait for locks, and how often to try.
LOCK_TIMEOUT = 2.0
RETRY_INTERVAL = 0.05

_SELINUX = Path("/sys/fs/selinux/enforce")


class FileError(Exception):
    """A file cannot be used; the message says why, and names it where there are several."""


class FileInUseError(FileError):
    """Another process holds the file's lock."""


_ADVICE = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "check the permissions, or try sudo",
    errno.EPERM: "check the permissions, or try sudo",
    errno.EROFS: "name a file on another file system",
    errno.ENOSPC: "free some space, or name a file on another file system",
    errno.EDQUOT: "free some space, or name a file on another file system",
    errno.EIO: "see the kernel's log, as the disk may be damaged",
    errno.ECONNREFUSED: "check that a server listens there",
    errno.ELOOP: "name the real path",
}


def reason_of(error: OSError) -> str:
    """The reason of an error, and what to do; never a number."""
    reason = error.strerror or next((str(each) for each in error.args[::-1]), "") or "no reason is known"
    if error.errno == errno.ELOOP and reason == os.strerror(errno.ELOOP):
        reason = "a symbolic link is in the way, or leads back to itself"
    return f"{reason}; {_ADVICE[error.errno]}" if error.errno in _ADVICE else reason


@contextmanager
def report_file_errors(attempt: str, path: str | None = None) -> Iterator[None]:
    """Turn errors of files into one-line ClickExceptions; `attempt` introduces an OSError.

    `path`: the file that errors of its contents name.
    Errors of the connection to the daemon and of stdout pass.
    """
    try:
        yield
    except FileError as error:
        text = str(error)
        raise click.ClickException(text if path is None or path in text else f"{path}: {text}") from None
    except ConnectionError:
        raise
    except OSError as error:
        if error is output_error():
            raise
        raise click.ClickException(f"{attempt}: {reason_of(error)}") from None


@contextmanager
def open_output(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """As open_new_file(), but `-` is stdout."""
    if path != STANDARD:
        with open_new_file(Path(path), force=force) as file:
            yield file
        return
    if sys.stdout.isatty():
        raise FileError("stdout: an export is binary, and stdout is a terminal; name a file, or use a pipe")
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise FileError(
            "stdout: its reader has ended before the end of the export; what it has is incomplete: repeat "
            "the command"
        ) from None


@contextmanager
def open_new_file(target: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a new file of mode 0600 for writing and reading. It appears at `target` when complete and synced.

    Before that it has no name, where the file system supports this: then a SIGKILL leaves nothing behind.
    Raises FileError if `target` exists, unless it is a regular file and `force` is given.
    """
    check_not_taken(target, force=force)
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    unnamed = _open_unnamed(target.parent)
    try:
        with open(_open_new(hidden) if unnamed is None else unnamed, "w+b") as file:  # noqa: PTH123
            yield file
            make_durable(file)
            is_at_target = unnamed is not None and _link_unnamed(file, target, hidden, force=force)
        if not is_at_target and force:
            check_not_taken(target, force=True)
            hidden.rename(target)
        elif not is_at_target:
            _rename_new(hidden, target)
        sync_folder(target.parent)
    except _NameTakenError:
        _remove(hidden)
        raise FileError(
            f"{target}: another program has created it meanwhile, and nothing was written; try again"
        ) from None
    except BaseException:
        _remove(hidden)
        raise


class _NameTakenError(Exception):
    """Another file has got the name meanwhile."""


def _open_new(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _open_unnamed(folder: Path) -> int | None:
    """A new file without a name, deleted when closed unless linked; None where that is not supported."""
    # The file is linked to a name through /proc.
    if not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        # If the folder itself is the problem, creating a named file fails as well, with a clearer error.
        return None


def _link_unnamed(file: BinaryIO, target: Path, hidden: Path, *, force: bool) -> bool:
    """Link a file without a name to `target` and return True; or to `hidden`, if it must be renamed."""
    source = f"/proc/self/fd/{file.fileno()}"
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Python follows the link in /proc only if a folder's descriptor is given.
        link = hidden if force else target
        os.link(source, link.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
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


def _rename_new(hidden: Path, target: Path) -> None:
    """Rename the file without overwriting another one; raises _NameTakenError."""
    try:
        os.link(hidden, target)
    except FileExistsError:
        raise _NameTakenError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        hidden.unlink()
        return
    # Without hard links (USB sticks), an empty file reserves the name.
    try:
        target.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise _NameTakenError from None
    try:
        hidden.rename(target)
    except BaseException:
        target.unlink()
        raise


def make_durable(file: BinaryIO) -> None:
    """Write everything that is buffered to the disk; raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def check_not_taken(target: Path, *, force: bool) -> None:
    """Raise FileError if a new file may not be written to `target`."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{target}: exists, and is not a regular file; name another one")
    if not force:
        raise FileError(f"{target}: exists; name another file, or overwrite it with --force")


@contextmanager
def open_seekable(path: str) -> Iterator[BinaryIO]:
    """Open a file that is read more than once; input from a pipe (`-` is stdin) is copied to memory."""
    with sys.stdin.buffer if path == STANDARD else Path(path).open("rb") as file:
        if file.seekable():
            yield file
            return
        with open(os.memfd_create("pykcm-import", os.MFD_CLOEXEC), "w+b") as kept:  # noqa: PTH123
            shutil.copyfileobj(file, kept)
            kept.seek(0)
            yield kept


def read_key_file(path: str) -> str:
    """The text of a file with a passphrase or key; raises FileError if other users may read it."""
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077:
            raise FileError(f"{path}: users other than its owner can read it; chmod 0600 it")
        content = file.read(_LARGEST_KEY_FILE + 1)
    if len(content) > _LARGEST_KEY_FILE:
        raise FileError(f"{path}: is too large for a passphrase or a key; name the right file")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise FileError(f"{path}: is not a text file; name the file with the passphrase or key") from None


class UserFile(NamedTuple):
    """Content, owner and SELinux label of a user's file; the label is None without SELinux."""

    content: bytes
    uid: int
    label: str | None


def read_user_file(name: str, folder: int, patience: float = 0.0) -> UserFile:
    """A consistent copy of the ccache file `name` in the folder with this descriptor.

    The folder may be world-writable: links are not followed, and opening a device or pipe does not block.
    Raises FileInUseError if the file is still locked after `patience` seconds; FileError, OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        # open() refuses links and sockets with errors that do not say so.
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
            raise FileError("the file is empty; get a ticket with kinit first, or name another file")
        if status.st_nlink != 1:
            raise FileError(f"{name} has {status.st_nlink} hard links, and any user may have made them")
        if status.st_size > LARGEST_CCACHE_FILE:
            raise FileError(f"{name} is too large for a ccache: {status.st_size} bytes")
        _lock(file, name, patience)
        content = _read_bounded(file)
        if len(content) > LARGEST_CCACHE_FILE:
            raise FileError(f"{name} is too large for a ccache")
        return UserFile(content, status.st_uid, _label(descriptor))


_KINDS = {
    stat.S_IFLNK: "a symbolic link, which is not followed; name the file that it leads to",
    stat.S_IFDIR: "a folder, not a file; name it with DIR:",
    stat.S_IFIFO: "a pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file; name a KCM server's with KCM:",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


def _check_kind(status: os.stat_result) -> None:
    """Raise FileError unless it is a regular file."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise FileError(_KINDS.get(kind, "not a regular file"))


def _lock(file: io.FileIO, name: str, patience: float) -> None:
    """Wait until no client writes to the file, with a limit: its owner could hold the lock forever."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FileInUseError(f"{name} is locked by another process; try again later") from None
            # A lock with a deadline can only be tried again; pykcmctl has no event loop to block.
            time.sleep(RETRY_INTERVAL)
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
        # Fail closed: without its label the ccache could become visible to every container.
        raise FileError("the SELinux label of the file cannot be read") from None
