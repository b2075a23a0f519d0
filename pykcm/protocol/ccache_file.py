"""Ccache files as libkrb5 and Heimdal write them: formats 3 and 4."""

from struct import Struct
from typing import NamedTuple

from pykcm.protocol.credential import ENCTYPE, TIMES_AND_FLAGS
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.wire import FormatError, Reader

_MAGIC = 5
_OLD_FORMATS = (1, 2)

_U16 = Struct(">H")
_TAG = Struct(">HH")
# Seconds and microseconds.
_OFFSET = Struct(">ii")
_OFFSET_TAG = 1

# The realm that libkrb5 gives to a removed configuration entry.
_REMOVED_CONFIGURATION = b"X-RMED-CONF:"


class CCacheFile(NamedTuple):
    """The contents of a ccache file; `kdc_offset` in seconds, `credentials` in format 4, in stored order."""

    principal: Principal
    kdc_offset: int
    credentials: list[bytes]

    def __repr__(self) -> str:
        # The credentials hold session keys.
        return f"<CCacheFile of {self.principal}, {len(self.credentials)} credentials>"


# A file of many minimal credentials would otherwise take seconds to read.
_MOST_CREDENTIALS = 65_536


def parse_ccache_file(content: bytes) -> CCacheFile:
    """Parse a complete file; raises FormatError if anything is missing or malformed.

    Removed credentials are left out: they are still in the file, with changed times.
    """
    if len(content) < _U16.size or content[0] != _MAGIC:
        raise FormatError("not a ccache file")
    version = content[1]
    if version in _OLD_FORMATS:
        raise FormatError(f"a ccache file of format {version} (3 and 4 can be read): get new tickets instead")
    if version not in {3, 4}:
        raise FormatError("not a ccache file")
    reader = Reader(content, _U16.size)
    kdc_offset = _read_header(reader) if version == 4 else 0
    principal = read_principal(reader)
    credentials = []
    number = 0
    while reader.at < reader.end:
        number += 1
        if number > _MOST_CREDENTIALS:
            raise FormatError(f"more than {_MOST_CREDENTIALS} credentials")
        blob = _read_credential(reader, version)
        if blob is not None:
            credentials.append(blob)
    return CCacheFile(principal, kdc_offset, credentials)


def _read_header(reader: Reader) -> int:
    """Read the header, and return its KDC offset, 0 if it is not set. Other fields are ignored."""
    (size,) = reader.unpack(_U16)
    header = Reader(reader.take(size))
    kdc_offset = 0
    while header.at < header.end:
        tag, length = header.unpack(_TAG)
        value = header.take(length)
        if tag == _OFFSET_TAG:
            kdc_offset, _ = Reader(value).unpack(_OFFSET)
    return kdc_offset


def _read_credential(reader: Reader, version: int) -> bytes | None:
    """Read the next credential, and return it in format 4; None: it was removed."""
    begin = reader.at
    read_principal(reader)
    server = read_principal(reader)
    enctype_at = reader.at
    reader.unpack(ENCTYPE)
    if version == 3:
        # Format 3 has the enctype twice.
        reader.unpack(ENCTYPE)
    enctype_end = reader.at
    reader.skip_data()
    authtime, _, endtime, *_ = reader.unpack(TIMES_AND_FLAGS)
    reader.typed_list()
    reader.typed_list()
    reader.skip_data()
    reader.skip_data()
    if server.realm == _REMOVED_CONFIGURATION or (endtime == 0 and authtime != 0):
        return None
    content = reader.buffer
    if version == 3:
        last = enctype_end - ENCTYPE.size
        return content[begin:enctype_at] + content[last : reader.at]
    return content[begin : reader.at]
