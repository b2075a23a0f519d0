"""Every operation on both stores: its reply, and its answer to missing or malformed data."""

import errno

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.codes import Code
from pykcm.protocol.messages import ARGUMENTS
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Match, Tag
from pykcm.server.operations import OPERATIONS
from pykcm.store.interface import Store
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    configuration,
    credential,
    credential_bytes,
    credential_of_size,
    data,
    principal,
    principal_bytes,
    refused,
    service,
    tag_for,
)
from tests.server.asking import Asking, Server

pytestmark = pytest.mark.usefixtures("bytes_alone")

TICKET = credential_bytes(TGS)
HTTP_TICKET = credential_bytes(HTTP)

NAME_NUL = b"1000\0"
NO_UUID = bytes(16)

UNSUPPORTED = [13, 14, 15, 16, 24, 25, 26, 27, 28]


@pytest.fixture
def filled(alice: Asking) -> Asking:
    """UID 1000 with the ccache `1000` of two tickets."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", TICKET)
    alice.store(b"1000", HTTP_TICKET)
    alice.set_kdc_offset(b"1000", -7)
    return alice


@pytest.fixture(params=["in memory", "read again"])
def reader(request: pytest.FixtureRequest, server: Server, filled: Asking) -> Asking:
    """The same, as it stands in memory and as a restart reads it."""
    return filled if request.param == "in memory" else server.restarted().ask_as(1000)


# What each operation does


def test_noop_returns_nothing(alice: Asking) -> None:
    """NOOP returns nothing."""
    assert alice.answer(Opcode.NOOP) == (0, b"")


def test_get_name_of_an_existing_ccache(reader: Asking) -> None:
    """GET_NAME returns the name of an existing ccache; FCC_NOFILE for another one."""
    assert reader.get_name(b"1000") == b"1000"
    with refused(Code.FCC_NOFILE):
        reader.get_name(b"1000:missing")


@pytest.mark.parametrize("name", [b"1000", b"1000:missing", b"2000", b"foobar"])
def test_resolve_always_succeeds(alice: Asking, name: bytes) -> None:
    """RESOLVE succeeds whatever the name is, and creates nothing."""
    assert alice.answer(Opcode.RESOLVE, name + b"\0") == (0, b"")
    assert alice.get_cache_uuid_list() == []


def test_gen_new_returns_a_new_name(alice: Asking) -> None:
    """GEN_NEW returns a new name under the peer's UID, and creates nothing."""
    alice.initialize(b"1000", ALICE)
    names = {alice.gen_new() for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith(b"1000:") for name in names)
    assert len(alice.get_cache_uuid_list()) == 1


def test_initialize_creates_or_empties(alice: Asking) -> None:
    """INITIALIZE creates or empties a ccache: no credentials, KDC offset 0, and the default stays."""
    alice.initialize(b"1000:a", ALICE)
    alice.store(b"1000:a", TICKET)
    alice.set_kdc_offset(b"1000:a", 5)
    (uuid,) = alice.get_cache_uuid_list()

    alice.initialize(b"1000:a", BOB)
    assert alice.get_principal(b"1000:a") == BOB
    assert alice.get_cred_list(b"1000:a") == []
    assert alice.get_kdc_offset(b"1000:a") == 0
    assert alice.get_cache_uuid_list() == [uuid]
    alice.initialize(b"1000", ALICE)
    assert alice.get_default_cache() == b"1000"


def test_destroy_removes_a_ccache(alice: Asking) -> None:
    """DESTROY removes a ccache; FCC_NOFILE if there is none."""
    alice.initialize(b"1000", ALICE)
    alice.destroy(b"1000")
    assert alice.get_cache_uuid_list() == []
    for name in (b"1000", b"1000:missing"):
        with refused(Code.FCC_NOFILE):
            alice.destroy(name)


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
        credential_bytes(TGS._replace(realm=b"\xff\0"), ticket=bytes(range(256)) * 100),
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


def test_get_principal_returns_the_principal(reader: Asking) -> None:
    """GET_PRINCIPAL returns the principal with its name type; FCC_NOFILE without a ccache."""
    assert reader.answer(Opcode.GET_PRINCIPAL, NAME_NUL) == (0, principal_bytes(ALICE))
    with refused(Code.FCC_NOFILE):
        reader.get_principal(b"1000:missing")


def test_chosen_names_have_no_principal(alice: Asking) -> None:
    """A name that was only chosen (GEN_NEW, SET_DEFAULT_CACHE) is no ccache yet, and not listed."""
    name = alice.gen_new()
    alice.set_default_cache(name)
    for attempt in (alice.get_principal, alice.get_name, alice.get_cred_uuid_list, alice.destroy):
        with refused(Code.FCC_NOFILE):
            attempt(name)
    assert alice.get_cache_uuid_list() == []


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
        reader.get_cred_by_uuid(b"1000", NO_UUID)
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


@pytest.mark.parametrize("name", [b"1000", b"1000:missing"])
def test_set_flags_changes_nothing(reader: Asking, name: bytes) -> None:
    """SET_FLAGS succeeds and changes nothing."""
    reader.set_flags(name, 0)
    assert reader.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]


@pytest.mark.parametrize("opcode", UNSUPPORTED)
def test_known_but_unsupported_operations(alice: Asking, opcode: int) -> None:
    """CHOWN, CHMOD, the KDC's and NTLM's operations are known and not supported, with any arguments."""
    for arguments in (b"", NAME_NUL, b"\xff" * 100):
        assert alice.answer(opcode, arguments) == (Code.CC_NOSUPP, b"")


@pytest.mark.parametrize("opcode", [29, 100, 13000, 13003, 65535])
def test_unknown_opcode_is_answered(alice: Asking, opcode: int) -> None:
    """An unknown opcode is FCC_INTERNAL, so that the client falls back; the next request is served."""
    assert alice.answer(opcode, b"anything") == (Code.FCC_INTERNAL, b"")
    alice.noop()


def test_move_cache_takes_contents_and_default_along(reader: Asking) -> None:
    """MOVE_CACHE moves the contents, and a default that named the old ccache; FCC_NOFILE without one."""
    reader.initialize(b"1000:target", BOB)
    reader.store(b"1000:target", credential_bytes(service(1)))
    reader.set_default_cache(b"1000")
    reader.move_cache(b"1000", b"1000:target")
    assert reader.get_cred_list(b"1000:target") == [TICKET, HTTP_TICKET]
    assert reader.get_principal(b"1000:target") == ALICE
    assert reader.get_kdc_offset(b"1000:target") == -7
    assert reader.get_default_cache() == b"1000:target"
    with refused(Code.FCC_NOFILE):
        reader.get_principal(b"1000")
    for old, new in [(b"1000", b"1000:target"), (b"1000", b"1000:new"), (b"1000", b"1000")]:
        with refused(Code.FCC_NOFILE):
            reader.move_cache(old, new)
    assert len(reader.get_cache_uuid_list()) == 1


def test_heimdals_kinit_keeps_the_default(alice: Asking) -> None:
    """Heimdal's kinit fills a new ccache and moves it over the default, which stays the default."""
    alice.initialize(b"1000", ALICE)
    name = alice.gen_new()
    alice.initialize(name, BOB)
    alice.store(name, credential_bytes(TGS, BOB))
    alice.move_cache(name, b"1000")
    assert alice.get_default_cache() == b"1000"
    assert alice.get_principal(b"1000") == BOB
    (uuid,) = alice.get_cache_uuid_list()
    assert alice.get_cache_by_uuid(uuid) == b"1000"


def test_get_cache_uuid_list_is_in_order(alice: Asking) -> None:
    """GET_CACHE_UUID_LIST succeeds and is empty without ccaches, else it lists them in order."""
    assert alice.answer(Opcode.GET_CACHE_UUID_LIST) == (0, b"")
    names = [b"1000:b", b"1000", b"1000:a"]
    for name in names:
        alice.initialize(name, ALICE)
    assert [alice.get_cache_by_uuid(uuid) for uuid in alice.get_cache_uuid_list()] == names


def test_get_cache_by_uuid_ends_an_iteration(alice: Asking) -> None:
    """GET_CACHE_BY_UUID answers CC_END for a UUID that leads nowhere (any more)."""
    alice.initialize(b"1000", ALICE)
    (uuid,) = alice.get_cache_uuid_list()
    alice.destroy(b"1000")
    for missing in (uuid, NO_UUID, b"\xff" * 16):
        with refused(Code.CC_END):
            alice.get_cache_by_uuid(missing)


def test_default_of_an_empty_collection(alice: Asking, bob: Asking, root: Asking) -> None:
    """GET_DEFAULT_CACHE of an empty collection returns `<uid>`, which the peer then creates."""
    for asking, name in [(alice, b"1000"), (bob, b"2000"), (root, b"0")]:
        assert asking.get_default_cache() == name
        asking.initialize(name, ALICE)
        assert asking.get_default_cache() == name


@pytest.mark.parametrize("name", [b"1000", b"1000:x/y z", b"1000:\xff\xfe"])
def test_default_is_byte_for_byte_the_ccaches_name(alice: Asking, name: bytes) -> None:
    """GET_DEFAULT_CACHE returns exactly the name that GET_CACHE_BY_UUID and GET_NAME return."""
    alice.initialize(name, ALICE)
    alice.set_default_cache(name)
    (uuid,) = alice.get_cache_uuid_list()
    assert alice.get_default_cache() == alice.get_cache_by_uuid(uuid) == alice.get_name(name) == name


def test_sshds_order_of_calls_sets_the_default(server: Server, alice: Asking) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE, INITIALIZE, STORE: the new ccache is the default, also after a restart."""
    name = alice.gen_new()
    alice.set_default_cache(name)
    assert server.restarted().ask_as(1000).get_default_cache() == name
    alice.initialize(name, ALICE)
    alice.store(name, TICKET)
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_default_cache() == name
        assert asking.get_cred_list(name) == [TICKET]


def test_kdc_offset_is_returned_as_set(reader: Asking) -> None:
    """GET_KDC_OFFSET returns what SET_KDC_OFFSET set, to both ends of its range; FCC_NOFILE."""
    assert reader.get_kdc_offset(b"1000") == -7
    for offset in (2**31 - 1, -(2**31), 0):
        reader.set_kdc_offset(b"1000", offset)
        assert reader.get_kdc_offset(b"1000") == offset
    with refused(Code.FCC_NOFILE):
        reader.get_kdc_offset(b"1000:missing")
    with refused(Code.FCC_NOFILE):
        reader.set_kdc_offset(b"1000:missing", 1)


def test_kdc_offset_of_a_new_ccache(alice: Asking) -> None:
    """The KDC offset of a new ccache is 0."""
    alice.initialize(b"1000", ALICE)
    assert alice.get_kdc_offset(b"1000") == 0


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


def test_replace_creates_or_overwrites(server: Server, alice: Asking) -> None:
    """REPLACE creates a missing ccache, and removes the old contents of an existing one."""
    alice.replace(b"1000", 42, BOB, [TICKET, HTTP_TICKET])
    (uuid,) = alice.get_cache_uuid_list()
    assert alice.get_kdc_offset(b"1000") == 42
    assert alice.get_principal(b"1000") == BOB
    assert alice.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]
    alice.replace(b"1000", -1, ALICE, [HTTP_TICKET])
    for asking in (alice, server.restarted().ask_as(1000)):
        assert asking.get_kdc_offset(b"1000") == -1
        assert asking.get_principal(b"1000") == ALICE
        assert asking.get_cred_list(b"1000") == [HTTP_TICKET]
        assert asking.get_cache_uuid_list() == [uuid]
    alice.replace(b"1000", 0, ALICE, [])
    assert alice.get_cred_list(b"1000") == []


def test_refused_replace_changes_nothing(server: Server, store: Store) -> None:
    """A refused REPLACE changes nothing; its code is none that MIT reads as "lacks the operation"."""
    limited = Server(server.runner, store, quotas=Quotas(max_ccache_size=1000))
    alice = limited.ask_as(1000)
    alice.replace(b"1000", 1, ALICE, [TICKET])
    with refused(errno.EDQUOT):
        alice.replace(b"1000", 2, BOB, [HTTP_TICKET, credential_of_size(1000).blob])
    for asking in (alice, limited.restarted().ask_as(1000)):
        assert asking.get_kdc_offset(b"1000") == 1
        assert asking.get_cred_list(b"1000") == [TICKET]
    with refused(Code.CC_FORMAT):
        alice.replace(b"1000", 2, BOB, [HTTP_TICKET, b"no credential"])
    assert alice.get_cred_list(b"1000") == [TICKET]


# What is malformed


def test_every_opcode_is_served() -> None:
    """Every opcode of the protocol is served, and each that has arguments has its layout."""
    assert set(OPERATIONS) == {int(opcode) for opcode in Opcode}
    assert set(ARGUMENTS) == set(OPERATIONS) - set(UNSUPPORTED)


MALFORMED = [
    *[
        (opcode, arguments)
        for opcode in sorted(ARGUMENTS)
        if OPERATIONS[opcode].names_ccache
        for arguments in (b"", b"1000", b"\xff" * 10)
    ],
    (Opcode.INITIALIZE, NAME_NUL),
    (Opcode.INITIALIZE, NAME_NUL + b"\0\0\0\1"),
    (Opcode.INITIALIZE, NAME_NUL + principal_bytes(ALICE)[:-1]),
    (Opcode.INITIALIZE, NAME_NUL + b"\0\0\0\1\xff\xff\xff\xff\0\0\0\0"),
    (Opcode.STORE, NAME_NUL),
    (Opcode.STORE, NAME_NUL + TICKET[:-1]),
    (Opcode.STORE, NAME_NUL + TICKET[:40]),
    (Opcode.STORE, NAME_NUL + b"\xff" * 100),
    (Opcode.RETRIEVE, NAME_NUL),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(8)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4) + b"\0\0\0\1" + bytes(10)),
    (Opcode.RETRIEVE, NAME_NUL + bytes(4) + b"\0\0\0\x20" + bytes(21) + b"\xff\xff\xff\xff"),
    (Opcode.REMOVE_CRED, NAME_NUL + bytes(8)),
    (Opcode.GET_CRED_BY_UUID, NAME_NUL + bytes(15)),
    (Opcode.SET_FLAGS, NAME_NUL + bytes(3)),
    (Opcode.MOVE_CACHE, NAME_NUL),
    (Opcode.MOVE_CACHE, NAME_NUL + b"1000:a"),
    (Opcode.GET_CACHE_BY_UUID, b""),
    (Opcode.GET_CACHE_BY_UUID, bytes(15)),
    (Opcode.SET_KDC_OFFSET, NAME_NUL + bytes(3)),
    (Opcode.REPLACE, NAME_NUL),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1"),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\xff\xff\xff\xff" + data(TICKET)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\2" + data(TICKET)),
    (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1" + data(TICKET[:-1])),
]


@pytest.mark.parametrize(("opcode", "arguments"), MALFORMED)
def test_malformed_arguments_are_refused(filled: Asking, opcode: int, arguments: bytes) -> None:
    """Truncated arguments and wrong lengths are CC_FORMAT, and change nothing."""
    assert filled.answer(opcode, arguments) == (Code.CC_FORMAT, b"")
    assert filled.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]
    assert len(filled.get_cache_uuid_list()) == 1


@pytest.mark.parametrize(
    ("opcode", "arguments"),
    [
        (Opcode.NOOP, b""),
        (Opcode.GET_NAME, NAME_NUL),
        (Opcode.GET_PRINCIPAL, NAME_NUL),
        (Opcode.INITIALIZE, NAME_NUL + principal_bytes(ALICE)),
        (Opcode.RETRIEVE, NAME_NUL + bytes(4) + bytes(4) + bytes(21)),
        (Opcode.REMOVE_CRED, NAME_NUL + bytes(4) + bytes(4) + bytes(21)),
        (Opcode.GET_CACHE_UUID_LIST, b""),
        (Opcode.GET_DEFAULT_CACHE, b""),
        (Opcode.SET_KDC_OFFSET, NAME_NUL + bytes(4)),
        (Opcode.REPLACE, NAME_NUL + bytes(4) + principal_bytes(ALICE) + b"\0\0\0\1" + data(TICKET)),
    ],
)
@pytest.mark.parametrize("more", [b"\0", b"\0\0\0\0", b"\xff" * 40])
def test_bytes_after_the_last_field_are_ignored(
    filled: Asking, opcode: int, arguments: bytes, more: bytes
) -> None:
    """Bytes after the last field, as some clients add, change nothing about the answer."""
    assert filled.answer(opcode, arguments + more)[0] == 0


# Quotas


def test_full_quota_is_answered_with_edquot(server: Server, store: Store) -> None:
    """Over a quota the answer is EDQUOT, shown as "Disk quota exceeded"; other requests are served."""
    quotas = Quotas(max_ccaches=3, max_uid_ccaches=2, max_ccache_size=1000, max_uid_size=1500)
    limited = Server(server.runner, store, quotas=quotas)
    alice, bob = limited.ask_as(1000), limited.ask_as(2000)
    for name in (b"1000", b"1000:a"):
        alice.initialize(name, ALICE)
    with refused(errno.EDQUOT):
        alice.initialize(b"1000:b", ALICE)
    alice.store(b"1000", credential_of_size(900).blob)
    with refused(errno.EDQUOT):
        alice.store(b"1000", credential(HTTP).blob)
    with refused(errno.EDQUOT):
        alice.store(b"1000:a", credential_of_size(600).blob)
    bob.initialize(b"2000", BOB)
    with refused(errno.EDQUOT):
        bob.initialize(b"2000:a", BOB)
    alice.destroy(b"1000:a")
    bob.initialize(b"2000:a", BOB)
    assert alice.get_cred_list(b"1000") == [credential_of_size(900).blob]
