"""Statements and values as libpq takes them: numbered parameters, and values in the binary format."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

from psycopg import pq

# A statement with parameters as %(name)s, and their values.
Statement = tuple[str, Mapping[str, Any]]

_PARAMETER = re.compile(r"%\((\w+)\)s")

# Object identifiers of types, in pg_type.
_BOOL, _BYTEA, _INT8, _INT2, _INT4 = 16, 17, 20, 21, 23
_BYTEA_ARRAY, _INT8_ARRAY = 1001, 1016
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
    if isinstance(value, int):
        return _INT8
    if isinstance(value, bytes):
        return _BYTEA
    return _BYTEA_ARRAY if _holds_bytes(value) else _INT8_ARRAY


def encode(value: Any) -> bytes | None:
    """The value of a parameter: a number, bytes, None, or a list of numbers and None, or one of bytes."""
    if isinstance(value, bytes) or value is None:
        return value
    if isinstance(value, int):
        return _int8(value)
    if _holds_bytes(value):
        parts = [_array_head(1, 0, _BYTEA, len(value), 1)]
        for each in value:
            parts += (_size(len(each)), each)
        return b"".join(parts)
    numbers = [_NULL if each is None else _size(8) + _int8(each) for each in value]
    return _array_head(1, None in value, _INT8, len(numbers), 1) + b"".join(numbers)


def _holds_bytes(values: Sequence[Any]) -> bool:
    return isinstance(values[0], bytes)


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
