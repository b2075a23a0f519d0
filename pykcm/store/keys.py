"""The store's key: 32 raw bytes, from a systemd credential, else from a file created at the first start.

A key beside the data protects only copies and backups that do not include it.
"""

import os
import stat
from pathlib import Path

import msgspec

from pykcm.logs import User
from pykcm.store.disk import CREDENTIAL, KEY_SIZE, NEXT, sync_folder
from pykcm.store.interface import StoreUnusableError


class Key(msgspec.Struct, frozen=True):
    """A key and its file, `source`; `is_new`: this start has created the key."""

    raw: bytes
    source: Path
    is_new: bool = False

    def __repr__(self) -> str:
        return f"<Key from {self.source}>"


def load_key(key_file: Path, *, may_create: bool, any_owner: bool = False) -> Key:
    """Load the systemd credential `pykcm.key` if the service has it, else `key_file`.

    With `may_create` (there is no database yet) a missing key file is created. `any_owner`: the file may
    belong to another user if this process is root. Raises StoreUnusableError.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        credential = Path(credentials, CREDENTIAL)
        try:
            is_there = credential.exists()
        except OSError as error:
            # The key in the key file may be another one.
            raise StoreUnusableError(f"{credential}: {error.strerror}") from error
        if is_there:
            return Key(_read(credential, private=False), credential)
    try:
        is_new = may_create and not key_file.exists()
        if is_new:
            write_key(key_file, os.urandom(KEY_SIZE))
    except OSError as error:
        raise StoreUnusableError(f"{key_file}: cannot be created: {error.strerror}") from error
    return Key(_read(key_file, private=True, any_owner=any_owner), key_file, is_new)


def next_key_of(key_file: Path) -> Path:
    """The file of the next key of a shared store, or the systemd credential's if that is where the key is."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and Path(credentials, CREDENTIAL).exists():
        return Path(credentials, CREDENTIAL + NEXT)
    return key_file.with_name(key_file.name + NEXT)


def load_next_key(key_file: Path, *, any_owner: bool = False) -> Key | None:
    """Load the next key of a shared store, if there is one; raises StoreUnusableError."""
    path = next_key_of(key_file)
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusableError(f"{path}: {error.strerror}") from error
    return Key(_read(path, private=path.parent == key_file.parent, any_owner=any_owner), path)


def is_credential(key: Key) -> bool:
    """Whether the key is a systemd credential, which only the administrator can replace."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(credentials) and key.source == Path(credentials or "", CREDENTIAL)


def is_replaceable(key: Key) -> bool:
    """Whether the daemon can write another key to the file that this one came from."""
    return not is_credential(key) and os.access(key.source.resolve().parent, os.W_OK)


def _unfinished_of(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def remove_unfinished_key(path: Path) -> None:
    """Remove an incomplete key file; raises OSError."""
    _unfinished_of(path.resolve()).unlink(missing_ok=True)


def write_key(path: Path, raw: bytes) -> None:
    """Create or replace the key file, private and durable; raises OSError."""
    # The file is completed under another name first. Therefore every key file is a good one.
    path = path.resolve()
    remove_unfinished_key(path)
    unfinished = _unfinished_of(path)
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    sync_folder(path.parent)


def _check_private(path: Path, status: os.stat_result, *, any_owner: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StoreUnusableError(f"{path}: is not a regular file, and therefore not a key")
    # With an access control list, the group's bits are the most that it gives to anybody.
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise StoreUnusableError(
            f"{path}: others than its owner have access to the key "
            f"(mode {stat.S_IMODE(status.st_mode):04o}); chmod 0600, and think about a new key"
        )
    if status.st_uid not in {os.geteuid(), 0} and not (any_owner and os.geteuid() == 0):
        raise StoreUnusableError(
            f"{path}: the key belongs to {User(status.st_uid)}, not to the daemon's {User(os.geteuid())}; "
            "chown it, and think about a new key"
        )


def _read(path: Path, *, private: bool, any_owner: bool = False) -> bytes:
    try:
        # The same descriptor is checked and read. O_NONBLOCK: a pipe must not block.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if private:
                _check_private(path, os.fstat(fd), any_owner=any_owner)
            raw = os.read(fd, KEY_SIZE + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise StoreUnusableError(
            f"{path}: there is a database, but no key: neither this file nor the systemd credential "
            f"{CREDENTIAL}; restore the key, or move the database away to begin with an empty one"
        ) from None
    except OSError as error:
        raise StoreUnusableError(f"{path}: {error.strerror}") from error
    if len(raw) != KEY_SIZE:
        size = "more than 32" if len(raw) > KEY_SIZE else str(len(raw))
        raise StoreUnusableError(f"{path}: a key of {size} bytes; it must be exactly {KEY_SIZE} raw bytes")
    return raw
