"""The wire vectors: recorded messages of real clients are read, and packed to the same bytes."""

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


def test_every_operation_has_a_vector() -> None:
    """Every operation of other servers has a vector."""
    in_stock = {exchange.opcode for stocked in STOCK for exchange in stocked.exchanges}
    assert in_stock == set(Opcode.__members__) - {"RENEW"}


def test_used_operations_are_recorded_from_clients() -> None:
    """The operations that real clients use are recorded from them, not only written by hand."""
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


def test_vectors_are_few() -> None:
    """The vectors stay few enough to be read by people."""
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
def test_vector_is_one_frame_each_way(stocked: ExchangeSet) -> None:
    """Every vector is one complete frame each way, with the right opcode and an outer status of 0."""
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
def test_recorded_requests_round_trip(stocked: ExchangeSet) -> None:
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


def test_truncated_recorded_request_is_malformed() -> None:
    """Each client's longest request for each operation is malformed if it ends earlier."""
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
def test_recorded_replies_round_trip(stocked: ExchangeSet) -> None:
    """Every successful reply's payload is read as its operation's, and packed to the same bytes."""
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


def test_recorded_unsupported_operations() -> None:
    """Operations without a layout are answered with CC_NOSUPP; RETRIEVE may be, for the KDC offset."""
    for exchange in chain.from_iterable(stocked.exchanges for stocked in STOCK):
        if exchange.opcode == "RETRIEVE":
            continue
        assert (Opcode[exchange.opcode] not in ARGUMENTS) == (code_of(exchange) == Code.CC_NOSUPP)


@pytest.mark.parametrize("client", ["MIT", "Heimdal"])
def test_recorded_credentials_came_back_unchanged(client: str) -> None:
    """Every credential that a client got is one that it stored, byte for byte."""
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


def test_recorded_retrieve_found_a_match() -> None:
    """Every credential that RETRIEVE found matches the tag of the request."""
    found = 0
    for exchange in chain.from_iterable(stocked.exchanges for stocked in STOCK):
        if exchange.opcode == "RETRIEVE" and code_of(exchange) == 0:
            _, match_flags, tag = read_arguments(ARGUMENTS[Opcode.RETRIEVE], exchange.request[4:])
            assert tag.matches(parse_credential(exchange.reply[12:]), match_flags)
            found += 1
    assert found > 5
