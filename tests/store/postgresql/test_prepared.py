"""Statements and values for libpq, tried on the server."""

import asyncio
from typing import Any

import psycopg
import pytest

from pykcm.store.postgresql.pipelined_connection import PipelinedConnection
from pykcm.store.postgresql.prepared import encode, numbered, type_of

_LARGEST = 2**63 - 1


def test_parameters_are_numbered_in_the_order_of_their_names() -> None:
    """A name that appears twice has one number; a cast stays as it is."""
    statement = "SELECT %(uid)s::bigint, %(id)s WHERE %(uid)s > 0"
    assert numbered(statement) == (b"SELECT $1::bigint, $2 WHERE $1 > 0", ("uid", "id"))


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (0, "bigint"),
        (-1, "bigint"),
        (_LARGEST, "bigint"),
        (-_LARGEST - 1, "bigint"),
        (b"", "bytea"),
        (b"\x00\\ \xff'", "bytea"),
        (None, "bigint"),
        ([1, -2, _LARGEST], "bigint[]"),
        ([None, 1, None], "bigint[]"),
        ([None], "bigint[]"),
        ([b"", b"\x00\xff", b"{,}"], "bytea[]"),
        (True, "boolean"),
        ([False, True], "boolean[]"),
    ],
)
async def test_values_arrive_as_they_were_sent(conninfo: str, value: Any, type_: str) -> None:
    """Numbers, bytes, NULL, and lists of them; the server shows them as psycopg's own parameters."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as opened:
        connection = PipelinedConnection(opened, lambda _: None)
        end = asyncio.get_running_loop().time() + 20
        statement = f"SELECT %(value)s::{type_} IS NOT DISTINCT FROM %(same)s::{type_}"
        assert await connection.execute([(statement, {"value": value, "same": value})], end) == [(True,)]
        as_text = f"SELECT convert_to((%(value)s::{type_})::text, 'UTF8')"
        [(sent,)] = await connection.execute([(as_text, {"value": value})], end)
        cursor = await connection.psycopg().execute(as_text, {"value": value})
        assert await cursor.fetchone() == (sent,)


async def test_values_come_back(conninfo: str) -> None:
    """Numbers of each size, bytes, truth values and NULL."""
    statement = "SELECT 1::smallint, -2, 3::bigint, '\\x00ff'::bytea, true, false, NULL::bytea"
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as opened:
        connection = PipelinedConnection(opened, lambda _: None)
        rows = await connection.execute([(statement, {})], asyncio.get_running_loop().time() + 20)
        assert rows == [(1, -2, 3, b"\x00\xff", True, False, None)]
        connection.finish()


def test_type_of_a_list_is_that_of_its_elements() -> None:
    """An array of bytes and one of numbers have different types; None has no type of its own."""
    assert type_of([b"a"]) != type_of([1]) == type_of([None])
    assert type_of(None) == 0
    assert encode(None) is None
