"""Exports encrypted and decrypted."""

import io
import os
import threading
from collections.abc import Iterator

import pyrage
import pytest

from pykcm.cli import sealing
from pykcm.cli.sealing import Sealed, SealError, identities, recipient, seal_for, seal_with_passphrase

KEY = pyrage.x25519.Identity.generate()
# Several of the pieces that age encrypts by themselves, 64 KiB each.
CONTENT = os.urandom(200_000)


def pieces(size: int = 3000) -> Iterator[bytes]:
    return (CONTENT[at : at + size] for at in range(0, len(CONTENT), size))


@pytest.fixture(scope="module")
def sealed() -> bytes:
    out = io.BytesIO()
    seal_for([recipient(str(KEY.to_public()))], pieces(), out.write)
    return out.getvalue()


def opened(content: bytes) -> Sealed:
    file = Sealed(io.BytesIO(content))
    file.unlock(identities(f"# mine\n\n{KEY}\n"))
    return file


def test_with_a_key(sealed: bytes) -> None:
    """It can be read as often as need be; and by age itself."""
    file = opened(sealed)
    assert file.needs == "identity"
    assert b"".join(file.pieces()) == CONTENT
    assert b"".join(file.pieces()) == CONTENT
    assert pyrage.decrypt(sealed, [KEY]) == CONTENT


def test_with_a_passphrase() -> None:
    """It is opened by the same passphrase alone, and its parts by age itself."""
    out = io.BytesIO()
    seal_with_passphrase("Päß", pieces(), out.write)
    file = Sealed(out)
    assert file.needs == "passphrase"
    file.unlock_with_passphrase("Päß")
    assert b"".join(file.pieces()) == CONTENT
    line, _, rest = out.getvalue().partition(b"\n")
    size = int(line.split()[-1])
    key = pyrage.passphrase.decrypt(rest[:size], "Päß").decode()
    assert pyrage.decrypt(rest[size:], [pyrage.x25519.Identity.from_str(key)]) == CONTENT
    with pytest.raises(SealError, match="another"):
        Sealed(out).unlock_with_passphrase("Paß")


def test_not_encrypted() -> None:
    """What is not encrypted is given as it is."""
    file = Sealed(io.BytesIO(CONTENT))
    assert file.needs == ""
    assert b"".join(file.pieces()) == CONTENT


def test_damage(sealed: bytes) -> None:
    """A byte that is another, or an end that is missing, is an error wherever it is; what comes is right."""
    size = len(sealed)
    bad = [sealed[:cut] for cut in (0, 21, 22, 150, 230, 65_780, 131_340, size - 1)] + [sealed + b"\0"]
    bad += [
        sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for at in (25, 60, 120, 190, 210, 1000, 66_000, 140_000, size - 1)
    ]
    for content in bad:
        # Of one that is damaged at its very beginning nobody knows that it is encrypted.
        if opened(content).needs:
            got, is_whole = until_damage(opened(content))
            assert CONTENT.startswith(got)
            assert not is_whole


def until_damage(file: Sealed) -> tuple[bytes, bool]:
    """What can be read, and whether that is all."""
    got = b""
    try:
        for piece in file.pieces():
            got += piece
    except SealError:
        return got, False
    return got, True


def test_another_key(sealed: bytes) -> None:
    """A key that it was not encrypted for does not open it."""
    file = Sealed(io.BytesIO(sealed))
    file.unlock([pyrage.x25519.Identity.generate()])
    with pytest.raises(SealError, match="no identity"):
        list(file.pieces())


@pytest.mark.parametrize("text", ["", "# nothing\n", "AGE-SECRET-KEY-1NONSENSE", str(KEY.to_public())])
def test_no_keys(text: str) -> None:
    """A file without a key, or with something else, is refused; and so is a secret key for a recipient."""
    with pytest.raises(SealError, match="no identity file"):
        identities(text)
    with pytest.raises(SealError, match="not a recipient"):
        recipient(str(KEY))


def test_errors_of_both_ends() -> None:
    """What the source raises, and what the target raises even at the very end, is not lost."""

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise LookupError("the source")

    def full(data: bytes) -> int:
        raise OSError(28, "the target")

    with pytest.raises(LookupError, match="the source"):
        seal_for([KEY.to_public()], broken(), lambda _: None)
    with pytest.raises(OSError, match="the target"):
        seal_for([KEY.to_public()], iter([b"short"]), full)
    with pytest.raises(OSError, match="the target"):
        seal_for([KEY.to_public()], pieces(), full)


def test_reading_is_given_up(sealed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops in the middle leaves no thread behind."""
    monkeypatch.setattr(sealing, "_AHEAD", 1)
    before = threading.active_count()
    reading = opened(sealed).pieces()
    assert next(reading)
    assert threading.active_count() == before + 1
    reading.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
