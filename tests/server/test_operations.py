"""Operations on the collection and on whole ccaches, on both stores."""

import errno

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Store
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    TGS,
    credential,
    credential_bytes,
    credential_of_size,
    principal_bytes,
    refused,
    service,
)
from tests.server.asking import Asking, Server

pytestmark = pytest.mark.usefixtures("bytes_alone")

TICKET = credential_bytes(TGS)
HTTP_TICKET = credential_bytes(HTTP)


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


def test_get_principal_returns_the_principal(reader: Asking) -> None:
    """GET_PRINCIPAL returns the principal with its name type; FCC_NOFILE without a ccache."""
    assert reader.answer(Opcode.GET_PRINCIPAL, b"1000\0") == (0, principal_bytes(ALICE))
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


@pytest.mark.parametrize("name", [b"1000", b"1000:missing"])
def test_set_flags_changes_nothing(reader: Asking, name: bytes) -> None:
    """SET_FLAGS succeeds and changes nothing."""
    reader.set_flags(name, 0)
    assert reader.get_cred_list(b"1000") == [TICKET, HTTP_TICKET]


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
    for missing in (uuid, bytes(16), b"\xff" * 16):
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
