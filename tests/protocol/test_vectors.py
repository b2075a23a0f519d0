"""The stock of wire vectors: what real clients say is understood, and said again byte for byte."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.framing import HEADER_SIZE, pack_reply, pack_request
from pykcm.protocol.messages import ARGUMENTS, PAYLOAD, pack_arguments, read_arguments
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Has
from pykcm.protocol.wire import FormatError, Reader
from tests.vectors import FOLDER, Exchange, ExchangeSet, load, load_all

STOCK = load_all()
RECORDED = [stocked for stocked in STOCK if stocked.name != "hand-made"]
STORED_SIZE = 300_000

# Codes that a recorded or hand-made reply may carry; EDQUOT is the system's.
ANSWERS = {*Code, 122}

every_exchange_set = pytest.mark.parametrize("stocked", STOCK, ids=lambda stocked: stocked.name)


def understood(exchange: Exchange) -> list[Any]:
    return read_arguments(ARGUMENTS[Opcode[exchange.opcode]], exchange.request[4:])


def code_of(exchange: Exchange) -> int:
    return int.from_bytes(exchange.reply[8:12], "big", signed=True)


# The stock itself


def test_every_operation_is_in_the_stock() -> None:
    """No operation is without a vector."""
    assert {exchange.opcode for stocked in STOCK for exchange in stocked.exchanges} == set(Opcode.__members__)


def test_operations_of_recorded_clients() -> None:
    """What the real clients use is recorded from them, and not merely laid out by hand."""
    said = {stocked.client.split()[0]: set[str]() for stocked in RECORDED}
    for stocked in RECORDED:
        said[stocked.client.split()[0]].update(exchange.opcode for exchange in stocked.exchanges)
    both = {"GET_DEFAULT_CACHE", "SET_DEFAULT_CACHE", "GET_CACHE_UUID_LIST", "GET_CACHE_BY_UUID", "GEN_NEW"}
    both |= {"GET_PRINCIPAL", "GET_KDC_OFFSET", "STORE", "DESTROY"}
    assert said["MIT"] >= both | {"RETRIEVE", "GET_CRED_LIST", "REPLACE"}
    assert said["Heimdal"] >= both | {
        *("INITIALIZE", "REMOVE_CRED", "MOVE_CACHE", "SET_FLAGS"),
        *("GET_CRED_UUID_LIST", "GET_CRED_BY_UUID"),
    }


def test_the_stock_is_small() -> None:
    """The stock stays small enough to be read by people."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.toml")) < STORED_SIZE


def test_the_files_are_readable(tmp_path: Path) -> None:
    """A file is client, command and UID, then the exchanges; white space in the bytes is skipped."""
    path = tmp_path / "one.toml"
    path.write_text(
        'client = "MIT"\ncommand = "klist"\nuid = 1\n'
        '[[exchange]]\nopcode = "NOOP"\nrequest = "00000004 0200 0000"\n'
        'reply = """\n00000004\n00000000\n00000000"""\n'
    )
    reply = bytes.fromhex("000000040000000000000000")
    assert load(path) == ExchangeSet(
        "one", "MIT", "klist", 1, (Exchange("NOOP", bytes.fromhex("0000000402000000"), reply),)
    )


@every_exchange_set
def test_frames(stocked: ExchangeSet) -> None:
    """Every vector is one whole frame each way, with the operation's number and an outer status of 0."""
    for exchange in stocked.exchanges:
        length, message = exchange.request[:4], exchange.request[4:]
        assert int.from_bytes(length, "big") == len(message)
        assert message[:2] == b"\2\0"
        assert Opcode(int.from_bytes(message[2:4], "big")).name == exchange.opcode
        assert int.from_bytes(exchange.reply[:4], "big") == len(exchange.reply) - 8 >= 4
        assert exchange.reply[4:8] == bytes(4)
        assert code_of(exchange) in ANSWERS


# Requests


def supported(stocked: ExchangeSet) -> list[Exchange]:
    return [exchange for exchange in stocked.exchanges if Opcode[exchange.opcode] in ARGUMENTS]


@every_exchange_set
def test_requests_are_understood_and_said_again(stocked: ExchangeSet) -> None:
    """Every request's arguments decode, and packing them gives its bytes again.

    But a tag's key, ticket and addresses, by which nothing matches; and bytes added behind the last field.
    """
    for exchange in supported(stocked):
        opcode = Opcode[exchange.opcode]
        values = tuple(map(_as_given, understood(exchange)))
        said = pack_request(opcode, pack_arguments(ARGUMENTS[opcode], values))
        if not _is_said_in_full(exchange):
            continue
        if stocked in RECORDED:
            assert exchange.request == said
        else:
            assert exchange.request[4:].startswith(said[4:])


def _as_given(value: object) -> object:
    """A client gives a credential as bytes."""
    if isinstance(value, Credential):
        return value.blob
    if isinstance(value, list):
        return [_as_given(each) for each in value]
    return value


def _is_said_in_full(exchange: Exchange) -> bool:
    """Whether a packed tag has all that this one has."""
    if exchange.opcode not in {"RETRIEVE", "REMOVE_CRED"}:
        return True
    behind_name = exchange.request.index(b"\0", 8) + 1
    header = int.from_bytes(exchange.request[behind_name + 4 : behind_name + 8], "big")
    return not header & (Has.KEYBLOCK | Has.TICKET | Has.ADDRESSES)


def test_requests_that_end_early() -> None:
    """Of each client's longest request for each operation, nothing that ends earlier is understood."""
    longest: dict[tuple[str, str], Exchange] = {}
    for stocked in RECORDED:
        for exchange in supported(stocked):
            key = (stocked.client, exchange.opcode)
            if key not in longest or len(exchange.request) > len(longest[key].request):
                longest[key] = exchange
    for exchange in longest.values():
        fields = ARGUMENTS[Opcode[exchange.opcode]]
        for end in range(HEADER_SIZE, len(exchange.request) - 4) if fields else ():
            with pytest.raises(FormatError):
                read_arguments(fields, exchange.request[4 : 4 + end])


# Replies


@every_exchange_set
def test_replies_are_understood_and_said_again(stocked: ExchangeSet) -> None:
    """Every successful reply's payload is read as its operation's, and packing it gives its bytes again."""
    for exchange in stocked.exchanges:
        code, payload = code_of(exchange), exchange.reply[12:]
        assert pack_reply(code, payload) == exchange.reply
        field = PAYLOAD.get(Opcode[exchange.opcode])
        if code or field is None:
            assert payload == b""
        else:
            reader = Reader(payload)
            assert field.pack(field.read(reader)) == payload
            assert reader.rest() == b""


def test_unsupported_operations() -> None:
    """What has no layout is answered with CC_NOSUPP; else only RETRIEVE may be, for the KDC offset."""
    for exchange in chain.from_iterable(stocked.exchanges for stocked in STOCK):
        if exchange.opcode == "RETRIEVE":
            continue
        assert (Opcode[exchange.opcode] not in ARGUMENTS) == (code_of(exchange) == Code.CC_NOSUPP)


@pytest.mark.parametrize("client", ["MIT", "Heimdal"])
def test_credentials_came_back_as_they_went_in(client: str) -> None:
    """Every credential that a client was given is one that it has stored, byte for byte."""
    stored: set[bytes] = set()
    given = 0
    for stocked in RECORDED:
        for exchange in stocked.exchanges if stocked.client.startswith(client) else ():
            if exchange.opcode == "STORE":
                stored.add(understood(exchange)[1].blob)
            elif exchange.opcode == "REPLACE":
                stored.update(credential.blob for credential in understood(exchange)[3])
            elif code_of(exchange) == 0 and exchange.opcode in {
                "RETRIEVE",
                "GET_CRED_BY_UUID",
                "GET_CRED_LIST",
            }:
                field = PAYLOAD[Opcode[exchange.opcode]]
                assert field is not None
                value = field.read(Reader(exchange.reply[12:]))
                blobs = value if isinstance(value, list) else [value]
                assert stored.issuperset(blobs)
                assert [parse_credential(blob).blob for blob in blobs] == blobs
                given += len(blobs)
    assert given > 20


def test_what_retrieve_found_matches() -> None:
    """Every credential that RETRIEVE found matches the tag that it was found by."""
    found = 0
    for exchange in chain.from_iterable(stocked.exchanges for stocked in STOCK):
        if exchange.opcode == "RETRIEVE" and code_of(exchange) == 0:
            _, match_flags, tag = read_arguments(ARGUMENTS[Opcode.RETRIEVE], exchange.request[4:])
            assert tag.matches(parse_credential(exchange.reply[12:]), match_flags)
            found += 1
    assert found > 5
