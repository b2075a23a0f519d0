"""Exports are encrypted and decrypted as streams."""

import io
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import pyrage
import pytest

from pykcm.cli import encryption
from pykcm.cli.encryption import (
    LARGEST_WORK_FACTOR,
    USUAL_WORK_FACTOR,
    EncryptedFile,
    EncryptionError,
    encrypt_for,
    encrypt_with_passphrase,
    parse_identities,
    parse_recipient,
)

KEY = pyrage.x25519.Identity.generate()
# Several of age's chunks of 64 KiB.
CONTENT = os.urandom(200_000)


def pieces(size: int = 3000) -> Iterator[bytes]:
    return (CONTENT[at : at + size] for at in range(0, len(CONTENT), size))


@pytest.fixture(scope="module")
def encrypted() -> bytes:
    out = io.BytesIO()
    encrypt_for([parse_recipient(str(KEY.to_public()))], pieces(), out.write)
    return out.getvalue()


@pytest.fixture(scope="module")
def encrypted_with_passphrase() -> bytes:
    out = io.BytesIO()
    encrypt_with_passphrase("Päß", pieces(), out.write)
    return out.getvalue()


@pytest.fixture(scope="module")
def age_passphrase_file() -> bytes:
    """A file as `age -p` writes it."""
    content: bytes = pyrage.passphrase.encrypt(CONTENT, "Päß")
    return content


def unlocked(content: bytes) -> EncryptedFile:
    file = EncryptedFile(io.BytesIO(content))
    file.unlock(parse_identities(f"# mine\n\n{KEY}\n"))
    return file


def test_identity_decrypts_repeatedly(encrypted: bytes) -> None:
    """An export for a recipient can be read any number of times, and age itself can decrypt it."""
    file = unlocked(encrypted)
    assert file.needs == "identity"
    assert b"".join(file.pieces()) == CONTENT
    assert b"".join(file.pieces()) == CONTENT
    assert pyrage.decrypt(encrypted, [KEY]) == CONTENT


def test_passphrase_decrypts(encrypted_with_passphrase: bytes) -> None:
    """Only the same passphrase opens an export, and age itself can decrypt its two parts."""
    file = EncryptedFile(io.BytesIO(encrypted_with_passphrase))
    assert file.needs == "passphrase"
    file.unlock_with_passphrase("Päß")
    assert b"".join(file.pieces()) == CONTENT
    line, _, rest = encrypted_with_passphrase.partition(b"\n")
    size = int(line.split()[-1])
    # With pyrage alone, and tries for a busy machine.
    key = encryption._decrypt_with_passphrase(rest[:size], "Päß").decode()
    assert pyrage.decrypt(rest[size:], [pyrage.x25519.Identity.from_str(key)]) == CONTENT
    with pytest.raises(EncryptionError, match="wrong passphrase"):
        EncryptedFile(io.BytesIO(encrypted_with_passphrase)).unlock_with_passphrase("Paß")


def test_file_of_age_with_passphrase_decrypts(age_passphrase_file: bytes) -> None:
    """A file that `age -p` wrote can be read as well."""
    file = EncryptedFile(io.BytesIO(age_passphrase_file))
    assert file.needs == "passphrase"
    file.unlock_with_passphrase("Päß")
    assert b"".join(file.pieces()) == CONTENT
    with pytest.raises(EncryptionError, match="wrong passphrase"):
        EncryptedFile(io.BytesIO(age_passphrase_file)).unlock_with_passphrase("Paß")


def test_large_file_of_age_with_passphrase_is_refused(
    age_passphrase_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decryption in memory has a limit; the message says how to decrypt a larger file."""
    monkeypatch.setattr(encryption, "LARGEST_IN_MEMORY", len(age_passphrase_file) - 1)
    monkeypatch.setattr(encryption, "_decrypt_with_passphrase", None)
    with pytest.raises(EncryptionError, match="age -d"):
        EncryptedFile(io.BytesIO(age_passphrase_file)).unlock_with_passphrase("Päß")


@pytest.fixture
def never_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a passphrase is tried."""

    def refuse(*_: object) -> None:
        raise AssertionError("age has tried the passphrase")

    monkeypatch.setattr(pyrage.passphrase, "decrypt", refuse)


@pytest.mark.usefixtures("never_tried")
@pytest.mark.parametrize("factor", [LARGEST_WORK_FACTOR + 1, 22, 30, 64, 99])
def test_large_work_factor_is_refused(
    encrypted_with_passphrase: bytes, age_passphrase_file: bytes, factor: int
) -> None:
    """A file whose passphrase would take gigabytes of memory is refused before age tries it."""
    for content in (encrypted_with_passphrase, age_passphrase_file):
        changed = with_factor(content, factor)
        with pytest.raises(EncryptionError, match=f"work factor of the passphrase is {factor}"):
            EncryptedFile(io.BytesIO(changed)).unlock_with_passphrase("Päß")


@pytest.mark.usefixtures("never_tried")
@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb"(-> scrypt \S+ )\d+", rb"\g<1>018"),
        (rb"(-> scrypt \S+ )\d+", rb"\g<1>100"),
        (rb"(-> scrypt \S+ )\d+", rb"\g<1>-1"),
        (rb"-> scrypt", b"-> X25519 AAAA\nAAAA\n-> scrypt"),
        (
            rb"(-> scrypt (?s:.*?)\n)--- ",
            rb"\g<1>-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\n%s\n--- " % (b"A" * 43),
        ),
        (rb"age-encryption", b"-----BEGIN AGE ENCRYPTED FILE-----\nage-encryption"),
    ],
    ids=["zero", "three-digits", "negative", "other-stanza", "second-stanza", "armor"],
)
def test_unusual_header_is_refused(
    encrypted_with_passphrase: bytes, pattern: bytes, replacement: bytes
) -> None:
    """A header in which age could find another work factor than pykcmctl is refused."""
    line, _, rest = encrypted_with_passphrase.partition(b"\n")
    size = int(line.split()[-1])
    key = re.sub(pattern, replacement, rest[:size], count=1)
    assert key != rest[:size]
    content = b"pykcm-export/1 passphrase %d\n" % len(key) + key + rest[size:]
    with pytest.raises(EncryptionError, match="damaged"):
        EncryptedFile(io.BytesIO(content)).unlock_with_passphrase("Päß")


def key_part(encrypted_with_passphrase: bytes) -> bytes:
    """The key of an export, as the passphrase encrypts it."""
    line, _, rest = encrypted_with_passphrase.partition(b"\n")
    return rest[: int(line.split()[-1])]


def with_factor(content: bytes, factor: int) -> bytes:
    return re.sub(rb"(-> scrypt \S+ )\d+", rb"\g<1>%d" % factor, content, count=1)


@pytest.fixture
def refusal(encrypted_with_passphrase: bytes) -> pyrage.DecryptError:
    """The error of age itself about a work factor that takes too long."""
    with pytest.raises(pyrage.DecryptError) as caught:
        pyrage.passphrase.decrypt(with_factor(key_part(encrypted_with_passphrase), 60), "Päß")
    return caught.value


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The breaks between the tries, which take no time."""
    made: list[float] = []
    monkeypatch.setattr("pykcm.cli.encryption.time.sleep", made.append)
    return made


def test_busy_machine_tries_the_passphrase_again(
    encrypted_with_passphrase: bytes,
    refusal: pyrage.DecryptError,
    breaks: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine age refuses work factors that do not take long: the right passphrase is accepted."""
    decrypt = pyrage.passphrase.decrypt
    refusals = [refusal] * 5

    def on_busy_machine(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return decrypt(*arguments)

    monkeypatch.setattr(pyrage.passphrase, "decrypt", on_busy_machine)
    file = EncryptedFile(io.BytesIO(encrypted_with_passphrase))
    file.unlock_with_passphrase("Päß")
    assert b"".join(file.pieces()) == CONTENT
    assert len(breaks) >= 5


def test_passphrase_that_was_not_tried_is_not_called_wrong(
    encrypted_with_passphrase: bytes,
    refusal: pyrage.DecryptError,
    breaks: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that is too slow the error gives the cause and what to do."""

    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(pyrage.passphrase, "decrypt", refuse)
    with pytest.raises(
        EncryptionError, match=r"was not tried: .* work factor of \d+ .* repeat the command later"
    ):
        EncryptedFile(io.BytesIO(encrypted_with_passphrase)).unlock_with_passphrase("Päß")
    assert 1 <= sum(breaks) <= 5


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([USUAL_WORK_FACTOR], USUAL_WORK_FACTOR),
        ([LARGEST_WORK_FACTOR], LARGEST_WORK_FACTOR),
        ([12, 14, 18], 18),
        ([12, 14, 13], 14),
        ([LARGEST_WORK_FACTOR + 1, 18], 18),
        ([LARGEST_WORK_FACTOR + 1, 9, LARGEST_WORK_FACTOR + 1], 9),
    ],
)
@pytest.mark.usefixtures("breaks")
def test_busy_machine_does_not_weaken_the_passphrase(
    encrypted_with_passphrase: bytes, chosen: list[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where age has chosen an unusual work factor, it is asked again; the largest within the limit counts."""
    keys = [with_factor(key_part(encrypted_with_passphrase), factor) for factor in chosen]
    monkeypatch.setattr(pyrage.passphrase, "encrypt", lambda *_: keys.pop(0))
    out = io.BytesIO()
    encrypt_with_passphrase("Päß", pieces(), out.write)
    assert b" %d\n" % expected in key_part(out.getvalue())
    assert not keys


@pytest.mark.usefixtures("breaks")
def test_export_with_large_work_factor_is_not_written(
    encrypted_with_passphrase: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine for which age chooses a larger work factor than import accepts, export fails."""
    # The key as age encrypted it, because another encryption would take seconds.
    monkeypatch.setattr(pyrage.passphrase, "encrypt", lambda *_: key_part(encrypted_with_passphrase))
    monkeypatch.setattr(encryption, "LARGEST_WORK_FACTOR", 1)
    out = io.BytesIO()
    with pytest.raises(EncryptionError, match="--recipient"):
        encrypt_with_passphrase("Päß", pieces(), out.write)
    assert out.getvalue() == b""


def test_plain_file_is_read_unchanged() -> None:
    file = EncryptedFile(io.BytesIO(CONTENT))
    assert file.needs == ""
    assert b"".join(file.pieces()) == CONTENT


def test_damage_is_an_error_at_its_place(encrypted: bytes) -> None:
    """A changed byte or a missing end is an error; only correct content comes before it."""
    size = len(encrypted)
    bad = [encrypted[:cut] for cut in (0, 21, 22, 150, 230, 65_780, 131_340, size - 1)] + [encrypted + b"\0"]
    bad += [
        encrypted[:at] + bytes([encrypted[at] ^ 1]) + encrypted[at + 1 :]
        for at in (25, 60, 120, 190, 210, 1000, 66_000, 140_000, size - 1)
    ]
    for content in bad:
        # A file that is damaged at its very beginning does not look encrypted.
        if unlocked(content).needs:
            got, is_whole = read_until_damage(unlocked(content))
            assert CONTENT.startswith(got)
            assert not is_whole


def read_until_damage(file: EncryptedFile) -> tuple[bytes, bool]:
    """The readable content, and whether it is all of it."""
    got = b""
    try:
        for piece in file.pieces():
            got += piece
    except EncryptionError:
        return got, False
    return got, True


def test_other_identity_does_not_decrypt(encrypted: bytes) -> None:
    file = EncryptedFile(io.BytesIO(encrypted))
    file.unlock([pyrage.x25519.Identity.generate()])
    with pytest.raises(EncryptionError, match="none of the given identities"):
        list(file.pieces())


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "AGE-SECRET-KEY-1NONSENSE", str(KEY.to_public())],
    ids=["empty", "comment", "nonsense", "public key"],
)
def test_invalid_keys_are_refused(text: str) -> None:
    """A text without an identity is refused, and so is a secret key as a recipient."""
    with pytest.raises(EncryptionError, match="not an age identity file"):
        parse_identities(text)
    with pytest.raises(EncryptionError, match="not an age recipient"):
        parse_recipient(str(KEY))


def test_errors_of_source_and_target_are_raised() -> None:
    """An error of the source is raised, and one of the target, even at the very end."""

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise LookupError("the source")

    def full(data: bytes) -> int:
        raise OSError(28, "the target")

    with pytest.raises(LookupError, match="the source"):
        encrypt_for([KEY.to_public()], broken(), lambda _: None)
    with pytest.raises(OSError, match="the target"):
        encrypt_for([KEY.to_public()], iter([b"short"]), full)
    with pytest.raises(OSError, match="the target"):
        encrypt_for([KEY.to_public()], pieces(), full)


def test_abandoned_reading_leaves_no_thread(encrypted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_QUEUED_PIECES", 1)
    before = threading.active_count()
    reading = unlocked(encrypted).pieces()
    assert next(reading)
    assert threading.active_count() == before + 1
    reading.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
