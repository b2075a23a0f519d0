"""Root's default ccache, which may be another UID's."""

import asyncio

import pytest

from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Store
from tests.builders import ALICE, BOB, refused, ticket
from tests.server.asking import Server
from tests.server.programs import fill, kdestroy, klist

SHORT, LONG = ticket(ends=5000).blob, ticket(ends=9000).blob

# Processes.
SSHD, OTHER = 11, 13


@pytest.fixture(params=[False, True], ids=["own list", "root_lists_all"])
def roots(request: pytest.FixtureRequest, runner: asyncio.Runner, store: Store) -> Server:
    """A server on which root has chosen UID 2000's ccache as its default, beside one of its own."""
    server = Server(runner, store, root_lists_all=request.param)
    server.ask_as(2000).initialize(b"2000:x", BOB)
    fill(server.ask_as(0), b"0:own", LONG)
    server.ask_as(0).set_default_cache(b"2000:x")
    return server


def test_root_may_choose_another_uids_ccache(roots: Server) -> None:
    """Another UID's ccache is root's default while it exists, and again when it exists again."""
    for each in (roots, roots.restarted()):
        assert klist(each.ask_as(0)) == (b"2000:x", BOB)
    roots.ask_as(2000).destroy(b"2000:x")
    for each in (roots, roots.restarted()):
        assert klist(each.ask_as(0)) == (b"0:own", ALICE)
    roots.ask_as(2000).initialize(b"2000:x", BOB)
    assert klist(roots.ask_as(0)) == (b"2000:x", BOB)


def test_root_falls_back_on_its_own_name(roots: Server) -> None:
    """If the chosen ccache no longer exists, root's own name is the default, never another's."""
    fill(roots.ask_as(2000), b"2000:other", LONG)
    roots.ask_as(2000).destroy(b"2000:x")
    roots.ask_as(0).destroy(b"0:own")
    for each in (roots, roots.restarted()):
        assert each.ask_as(0).get_default_cache() == b"0"
    fill(roots.ask_as(0), b"0:again", LONG)
    assert klist(roots.ask_as(0)) == (b"0:again", ALICE)


def test_root_process_keeps_another_uids_free_name(roots: Server) -> None:
    """The process that chose another UID's free name gets it; others get root's own name."""
    one = roots.connect(0, SSHD)
    one.set_default_cache(b"2000:new")
    assert one.get_default_cache() == b"2000:new"
    assert roots.connect(0, OTHER).get_default_cache() == b"0:own"


def test_kdestroy_of_roots_default(roots: Server) -> None:
    """After kdestroy of another UID's ccache root's own is the default; of its own, there is none."""
    fill(roots.ask_as(0), b"0:b", SHORT)
    assert kdestroy(roots.ask_as(0)) == b"2000:x"
    assert klist(roots.ask_as(0)) == (b"0:own", ALICE)
    assert kdestroy(roots.ask_as(0)) == b"0:own"
    for each in (roots, roots.restarted()):
        assert each.ask_as(0).get_default_cache() == b"0"
        with refused(Code.FCC_NOFILE):
            klist(each.ask_as(0))


def test_empty_name_of_root_is_never_another_uids(roots: Server) -> None:
    """Without a name root gets an error for another UID's ccache, and its own ccache afterwards."""
    with refused(Code.FCC_NOFILE):
        roots.ask_as(0).get_principal(b"")
    roots.ask_as(2000).destroy(b"2000:x")
    assert roots.ask_as(0).get_name(b"") == b"0:own"
    roots.ask_as(0).destroy(b"")
    assert roots.ask_as(0).get_default_cache() == b"0"


def test_roots_default_while_both_users_are_busy(roots: Server) -> None:
    """Concurrent requests of root and of the other UID are all answered."""
    store = (2000, Opcode.STORE, b"2000:x\0" + LONG)
    asking = (0, Opcode.GET_DEFAULT_CACHE, b"")
    moving = (0, Opcode.MOVE_CACHE, b"2000:x\0" + b"0:moved\0")
    answers = roots.answers([store, asking, store, asking, moving, asking])
    assert [code for code, _ in answers] == [0] * 6
    assert answers[5][1] in {b"0:own\0", b"0:moved\0"}
