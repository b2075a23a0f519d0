"""Credentials: their fields, and that their bytes are kept as sent."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.credential import Times, parse_credential, parse_stored_credential
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.wire import MAX_COMPONENTS, MAX_LIST, MAX_PRINCIPAL_SIZE, FormatError, Reader
from tests.builders import TGS, changed, credential_bytes, data, principal_bytes, typed_list
from tests.protocol.bad_input import (
    assert_every_prefix_refused,
    assert_harmless,
    assert_refused,
    assert_refused_cheaply,
)
from tests.protocol.layouts import AES256, ALICE, BOB, HOST, REALM, CredentialFields, keyblock, principal, u32
from tests.protocol.strategies import blob, credentials, fewer

EVERY_FIELD = CredentialFields(
    is_skey=1,
    addresses=[(2, b"\x7f\0\0\1"), (24, bytes(16))],
    authdata=[(1, b"one"), (128, b"two")],
    second_ticket=b"a second ticket",
)

# What stands before the lists of a credential.
BEGINNING = ALICE + HOST + keyblock(AES256, b"key") + u32(1) * 4 + b"\0" + u32(0)


def parse(message: Reader) -> object:
    return parse_credential(message.rest())


@fewer
@given(credentials)
def test_every_field_is_read_from_its_place(fields: CredentialFields) -> None:
    """Every field for matching and expiry is read from its place, whatever the other fields are."""
    credential = parse_credential(fields.pack())
    assert credential.client == read_principal(Reader(fields.client))
    assert credential.server == read_principal(Reader(fields.server))
    assert credential.enctype == fields.enctype
    assert credential.times == (fields.authtime, fields.starttime, fields.endtime, fields.renew_till)
    assert credential.is_skey is bool(fields.is_skey)
    assert credential.flags == fields.flags
    assert credential.authdata == typed_list(fields.authdata)
    assert credential.second_ticket == fields.second_ticket


def test_types_and_signs_of_fields() -> None:
    """The fields have the documented types and signs."""
    credential = parse_credential(CredentialFields(enctype=-1, endtime=2**32 - 1, flags=2**32 - 1).pack())
    assert credential.client == Principal(1, REALM, (b"alice",))
    assert credential.server == Principal(3, REALM, (b"host", b"www.example.test"))
    assert credential.enctype == -1
    assert credential.times == Times(1_790_000_000, 1_790_000_100, 2**32 - 1, 1_790_600_000)
    assert credential.is_skey is False
    assert credential.flags == 2**32 - 1


@fewer
@given(credentials, blob)
def test_blob_is_kept_as_sent(fields: CredentialFields, behind: bytes) -> None:
    """The blob is what the client sent, including the bytes that it added after the last field."""
    sent = fields.pack() + behind
    credential = parse_credential(sent)
    assert credential.blob == sent
    alone = parse_credential(fields.pack())
    assert (credential.equality, credential.times, credential.flags) == (
        alone.equality,
        alone.times,
        alone.flags,
    )


# Which credentials are equal


@pytest.mark.parametrize(
    "changed",
    [
        {"client": principal(REALM, b"alice", name_type=10)},
        {"server": principal(REALM, b"host", b"www.example.test", name_type=1)},
        {"key": b"another session key"},
        {"authtime": 1},
        {"starttime": 1},
        {"endtime": 1},
        {"renew_till": 1},
        {"flags": 0},
        {"addresses": ()},
        {"ticket": b"another ticket"},
        {"is_skey": 255},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_fields_that_do_not_count_for_equality(changed: dict[str, Any]) -> None:
    """Name types, key, times, flags, addresses and ticket do not make another credential."""
    other = replace(EVERY_FIELD, **changed)
    assert parse_credential(other.pack()).equality == parse_credential(EVERY_FIELD.pack()).equality


@pytest.mark.parametrize(
    "changed",
    [
        {"client": BOB},
        {"client": principal(b"OTHER.TEST", b"alice")},
        {"server": BOB},
        {"server": principal(b"OTHER.TEST", b"host", b"www.example.test", name_type=3)},
        {"is_skey": 0},
        {"enctype": 17},
        {"authdata": ()},
        {"authdata": [(1, b"one")]},
        {"second_ticket": b""},
        {"second_ticket": b"another second ticket"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_fields_that_count_for_equality(changed: dict[str, Any]) -> None:
    """Client, server, is_skey, enctype, authdata and second ticket each make another credential."""
    other = replace(EVERY_FIELD, **changed)
    assert parse_credential(other.pack()).equality != parse_credential(EVERY_FIELD.pack()).equality


# Secrets


def test_repr_has_no_secrets() -> None:
    """Neither the session key nor the tickets are in a credential's repr."""
    fields = replace(EVERY_FIELD, key=b"SECRET-KEY", ticket=b"SECRET-TICKET", second_ticket=b"SECRET-2ND")
    credential = parse_credential(fields.pack())
    for text in (repr(credential), str(credential), f"{credential}"):
        assert "SECRET" not in text
        assert "alice" in text


# Bad input


@pytest.mark.parametrize("fields", [CredentialFields(), EVERY_FIELD], ids=["plain", "every field"])
def test_truncated_credential_is_malformed(fields: CredentialFields) -> None:
    """A credential that is cut off anywhere is malformed."""
    assert_every_prefix_refused(parse, fields.pack())


@pytest.mark.parametrize("lie", [2, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    "place",
    [
        ALICE + u32(1) + u32(1),  # the server's realm
        ALICE + HOST + b"\0\x12",  # the key
        BEGINNING,  # addresses
        BEGINNING + u32(0),  # authdata
        BEGINNING + u32(0) + u32(0),  # the ticket
        BEGINNING + u32(0) + u32(0) + data(b"ticket"),  # the second ticket
    ],
    ids=["realm", "key", "addresses", "authdata", "ticket", "second ticket"],
)
def test_wrong_lengths_and_counts_are_malformed(place: bytes, lie: int) -> None:
    """A length or count beyond the credential's end is malformed and allocates nothing."""
    assert_refused_cheaply(parse, place + u32(lie) + b"x")


@pytest.mark.parametrize("field", ["addresses", "authdata"])
def test_number_of_list_entries_is_bounded(field: str) -> None:
    """Lists of as many entries as are accepted are read; one more is refused, even if it is present."""
    most = [(1, b"")] * MAX_LIST
    longest: dict[str, Any] = {field: most}
    too_long: dict[str, Any] = {field: [*most, (1, b"")]}
    parse_credential(replace(EVERY_FIELD, **longest).pack())
    assert_refused(parse, replace(EVERY_FIELD, **too_long).pack())


@pytest.mark.parametrize("field", ["client", "server"])
def test_number_of_components_is_bounded(field: str) -> None:
    """A principal of too many components is refused within a credential too."""
    crowd: dict[str, Any] = {field: principal(REALM, *[b"x"] * (MAX_COMPONENTS + 1))}
    assert_refused(parse, replace(EVERY_FIELD, **crowd).pack())


@fewer
@given(credentials, st.data())
def test_damaged_credential_raises_only_format_errors(
    fields: CredentialFields, made_up: st.DataObject
) -> None:
    """A credential with any bytes replaced is another one or malformed."""
    sent = fields.pack()
    begin = made_up.draw(st.integers(0, len(sent)))
    end = made_up.draw(st.integers(begin, len(sent)))
    assert_harmless(parse, sent[:begin] + made_up.draw(blob) + sent[end:])


@given(st.binary(max_size=300))
def test_random_credential_raises_only_format_errors(message: bytes) -> None:
    """Random bytes are a credential or malformed."""
    assert_harmless(parse, message)


def test_stored_credentials_have_the_old_limits() -> None:
    """Credentials that an earlier version accepted are refused in requests, and read from the store."""
    variants: list[dict[str, Any]] = [
        {"server": Principal(1, b"R", (b"x",) * 256)},
        {"server": Principal(1, b"R" * 100_000, (b"x",))},
        {"addresses": [(1, b"")] * 1024},
        {"authdata": [(1, b"")] * 1024},
    ]
    for fields in variants:
        stored = credential_bytes(**fields)
        with pytest.raises(FormatError):
            parse_credential(stored)
        read = parse_stored_credential(stored)
        assert read.blob == stored
        assert read.server == fields.get("server", TGS)


def test_size_of_a_principal_is_bounded() -> None:
    """A principal of 8 KiB is accepted, and one byte more is not."""
    longest = Principal(1, b"R" * (MAX_PRINCIPAL_SIZE - 17), (b"x",))
    assert len(principal_bytes(longest)) == MAX_PRINCIPAL_SIZE
    assert read_principal(Reader(principal_bytes(longest))) == longest
    with pytest.raises(FormatError):
        read_principal(Reader(principal_bytes(changed(longest, realm=longest.realm + b"R"))))
