"""The default of peers with SELinux labels after a kdestroy."""

from pykcm.protocol.codes import Code
from pykcm.store.tree import DEFAULT, uid_container
from tests.builders import ALICE, BOB, refused, ticket
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW
from tests.server.asking import Server
from tests.server.labels.conftest import Ask
from tests.server.programs import kdestroy, kinit, kinit_another, klist, listed
from tests.storing import secrets_of


def test_kdestroy_in_a_container_keeps_the_name(ask: Ask) -> None:
    """After kdestroy a container's default has the same, free name; kinit fills it again."""
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


def test_defaults_outlive_all_ccaches(server: Server, ask: Ask) -> None:
    """When the last ccache is destroyed, each peer keeps its default; nothing else is stored."""
    kinit(ask(CONTAINER_1))
    name = kinit(ask(CONTAINER_2))
    another = kinit_another(ask(CONTAINER_1))
    for each in listed(ask(HOST)):
        ask(HOST).destroy(each)
    (left,) = server.runner.run(secrets_of(server.store, 1000))
    assert (left.container, left.name) == (uid_container(1000), DEFAULT)
    for label, default in ((CONTAINER_2, name), (CONTAINER_1, another), (HOST, b"1000")):
        assert ask(label).get_default_cache() == default


def test_kdestroy_affects_one_range(ask: Ask) -> None:
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


def test_kdestroy_in_a_container_keeps_the_shared_choice(ask: Ask) -> None:
    """A container that destroys the shared default does not change the host's choice for others."""
    kinit(ask(HOST_LOW))
    shared = kinit_another(ask(HOST_LOW))
    assert kdestroy(ask(CONTAINER_1)) == shared
    with refused(Code.FCC_NOFILE):
        klist(ask(CONTAINER_1))
    for label in (HOST, HOST_LOW):
        assert klist(ask(label)) == (b"1000", ALICE)


def test_first_ccache_after_kdestroy_in_a_container(ask: Ask) -> None:
    """For a container whose last ccache was destroyed, the first new one is the default."""
    kinit(ask(HOST))
    kinit(ask(CONTAINER_1))
    kdestroy(ask(CONTAINER_1))
    ask(CONTAINER_1).initialize(b"1000:new", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:new", BOB)


def test_first_ccache_after_all_usable_ones_are_removed(ask: Ask) -> None:
    """The first new ccache is also the default if the others were removed after the kdestroy."""
    kinit(ask(HOST))
    kinit(ask(CONTAINER_1))
    ask(CONTAINER_1).initialize(b"1000:left", BOB)
    kdestroy(ask(CONTAINER_1))
    ask(CONTAINER_1).destroy(b"1000:left")
    ask(CONTAINER_1).initialize(b"1000:new", BOB)
    assert klist(ask(CONTAINER_1)) == (b"1000:new", BOB)


def test_substitute_is_usable_by_the_container(ask: Ask) -> None:
    """If its default was removed, a container gets the one of its ccaches that ends last."""
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
