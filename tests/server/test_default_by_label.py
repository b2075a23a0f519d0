"""The default of peers with SELinux labels, asked of the whole service in the order of the real programs."""

import asyncio
import re
from collections.abc import Callable

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Store
from pykcm.store.tree import DEFAULT, uid_container
from tests.builders import ALICE, BOB, TGS, credential_bytes, refused, ticket
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.programs import kinit, kinit_another, klist, listed
from tests.storing import secrets_of

TICKET = credential_bytes(TGS)
FREE_NAME_OF_2000 = re.compile(rb"2000:[0-9a-f]{8}")
FREE_NAME = re.compile(rb"1000:[0-9a-f]{8}")

Ask = Callable[[str], Asking]


@pytest.fixture
def server(runner: asyncio.Runner, store: Store) -> Server:
    """A service under a policy of categories, on an empty store of each kind in turn."""
    return Server(runner, store, policy=Mcs())


@pytest.fixture(params=["one service", "restarts"])
def ask(request: pytest.FixtureRequest, server: Server) -> Ask:
    """Asks as UID 1000 of a label; in turn of one service, and of one that was restarted each time."""
    if request.param == "restarts":
        return lambda label: server.restarted().ask_as(1000, label)
    return lambda label: server.ask_as(1000, label)


def test_two_containers(ask: Ask) -> None:
    """Plain KCM: works in both of two containers of one UID: each lists what it got, and nothing else."""
    assert kinit(ask(CONTAINER_1)) == b"1000"
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_2))
    second = kinit(ask(CONTAINER_2))
    assert FREE_NAME.fullmatch(second)
    for label, name in ((CONTAINER_1, b"1000"), (CONTAINER_2, second)):
        assert klist(ask(label)) == (name, ALICE)
        assert listed(ask(label)) == [name]
    assert listed(ask(HOST)) == [b"1000", second]


def test_between_the_calls(ask: Ask) -> None:
    """The name that GET_DEFAULT_CACHE gave is the default when it is filled, whatever comes between."""
    kinit(ask(CONTAINER_1))
    name = ask(CONTAINER_2).get_default_cache()
    assert ask(CONTAINER_2).get_default_cache() == name
    kinit_another(ask(CONTAINER_1))
    kinit_another(ask(HOST))
    ask(CONTAINER_2).initialize(name, BOB)
    assert klist(ask(CONTAINER_2)) == (name, BOB)


def test_containers_move_their_own(ask: Ask) -> None:
    """What containers do does not move the host's default, nor each other's."""
    ask(HOST).initialize(b"1000:host", ALICE)
    ask(HOST).set_default_cache(b"1000:host")
    first = kinit_another(ask(CONTAINER_1))
    second = kinit_another(ask(CONTAINER_2))
    assert klist(ask(HOST)) == (b"1000:host", ALICE)
    assert klist(ask(CONTAINER_1)) == (first, BOB)
    assert klist(ask(CONTAINER_2)) == (second, BOB)


def test_the_host_moves_its_own(ask: Ask) -> None:
    """A container goes on with the default that it has filled when the host moves to another ccache."""
    assert kinit(ask(CONTAINER_1)) == b"1000"
    hosts = kinit_another(ask(HOST))
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)
    assert klist(ask(HOST)) == (hosts, BOB)
    assert FREE_NAME.fullmatch(kinit(ask(CONTAINER_2)))


def test_containers_move_ccaches(ask: Ask) -> None:
    """A ccache that a container moves takes its own default along, and shows its name by no other one."""
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


def test_the_host_moves_a_containers_ccache(ask: Ask) -> None:
    """A ccache that the host moves takes the shared default along, and not the container's own."""
    kinit(ask(CONTAINER_1))
    ask(HOST).move_cache(b"1000", b"1000:moved")
    assert klist(ask(HOST)) == (b"1000:moved", ALICE)
    # It takes the place of the container's, which is gone.
    assert ask(CONTAINER_1).get_default_cache() == b"1000:moved"
    assert kinit_another(ask(HOST)) == ask(HOST).get_default_cache()
    ask(CONTAINER_1).initialize(b"1000", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000", BOB)


def test_the_shared_default(ask: Ask) -> None:
    """The shared default, as long as it is within reach, is given to whoever has none yet."""
    kinit(ask(HOST_LOW))
    moved = kinit_another(ask(HOST_LOW))
    assert klist(ask(CONTAINER_1)) == (moved, BOB)


def test_the_host_first(ask: Ask) -> None:
    """A container that cannot reach the host's ccache gets a default of its own, and the host keeps its."""
    assert kinit(ask(HOST)) == b"1000"
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_1))
    assert FREE_NAME.fullmatch(kinit(ask(CONTAINER_1)))
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_kdestroy(ask: Ask) -> None:
    """After kdestroy a container's default is the same name, and free; kinit fills it again."""
    kinit(ask(CONTAINER_1))
    name = kinit(ask(CONTAINER_2))
    ask(CONTAINER_1).destroy(b"1000")
    assert klist(ask(CONTAINER_2)) == (name, ALICE)
    ask(HOST).initialize(b"1000:host", ALICE)
    ask(CONTAINER_2).destroy(name)
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_2))
    assert kinit(ask(CONTAINER_2)) == name
    assert kinit(ask(CONTAINER_1)) == b"1000"


def test_when_all_is_gone(server: Server, ask: Ask) -> None:
    """When the last ccache goes, each peer keeps the default that it had; nothing else is stored."""
    kinit(ask(CONTAINER_1))
    name = kinit(ask(CONTAINER_2))
    another = kinit_another(ask(CONTAINER_1))
    for each in listed(ask(HOST)):
        ask(HOST).destroy(each)
    (left,) = server.runner.run(secrets_of(server.store, 1000))
    assert (left.container, left.name) == (uid_container(1000), DEFAULT)
    for label, default in ((CONTAINER_2, name), (CONTAINER_1, another), (HOST, b"1000")):
        assert ask(label).get_default_cache() == default


def kdestroy(asking: Asking) -> bytes:
    """MIT's kdestroy with plain KCM:; gives the ccache's name."""
    name = asking.get_default_cache()
    asking.destroy(name)
    return name


def test_kdestroy_is_of_one_range(ask: Ask) -> None:
    """A plain kdestroy leaves its own range without a default, and no other one."""
    for label in (HOST, CONTAINER_1, CONTAINER_2):
        kinit(ask(label))
        kinit_another(ask(label))
    gone = kdestroy(ask(CONTAINER_1))
    assert ask(CONTAINER_1).get_default_cache() == gone
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_1))
    for label in (HOST, CONTAINER_2):
        assert klist(ask(label))[1] == BOB
    gone = kdestroy(ask(HOST))
    assert ask(HOST).get_default_cache() == gone
    assert klist(ask(CONTAINER_2))[1] == BOB


def test_kdestroy_of_a_default_that_others_share(ask: Ask) -> None:
    """A container that destroys the shared default as its own takes the host's choice from nobody else."""
    kinit(ask(HOST_LOW))
    shared = kinit_another(ask(HOST_LOW))
    assert kdestroy(ask(CONTAINER_1)) == shared
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_1))
    for label in (HOST, HOST_LOW):
        assert klist(ask(label)) == (b"1000", ALICE)


def test_kdestroy_of_the_only_one_within_reach_begins_anew(ask: Ask) -> None:
    """For a container whose last ccache it was, the first one that it makes is the default."""
    kinit(ask(HOST))
    kinit(ask(CONTAINER_1))
    kdestroy(ask(CONTAINER_1))
    ask(CONTAINER_1).initialize(b"1000:new", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:new", BOB)


def test_reach_that_shrinks_to_nothing_begins_anew(ask: Ask) -> None:
    """The same when what was left after the kdestroy has gone as well."""
    kinit(ask(HOST))
    kinit(ask(CONTAINER_1))
    ask(CONTAINER_1).initialize(b"1000:left", BOB)
    kdestroy(ask(CONTAINER_1))
    ask(CONTAINER_1).destroy(b"1000:left")
    ask(CONTAINER_1).initialize(b"1000:new", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:new", BOB)


def test_what_stands_in_is_within_reach(ask: Ask) -> None:
    """In place of a default that is gone a container gets the one of its own that ends last."""
    gone = kinit(ask(CONTAINER_1))
    for label, name, end in (
        (CONTAINER_1, b"1000:a", 3000),
        (CONTAINER_1, b"1000:b", 4000),
        (CONTAINER_1, b"1000:c", 3500),
        (CONTAINER_2, b"1000:two", 9000),
        (HOST, b"1000:host", 9000),
    ):
        ask(label).initialize(name, BOB)
        ask(label).store(name, ticket(ends=end).blob)
    ask(CONTAINER_1).destroy(gone)
    assert klist(ask(CONTAINER_1)) == (b"1000:b", BOB)
    assert klist(ask(CONTAINER_2)) == (b"1000:two", BOB)


def test_first_ccache_of_a_container_without_a_switch(ask: Ask) -> None:
    """A ccache that a container makes by its name is its default, while the host has its own."""
    kinit(ask(HOST))
    ask(CONTAINER_1).initialize(b"1000:x", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:x", BOB)
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_a_container_goes_on_with_a_name_that_it_chose(server: Server) -> None:
    """Between SET_DEFAULT_CACHE and INITIALIZE the process in a container is given its name."""
    kinit(server.ask_as(1000, CONTAINER_1))
    one = server.connect(1000, 11, CONTAINER_1)
    one.set_default_cache(b"1000:new")
    assert one.get_default_cache() == b"1000:new"
    assert klist(server.connect(1000, 12, CONTAINER_1)) == (b"1000", ALICE)
    one.initialize(b"1000:new", BOB)
    assert klist(server.connect(1000, 12, CONTAINER_1)) == (b"1000:new", BOB)


def test_order_of_sshd(ask: Ask) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE, INITIALIZE in a container make its default, and nobody else's."""
    kinit(ask(CONTAINER_1))
    name = ask(CONTAINER_2).gen_new()
    ask(CONTAINER_2).set_default_cache(name)
    ask(CONTAINER_2).initialize(name, BOB)
    assert klist(ask(CONTAINER_2)) == (name, BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)
    assert klist(ask(HOST)) == (b"1000", ALICE)


@pytest.mark.parametrize("first", [True, False], ids=["shared", "own"])
def test_order_of_newer_clients(ask: Ask, first: bool) -> None:
    """A default that is filled by REPLACE stays its label's, too."""
    if not first:
        kinit(ask(CONTAINER_1))
    default = ask(CONTAINER_2).get_default_cache()
    ask(CONTAINER_2).replace(default, 0, BOB, [TICKET])
    kinit_another(ask(HOST))
    assert klist(ask(CONTAINER_2)) == (default, BOB)


@pytest.mark.parametrize("first", [True, False], ids=["shared", "own"])
def test_order_of_heimdal(ask: Ask, first: bool) -> None:
    """Heimdal's kinit moves a new ccache to the default, and its other programs name none: all find it."""
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
def test_no_name_where_the_default_is_hidden(ask: Ask, label: str) -> None:
    """No name leads nowhere while the default is hidden; filled, it is that label's default."""
    kinit(ask(CONTAINER_1))
    for opcode, rest in ((Opcode.GET_PRINCIPAL, b""), (Opcode.STORE, TICKET), (Opcode.DESTROY, b"")):
        assert ask(label).answer(opcode, b"\0" + rest) == (Code.FCC_NOFILE, b"")
    ask(label).initialize(b"", BOB)
    ask(label).store(b"", TICKET)
    name, whose = klist(ask(label))
    assert FREE_NAME.fullmatch(name)
    assert whose == BOB
    assert ask(label).get_principal(b"") == BOB
    assert klist(ask(CONTAINER_1)) == (b"1000", ALICE)


def test_no_name_as_the_new_default(ask: Ask) -> None:
    """SET_DEFAULT_CACHE without a name leaves the default what it is."""
    kinit(ask(CONTAINER_1))
    ask(CONTAINER_2).set_default_cache(b"")
    name = kinit(ask(CONTAINER_2))
    ask(CONTAINER_2).set_default_cache(b"")
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_a_hidden_name_as_the_default(ask: Ask) -> None:
    """A default that names a hidden ccache gives way: to the shared one if that is free, or a new name."""
    ask(CONTAINER_1).initialize(b"1000:one", ALICE)
    ask(CONTAINER_2).set_default_cache(b"1000:one")
    assert ask(CONTAINER_2).get_default_cache() == b"1000"
    ask(CONTAINER_1).initialize(b"1000", ALICE)
    name = kinit(ask(CONTAINER_2))
    assert FREE_NAME.fullmatch(name)
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_a_default_that_another_has_taken(ask: Ask) -> None:
    """A default of its own that was destroyed and taken by another label gives way to a new name."""
    kinit(ask(CONTAINER_1))
    taken = kinit(ask(CONTAINER_2))
    ask(CONTAINER_2).destroy(taken)
    ask(CONTAINER_1).initialize(taken, BOB)
    name = kinit(ask(CONTAINER_2))
    assert name not in {taken, b"1000"}
    assert klist(ask(CONTAINER_2)) == (name, ALICE)


def test_confined_on_the_lowest_level(ask: Ask) -> None:
    """A peer at s0 that may not read the shared default has its own; the unconstrained host's stays."""
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


def test_confined_that_sets_a_default_at_once(ask: Ask) -> None:
    """A peer at s0 that may not read the shared default and sets one, sets its own."""
    kinit(ask(CONTAINER_1))
    own = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST_LOW)) == (own, BOB)
    assert klist(ask(HOST)) == (b"1000", ALICE)


def test_the_lowest_level_shares(ask: Ask) -> None:
    """Peers of the host at s0 have one default, whatever their type and range: sshd's is the user's."""
    name = kinit_another(ask(HOST))
    assert klist(ask(HOST_LOW)) == (name, BOB)
    name = kinit_another(ask(HOST_LOW))
    assert klist(ask(HOST)) == (name, BOB)


def test_roots_default_may_be_anothers(server: Server) -> None:
    """A user's ccache that root makes its default is the host's only: root in a container is not given it."""
    server.ask_as(2000, HOST).initialize(b"2000", BOB)
    server.ask_as(0, HOST).set_default_cache(b"2000")
    assert server.ask_as(0, HOST).get_default_cache() == b"2000"
    inside = server.ask_as(0, CONTAINER_1)
    name = kinit(inside)
    assert re.fullmatch(rb"0:[0-9a-f]{8}", name)
    assert klist(inside) == (name, ALICE)


def test_root_sets_no_default_of_others(server: Server) -> None:
    """What root in a container fills is not by that the default of the UID it belongs to, for any label."""
    server.ask_as(0, CONTAINER_1).initialize(b"2000", ALICE)
    server.ask_as(2000, HOST).initialize(b"2000:a", BOB)
    server.ask_as(2000, HOST).set_default_cache(b"2000:a")
    server.ask_as(2000, CONTAINER_1).destroy(b"2000")
    assert FREE_NAME_OF_2000.fullmatch(server.ask_as(2000, CONTAINER_1).get_default_cache())


def test_free_names_differ(runner: asyncio.Runner, store: Store) -> None:
    """A chosen name is drawn at random: nothing that others know leads to it."""
    kinit(Server(runner, store, policy=Mcs()).ask_as(1000, CONTAINER_1))
    drawn = set()
    for number in range(20):
        drawn.add(
            Server(runner, store, policy=Mcs()).ask_as(1000, f"u:r:t:s0:c{number + 3}").get_default_cache()
        )
    assert len(drawn) == 20
    assert all(FREE_NAME.fullmatch(name) for name in drawn)


def test_what_is_written(server: Server, one: Asking, two: Asking) -> None:
    """A chosen name is written once, and a default that is filled or asked for again not at all."""
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


def test_bounded(server: Server, one: Asking, two: Asking) -> None:
    """However many labels ask for a default, only so many are kept, those of ccaches first of all."""
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
