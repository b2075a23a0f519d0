"""Statements and values as libpq takes them: numbered parameters, and values in the binary format."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

from psycopg import pq

# A statement with parameters as %(name)s, and their values.
Statement = tuple[str, Mapping[str, Any]]

_PARAMETER = re.compile(r"%\((\w+)\)s")

# Object identifiers of types, in pg_type.
_BOOL, _BYTEA, _INT8, _INT2, _INT4 = 16, 17, 20, 21, 23
_ARRAY_OF = {_BOOL: 1000, _BYTEA: 1001, _INT8: 1016}
_UNKNOWN = 0

_BINARY = 1

_int8 = Struct("!q").pack
# Of an array: its dimensions, whether a NULL is in it, the elements' type, their number, the first index.
_array_head = Struct("!5i").pack
_size = Struct("!i").pack
_NULL = _size(-1)


class Numbered(NamedTuple):
    """A statement with parameters as $1, and the names of these in their order."""

    text: bytes
    names: tuple[str, ...]


@cache
def numbered(statement: str) -> Numbered:
    """The statement for libpq. Statements are constants: there are few."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(statement)))
    text = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement)
    return Numbered(text.encode(), names)


def type_of(value: Any) -> int:
    """The type of a parameter. None leaves it to the statement, which must cast the parameter."""
    if value is None:
        return _UNKNOWN
    return _ARRAY_OF[_type_of_one(value[0])] if isinstance(value, list) else _type_of_one(value)


def _type_of_one(value: bool | int | bytes | None) -> int:
    if isinstance(value, bytes):
        return _BYTEA
    return _BOOL if isinstance(value, bool) else _INT8


def encode(value: Any) -> bytes | None:
    """The value of a parameter.

    That is a number, a truth value, bytes, None, or a list that is not empty: of numbers and None, of truth
    values, or of bytes.
    """
    if not isinstance(value, list):
        return _encode_one(value)
    type_ = _type_of_one(value[0])
    parts = [_array_head(1, None in value, type_, len(value), 1)]
    for each in value:
        encoded = _encode_one(each)
        parts += (_NULL,) if encoded is None else (_size(len(encoded)), encoded)
    return b"".join(parts)


def _encode_one(value: bool | int | bytes | None) -> bytes | None:
    if isinstance(value, bytes) or value is None:
        return value
    return (b"\1" if value else b"\0") if isinstance(value, bool) else _int8(value)


def formats(number: int) -> list[int]:
    """The formats of so many parameters."""
    return [_BINARY] * number


def _to_int(value: bytes) -> int:
    return int.from_bytes(value, signed=True)


def _to_bool(value: bytes) -> bool:
    return value != b"\0"


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    _BOOL: _to_bool,
    _BYTEA: bytes,
    _INT2: _to_int,
    _INT4: _to_int,
    _INT8: _to_int,
}


def rows_of(result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
    """The rows of a result in binary format: of numbers, bytes, truth values and None."""
    decoders = [_DECODERS[result.ftype(column)] for column in range(result.nfields)]
    get_value = result.get_value
    return [
        tuple(
            None if (value := get_value(row, column)) is None else decode(value)
            for column, decode in enumerate(decoders)
        )
        for row in range(result.ntuples)
    ]
