"""The format of an export: a sequence of CBOR items with checksums, which show damage and a missing end.

    {"format": "pykcm export", "version": 1, "host": "…", "time": 1795000000, "count": 2}
    {"ccache": h'…', "sha256": h'…'}      for each ccache: the CBOR of its record, and the SHA-256 of that
    {"end": 2, "sha256": h'…'}            the number of ccaches, and the SHA-256 of all bytes before this item

The header's count is the number of ccaches at the beginning of the export. The number at the end is the
number of ccaches in the file.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from pykcm.cli.cbor import ItemReader, ItemsError, encode
from pykcm.cli.files import FileError
from pykcm.control.records import LARGEST_RECORD, CCacheRecord, read_record
from pykcm.protocol.text import excerpt

FORMAT = "pykcm export"
VERSION = 1

# In bytes: a record, and the principal, name and label of its ccache.
_LARGEST_ITEM = LARGEST_RECORD + 260 * 1024

_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class ArchiveError(FileError):
    """An export cannot be used; the message gives the reason, and quotes nothing from the file."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first item: the host and the time of the export, in seconds since the epoch."""

    format: str
    version: int
    host: str
    time: int
    count: _Count


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ccache: bytes
    sha256: _Digest


class _End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    end: _Count
    sha256: _Digest


def pack_archive(host: str, time: int, count: int, records: Iterable[Any]) -> Iterator[bytes]:
    """Yield the file in pieces; `records` are the daemon's items, which are not changed."""
    digest = hashlib.sha256()

    def packed(item: dict[str, Any]) -> bytes:
        piece = encode(item)
        digest.update(piece)
        return piece

    yield packed({"format": FORMAT, "version": VERSION, "host": host, "time": time, "count": count})
    number = 0
    for record in records:
        content = encode(record)
        yield packed({"ccache": content, "sha256": hashlib.sha256(content).digest()})
        number += 1
    yield encode({"end": number, "sha256": digest.digest()})


class ArchiveReader:
    """Reads an export in pieces, and returns its records after checking each.

    The export is complete and undamaged if `finish` raises nothing.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._items = ItemReader(_LARGEST_ITEM)
        # Of all items so far, except the end.
        self._digest = hashlib.sha256()
        self._number = 0
        self._has_ended = False

    def feed(self, data: bytes) -> Iterator[CCacheRecord]:
        """Yield the records that `data` completes; raises ArchiveError."""
        try:
            for packed, item in self._items.feed_packed(data):
                record = self._read_item(item)
                if not self._has_ended:
                    self._digest.update(packed)
                if record is not None:
                    yield record
        except ItemsError as error:
            if self.header is None:
                raise ArchiveError("the file is not an export of pykcmctl; name the right file") from None
            raise self._damaged(str(error)) from None

    def finish(self) -> None:
        """Check that the export is complete at the end of the file; raises ArchiveError."""
        if self.header is None and not self._items.has_begun:
            raise ArchiveError("the file is empty, and not an export of pykcmctl; name the right file")
        if not self._has_ended or self._items.has_begun:
            if self.header is None:
                raise ArchiveError("the file is not an export of pykcmctl; name the right file")
            raise ArchiveError(f"the file is incomplete: it ends after {self._number} ccaches; export again")

    def _read_item(self, item: Any) -> CCacheRecord | None:
        if self.header is None:
            self.header = _read_header(item)
            return None
        if self._has_ended:
            raise self._damaged("there is data after its end")
        try:
            if isinstance(item, dict) and "end" in item:
                self._check_end(msgspec.convert(item, _End, builtin_types=(bytes,)))
                return None
            entry = msgspec.convert(item, _Entry, builtin_types=(bytes,))
            if hashlib.sha256(entry.ccache).digest() != entry.sha256:
                raise self._damaged("the checksum of a ccache is wrong")
            inner = ItemReader(_LARGEST_ITEM)
            (content,) = inner.feed(entry.ccache)
            record = read_record(content)
        except (msgspec.ValidationError, ItemsError, ValueError) as error:
            raise self._damaged(str(error)) from None
        self._number += 1
        return record

    def _check_end(self, end: _End) -> None:
        if end.end != self._number or end.sha256 != self._digest.digest():
            raise self._damaged("the checksum of the file is wrong")
        self._has_ended = True

    def _damaged(self, reason: str) -> ArchiveError:
        return ArchiveError(f"the file is damaged after {self._number} ccaches: {excerpt(reason)}")


def _read_header(item: Any) -> Header:
    if not isinstance(item, dict) or item.get("format") != FORMAT:
        raise ArchiveError("the file is not an export of pykcmctl; name the right file")
    if item.get("version") != VERSION:
        raise ArchiveError("the export has another version: import it with the pykcm that wrote it")
    try:
        header: Header = msgspec.convert(item, Header)
    except msgspec.ValidationError as error:
        raise ArchiveError(f"the file is damaged at its beginning: {excerpt(str(error))}") from None
    return header
