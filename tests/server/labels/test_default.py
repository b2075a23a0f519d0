"""The default of peers with SELinux labels, in the order of the requests of real programs."""

import asyncio
import re

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Store
from pykcm.store.tree import DEFAULT, uid_container
from tests.builders import ALICE, BOB, TGS, credential_bytes, refused
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.labels.conftest import Ask
from tests.server.programs import kinit, kinit_another, klist, listed
from tests.storing import secrets_of

TICKET = credential_bytes(TGS)
FREE_NAME = re.compile(rb"1000:[0-9a-f]{8}")


def test_plain_kcm_works_in_two_containers(ask: Ask) -> None:
    """Plain KCM: works in two containers of one UID: each lists its own tickets, and nothing else."""
    assert kinit(ask(CONTAINER_1)) == b"1000"
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_2))
    second = kinit(ask(CONTAINER_2))
    assert FREE_NAME.fullmatch(second)
    for label, name in ((CONTAINER_1, b"1000"), (CONTAINER_2, second)):
        assert klist(ask(label)) == (name, ALICE)
        assert listed(ask(label)) == [name]
    assert listed(ask(HOST)) == [b"1000", second]


def test_given_default_stays_until_it_is_filled(ask: Ask) -> None:
    """The name that GET_DEFAULT_CACHE returned is the default when it is filled, whatever comes between."""
    kinit(ask(CONTAINER_1))
    name = ask(CONTAINER_2).get_default_cache()
    assert ask(CONTAINER_2).get_default_cache() == name
    kinit_another(ask(CONTAINER_1))
    kinit_another(ask(HOST))
    ask(CONTAINER_2).initialize(name, BOB)
    assert klist(ask(CONTAINER_2)) == (name, BOB)


def test_containers_move_only_their_own_default(ask: Ask) -> None:
    """Containers move neither the host's default nor each other's."""
    ask(HOST).initialize(b"1000:host", ALICE)
    ask(HOST).set_default_cache(b"1000:host")
    first = kinit_another(ask(CONTAINER_1))
    second = kinit_another(ask(CONTAINER_2))
    assert klist(ask(HOST)) == (b"1000:host", ALICE)
    assert klist(ask(CONTAINER_1)) == (first, BOB)
    assert klist(ask(CONTAINER_2)) == (second, BOB)


def test_host_moves_only_its_own_default(ask: Ask) -> None:
    """A container keeps the default that it has filled when the host moves to another ccache."""
    assert kinit(ask(CONTAINER_1)) == b"1000"
    hosts = kinit_another(ask(HOST))
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)
    assert klist(ask(HOST)) == (hosts, BOB)
    assert FREE_NAME.fullmatch(kinit(ask(CONTAINER_2)))


def test_move_in_a_container_takes_its_default_along(ask: Ask) -> None:
    """A ccache that a container moves takes the container's default along, and no other one."""
    kinit(ask(CONTAINER_1))
    ask(CONTAINER_1).initialize(b"1000:one", BOB)
    ask(CONTAINER_2).set_default_cache(b"1000:one")
    ask(CONTAINER_1).move_cache(b"1000", b"1000:secret")
    assert klist(ask(CONTAINER_1)) == (b"1000:secret", ALICE)
    ask(CONTAINER_1).move_cache(b"1000:one", b"1000:secret")
    ask(CONTAINER_1).initialize(b"1000:another", ALICE)
    ask(CONTAINER_1).destroy(b"1000:secret")
    assert ask(HOST).get_default_cache() == ask(CONTAINER_1).get_default_cache() == b"1000:another"
    assert ask(CONTAINER_2).get_default_cache() == b"1000:one"


def test_move_by_the_host_takes_the_shared_default_along(ask: Ask) -> None:
    """A ccache that the host moves takes the shared default along, and not the container's."""
    kinit(ask(CONTAINER_1))
    ask(HOST).move_cache(b"1000", b"1000:moved")
    assert klist(ask(HOST)) == (b"1000:moved", ALICE)
    # It takes the place of the container's, which is gone.
    assert ask(CONTAINER_1).get_default_cache() == b"1000:moved"
    assert kinit_another(ask(HOST)) == ask(HOST).get_default_cache()
    ask(CONTAINER_1).initialize(b"1000", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000", BOB)


def test_usable_shared_default_is_given(ask: Ask) -> None:
    """The shared default is given to a peer without a default of its range, if the peer may use it."""
    kinit(ask(HOST_LOW))
    moved = kinit_another(ask(HOST_LOW))
    assert klist(ask(CONTAINER_1)) == (moved, BOB)


def test_container_gets_another_default_than_the_host(ask: Ask) -> None:
    """A container that may not use the host's ccache gets a default of its range; the host keeps its."""
    assert kinit(ask(HOST)) == b"1000"
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_1))
    assert FREE_NAME.fullmatch(kinit(ask(CONTAINER_1)))
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_first_ccache_of_a_container_is_its_default(ask: Ask) -> None:
    """A ccache that a container creates by name is its default, while the host has its own."""
    kinit(ask(HOST))
    ask(CONTAINER_1).initialize(b"1000:x", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:x", BOB)
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_container_keeps_the_name_that_it_chose(server: Server) -> None:
    """Between SET_DEFAULT_CACHE and INITIALIZE the process in a container gets its name."""
    kinit(server.ask_as(1000, CONTAINER_1))
    one = server.connect(1000, 11, CONTAINER_1)
    one.set_default_cache(b"1000:new")
    assert one.get_default_cache() == b"1000:new"
    assert klist(server.connect(1000, 12, CONTAINER_1)) == (b"1000", ALICE)
    one.initialize(b"1000:new", BOB)
    assert klist(server.connect(1000, 12, CONTAINER_1)) == (b"1000:new", BOB)


def test_sshds_order_of_calls_in_a_container(ask: Ask) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE and INITIALIZE in a container set its default, and nobody else's."""
    kinit(ask(CONTAINER_1))
    name = ask(CONTAINER_2).gen_new()
    ask(CONTAINER_2).set_default_cache(name)
    ask(CONTAINER_2).initialize(name, BOB)
    assert klist(ask(CONTAINER_2)) == (name, BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)
    assert klist(ask(HOST)) == (b"1000", ALICE)


@pytest.mark.parametrize("first", [True, False], ids=["shared", "own"])
def test_default_filled_by_replace_stays_the_ranges(ask: Ask, first: bool) -> None:
    """A default that is filled by REPLACE also stays that of its range."""
    if not first:
        kinit(ask(CONTAINER_1))
    default = ask(CONTAINER_2).get_default_cache()
    ask(CONTAINER_2).replace(default, 0, BOB, [TICKET])
    kinit_another(ask(HOST))
    assert klist(ask(CONTAINER_2)) == (default, BOB)


@pytest.mark.parametrize("first", [True, False], ids=["shared", "own"])
def test_heimdals_order_of_calls_in_a_container(ask: Ask, first: bool) -> None:
    """Heimdal's kinit moves a new ccache to the default, and its programs give no name: all find it."""
    if not first:
        kinit(ask(CONTAINER_1))
    default = ask(CONTAINER_2).get_default_cache()
    new = ask(CONTAINER_2).gen_new()
    ask(CONTAINER_2).initialize(new, BOB)
    ask(CONTAINER_2).move_cache(new, default)
    if first:
        kinit_another(ask(HOST))
    assert ask(CONTAINER_2).get_principal(b"") == BOB
    assert klist(ask(CONTAINER_2)) == (default, BOB)


@pytest.mark.parametrize("label", [CONTAINER_2, HOST_LOW])
def test_empty_name_with_a_hidden_default(ask: Ask, label: str) -> None:
    """An empty name finds nothing while the default is hidden; filled, it is that range's default."""
    kinit(ask(CONTAINER_1))
    for opcode, rest in ((Opcode.GET_PRINCIPAL, b""), (Opcode.STORE, TICKET), (Opcode.DESTROY, b"")):
        assert ask(label).answer(opcode, b"\0" + rest) == (Code.FCC_NOFILE, b"")
    ask(label).initialize(b"", BOB)
    ask(label).store(b"", TICKET)
    name, principal = klist(ask(label))
    assert FREE_NAME.fullmatch(name)
    assert principal == BOB
    assert ask(label).get_principal(b"") == BOB
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)


def test_set_default_without_a_name_changes_nothing(ask: Ask) -> None:
    """SET_DEFAULT_CACHE without a name keeps the default."""
    kinit(ask(CONTAINER_1))
    ask(CONTAINER_2).set_default_cache(b"")
    name = kinit(ask(CONTAINER_2))
    ask(CONTAINER_2).set_default_cache(b"")
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_hidden_ccache_is_not_the_default(ask: Ask) -> None:
    """A default that names a hidden ccache is replaced by the free shared one, or a new name."""
    ask(CONTAINER_1).initialize(b"1000:one", ALICE)
    ask(CONTAINER_2).set_default_cache(b"1000:one")
    assert ask(CONTAINER_2).get_default_cache() == b"1000"
    ask(CONTAINER_1).initialize(b"1000", ALICE)
    name = kinit(ask(CONTAINER_2))
    assert FREE_NAME.fullmatch(name)
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_default_taken_by_another_label_is_replaced(ask: Ask) -> None:
    """A default that was destroyed and taken by another label is replaced by a new name."""
    kinit(ask(CONTAINER_1))
    taken = kinit(ask(CONTAINER_2))
    ask(CONTAINER_2).destroy(taken)
    ask(CONTAINER_1).initialize(taken, BOB)
    name = kinit(ask(CONTAINER_2))
    assert name not in {taken, b"1000"}
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_confined_peer_on_the_lowest_level_has_a_default(ask: Ask) -> None:
    """A peer at s0 that may not read the shared default gets one of its range; the host's stays."""
    kinit(ask(CONTAINER_1))
    own = kinit(ask(HOST_LOW))
    assert FREE_NAME.fullmatch(own)
    assert klist(ask(HOST)) == (b"1000", ALICE)
    another = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST_LOW)) == (another, BOB)
    assert klist(ask(HOST)) == (b"1000", ALICE)
    ask(CONTAINER_1).destroy(b"1000")
    another = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST_LOW)) == (another, BOB)


def test_confined_peer_sets_the_default_of_its_range(ask: Ask) -> None:
    """A peer at s0 that may not read the shared default sets the default of its range."""
    kinit(ask(CONTAINER_1))
    own = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST_LOW)) == (own, BOB)
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_peers_on_the_lowest_level_share_a_default(ask: Ask) -> None:
    """Peers at s0 share one default, whatever their type and range are: sshd's is the user's."""
    name = kinit_another(ask(HOST))
    assert klist(ask(HOST_LOW)) == (name, BOB)
    name = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST)) == (name, BOB)


def test_roots_choice_is_not_given_to_containers(server: Server) -> None:
    """Another UID's ccache that root chose is the host's default only, not that of root in a container."""
    server.ask_as(2000, HOST).initialize(b"2000", BOB)
    server.ask_as(0, HOST).set_default_cache(b"2000")
    assert server.ask_as(0, HOST).get_default_cache() == b"2000"
    inside = server.ask_as(0, CONTAINER_1)
    name = kinit(inside)
    assert re.fullmatch(rb"0:[0-9a-f]{8}", name)
    assert klist(inside) == (name, ALICE)


def test_root_in_a_container_sets_no_other_uids_default(server: Server) -> None:
    """A ccache that root in a container fills does not become the default of the UID that owns it."""
    server.ask_as(0, CONTAINER_1).initialize(b"2000", ALICE)
    server.ask_as(2000, HOST).initialize(b"2000:a", BOB)
    server.ask_as(2000, HOST).set_default_cache(b"2000:a")
    server.ask_as(2000, CONTAINER_1).destroy(b"2000")
    assert re.fullmatch(rb"2000:[0-9a-f]{8}", server.ask_as(2000, CONTAINER_1).get_default_cache())


def test_new_names_are_random(runner: asyncio.Runner, store: Store) -> None:
    """A new default name is random: it cannot be derived from other names."""
    kinit(Server(runner, store, policy=Mcs()).ask_as(1000, CONTAINER_1))
    drawn = set()
    for number in range(20):
        drawn.add(
            Server(runner, store, policy=Mcs()).ask_as(1000, f"u:r:t:s0:c{number + 3}").get_default_cache()
        )
    assert len(drawn) == 20
    assert all(FREE_NAME.fullmatch(name) for name in drawn)


def test_new_default_name_is_written_once(server: Server, one: Asking, two: Asking) -> None:
    """A new name is written once; filling the default or asking again writes nothing."""
    kinit(one)
    server.store.commits.clear()
    name = two.get_default_cache()
    assert [len(commit) for commit in server.store.commits] == [1]
    for _ in range(3):
        assert two.get_default_cache() == name
        one.get_default_cache()
    assert len(server.store.commits) == 1
    two.initialize(name, ALICE)
    assert [len(commit) for commit in server.store.commits] == [1, 1]
    one.initialize(b"1000", ALICE)
    assert not [change for change in server.store.commits[-1] if change.container == uid_container(1000)]
    again = server.restarted()
    again.ask_as(1000, HOST).set_default_cache(b"1000")
    assert again.ask_as(1000, CONTAINER_2).get_default_cache() == name
    assert again.store.commits == []


def test_number_of_stored_ranges_is_bounded(server: Server, one: Asking, two: Asking) -> None:
    """However many labels ask for a default, a limited number is kept, those of ccaches first."""
    kinit(one)
    name = kinit(two)
    for number in range(100):
        server.ask_as(1000, f"u:r:t:s0:c{number + 10}").get_default_cache()
    (secret,) = [
        each
        for each in server.runner.run(secrets_of(server.store, 1000))
        if (each.container, each.name) == (uid_container(1000), DEFAULT)
    ]
    assert secret.value.count(b"s0:c") == 64
    assert klist(two) == (name, ALICE)
    assert klist(server.restarted().ask_as(1000, CONTAINER_1)) == (b"1000", ALICE)
