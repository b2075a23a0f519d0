"""The file of an export: a sequence of CBOR items, from which damage and a missing end are seen.

    {"format": "pykcm export", "version": 1, "host": "…", "time": 1795000000, "count": 2}
    {"ccache": h'…', "sha256": h'…'}      for each ccache: the CBOR of its record, and that one's SHA-256
    {"end": 2, "sha256": h'…'}            how many there were, and the SHA-256 of all bytes before this item

The header's count is how many ccaches there were when the export began; the end's is how many it holds.
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

# In bytes: an entry has a ccache's principal, name and labels as well, and is in another item.
_LARGEST_ITEM = LARGEST_RECORD + 260 * 1024

_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class ArchiveError(FileError):
    """An export cannot be used; the message says why, and holds nothing of it."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where and when (seconds since the epoch) the export was made."""

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
    """The file in pieces; `records` are the daemon's items, each of which goes in as it is."""
    whole = hashlib.sha256()

    def packed(item: dict[str, Any]) -> bytes:
        piece = encode(item)
        whole.update(piece)
        return piece

    yield packed({"format": FORMAT, "version": VERSION, "host": host, "time": time, "count": count})
    number = 0
    for record in records:
        content = encode(record)
        yield packed({"ccache": content, "sha256": hashlib.sha256(content).digest()})
        number += 1
    yield encode({"end": number, "sha256": whole.digest()})


class ArchiveReader:
    """Takes in a file in pieces and gives its records, each of them checked.

    Only when `finish` has not raised is everything there, and as it was written.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self._items = ItemReader(_LARGEST_ITEM)
        # Of what has come up to the last item but the end.
        self._whole = hashlib.sha256()
        self._number = 0
        self._has_ended = False

    def feed(self, data: bytes) -> Iterator[CCacheRecord]:
        """Raises ArchiveError."""
        try:
            for packed, item in self._items.feed_packed(data):
                record = self._take(item)
                if not self._has_ended:
                    self._whole.update(packed)
                if record is not None:
                    yield record
        except ItemsError as error:
            raise self._damaged(str(error)) from None

    def finish(self) -> None:
        """The file has ended here; raises ArchiveError where it must not."""
        if not self._has_ended or self._items.has_begun:
            raise ArchiveError(f"the file is not whole: it ends behind {self._number} ccaches")

    def _take(self, item: Any) -> CCacheRecord | None:
        if self.header is None:
            self.header = _read_header(item)
            return None
        if self._has_ended:
            raise self._damaged("something stands behind its end")
        try:
            if isinstance(item, dict) and "end" in item:
                self._check_end(msgspec.convert(item, _End, builtin_types=(bytes,)))
                return None
            entry = msgspec.convert(item, _Entry, builtin_types=(bytes,))
            if hashlib.sha256(entry.ccache).digest() != entry.sha256:
                raise self._damaged("its checksum is another")
            inner = ItemReader(_LARGEST_ITEM)
            (content,) = inner.feed(entry.ccache)
            record = read_record(content)
        except (msgspec.ValidationError, ItemsError, ValueError) as error:
            raise self._damaged(str(error)) from None
        self._number += 1
        return record

    def _check_end(self, end: _End) -> None:
        if end.end != self._number or end.sha256 != self._whole.digest():
            raise self._damaged("the checksum of the whole is another")
        self._has_ended = True

    def _damaged(self, how: str) -> ArchiveError:
        return ArchiveError(f"the file is damaged behind {self._number} ccaches: {excerpt(how)}")


def _read_header(item: Any) -> Header:
    if not isinstance(item, dict) or item.get("format") != FORMAT:
        raise ArchiveError("not an export of pykcm's")
    if item.get("version") != VERSION:
        raise ArchiveError("an export of another version: use the pykcm that wrote it")
    try:
        header: Header = msgspec.convert(item, Header)
    except msgspec.ValidationError as error:
        raise ArchiveError(f"the file is damaged at its beginning: {excerpt(str(error))}") from None
    return header
