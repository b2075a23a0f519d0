"""Encrypt and decrypt exports as streams, with age (age-encryption.org/v1).

For recipients an export is an age file, which `age -d` decrypts. pyrage encrypts with a passphrase only in
memory. So that an export of any size is a stream, the passphrase encrypts a new key, and the key the export:

    pykcm-export/1 passphrase 366         length of the encrypted key in bytes, and a newline
    age-encryption.org/v1 -> scrypt …     the encrypted key: an AGE-SECRET-KEY-1…
    age-encryption.org/v1 -> X25519 …     the export

Small files that `age -p` encrypted can be read as well.
"""

import io
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Self

from pykcm import interrupts
from pykcm.cli.files import FileError

_AGE = b"age-encryption.org/v1\n"
_PASSPHRASE_LINE = re.compile(rb"pykcm-export/1 passphrase (\d{1,4})\n")

# A whole age header for a passphrase: salt, work factor, file key; age allows no second recipient in it.
_SCRYPT_HEADER = re.compile(
    rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n[A-Za-z0-9+/]{43}\n--- "
)
_LONGEST_BEGINNING = 256

# scrypt takes 2^(10 + work factor) bytes of memory: 1 GiB here, and about 3 s. age itself chooses 18 to 20.
LARGEST_WORK_FACTOR = 20

# age measures this machine for about a millisecond, and counts the time of other programs as well: on a busy
# machine it chooses too small a factor, and refuses factors that do not take long.
USUAL_WORK_FACTOR = 17
_ENCRYPTING_TRIES = 3
_DECRYPTING_TRIES = 20
# In seconds. A process that has slept gets the processor for a while.
_BREAK = 0.1

# In bytes; a file that `age -p` encrypted is decrypted in memory.
LARGEST_IN_MEMORY = 64 * 1024 * 1024

_PIECE = 64 * 1024
# Decrypted pieces that may wait for their reader.
_QUEUED_PIECES = 16

Write = Callable[[bytes], object]


class EncryptionError(FileError):
    """A file cannot be decrypted, or a text is not a key; the message says which."""


def _age() -> Any:
    # Imported late: pykcmctl works without it, except for encrypted exports.
    import pyrage  # noqa: PLC0415

    return pyrage


def parse_recipient(text: str) -> Any:
    """A recipient from its `age1…`; raises EncryptionError."""
    try:
        return _age().x25519.Recipient.from_str(text)
    except _age().RecipientError:
        raise EncryptionError(
            "--recipient is not an age recipient: give the public key that age-keygen prints (age1…)"
        ) from None


def parse_identities(text: str) -> list[Any]:
    """The keys in the text of a file that age-keygen wrote; raises EncryptionError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        keys = [_age().x25519.Identity.from_str(line.strip()) for line in lines]
    except _age().IdentityError:
        keys = []
    if not keys:
        raise EncryptionError("not an age identity file: it needs a line that begins with AGE-SECRET-KEY-1")
    return keys


def encrypt_for(recipients: Sequence[Any], pieces: Iterator[bytes], write: Write) -> None:
    """Encrypt the pieces for all of the recipients; raises what `pieces` or `write` raises."""
    source, target = _Source(pieces), _Target(write)
    try:
        _age().encrypt_io(source, target, list(recipients))
    except _age().EncryptError as error:
        # A signal that comes while age works raises its exception as the first thing in read() or write().
        interrupts.command.raise_again()
        raise source.error or target.error or error from None
    interrupts.command.raise_again()
    # age does not report an error of the last write.
    if target.error is not None:
        raise target.error


def encrypt_with_passphrase(passphrase: str, pieces: Iterator[bytes], write: Write) -> None:
    """Encrypt the pieces with a new key, and the key with the passphrase; raises as encrypt_for() does."""
    key = _age().x25519.Identity.generate()
    encrypted_key = _encrypt_with_passphrase(str(key).encode(), passphrase)
    write(b"pykcm-export/1 passphrase %d\n" % len(encrypted_key) + encrypted_key)
    encrypt_for([key.to_public()], pieces, write)


def _encrypt_with_passphrase(content: bytes, passphrase: str) -> bytes:
    """Encrypt with a usual work factor if age chooses one, else with the largest that import accepts."""
    made: dict[int, bytes] = {}
    for _ in range(_ENCRYPTING_TRIES):
        encrypted: bytes = _age().passphrase.encrypt(content, passphrase)
        factor = _work_factor(encrypted)
        made[factor] = encrypted
        if USUAL_WORK_FACTOR <= factor <= LARGEST_WORK_FACTOR:
            break
        # age measures the machine again in the next attempt.
        time.sleep(_BREAK)
    factor = max((each for each in made if each <= LARGEST_WORK_FACTOR), default=max(made))
    # An export that import refuses must not be made.
    _check_work_factor(made[factor])
    return made[factor]


def _check_work_factor(encrypted: bytes) -> None:
    """Raise EncryptionError where a passphrase would take too much memory and time to be tried.

    The author of the file has chosen the work factor, which the header has in plain text.
    """
    factor = _work_factor(encrypted)
    if factor > LARGEST_WORK_FACTOR:
        raise EncryptionError(
            f"the work factor of the passphrase is {factor}, and {LARGEST_WORK_FACTOR} is the limit, because "
            "a larger one takes too much memory: export with --recipient instead"
        )


def _work_factor(encrypted: bytes) -> int:
    """Raises EncryptionError."""
    header = _SCRYPT_HEADER.match(encrypted)
    if header is None:
        raise EncryptionError("the file is damaged: its age header is not one for a passphrase")
    return int(header[1])


class EncryptedFile:
    """A seekable file that may be encrypted; once unlocked, it can be read any number of times.

    `needs` says how to unlock it: "passphrase", "identity", or "" where it is not encrypted.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        beginning = file.read(_LONGEST_BEGINNING)
        line = _PASSPHRASE_LINE.match(beginning)
        self._keys: list[Any] = []
        self._begin = 0
        self._encrypted_key: bytes | None = None
        if line:
            file.seek(line.end())
            self._encrypted_key = file.read(int(line[1]))
            self._begin = file.tell()
        self.needs = ""
        if line or _SCRYPT_HEADER.match(beginning):
            self.needs = "passphrase"
        elif beginning.startswith(_AGE):
            self.needs = "identity"
        self._is_encrypted = bool(self.needs)

    def unlock_with_passphrase(self, passphrase: str) -> None:
        """Raises EncryptionError."""
        if self._encrypted_key is None:
            self._decrypt_in_memory(passphrase)
            return
        key = _decrypt_with_passphrase(self._encrypted_key, passphrase)
        try:
            self._keys = parse_identities(key.decode("ascii"))
        except UnicodeDecodeError:
            raise EncryptionError("the file is damaged: it does not hold a key") from None

    def _decrypt_in_memory(self, passphrase: str) -> None:
        self._file.seek(0)
        encrypted = self._file.read(LARGEST_IN_MEMORY + 1)
        if len(encrypted) > LARGEST_IN_MEMORY:
            raise EncryptionError(
                f"a file that `age -p` encrypted may have {LARGEST_IN_MEMORY >> 20} MiB: "
                "decrypt it with `age -d`, and import the result"
            )
        self._file = io.BytesIO(_decrypt_with_passphrase(encrypted, passphrase))
        self._is_encrypted = False

    def unlock(self, keys: Sequence[Any]) -> None:
        self._keys = list(keys)

    def pieces(self) -> Iterator[bytes]:
        """The whole content from its beginning; raises EncryptionError at the place of any damage."""
        self._file.seek(self._begin)
        if not self._is_encrypted:
            while piece := self._file.read(_PIECE):
                yield piece
            return
        with _Decryption(self._file, self._keys) as decryption:
            yield from decryption.pieces()


def _decrypt_with_passphrase(encrypted: bytes, passphrase: str) -> bytes:
    _check_work_factor(encrypted)
    for _ in range(_DECRYPTING_TRIES):
        try:
            decrypted: bytes = _age().passphrase.decrypt(encrypted, passphrase)
        except _age().DecryptError as error:
            # age has no class of its own for this error. It comes before the passphrase is tried.
            if not str(error).startswith("Excessive work"):
                raise EncryptionError("wrong passphrase, or the file is damaged") from None
        else:
            return decrypted
        # Nothing tells when the machine is less busy.
        time.sleep(_BREAK)
    raise EncryptionError(
        f"the passphrase was not tried: age expects its work factor of {_work_factor(encrypted)} to take too "
        "long on this machine, which is busy or slow; repeat the command later, or use another machine"
    )


class _Source:
    """A file object that age reads: it cuts the pieces to the sizes that age asks for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int = _PIECE) -> bytes:
        # age replaces an exception that is raised here by one of its own.
        try:
            while not self._rest:
                self._rest = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


class _Target:
    """A file object that age writes to."""

    def __init__(self, write: Write) -> None:
        self.error: BaseException | None = None
        self._write = write

    def write(self, data: bytes) -> int:
        try:
            self._write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""


class _AbandonedError(Exception):
    """The reader has stopped before the end."""


class _Decryption:
    """Decrypts in a thread: age writes to a file object, while the caller wants to read."""

    def __init__(self, file: BinaryIO, keys: Sequence[Any]) -> None:
        self._file = file
        self._keys = keys
        # None is the end.
        self._decrypted: queue.Queue[bytes | None] = queue.Queue(_QUEUED_PIECES)
        self._failure: BaseException | None = None
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_abandoned = True
        while self._thread.is_alive():
            # The thread may wait for room in the queue.
            try:
                self._decrypted.get(timeout=0.05)
            except queue.Empty:
                continue

    def pieces(self) -> Iterator[bytes]:
        while (piece := self._decrypted.get()) is not None:
            yield piece
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            _age().decrypt_io(self._file, _Target(self._put), self._keys)
        except _AbandonedError:
            pass
        except _age().DecryptError:
            self._failure = EncryptionError("none of the given identities fits, or the file is damaged")
        # age reports damage in the middle as an error of reading.
        except OSError:
            self._failure = EncryptionError("the file is damaged: a part of it cannot be decrypted")
        except BaseException as error:  # noqa: BLE001 - raised in the reader's thread
            self._failure = error
        finally:
            self._decrypted.put(None)

    def _put(self, data: bytes) -> None:
        if self._is_abandoned:
            raise _AbandonedError
        self._decrypted.put(data)
