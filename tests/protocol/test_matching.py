"""Every rule of matching a credential with a tag."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from pykcm.protocol.credential import parse_credential
from pykcm.protocol.tag import read_tag
from pykcm.protocol.wire import Reader
from tests.protocol.layouts import (
    AES256,
    ALICE,
    BOB,
    HOST,
    REALM,
    CredentialFields,
    TagFields,
    principal,
)
from tests.protocol.strategies import U32, credentials, fewer

# The flag word, as libkrb5's krb5.h has it.
GC_CACHED = 1
IS_SKEY = 1 << 22
SECOND_TICKET = 1 << 23
AUTHDATA = 1 << 24
TIMES = 1 << 25
TIMES_EXACT = 1 << 26
FLAGS = 1 << 27
FLAGS_EXACT = 1 << 28
SRV_NAMEONLY = 1 << 29
KEYTYPE = 1 << 30
DONT_MATCH_REALM = 1 << 31
EVERYTHING = sum(1 << bit for bit in range(22, 32))


ELSEWHERE = b"ELSEWHERE.TEST"


def found(tag: TagFields, match_flags: int, stored: CredentialFields | None = None) -> bool:
    """Whether the tag matches a credential, both as they come over the wire."""
    wanted = read_tag(Reader(tag.pack()))
    return wanted.matches(parse_credential((stored or CredentialFields()).pack()), match_flags)


def test_empty_tag_matches_everything() -> None:
    """An absent client and an absent server match any."""
    assert found(TagFields(), 0)
    assert found(TagFields(), 0, CredentialFields(client=BOB, server=ALICE))


@pytest.mark.parametrize("match_flags", [0, GC_CACHED])
@pytest.mark.parametrize(
    ("tag", "matches"),
    [
        (TagFields(client=ALICE), True),
        (TagFields(client=BOB), False),
        (TagFields(server=HOST), True),
        (TagFields(server=BOB), False),
        (TagFields(client=ALICE, server=HOST), True),
        (TagFields(client=ALICE, server=BOB), False),
        (TagFields(client=BOB, server=HOST), False),
        (TagFields(client=HOST, server=ALICE), False),
    ],
)
def test_client_and_server_must_match(tag: TagFields, matches: bool, match_flags: int) -> None:
    """A present client or server must be the credential's, whether or not a KDC may be asked."""
    assert found(tag, match_flags) is matches


@pytest.mark.parametrize("name_type", [0, 1, 10, 2**32 - 1])
@pytest.mark.parametrize("match_flags", [0, SRV_NAMEONLY, DONT_MATCH_REALM])
def test_name_type_never_counts(name_type: int, match_flags: int) -> None:
    """Principals that differ only in their name type match."""
    client = principal(REALM, b"alice", name_type=name_type)
    server = principal(REALM, b"host", b"www.example.test", name_type=name_type)
    assert found(TagFields(client=client, server=server), match_flags)


CLIENT_ELSEWHERE = principal(ELSEWHERE, b"alice")
HOST_ELSEWHERE = principal(ELSEWHERE, b"host", b"www.example.test", name_type=3)


@pytest.mark.parametrize(
    ("tag", "match_flags", "matches"),
    [
        (TagFields(server=HOST_ELSEWHERE), 0, False),
        (TagFields(server=HOST_ELSEWHERE), SRV_NAMEONLY, True),
        (TagFields(server=HOST_ELSEWHERE), DONT_MATCH_REALM, True),
        (TagFields(client=CLIENT_ELSEWHERE), 0, False),
        (TagFields(client=CLIENT_ELSEWHERE), SRV_NAMEONLY, False),
        (TagFields(client=CLIENT_ELSEWHERE), DONT_MATCH_REALM, True),
        (TagFields(client=CLIENT_ELSEWHERE, server=HOST_ELSEWHERE), SRV_NAMEONLY, False),
        (TagFields(client=ALICE, server=HOST_ELSEWHERE), SRV_NAMEONLY, True),
        (TagFields(client=CLIENT_ELSEWHERE, server=HOST_ELSEWHERE), DONT_MATCH_REALM, True),
        (TagFields(client=CLIENT_ELSEWHERE, server=HOST_ELSEWHERE), SRV_NAMEONLY | DONT_MATCH_REALM, True),
    ],
)
def test_flags_that_ignore_realms(tag: TagFields, match_flags: int, matches: bool) -> None:
    """SRV_NAMEONLY ignores the server's realm, DONT_MATCH_REALM the client's too."""
    assert found(tag, match_flags) is matches


@pytest.mark.parametrize("match_flags", [0, SRV_NAMEONLY, DONT_MATCH_REALM])
@pytest.mark.parametrize(
    "components",
    [
        (b"host",),
        (b"host", b"WWW.example.test"),
        (b"host", b"www.example.test", b""),
        (b"www.example.test", b"host"),
        (b"host/www.example.test",),
        (),
    ],
)
def test_components_always_count(components: tuple[bytes, ...], match_flags: int) -> None:
    """Even if the realm is ignored, all components must be equal, in order and in case."""
    other = principal(REALM, *components, name_type=3)
    assert not found(TagFields(server=other), match_flags)
    assert not found(TagFields(client=other), match_flags, CredentialFields(client=HOST))


# How user-to-user tickets match


@pytest.mark.parametrize(
    ("stored", "asked", "match_flags", "matches"),
    [
        (0, 0, 0, True),
        (0, 1, 0, True),
        (1, 0, 0, False),
        (1, 1, 0, False),
        (0, 0, IS_SKEY, True),
        (0, 1, IS_SKEY, False),
        (1, 0, IS_SKEY, False),
        (1, 1, IS_SKEY, True),
    ],
)
def test_is_skey_must_match(stored: int, asked: int, match_flags: int, matches: bool) -> None:
    """With MATCH_IS_SKEY is_skey must be the tag's; without it a user-to-user ticket never matches."""
    assert found(TagFields(is_skey=asked), match_flags, CredentialFields(is_skey=stored)) is matches


def test_no_other_flag_finds_a_user_to_user_ticket() -> None:
    """Without MATCH_IS_SKEY no other flag makes a user-to-user ticket match."""
    stored = CredentialFields(is_skey=1)
    for bit in range(32):
        if 1 << bit != IS_SKEY:
            assert not found(_tag_of(stored), 1 << bit, stored)
    assert not found(_tag_of(stored), (2**32 - 1) & ~IS_SKEY, stored)


# How ticket flags match


@pytest.mark.parametrize(
    ("stored", "asked", "match_flags", "matches"),
    [
        (0b0110, 0b0001, 0, True),
        (0b0110, 0b0110, FLAGS, True),
        (0b0110, 0b0100, FLAGS, True),
        (0b0110, 0, FLAGS, True),
        (0b0110, 0b0111, FLAGS, False),
        (0b0110, 0b1000, FLAGS, False),
        (0, 0b0001, FLAGS, False),
        (2**32 - 1, 1 << 31, FLAGS, True),
        (0b0110, 0b0110, FLAGS_EXACT, True),
        (0b0110, 0b0100, FLAGS_EXACT, False),
        (0b0110, 0b0111, FLAGS_EXACT, False),
        (0b0110, 0, FLAGS_EXACT, False),
        (0, 0, FLAGS_EXACT, True),
        (0b0110, 0b0100, FLAGS | FLAGS_EXACT, False),
        (0b0110, 0b0110, FLAGS | FLAGS_EXACT, True),
    ],
)
def test_ticket_flags_must_match(stored: int, asked: int, match_flags: int, matches: bool) -> None:
    """FLAGS: the credential has at least the wanted flags. FLAGS_EXACT: it has exactly these."""
    assert found(TagFields(flags=asked), match_flags, CredentialFields(flags=stored)) is matches


# How times match


STORED_TIMES = CredentialFields(authtime=100, starttime=200, endtime=300, renew_till=400)


@pytest.mark.parametrize(
    ("tag", "match_flags", "matches"),
    [
        (TagFields(endtime=301, renew_till=401), 0, True),
        # Each that is asked for is at most the credential's.
        (TagFields(), TIMES, True),
        (TagFields(endtime=300, renew_till=400), TIMES, True),
        (TagFields(endtime=299, renew_till=399), TIMES, True),
        (TagFields(endtime=301, renew_till=400), TIMES, False),
        (TagFields(endtime=300, renew_till=401), TIMES, False),
        # Zero asks for nothing.
        (TagFields(endtime=0, renew_till=400), TIMES, True),
        (TagFields(endtime=300, renew_till=0), TIMES, True),
        (TagFields(endtime=0, renew_till=401), TIMES, False),
        (TagFields(endtime=301, renew_till=0), TIMES, False),
        # The other two are not looked at.
        (TagFields(authtime=999, starttime=999, endtime=300), TIMES, True),
        # Exactly: all four.
        (TagFields(authtime=100, starttime=200, endtime=300, renew_till=400), TIMES_EXACT, True),
        (TagFields(authtime=101, starttime=200, endtime=300, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=201, endtime=300, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=200, endtime=301, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=200, endtime=300, renew_till=401), TIMES_EXACT, False),
        # Zero is a time like any other then.
        (TagFields(authtime=0, starttime=200, endtime=300, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=0, endtime=300, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=200, endtime=0, renew_till=400), TIMES_EXACT, False),
        (TagFields(authtime=100, starttime=200, endtime=300, renew_till=0), TIMES_EXACT, False),
        (TagFields(), TIMES_EXACT, False),
        (TagFields(endtime=300), TIMES | TIMES_EXACT, False),
    ],
)
def test_times_must_match(tag: TagFields, match_flags: int, matches: bool) -> None:
    """TIMES: the wanted end and renewal are at most the credential's. TIMES_EXACT: all four are equal."""
    assert found(tag, match_flags, STORED_TIMES) is matches


@pytest.mark.parametrize(("asked", "matches"), [(0, True), (1, False)])
def test_credential_without_renewal_matches(asked: int, matches: bool) -> None:
    """A credential without a renewal time matches if none is wanted."""
    stored = replace(STORED_TIMES, renew_till=0)
    assert found(TagFields(renew_till=asked), TIMES, stored) is matches


def test_times_are_unsigned() -> None:
    """An end after 2038 is later than one before."""
    late, early = 2**31 + 1, 2**31 - 1
    assert found(TagFields(endtime=early), TIMES, CredentialFields(endtime=late))
    assert not found(TagFields(endtime=late), TIMES, CredentialFields(endtime=early))


# How the rest matches


@pytest.mark.parametrize(
    ("stored", "asked", "match_flags", "matches"),
    [
        ([(1, b"one")], None, 0, True),
        ([(1, b"one")], [(1, b"two")], 0, True),
        ([(1, b"one")], [(1, b"one")], AUTHDATA, True),
        ([(1, b"one")], [(1, b"two")], AUTHDATA, False),
        ([(1, b"one")], [(2, b"one")], AUTHDATA, False),
        ([(1, b"one")], [(1, b"one"), (1, b"one")], AUTHDATA, False),
        ([(1, b"one"), (2, b"two")], [(1, b"one")], AUTHDATA, False),
        ([(1, b"one")], None, AUTHDATA, False),
        ([(1, b"one")], [], AUTHDATA, False),
        # Absent equals an empty list.
        ([], None, AUTHDATA, True),
        ([], [], AUTHDATA, True),
        ([], [(1, b"one")], AUTHDATA, False),
    ],
)
def test_authdata_must_match(
    stored: list[tuple[int, bytes]], asked: list[tuple[int, bytes]] | None, match_flags: int, matches: bool
) -> None:
    """AUTHDATA: the list is the credential's, and no list equals an empty one."""
    assert found(TagFields(authdata=asked), match_flags, CredentialFields(authdata=stored)) is matches


@pytest.mark.parametrize(
    ("stored", "asked", "match_flags", "matches"),
    [
        (b"one", b"two", 0, True),
        (b"one", b"one", SECOND_TICKET, True),
        (b"one", b"two", SECOND_TICKET, False),
        (b"one", b"on", SECOND_TICKET, False),
        (b"one", b"", SECOND_TICKET, False),
        (b"one", None, SECOND_TICKET, False),
        (b"", b"one", SECOND_TICKET, False),
        (b"", b"", SECOND_TICKET, True),
        (b"", None, SECOND_TICKET, True),
    ],
)
def test_second_ticket_must_match(
    stored: bytes, asked: bytes | None, match_flags: int, matches: bool
) -> None:
    """2ND_TKT: the second ticket is the credential's, as S4U2Proxy look-ups need it."""
    assert (
        found(TagFields(second_ticket=asked), match_flags, CredentialFields(second_ticket=stored)) is matches
    )


@pytest.mark.parametrize(
    ("stored", "asked", "match_flags", "matches"),
    [
        (18, 17, 0, True),
        (18, 18, KEYTYPE, True),
        (18, 17, KEYTYPE, False),
        (18, -18, KEYTYPE, False),
        (-133, -133, KEYTYPE, True),
    ],
)
def test_enctype_must_match(stored: int, asked: int, match_flags: int, matches: bool) -> None:
    """KEYTYPE: the session key's encryption type is the credential's; the key itself never counts."""
    tag = TagFields(keyblock=(asked, b"another key"))
    assert found(tag, match_flags, CredentialFields(enctype=stored)) is matches


@pytest.mark.parametrize("match_flags", [0, EVERYTHING])
def test_ticket_addresses_and_key_never_count(match_flags: int) -> None:
    """No flag compares the ticket, the addresses or the key."""
    stored = CredentialFields(addresses=[(2, b"\x7f\0\0\1")])
    other = replace(
        _tag_of(stored), ticket=b"another", addresses=[(2, b"\x0a\0\0\1")], keyblock=(AES256, b"")
    )
    assert found(other, match_flags, stored)
    assert found(replace(other, ticket=None, addresses=None), match_flags, stored)


def _tag_of(stored: CredentialFields) -> TagFields:
    """The tag that asks for all of a credential."""
    return TagFields(
        client=stored.client,
        server=stored.server,
        keyblock=(stored.enctype, stored.key),
        authtime=stored.authtime,
        starttime=stored.starttime,
        endtime=stored.endtime,
        renew_till=stored.renew_till,
        is_skey=stored.is_skey,
        flags=stored.flags,
        addresses=stored.addresses,
        authdata=stored.authdata,
        ticket=stored.ticket,
        second_ticket=stored.second_ticket,
    )


@fewer
@given(credentials, U32)
def test_credential_matches_its_own_tag(stored: CredentialFields, match_flags: int) -> None:
    """With any flags a credential matches its own tag; a user-to-user ticket needs MATCH_IS_SKEY."""
    assert found(_tag_of(stored), match_flags | IS_SKEY, stored)
    assert found(_tag_of(stored), match_flags & ~IS_SKEY, stored) is not stored.is_skey


DIFFERENT: list[dict[str, Any]] = [
    {"client": BOB},
    {"server": BOB},
    {"enctype": 17},
    {"authtime": 1},
    {"starttime": 1},
    {"endtime": 1},
    {"renew_till": 1},
    {"is_skey": 0},
    {"flags": 1},
    {"authdata": [(1, b"other")]},
    {"second_ticket": b"other"},
]


@pytest.mark.parametrize("different", DIFFERENT, ids=lambda different: next(iter(different)))
def test_one_different_field_is_no_match(different: dict[str, Any]) -> None:
    """With all flags, one different field is enough not to match."""
    stored = CredentialFields(is_skey=1, authdata=[(1, b"one")], second_ticket=b"a second ticket")
    assert found(_tag_of(stored), EVERYTHING, stored)
    assert not found(_tag_of(stored), EVERYTHING, replace(stored, **different))


def test_s4u2proxy_look_up_by_second_ticket() -> None:
    """Without a client, tickets for the same server are distinguished by their second tickets."""
    tag = TagFields(server=HOST, second_ticket=b"alice's")
    match_flags = GC_CACHED | SECOND_TICKET
    assert found(tag, match_flags, CredentialFields(client=ALICE, second_ticket=b"alice's"))
    assert not found(tag, match_flags, CredentialFields(client=BOB, second_ticket=b"bob's"))
    assert not found(tag, match_flags, CredentialFields(client=ALICE))
