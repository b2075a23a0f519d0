"""Operations on the credentials of a ccache, on both stores."""

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Match, Tag
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    changed,
    configuration,
    credential_bytes,
    credential_of_size,
    data,
    principal,
    refused,
    service,
    tag_for,
)
from tests.server.asking import Asking, Server

pytestmark = pytest.mark.usefixtures("bytes_alone")

TICKET = credential_bytes(TGS)
HTTP_TICKET = credential_bytes(HTTP)
NAME_NUL = b"1000\0"


def test_store_replaces_or_adds(alice: Asking) -> None:
    """STORE replaces an equal credential in place, else adds it at the end; FCC_NOFILE without a ccache."""
    with refused(Code.FCC_NOFILE):
        alice.store(b"1000", TICKET)
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", TICKET)
    alice.store(b"1000", HTTP_TICKET)
    uuids = alice.get_cred_uuid_list(b"1000")
    renewed = credential_bytes(TGS, ticket=b"renewed")
    proxied = credential_bytes(TGS, second_ticket=b"evidence")
    alice.store(b"1000", renewed)
    alice.store(b"1000", proxied)
    assert alice.get_cred_list(b"1000") == [renewed, HTTP_TICKET, proxied]
    assert alice.get_cred_uuid_list(b"1000")[:2] == uuids


def test_credentials_come_back_unchanged(server: Server, alice: Asking) -> None:
    """A credential comes back byte for byte, with any bytes after its last field, also after a restart."""
    odd = [
        TICKET + b"\0\0\0\0",
        HTTP_TICKET + b"\0",
        credential_bytes(service(1), addresses=[(2, b"\x7f\0\0\1")], authdata=[(1, b"x"), (2, b"")]),
        credential_bytes(service(2), BOB, enctype=-1, flags=2**32 - 1, times=(2**32 - 1,) * 4),
        credential_bytes(changed(TGS, realm=b"\xff\0"), ticket=bytes(range(256)) * 100),
    ]
    alice.initialize(b"1000", ALICE)
    for blob in odd:
        alice.store(b"1000", blob)
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_cred_list(b"1000") == odd
        uuids = asking.get_cred_uuid_list(b"1000")
        assert [asking.get_cred_by_uuid(b"1000", uuid) for uuid in uuids] == odd


def test_retrieve_returns_the_first_match(reader: Asking) -> None:
    """RETRIEVE returns the first match; CC_NOTFOUND without one, FCC_NOFILE without a ccache."""
    assert reader.retrieve(b"1000", Match.GC_CACHED, tag_for(HTTP)) == HTTP_TICKET
    assert reader.retrieve(b"1000", 0, Tag()) == TICKET
    with refused(Code.CC_NOTFOUND):
        reader.retrieve(b"1000", Match.GC_CACHED, tag_for(service(7)))
    with refused(Code.FCC_NOFILE):
        reader.retrieve(b"1000:missing", Match.GC_CACHED, tag_for(HTTP))


OFFSETS = [61, -61, 10800, -10800, 40 * 86400, 2**31 - 1, -(2**31)]


EITHER_TAG = (tag_for(HTTP), tag_for(service(7)), Tag(ALICE, configuration(b"start_realm", b"").server))


def assert_must_iterate(asking: Asking, name: bytes, offset: int) -> None:
    """RETRIEVE is not supported, whether or not there is a match; iteration gives all, and the offset."""
    for tag in EITHER_TAG:
        with refused(Code.CC_NOSUPP):
            asking.retrieve(name, Match.GC_CACHED, tag)
    assert asking.get_kdc_offset(name) == offset
    assert asking.get_cred_list(name) == [TICKET, HTTP_TICKET]
    uuids = asking.get_cred_uuid_list(name)
    assert [asking.get_cred_by_uuid(name, uuid) for uuid in uuids] == [TICKET, HTTP_TICKET]


@pytest.mark.parametrize("offset", OFFSETS)
def test_retrieve_is_not_supported_with_a_large_kdc_offset(
    server: Server, filled: Asking, offset: int
) -> None:
    """RETRIEVE of a ccache whose offset exceeds a minute is not supported, however it got the offset."""
    filled.set_kdc_offset(b"1000", offset)
    filled.replace(b"1000:replaced", offset, ALICE, [TICKET, HTTP_TICKET])
    filled.replace(b"1000:old", offset, ALICE, [TICKET, HTTP_TICKET])
    filled.initialize(b"1000:moved", BOB)
    filled.move_cache(b"1000:old", b"1000:moved")
    filled.set_default_cache(b"1000:moved")
    for asking in (filled, server.restarted().ask_as(1000)):
        for name in (b"1000", b"1000:replaced", b"1000:moved", b""):
            assert_must_iterate(asking, name, offset)
        with refused(Code.FCC_NOFILE):
            asking.retrieve(b"1000:missing", Match.GC_CACHED, tag_for(HTTP))


@pytest.mark.parametrize("offset", [60, -60, 1, 0])
def test_retrieve_is_served_with_a_small_kdc_offset(reader: Asking, offset: int) -> None:
    """RETRIEVE of a ccache with an offset of up to a minute is served."""
    reader.set_kdc_offset(b"1000", offset)
    assert reader.retrieve(b"1000", Match.GC_CACHED, tag_for(HTTP)) == HTTP_TICKET


@pytest.mark.parametrize("offset", OFFSETS)
def test_retrieve_is_served_again_without_an_offset(reader: Asking, offset: int) -> None:
    """RETRIEVE is served again once the offset is small, or the ccache is filled without one."""
    reader.set_kdc_offset(b"1000", offset)
    reader.set_kdc_offset(b"1000", 0)
    assert reader.retrieve(b"1000", 0, tag_for(HTTP)) == HTTP_TICKET
    reader.set_kdc_offset(b"1000", offset)
    reader.initialize(b"1000", ALICE)
    reader.store(b"1000", HTTP_TICKET)
    assert reader.retrieve(b"1000", 0, tag_for(HTTP)) == HTTP_TICKET


def test_retrieve_by_second_ticket(reader: Asking) -> None:
    """An S4U2Proxy look-up names no client and finds the ticket by its second ticket."""
    tickets = [
        credential_bytes(HTTP, client, second_ticket=b"of " + b) for client, b in [(ALICE, b"a"), (BOB, b"b")]
    ]
    for ticket in tickets:
        reader.store(b"1000", ticket)
    tag = Tag(server=HTTP, second_ticket=b"of b")
    assert reader.retrieve(b"1000", Match.SECOND_TICKET | Match.GC_CACHED, tag) == tickets[1]
    with refused(Code.CC_NOTFOUND):
        reader.retrieve(b"1000", Match.SECOND_TICKET, tag._replace(second_ticket=b"of c"))


def test_get_cred_uuid_list_is_in_stored_order(reader: Asking) -> None:
    """GET_CRED_UUID_LIST returns the UUIDs in stored order, an empty payload for none; FCC_NOFILE."""
    first, second = reader.get_cred_uuid_list(b"1000")
    assert reader.get_cred_by_uuid(b"1000", first) == TICKET
    assert reader.get_cred_by_uuid(b"1000", second) == HTTP_TICKET
    reader.initialize(b"1000:empty", ALICE)
    assert reader.answer(Opcode.GET_CRED_UUID_LIST, b"1000:empty\0") == (0, b"")
    with refused(Code.FCC_NOFILE):
        reader.get_cred_uuid_list(b"1000:missing")


def test_get_cred_by_uuid_ends_an_iteration(reader: Asking) -> None:
    """GET_CRED_BY_UUID returns CC_END for an unknown UUID, and for a ccache that no longer exists."""
    (uuid, _) = reader.get_cred_uuid_list(b"1000")
    with refused(Code.CC_END):
        reader.get_cred_by_uuid(b"1000", bytes(16))
    with refused(Code.CC_END):
        reader.get_cred_by_uuid(b"1000:missing", uuid)
    reader.remove_cred(b"1000", 0, tag_for(TGS))
    with refused(Code.CC_END):
        reader.get_cred_by_uuid(b"1000", uuid)


def test_remove_cred_removes_every_match(reader: Asking) -> None:
    """REMOVE_CRED removes every match; CC_NOTFOUND without one, FCC_NOFILE without a ccache."""
    reader.store(b"1000", credential_bytes(HTTP, BOB))
    reader.remove_cred(b"1000", 0, tag_for(HTTP))
    assert reader.get_cred_list(b"1000") == [TICKET]
    missing = [(0, tag_for(HTTP)), (Match.TIMES_EXACT, Tag(ALICE, TGS)), (Match.IS_SKEY, Tag(is_skey=True))]
    for match_flags, tag in missing:
        with refused(Code.CC_NOTFOUND):
            reader.remove_cred(b"1000", match_flags, tag)
    assert reader.get_cred_list(b"1000") == [TICKET]
    with refused(Code.FCC_NOFILE):
        reader.remove_cred(b"1000:missing", 0, tag_for(HTTP))


@pytest.mark.parametrize("entry", ["krb5_ccache_conf_data/fast_avail@X-CACHECONF:", "a@X-GSSPROXY:"])
def test_removing_a_missing_entry_succeeds(reader: Asking, entry: str) -> None:
    """REMOVE_CRED of a configuration entry succeeds whether or not it exists."""
    for tag in (Tag(ALICE, principal(entry)), tag_for(principal(entry))):
        reader.remove_cred(b"1000", 0, tag)
    with refused(Code.FCC_NOFILE):
        reader.remove_cred(b"1000:missing", 0, tag)
    assert reader.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]


def test_configuration_entry_is_set_again(reader: Asking) -> None:
    """libkrb5 sets its configuration by REMOVE_CRED (flags 0) and STORE: one entry is left."""
    for value in (b"yes", b"no"):
        entry = configuration(b"fast_avail", value)
        reader.remove_cred(b"1000", 0, Tag(ALICE, entry.server))
        reader.store(b"1000", entry.blob)
    wanted = configuration(b"fast_avail", b"no").blob
    assert reader.get_cred_list(b"1000") == [TICKET, HTTP_TICKET, wanted]


def test_get_cred_list_is_in_stored_order(reader: Asking) -> None:
    """GET_CRED_LIST returns count, lengths and credentials in stored order; a count of 0; FCC_NOFILE."""
    packed = b"\0\0\0\2" + data(TICKET) + data(HTTP_TICKET)
    assert reader.answer(Opcode.GET_CRED_LIST, NAME_NUL) == (0, packed)
    reader.initialize(b"1000", ALICE)
    assert reader.answer(Opcode.GET_CRED_LIST, NAME_NUL) == (0, b"\0\0\0\0")
    with refused(Code.FCC_NOFILE):
        reader.get_cred_list(b"1000:missing")


def test_size_of_a_cred_list_is_bounded(alice: Asking) -> None:
    """A reply may be exactly 10 MiB; a longer list is FCC_INTERNAL, and the client fetches one by one."""
    longest = 10 * 1024 * 1024 - 3 * 4  # code, count, length
    alice.initialize(b"1000", ALICE)
    ticket = credential_of_size(longest).blob
    alice.store(b"1000", ticket)
    assert alice.get_cred_list(b"1000") == [ticket]
    alice.store(b"1000", credential_of_size(longest + 1).blob)
    with refused(Code.FCC_INTERNAL):
        alice.get_cred_list(b"1000")
    (uuid,) = alice.get_cred_uuid_list(b"1000")
    assert alice.get_cred_by_uuid(b"1000", uuid) == credential_of_size(longest + 1).blob
