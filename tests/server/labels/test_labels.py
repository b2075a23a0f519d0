"""The labels that ccaches get and keep, and which peers of a UID share a ccache."""

import asyncio
import errno

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.codes import Code
from pykcm.store.interface import Store
from tests.builders import ALICE, BOB, TGS, credential_bytes, refused
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.programs import kinit, listed

TICKET = credential_bytes(TGS)


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


# Quotas


def test_quotas_count_hidden_ccaches(runner: asyncio.Runner, store: Store) -> None:
    """The quotas are the UID's: the space that one label uses is missing for another."""
    server = Server(runner, store, quotas=Quotas(max_uid_ccaches=1), policy=Mcs())
    server.ask_as(1000, CONTAINER_1).initialize(b"1000:a", ALICE)
    with refused(errno.EDQUOT):
        server.ask_as(1000, CONTAINER_2).initialize(b"1000:b", ALICE)
