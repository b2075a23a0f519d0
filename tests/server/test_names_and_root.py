"""Access by names and UUIDs: of ordinary users, of root, and of root that lists all."""

import asyncio

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.store.interface import Store
from tests.builders import ALICE, BOB, TGS, credential_bytes, data, principal_bytes, refused
from tests.server.asking import Asking, Server

TICKET = credential_bytes(TGS)
TAG = Tag().pack()

# The arguments after the name, of each operation that names a ccache.
READS = {
    Opcode.GET_NAME: b"",
    Opcode.RETRIEVE: bytes(4) + TAG,
    Opcode.GET_PRINCIPAL: b"",
    Opcode.GET_CRED_UUID_LIST: b"",
    Opcode.GET_CRED_BY_UUID: bytes(16),
    Opcode.GET_KDC_OFFSET: b"",
    Opcode.GET_CRED_LIST: b"",
}
CHANGES = {
    Opcode.INITIALIZE: principal_bytes(BOB),
    Opcode.DESTROY: b"",
    Opcode.STORE: TICKET,
    Opcode.REMOVE_CRED: bytes(4) + TAG,
    Opcode.MOVE_CACHE: b"1000:new\0",
    Opcode.SET_DEFAULT_CACHE: b"",
    Opcode.SET_KDC_OFFSET: bytes(4),
    Opcode.REPLACE: bytes(4) + principal_bytes(BOB) + b"\0\0\0\1" + data(TICKET),
    Opcode.RENEW: data(TICKET) + TICKET,
}


@pytest.fixture
def bobs(bob: Asking) -> Asking:
    """UID 2000 with the ccache `2000` of one ticket."""
    bob.initialize(b"2000", BOB)
    bob.store(b"2000", TICKET)
    return bob


def unchanged(bob: Asking) -> None:
    assert bob.get_principal(b"2000") == BOB
    assert bob.get_cred_list(b"2000") == [TICKET]
    assert len(bob.get_cache_uuid_list()) == 1


@pytest.mark.parametrize("name", [b"2000", b"2000:missing"])
def test_other_uids_ccache_is_answered_as_missing(alice: Asking, bobs: Asking, name: bytes) -> None:
    """Another UID's ccache reads as missing, whether it exists or not, and cannot be changed."""
    alice.initialize(b"1000", ALICE)
    for opcode, rest in READS.items():
        wanted = Code.CC_END if opcode == Opcode.GET_CRED_BY_UUID else Code.FCC_NOFILE
        assert (opcode, *alice.answer(opcode, name + b"\0" + rest)) == (opcode, wanted, b"")
    for opcode, rest in CHANGES.items():
        assert (opcode, *alice.answer(opcode, name + b"\0" + rest)) == (opcode, Code.FCC_PERM, b"")
    unchanged(bobs)
    assert alice.get_default_cache() == b"1000"
    assert len(alice.get_cache_uuid_list()) == 1


def test_users_cannot_move_to_each_other(alice: Asking, bobs: Asking) -> None:
    """MOVE_CACHE neither takes from another user nor gives to one."""
    alice.initialize(b"1000", ALICE)
    for old, new in [(b"2000", b"1000"), (b"2000", b"1000:new"), (b"1000", b"2000"), (b"1000", b"2000:new")]:
        with refused(Code.FCC_PERM):
            alice.move_cache(old, new)
    unchanged(bobs)
    assert alice.get_principal(b"1000") == ALICE


def test_other_uids_uuids_find_nothing(alice: Asking, bobs: Asking, root: Asking) -> None:
    """Another UID's UUIDs find nothing: no name, nothing in one's own ccache, also for root."""
    (ccache,) = bobs.get_cache_uuid_list()
    (ticket,) = bobs.get_cred_uuid_list(b"2000")
    alice.initialize(b"1000", ALICE)
    for asking in (alice, root):
        with refused(Code.CC_END):
            asking.get_cache_by_uuid(ccache)
    for name in (b"1000", b"2000"):
        with refused(Code.CC_END):
            alice.get_cred_by_uuid(name, ticket)


@pytest.mark.parametrize("name", [b"foobar", b"1000x", b"01000", b"1000:" + b"x" * 1020])
def test_free_and_too_long_names_are_bad(alice: Asking, name: bytes) -> None:
    """A name that belongs to no UID and one that is too long are CC_BADNAME."""
    for opcode, rest in {**READS, **CHANGES}.items():
        assert (opcode, *alice.answer(opcode, name + b"\0" + rest)) == (opcode, Code.CC_BADNAME, b"")
    assert alice.get_cache_uuid_list() == []


@pytest.mark.parametrize("name", [b"1000:a/b", b"1000: ", b"1000:\xff%2F", b"1000:" + b"\xff" * 1019])
def test_any_own_name_works(server: Server, alice: Asking, name: bytes) -> None:
    """An own name may be any bytes except NUL up to 1,024: all requests accept it, also after a restart."""
    alice.initialize(name, ALICE)
    alice.store(name, TICKET)
    alice.set_default_cache(name)
    again = server.restarted().ask_as(1000)
    assert again.get_default_cache() == name
    (uuid,) = again.get_cache_uuid_list()
    assert again.get_cache_by_uuid(uuid) == name
    assert again.get_cred_list(name) == [TICKET]
    again.destroy(name)
    assert server.restarted().ask_as(1000).get_cache_uuid_list() == []


def test_empty_name_is_the_default(alice: Asking) -> None:
    """No name means the default (Heimdal's clients under KRB5CCNAME=KCM:), wherever a name is asked for."""
    with refused(Code.FCC_NOFILE):
        alice.get_principal(b"")
    alice.set_default_cache(b"1000:a")
    alice.initialize(b"", ALICE)
    alice.store(b"", TICKET)
    assert alice.get_name(b"") == b"1000:a"
    assert alice.get_cred_list(b"1000:a") == alice.get_cred_list(b"") == [TICKET]
    alice.move_cache(b"", b"1000:b")
    assert alice.get_default_cache() == b"1000:b"
    alice.initialize(b"1000:c", ALICE)
    alice.move_cache(b"1000:c", b"")
    assert alice.get_cred_list(b"1000:b") == []
    alice.destroy(b"")
    assert alice.get_cache_uuid_list() == []


def test_empty_name_is_never_another_uids_ccache(root: Asking, bobs: Asking) -> None:
    """Root's default may be a user's ccache: then an empty name finds nothing, and creates nothing."""
    root.set_default_cache(b"2000")
    with refused(Code.FCC_NOFILE):
        root.get_principal(b"")
    with refused(Code.FCC_NOFILE):
        root.initialize(b"", ALICE)
    assert root.get_cache_uuid_list() == []
    unchanged(bobs)


# Root


def test_root_reads_and_changes_any_ccache(root: Asking, bobs: Asking) -> None:
    """Root reads and changes a user's ccache by its name; it stays the user's."""
    assert root.get_principal(b"2000") == BOB
    assert root.get_cred_list(b"2000") == [TICKET]
    (uuid,) = root.get_cred_uuid_list(b"2000")
    assert root.get_cred_by_uuid(b"2000", uuid) == TICKET
    root.set_kdc_offset(b"2000", 9)
    assert bobs.get_kdc_offset(b"2000") == 9
    root.destroy(b"2000")
    assert bobs.get_cache_uuid_list() == []


def test_ccache_that_root_creates_for_a_user(server: Server, root: Asking, bob: Asking) -> None:
    """A ccache that root creates under a UID belongs to that UID, is in its list, and not in root's."""
    root.initialize(b"2000:x", BOB)
    root.store(b"2000:x", TICKET)
    for asking in (bob, server.restarted().ask_as(2000)):
        (uuid,) = asking.get_cache_uuid_list()
        assert asking.get_cache_by_uuid(uuid) == b"2000:x"
        assert asking.get_cred_list(b"2000:x") == [TICKET]
    assert root.get_cache_uuid_list() == []
    bob.destroy(b"2000:x")


def test_free_names_belong_to_root(server: Server, root: Asking, alice: Asking) -> None:
    """A free name that root creates belongs to root: it is in its list, and nobody else's."""
    root.initialize(b"foobar", ALICE)
    for asking in (root, server.restarted().ask_as(0)):
        (uuid,) = asking.get_cache_uuid_list()
        assert asking.get_cache_by_uuid(uuid) == b"foobar"
    assert alice.get_cache_uuid_list() == []
    with refused(Code.CC_BADNAME):
        alice.get_principal(b"foobar")


def test_gen_new_for_root(root: Asking) -> None:
    """GEN_NEW returns names of root's own for root; too long ones are bad for root as well."""
    assert root.gen_new().startswith(b"0:")
    with refused(Code.CC_BADNAME):
        root.initialize(b"x" * 1025, ALICE)
    root.initialize(b"x" * 1024, ALICE)


def test_set_default_by_root_moves_only_roots_default(root: Asking, bobs: Asking) -> None:
    """SET_DEFAULT_CACHE by root moves root's default, whichever UID's ccache it names."""
    root.initialize(b"0", ALICE)
    bobs.initialize(b"2000:a", BOB)
    root.set_default_cache(b"2000:a")
    assert root.get_default_cache() == b"2000:a"
    assert root.get_principal(b"2000:a") == BOB
    assert bobs.get_default_cache() == b"2000"


def test_root_moves_between_users(server: Server, root: Asking, alice: Asking, bobs: Asking) -> None:
    """MOVE_CACHE by root from one user to another creates or overwrites there, and removes here."""
    alice.initialize(b"1000", ALICE)
    root.move_cache(b"2000", b"1000:from bob")
    root.move_cache(b"1000:from bob", b"1000")
    for mine, theirs in [(alice, bobs), (server.restarted().ask_as(1000), server.restarted().ask_as(2000))]:
        assert mine.get_principal(b"1000") == BOB
        assert mine.get_cred_list(b"1000") == [TICKET]
        assert len(mine.get_cache_uuid_list()) == 1
        assert theirs.get_cache_uuid_list() == []


def test_root_lists_its_own_ccaches(root: Asking, alice: Asking, bobs: Asking) -> None:
    """Without `root_lists_all` root's list is root's own."""
    alice.initialize(b"1000", ALICE)
    assert root.get_cache_uuid_list() == []
    root.initialize(b"0", ALICE)
    assert len(root.get_cache_uuid_list()) == 1


def test_root_lists_all_ccaches(runner: asyncio.Runner, store: Store) -> None:
    """With `root_lists_all` root's list is everyone's, its own first, and every UUID finds its name."""
    server = Server(runner, store, root_lists_all=True)
    alice, bob, root = (server.ask_as(uid) for uid in (1000, 2000, 0))
    assert root.get_cache_uuid_list() == []
    bob.initialize(b"2000", BOB)
    alice.initialize(b"1000", ALICE)
    alice.initialize(b"1000:a", ALICE)
    root.initialize(b"0", ALICE)
    wanted = [b"0", b"1000", b"1000:a", b"2000"]
    for asking in (root, Server(runner, store, root_lists_all=True).ask_as(0)):
        assert [asking.get_cache_by_uuid(uuid) for uuid in asking.get_cache_uuid_list()] == wanted
    for nowhere in (bytes(16), b"\xff" * 16):
        with refused(Code.CC_END):
            root.get_cache_by_uuid(nowhere)
    (uuid,) = bob.get_cache_uuid_list()
    assert len(alice.get_cache_uuid_list()) == 2
    with refused(Code.CC_END):
        alice.get_cache_by_uuid(uuid)


def test_uids_with_equal_digits_are_separate(server: Server) -> None:
    """Users whose UIDs begin with the same digits have nothing in common."""
    uids = [1, 10, 100, 1000]
    for uid in uids:
        server.ask_as(uid).initialize(b"%d:x" % uid, ALICE)
    again = server.restarted()
    for uid in uids:
        asking = again.ask_as(uid)
        assert [asking.get_cache_by_uuid(u) for u in asking.get_cache_uuid_list()] == [b"%d:x" % uid]


def test_ccache_keeps_the_label_of_its_creator(server: Server) -> None:
    """A ccache keeps the label of the peer that created it, also after a restart and another's REPLACE."""
    server.ask_as(1000, "u:r:t:s0:c1").initialize(b"1000", ALICE)
    server.ask_as(1000, "u:r:t:s0:c2").replace(b"1000", 0, BOB, [])
    again = server.restarted()
    again.ask_as(1000).noop()
    collection = again.runner.run(again.collection_cache.get(1000))
    assert [ccache.label for ccache in collection] == ["u:r:t:s0:c1"]
