"""Ccache files: what is read, what is refused, and that only FormatError is raised."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.ccache_file import CCacheFile, parse_ccache_file
from pykcm.protocol.wire import FormatError
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    configuration,
    credential_bytes,
    data,
    file_bytes,
    file_tag,
    offset_tag,
    principal_bytes,
    typed_list,
)

TICKETS = [
    credential_bytes(TGS),
    configuration(b"pa_type", b"2").blob,
    credential_bytes(HTTP, ticket=b"other"),
]


@pytest.mark.parametrize(
    ("tags", "kdc_offset"),
    [
        (b"", 0),
        (offset_tag(-90), -90),
        (file_tag(77, b"from the future") + offset_tag(5), 5),
        (file_tag(77, b""), 0),
    ],
)
def test_format_4_is_read(tags: bytes, kdc_offset: int) -> None:
    """Principal, KDC offset and credentials are read, whatever else the header has."""
    assert parse_ccache_file(file_bytes(*TICKETS, tags=tags)) == CCacheFile(ALICE, kdc_offset, TICKETS)


def test_format_3_is_converted() -> None:
    """Format 3 has the enctype twice; the credential gets it once."""
    times = struct.pack(">IIIIBI", 1, 2, 3, 4, 1, 5)

    def old(enctypes: bytes) -> bytes:
        head = principal_bytes(ALICE) + principal_bytes(TGS) + enctypes
        return (
            head + data(b"key") + times + typed_list([(2, b"addr")]) + typed_list([]) + data(b"t") + data(b"")
        )

    file = parse_ccache_file(file_bytes(old(b"\0\x12\0\x12"), old(b"\0\x12\0\x12"), version=3))
    assert file == CCacheFile(ALICE, 0, [old(b"\0\x12")] * 2)


def test_removed_credentials_are_left_out() -> None:
    """A credential that a client removed is in the file with other times, and is left out."""
    removed = credential_bytes(HTTP, times=(2**32 - 1, 1000, 0, 0))
    entry = configuration(b"pa_type", b"2").blob.replace(b"X-CACHECONF:", b"X-RMED-CONF:")
    assert parse_ccache_file(file_bytes(TICKETS[0], removed, entry, TICKETS[2])).credentials == [
        TICKETS[0],
        TICKETS[2],
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a ccache file"),
        (b"\5", "not a ccache file"),
        (bytes(64), "not a ccache file"),
        (b"\5\5" + bytes(64), "not a ccache file"),
        (b"\5\1" + bytes(64), "format 1"),
        (b"\5\2" + bytes(64), "format 2"),
        (file_bytes(tags=b"\0"), "ends early"),
        (file_bytes(tags=file_tag(1, b"\0")), "ends early"),
        (file_bytes() + bytes(3), "ends early"),
        (b"\5\4\0\0" + struct.pack(">III", 1, 2**31, 0), "components"),
    ],
)
def test_bad_files_are_refused_with_the_reason(content: bytes, reason: str) -> None:
    """Other files, too old formats and incomplete files are refused with the reason."""
    with pytest.raises(FormatError, match=reason):
        parse_ccache_file(content)


def test_file_must_end_after_a_credential() -> None:
    """A file is only accepted if it ends after a credential."""
    whole = file_bytes(*TICKETS, tags=offset_tag(1))
    ends = {len(whole) - len(b"".join(TICKETS[kept:])) for kept in range(len(TICKETS) + 1)}
    for cut in range(len(whole)):
        if cut in ends:
            assert TICKETS[: len(parse_ccache_file(whole[:cut]).credentials)] or cut == min(ends)
        else:
            with pytest.raises(FormatError):
                parse_ccache_file(whole[:cut])


@given(content=st.binary(max_size=300), version=st.sampled_from([3, 4]))
def test_random_file_raises_only_format_errors(content: bytes, version: int) -> None:
    """Random bytes raise FormatError and nothing else."""
    with suppress(FormatError):
        parse_ccache_file(bytes([5, version]) + content)
    with suppress(FormatError):
        parse_ccache_file(file_bytes(TICKETS[0], version=version) + content)


@given(at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_damaged_file_raises_only_format_errors(at: int, byte: int) -> None:
    """A file with a changed byte is refused, or read as it then is: never another exception."""
    whole = bytearray(file_bytes(*TICKETS, tags=offset_tag(1)))
    whole[at % len(whole)] = byte
    with suppress(FormatError):
        parse_ccache_file(bytes(whole))


def test_repr_of_a_file_has_no_secrets() -> None:
    """The repr of a file contains neither key nor ticket."""
    blob = credential_bytes(TGS, key=b"k3y", ticket=b"t1cket")
    escape = repr(parse_ccache_file(file_bytes(blob)))
    assert "k3y" not in escape
    assert "t1cket" not in escape
