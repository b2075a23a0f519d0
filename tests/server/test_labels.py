"""SELinux labels in the whole service, with a policy of categories."""

import asyncio
import errno
from collections.abc import Callable

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.peer.selinux import Permission
from pykcm.protocol.codes import Code
from pykcm.protocol.messages import NAME
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.tag import Tag
from pykcm.server.operations import OPERATIONS
from pykcm.store.interface import Store
from pykcm.store.tree import Put, Secret, ccaches_container
from tests.builders import ALICE, BOB, TGS, credential_bytes, data, principal_bytes, refused
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.programs import kinit, listed
from tests.storing import commit_changes, secrets_of

TICKET = credential_bytes(TGS)
TAG = Tag().pack()


@pytest.fixture
def server(runner: asyncio.Runner, store: Store) -> Server:
    """A service under a policy of categories, on an empty store of each kind in turn."""
    return Server(runner, store, policy=Mcs())


# Hidden ccaches

HIDDEN, MISSING, OWN = b"1000:hidden", b"1000:nobody", b"1000:own"

# What follows the name in each operation that names a ccache.
ABOUT_ONE = {
    Opcode.GET_NAME: b"",
    Opcode.RESOLVE: b"",
    Opcode.DESTROY: b"",
    Opcode.STORE: TICKET,
    Opcode.RETRIEVE: bytes(4) + TAG,
    Opcode.GET_PRINCIPAL: b"",
    Opcode.GET_CRED_UUID_LIST: b"",
    Opcode.GET_CRED_BY_UUID: bytes(16),
    Opcode.REMOVE_CRED: bytes(4) + TAG,
    Opcode.SET_FLAGS: bytes(4),
    Opcode.MOVE_CACHE: OWN + b"\0",
    Opcode.SET_DEFAULT_CACHE: b"",
    Opcode.GET_KDC_OFFSET: b"",
    Opcode.SET_KDC_OFFSET: bytes(4),
    Opcode.GET_CRED_LIST: b"",
}
CREATING = {
    Opcode.INITIALIZE: principal_bytes(BOB),
    Opcode.REPLACE: bytes(4) + principal_bytes(BOB) + b"\0\0\0\1" + data(TICKET),
}
WITHOUT_A_NAME = {
    Opcode.NOOP,
    Opcode.GEN_NEW,
    Opcode.GET_CACHE_UUID_LIST,
    Opcode.GET_CACHE_BY_UUID,
    Opcode.GET_DEFAULT_CACHE,
}


@pytest.fixture
def hidden(server: Server, one: Asking, two: Asking) -> Asking:
    """The other container's `1000:hidden` of one ticket, its default, beside this one's `1000:own`."""
    one.initialize(HIDDEN, ALICE)
    one.store(HIDDEN, TICKET)
    one.set_default_cache(HIDDEN)
    two.initialize(OWN, BOB)
    two.set_default_cache(OWN)
    return two


def untouched(one: Asking) -> None:
    assert one.get_principal(HIDDEN) == ALICE
    assert one.get_cred_list(HIDDEN) == [TICKET]
    assert one.get_kdc_offset(HIDDEN) == 0
    assert listed(one) == [HIDDEN]
    assert one.get_default_cache() == HIDDEN


def test_tables_have_every_operation() -> None:
    """The tables of this file have every supported operation, and mark those that name a ccache."""
    supported = {opcode for opcode, each in OPERATIONS.items() if each.run.__name__ != "not_supported"}
    assert supported == {*ABOUT_ONE, *CREATING, *WITHOUT_A_NAME}
    assert {opcode for opcode in supported if NAME in OPERATIONS[opcode].arguments} == {*ABOUT_ONE, *CREATING}


@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "read again"])
@pytest.mark.parametrize("opcode", ABOUT_ONE, ids=lambda opcode: opcode.name)
def test_hidden_ccache_is_answered_as_missing(
    server: Server, one: Asking, hidden: Asking, opcode: Opcode, restarted: bool
) -> None:
    """About a hidden ccache each operation answers exactly as about a missing one, and changes nothing."""
    if restarted:
        server = server.restarted()
        one, hidden = server.ask_as(1000, CONTAINER_1), server.ask_as(1000, CONTAINER_2)
    rest = ABOUT_ONE[opcode]
    answer = hidden.answer(opcode, HIDDEN + b"\0" + rest)
    assert answer == hidden.answer(opcode, MISSING + b"\0" + rest)
    free = {Opcode.RESOLVE: 0, Opcode.SET_FLAGS: 0, Opcode.SET_DEFAULT_CACHE: 0}
    wanted = free.get(opcode, Code.CC_END if opcode == Opcode.GET_CRED_BY_UUID else Code.FCC_NOFILE)
    assert answer == (wanted, b"")
    untouched(one)
    assert listed(hidden) == [OWN]


def test_hidden_uuids_find_nothing(server: Server, one: Asking, hidden: Asking) -> None:
    """The UUIDs of a hidden ccache and of its tickets find nothing, and are not listed."""
    (ccache,) = one.get_cache_uuid_list()
    (ticket,) = one.get_cred_uuid_list(HIDDEN)
    assert ccache not in hidden.get_cache_uuid_list()
    with refused(Code.CC_END):
        hidden.get_cache_by_uuid(ccache)
    for name in (HIDDEN, OWN):
        with refused(Code.CC_END):
            hidden.get_cred_by_uuid(name, ticket)


@pytest.mark.parametrize("opcode", CREATING, ids=lambda opcode: opcode.name)
def test_creating_a_hidden_name_is_refused(one: Asking, hidden: Asking, opcode: Opcode) -> None:
    """Creating a ccache with a hidden one's name is FCC_PERM, and changes neither."""
    assert hidden.answer(opcode, HIDDEN + b"\0" + CREATING[opcode]) == (Code.FCC_PERM, b"")
    with refused(Code.FCC_PERM):
        hidden.move_cache(OWN, HIDDEN)
    untouched(one)
    assert hidden.get_principal(OWN) == BOB


def test_gen_new_never_returns_a_hidden_name(hidden: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """GEN_NEW never returns a hidden ccache's name."""
    drawn = iter([b"hidden", b"own", b"free"])
    monkeypatch.setattr("pykcm.ccaches.lookup._random_suffix", lambda: next(drawn))
    assert hidden.gen_new() == b"1000:free"


def test_containers_see_only_their_own_ccaches(
    server: Server, one: Asking, two: Asking, host: Asking
) -> None:
    """Two containers of one UID see only their own ccaches, the host both; also after a restart."""
    one.initialize(b"1000:one", ALICE)
    two.initialize(b"1000:two", BOB)
    assert (listed(one), listed(two)) == ([b"1000:one"], [b"1000:two"])
    assert listed(host) == [b"1000:one", b"1000:two"]
    again = server.restarted()
    assert listed(again.ask_as(1000, CONTAINER_1)) == [b"1000:one"]
    assert listed(again.ask_as(1000, HOST)) == [b"1000:one", b"1000:two"]
    host.destroy(b"1000:one")
    assert (listed(one), listed(two)) == ([], [b"1000:two"])


def test_label_changes_when_the_host_overwrites(one: Asking, two: Asking, host: Asking) -> None:
    """A container's ccache keeps its label if the host moves it or adds to it, and not if overwritten."""
    one.initialize(b"1000:one", ALICE)
    host.store(b"1000:one", TICKET)
    host.move_cache(b"1000:one", b"1000:moved")
    assert listed(one) == [b"1000:moved"]
    assert listed(two) == []
    host.initialize(b"1000:of the host", ALICE)
    host.move_cache(b"1000:of the host", b"1000:moved")
    assert listed(one) == listed(two) == []
    assert host.get_principal(b"1000:moved") == ALICE


@pytest.mark.parametrize("way", ["INITIALIZE", "REPLACE", "MOVE_CACHE"])
def test_overwriting_takes_the_ccache_from_its_creator(server: Server, one: Asking, way: str) -> None:
    """A ccache that is overwritten with contents its creator may not read gets the writer's label."""
    one.initialize(b"1000:trap", ALICE)
    victim, root = server.ask_as(1000, HOST), server.ask_as(0, HOST)
    for asking in (victim, root):
        if way == "REPLACE":
            asking.replace(b"1000:trap", 0, ALICE, [TICKET])
        elif way == "INITIALIZE":
            asking.initialize(b"1000:trap", ALICE)
            asking.store(b"1000:trap", TICKET)
        else:
            asking.initialize(b"1000:new", ALICE)
            asking.store(b"1000:new", TICKET)
            asking.move_cache(b"1000:new", b"1000:trap")
        for again in (server, server.restarted()):
            container = again.ask_as(1000, CONTAINER_1)
            assert listed(container) == []
            with refused(Code.FCC_NOFILE):
                container.get_cred_list(b"1000:trap")
            assert again.ask_as(1000, HOST).get_cred_list(b"1000:trap") == [TICKET]


def test_refused_overwriting_keeps_the_label(runner: asyncio.Runner, store: Store) -> None:
    """A refused overwriting keeps the label."""
    server = Server(runner, store, quotas=Quotas(max_ccache_size=4000), policy=Mcs())
    one, host = server.ask_as(1000, CONTAINER_1), server.ask_as(1000, HOST)
    one.initialize(b"1000", ALICE)
    with refused(errno.EDQUOT):
        host.replace(b"1000", 0, ALICE, [credential_bytes(TGS, ticket=bytes(2000))])
    assert listed(one) == [b"1000"]


def test_container_overwrites_a_ccache_at_s0(server: Server, one: Asking, two: Asking) -> None:
    """A container that overwrites the ccache of a service at s0 has its ticket for itself."""
    server.ask_as(1000, HOST_LOW).initialize(b"1000", ALICE)
    one.replace(b"1000", 0, BOB, [TICKET])
    assert (listed(one), listed(two), listed(server.ask_as(1000, HOST_LOW))) == ([b"1000"], [], [])


def test_renewal_at_s0_keeps_the_ccache_from_containers(server: Server, one: Asking, host: Asking) -> None:
    """Containers still may not use a login shell's ccache after a process at s0 renewed its ticket."""
    host.initialize(b"1000", ALICE)
    server.ask_as(1000, HOST_LOW).replace(b"1000", 0, ALICE, [TICKET])
    assert listed(host) == [b"1000"]
    assert listed(one) == []


def test_whole_range_of_the_creator_counts(server: Server, one: Asking, host: Asking) -> None:
    """Containers may not use a ccache that a peer of s0-s0:c0.c1023 created."""
    host.initialize(b"1000:host", ALICE)
    for label in (CONTAINER_1, "system_u:system_r:container_t:s0"):
        with refused(Code.FCC_NOFILE):
            server.ask_as(1000, label).get_principal(b"1000:host")
        with refused(Code.FCC_PERM):
            server.ask_as(1000, label).initialize(b"1000:host", BOB)


def test_ccache_at_s0_is_readable_on_all_levels(server: Server, one: Asking) -> None:
    """All levels read a ccache of a peer at s0, and that peer reads nothing of a container."""
    low = server.ask_as(1000, HOST_LOW)
    low.initialize(b"1000:low", ALICE)
    assert one.get_principal(b"1000:low") == ALICE
    one.initialize(b"1000:one", ALICE)
    with refused(Code.FCC_NOFILE):
        low.get_principal(b"1000:one")


def test_user_without_categories_reads_sshds_ccache(server: Server, host: Asking) -> None:
    """A user without categories reads what a process with all of them (as sshd) stored for the user."""
    host.initialize(b"1000:host", ALICE)
    assert server.ask_as(1000, HOST_LOW).get_principal(b"1000:host") == ALICE


def test_label_opens_no_other_uids_ccaches(server: Server, one: Asking) -> None:
    """An equal label gives no access to another UID's ccaches."""
    one.initialize(b"1000", ALICE)
    with refused(Code.FCC_NOFILE):
        server.ask_as(2000, CONTAINER_1).get_principal(b"1000")


# Root


def test_root_in_a_container_is_confined_by_label(server: Server, one: Asking) -> None:
    """The rules hold for root too: a ccache that its label may not read does not exist for it."""
    one.initialize(b"1000", ALICE)
    for label, sees in [(CONTAINER_1, True), (CONTAINER_2, False), (HOST, True), (HOST_LOW, False)]:
        root = server.ask_as(0, label)
        if sees:
            assert root.get_principal(b"1000") == ALICE
        else:
            with refused(Code.FCC_NOFILE):
                root.get_principal(b"1000")
            with refused(Code.FCC_NOFILE):
                root.destroy(b"1000")
            with refused(Code.FCC_PERM):
                root.initialize(b"1000", BOB)


def test_roots_list_has_only_readable_ccaches(runner: asyncio.Runner, store: Store) -> None:
    """With `root_lists_all` root's list has everyone's ccaches that its label may read."""
    server = Server(runner, store, root_lists_all=True, policy=Mcs())
    server.ask_as(1000, CONTAINER_1).initialize(b"1000", ALICE)
    server.ask_as(2000, CONTAINER_2).initialize(b"2000", ALICE)
    server.ask_as(0, HOST_LOW).initialize(b"0", ALICE)
    assert listed(server.ask_as(0, HOST)) == [b"0", b"1000", b"2000"]
    assert listed(server.ask_as(0, CONTAINER_2)) == [b"0", b"2000"]
    (uuid,) = server.ask_as(1000, CONTAINER_1).get_cache_uuid_list()
    with refused(Code.CC_END):
        server.ask_as(0, CONTAINER_2).get_cache_by_uuid(uuid)


# Reading without writing


def test_read_only_ccache_cannot_be_changed(runner: asyncio.Runner, store: Store) -> None:
    """A ccache that may only be read is listed and read; every change of it is FCC_PERM."""
    server = Server(runner, store, policy=Mcs(CONTAINER_1))
    host, reader = server.ask_as(1000, HOST_LOW), server.ask_as(1000, CONTAINER_1)
    host.initialize(HIDDEN, ALICE)
    host.store(HIDDEN, TICKET)
    reader.initialize(OWN, BOB)
    assert listed(reader) == [HIDDEN, OWN]
    assert reader.get_cred_list(HIDDEN) == [TICKET]
    for opcode, rest in (ABOUT_ONE | CREATING).items():
        if opcode == Opcode.SET_DEFAULT_CACHE or not OPERATIONS[opcode].changes:
            continue
        assert (opcode, *reader.answer(opcode, HIDDEN + b"\0" + rest)) == (opcode, Code.FCC_PERM, b"")
    with refused(Code.FCC_PERM):
        reader.move_cache(OWN, HIDDEN)
    assert host.get_principal(HIDDEN) == ALICE
    assert host.get_cred_list(HIDDEN) == [TICKET]
    reader.set_default_cache(HIDDEN)
    assert reader.get_default_cache() == HIDDEN


def test_read_only_ccache_is_not_the_default(runner: asyncio.Runner, store: Store) -> None:
    """GET_DEFAULT_CACHE returns a name that the peer may create, not one that it may only read."""
    server = Server(runner, store, policy=Mcs(CONTAINER_1))
    kinit(server.ask_as(1000, HOST_LOW))
    name = kinit(server.ask_as(1000, CONTAINER_1))
    assert name != b"1000"


def test_write_only_ccache_is_hidden(
    server: Server, one: Asking, two: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ccache that may be written but not read is hidden as well, and its name is taken."""
    one.initialize(b"1000", ALICE)

    def write_everywhere(peer: str, target: str, permission: Permission) -> bool:
        return permission is Permission.WRITE or Mcs().allows(peer, target, permission)

    monkeypatch.setattr(server.policy, "allows", write_everywhere)
    for opcode in (Opcode.DESTROY, Opcode.STORE, Opcode.GET_PRINCIPAL):
        assert two.answer(opcode, b"1000\0" + ABOUT_ONE[opcode]) == (Code.FCC_NOFILE, b"")
    with refused(Code.FCC_PERM):
        two.initialize(b"1000", BOB)
    assert kinit(two) != b"1000"


# With and without labels


def test_ccache_without_a_label_is_at_the_lowest_level(runner: asyncio.Runner, store: Store) -> None:
    """A ccache that was stored without a label is at the lowest level: every peer of the UID reads it."""
    Server(runner, store).ask_as(1000).initialize(b"1000", ALICE)
    server = Server(runner, store, policy=Mcs())
    for label in (CONTAINER_1, CONTAINER_2, HOST, HOST_LOW):
        assert server.ask_as(1000, label).get_principal(b"1000") == ALICE
    server.ask_as(1000, CONTAINER_1).initialize(b"1000", BOB)
    assert listed(server.ask_as(1000, CONTAINER_2)) == []


def test_labels_do_not_count_after_selinux_is_disabled(runner: asyncio.Runner, store: Store) -> None:
    """Once the kernel has no SELinux, only the UID counts, and the shared default is the default."""
    labelled = Server(runner, store, policy=Mcs())
    kinit(labelled.ask_as(1000, CONTAINER_1))
    own = kinit(labelled.ask_as(1000, CONTAINER_2))
    without = Server(runner, store).ask_as(1000)
    assert listed(without) == [b"1000", own]
    assert without.get_default_cache() == b"1000"
    without.set_default_cache(own)
    assert Server(runner, store, policy=Mcs()).ask_as(1000, CONTAINER_2).get_default_cache() == own


@pytest.mark.parametrize("label", [None, "", "nonsense", "u:r:t:"])
def test_peer_without_a_valid_label_has_no_access(server: Server, one: Asking, label: str | None) -> None:
    """A peer whose label is missing or malformed gets nothing, and creates nothing."""
    one.initialize(b"1000", ALICE)
    nobody = server.ask_as(1000, label)
    assert nobody.get_cache_uuid_list() == []
    with refused(Code.FCC_NOFILE):
        nobody.get_principal(b"1000")
    with refused(Code.FCC_PERM):
        nobody.initialize(b"1000", BOB)
    for ask in (
        nobody.get_default_cache,
        lambda: nobody.set_default_cache(b"1000:a"),
        lambda: nobody.get_principal(b""),
    ):
        with refused(Code.FCC_PERM):
            ask()
    assert listed(one) == [b"1000"]
    assert one.get_default_cache() == b"1000"


@pytest.mark.parametrize("label", ["", "nonsense", "u:r:t:s0-", "u:r:t:s0 "])
def test_ccache_with_a_malformed_label_is_hidden(
    server: Server, runner: asyncio.Runner, store: Store, host: Asking, label: str
) -> None:
    """A ccache with a malformed label is hidden from everybody, where labels count."""
    Server(runner, store).ask_as(1000, label).initialize(b"1000", ALICE)
    assert host.get_cache_uuid_list() == []
    with refused(Code.FCC_NOFILE):
        host.get_principal(b"1000")
    with refused(Code.FCC_PERM):
        host.initialize(b"1000", ALICE)
    assert Server(runner, store).ask_as(1000).get_principal(b"1000") == ALICE


def test_ccaches_are_hidden_without_an_answer(
    server: Server, one: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer of the policy, ccaches are hidden: nothing is answered as if it were allowed."""
    one.initialize(b"1000", ALICE)

    def fail(_peer: str, _target: str, _permission: Permission) -> bool:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(server.policy, "allows", fail)
    assert one.get_cache_uuid_list() == []
    with refused(Code.FCC_NOFILE):
        one.get_principal(b"1000")


# Quotas


def test_quotas_count_hidden_ccaches(runner: asyncio.Runner, store: Store) -> None:
    """The quotas are the UID's: the space that one label uses is missing for another."""
    server = Server(runner, store, quotas=Quotas(max_uid_ccaches=1), policy=Mcs())
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:a", ALICE)
    with refused(errno.EDQUOT):
        server.ask_as(1000, CONTAINER_2).initialize(b"1000:b", ALICE)


# Ccaches whose secrets cannot be read


def spoil(server: Server, where: Callable[[Secret], bool]) -> Server:
    """A service that finds this secret of UID 1000 damaged."""
    (secret,) = [each for each in server.runner.run(secrets_of(server.store, 1000)) if where(each)]
    server.runner.run(commit_changes(server.store, [Put(secret.container, secret.name, b"spoilt")]))
    return server.restarted()


def test_damaged_ticket_by_label(server: Server, one: Asking) -> None:
    """A ccache with a damaged ticket answers EIO, and can be destroyed, for peers that may read it."""
    one.initialize(HIDDEN, ALICE)
    one.store(HIDDEN, TICKET)
    again = spoil(server, lambda secret: secret.container.endswith(HIDDEN.decode()))
    one, two = again.ask_as(1000, CONTAINER_1), again.ask_as(1000, CONTAINER_2)
    for opcode, rest in ABOUT_ONE.items():
        answer = two.answer(opcode, HIDDEN + b"\0" + rest)
        assert answer == two.answer(opcode, MISSING + b"\0" + rest), opcode
    with refused(Code.FCC_PERM):
        two.initialize(HIDDEN, BOB)
    with refused(errno.EIO):
        one.get_principal(HIDDEN)
    with refused(errno.EIO):
        one.initialize(HIDDEN, BOB)
    one.destroy(HIDDEN)
    two.initialize(HIDDEN, BOB)


@pytest.mark.parametrize("label", [CONTAINER_1, CONTAINER_2, HOST])
def test_ccache_with_an_unreadable_label_is_hidden(server: Server, one: Asking, label: str) -> None:
    """A ccache whose label cannot be read is hidden from every label, and its name is taken.

    A default that names it gives way to another one.
    """
    one.initialize(b"1000", ALICE)
    again = spoil(server, lambda secret: secret.container == ccaches_container(1000))
    asking = again.ask_as(1000, label)
    for opcode, rest in ABOUT_ONE.items():
        if opcode != Opcode.SET_DEFAULT_CACHE:
            answer = asking.answer(opcode, b"1000\0" + rest)
            assert answer == asking.answer(opcode, MISSING + b"\0" + rest), opcode
    with refused(Code.FCC_PERM):
        asking.initialize(b"1000", BOB)
    assert kinit(asking) != b"1000"
    Server(again.runner, again.store.inner).ask_as(1000).destroy(b"1000")
