"""The format of export files: records are read as they were written, and all damage is found."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.cli.archive import ArchiveError, ArchiveReader, Header, pack_archive
from pykcm.cli.cbor import encode
from pykcm.control.records import CCacheRecord, PrincipalRecord, to_item
from tests.builders import ALICE, TGS, credential_bytes

uids = st.integers(0, 2**32 - 1)
records = st.builds(
    CCacheRecord,
    uid=uids,
    principal=st.builds(
        PrincipalRecord,
        type=uids,
        realm=st.binary(max_size=20),
        components=st.lists(st.binary(max_size=9), max_size=3).map(tuple),
    ),
    credentials=st.lists(st.binary(max_size=50), max_size=4),
    name=st.none() | st.binary(max_size=20),
    kdc_offset=st.integers(-(2**31), 2**31 - 1),
    label=st.none() | st.text(max_size=20),
    default=st.booleans(),
    default_of=st.lists(st.text(max_size=9), max_size=2),
)

RECORD = CCacheRecord(
    uid=1000,
    principal=PrincipalRecord.of(ALICE),
    credentials=[credential_bytes(TGS)],
    name=b"1000",
)


def packed(*wanted: Any) -> bytes:
    return b"".join(pack_archive("host", 1500, len(wanted), map(to_item, wanted)))


def read(stream: bytes, piece: int = 100) -> list[CCacheRecord]:
    reader = ArchiveReader()
    got: list[CCacheRecord] = []
    for at in range(0, len(stream), piece):
        got += reader.feed(stream[at : at + piece])
    reader.finish()
    return got


@given(wanted=st.lists(records, max_size=4), piece=st.integers(1, 300))
def test_records_are_read_as_written(wanted: list[CCacheRecord], piece: int) -> None:
    """The size of the pieces in which the file is read does not matter."""
    assert read(packed(*wanted), piece) == wanted


def test_header_has_origin_and_count() -> None:
    """The header has the host, the time of the export, and the number of ccaches."""
    reader = ArchiveReader()
    list(reader.feed(packed(RECORD)))
    assert reader.header == Header("pykcm export", 1, "host", 1500, 1)


def test_any_changed_byte_is_refused() -> None:
    whole = packed(RECORD, RECORD)
    chance = random.Random(1)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= chance.randrange(1, 256)
        with pytest.raises(ArchiveError):
            read(bytes(damaged))


def test_truncated_or_extended_file_is_refused() -> None:
    """A file that ends too early, or has data after its end, is refused."""
    whole = packed(RECORD, RECORD)
    for cut in range(len(whole)):
        with pytest.raises(ArchiveError):
            read(whole[:cut])
    with pytest.raises(ArchiveError, match="after its end"):
        read(whole + encode({}))
    with pytest.raises(ArchiveError, match="incomplete"):
        read(whole + b"\xa1")


def test_missing_and_swapped_records_are_refused() -> None:
    """The checksum of the whole file detects missing and swapped records, each of which is intact."""
    header, one, two, end = pack_archive("host", 1500, 2, [to_item(RECORD), {**to_item(RECORD), "uid": 1}])
    assert len(read(header + one + two + end)) == 2
    for parts in ((header, one, end), (header, two, one, end), (header, one, one, two, end), (one, two, end)):
        with pytest.raises(ArchiveError):
            read(b"".join(parts))


@pytest.mark.parametrize("header", [{"format": "pykcm export", "version": 2}, {"format": "another"}, [], 5])
def test_other_files_are_refused_with_reason(header: object) -> None:
    """Files that are not exports, or have an unknown version, are not reported as damaged."""
    with pytest.raises(ArchiveError, match=r"another version|not an export"):
        read(encode(header))
