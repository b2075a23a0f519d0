"""Exports encrypted and decrypted as streams, by age (age-encryption.org/v1).

For recipients an export is an age file, which `age -d` decrypts. age's passphrases are for what fits into
memory: with one, an age file for a new key follows that key, which is encrypted with the passphrase.

    pykcm-export/1 passphrase 366         the length of the key's part, in bytes, and a newline
    age-encryption.org/v1 -> scrypt …     the key's part: an AGE-SECRET-KEY-1…
    age-encryption.org/v1 -> X25519 …     the export
"""

import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Self

_AGE = b"age-encryption.org/v1\n"
_PASSPHRASE_LINE = re.compile(rb"pykcm-export/1 passphrase (\d{1,4})\n")
_LONGEST_LINE = 64

_PIECE = 64 * 1024
# Pieces that are decrypted ahead.
_AHEAD = 16

Write = Callable[[bytes], object]


class SealError(Exception):
    """What is encrypted cannot be decrypted, or a key is none; the message says which."""


def _age() -> Any:
    # Only exports need it: what else there is to do goes on without.
    import pyrage  # noqa: PLC0415

    return pyrage


def recipient(text: str) -> Any:
    """An `age1…` that may be encrypted for; raises SealError."""
    try:
        return _age().x25519.Recipient.from_str(text)
    except _age().RecipientError:
        raise SealError(
            "not a recipient: one begins with age1 and is the public key that age-keygen prints"
        ) from None


def identities(text: str) -> list[Any]:
    """The keys in a file that age-keygen writes; raises SealError."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        keys = [_age().x25519.Identity.from_str(line.strip()) for line in lines]
    except _age().IdentityError:
        keys = []
    if not keys:
        raise SealError("no identity file: a line of one begins with AGE-SECRET-KEY-1")
    return keys


def seal_for(recipients: Sequence[Any], pieces: Iterator[bytes], write: Write) -> None:
    """Encrypt the pieces for any of the recipients; what they or `write` raise is raised here."""
    source, target = _Source(pieces), _Target(write)
    try:
        _age().encrypt_io(source, target, list(recipients))
    except _age().EncryptError as error:
        raise source.error or target.error or error from None
    # What cannot be written last is no error to age.
    if target.error is not None:
        raise target.error


def seal_with_passphrase(passphrase: str, pieces: Iterator[bytes], write: Write) -> None:
    key = _age().x25519.Identity.generate()
    sealed_key = _age().passphrase.encrypt(str(key).encode(), passphrase)
    write(b"pykcm-export/1 passphrase %d\n" % len(sealed_key) + sealed_key)
    seal_for([key.to_public()], pieces, write)


class Sealed:
    """A file that may be encrypted, open for reading from its beginning, as often as need be.

    `needs`: "passphrase", "identity", or "" where it is not encrypted; it is unlocked first.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        beginning = file.read(_LONGEST_LINE)
        line = _PASSPHRASE_LINE.match(beginning)
        self._keys: list[Any] = []
        self._begin = 0
        self._sealed_key = b""
        if line:
            file.seek(line.end())
            self._sealed_key = file.read(int(line[1]))
            self._begin = file.tell()
        self.needs = "passphrase" if line else "identity" if beginning.startswith(_AGE) else ""

    def unlock_with_passphrase(self, passphrase: str) -> None:
        """Raises SealError."""
        try:
            key = _age().passphrase.decrypt(self._sealed_key, passphrase)
            self._keys = identities(key.decode("ascii"))
        except (_age().DecryptError, UnicodeDecodeError):
            raise SealError("the passphrase is another, or the file is damaged") from None

    def unlock(self, keys: Sequence[Any]) -> None:
        self._keys = list(keys)

    def pieces(self) -> Iterator[bytes]:
        """Everything in it, from its beginning; raises SealError at the place where it is damaged."""
        self._file.seek(self._begin)
        if not self.needs:
            while piece := self._file.read(_PIECE):
                yield piece
            return
        with _Decryption(self._file, self._keys) as decryption:
            yield from decryption.pieces()


class _Source:
    """What age reads from: pieces, cut as it wants them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, size: int = _PIECE) -> bytes:
        # age turns what is raised here into an error of its own.
        try:
            while not self._left:
                self._left = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)


class _Target:
    """What age writes to."""

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
        """There is nothing to be flushed."""


class _AbandonedError(Exception):
    """Nobody wants the rest."""


class _Decryption:
    """age decrypts into what is written to: a thread makes of that something to read from."""

    def __init__(self, file: BinaryIO, keys: Sequence[Any]) -> None:
        self._file = file
        self._keys = keys
        self._decrypted: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._failure: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        while self._thread.is_alive():
            # It may be waiting for room.
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
            _age().decrypt_io(self._file, _Target(self._take), self._keys)
        except _AbandonedError:
            pass
        except _age().DecryptError:
            self._failure = SealError("no identity that was given fits, or the file is damaged")
        # Damage in the middle is an error of reading to age.
        except OSError:
            self._failure = SealError("the file is damaged: what is encrypted in it is not as it was written")
        except BaseException as error:  # noqa: BLE001 - for whoever reads
            self._failure = error
        finally:
            self._decrypted.put(None)

    def _take(self, data: bytes) -> None:
        if self._abandoned:
            raise _AbandonedError
        self._decrypted.put(data)
