"""The default of clients of one UID, in the order of the requests of real programs."""

import asyncio
import errno
import json
from collections.abc import Callable

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import Store
from pykcm.store.tree import DEFAULT, Put, uid_container
from tests.builders import ALICE, BOB, HTTP, credential_bytes, refused, ticket
from tests.server.asking import Asking, Server, answer, frame
from tests.server.programs import fill, kdestroy, kinit, kinit_another, klist
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of

SHORT, LONG = ticket(ends=5000).blob, ticket(ends=9000).blob
EXPIRED = ticket(ends=1400).blob

# Processes.
SSHD, SHELL, OTHER = 11, 12, 13


@pytest.fixture(params=["one service", "restarts"])
def ask(request: pytest.FixtureRequest, server: Server) -> Callable[[], Asking]:
    """Connects as a new process of UID 1000: to one service, and to one that is restarted each time."""
    if request.param == "restarts":
        return lambda: server.restarted().ask_as(1000)
    return lambda: server.ask_as(1000)


def test_broken_login_leaves_others_their_default(ask: Callable[[], Asking]) -> None:
    """An sshd that dies between SET_DEFAULT_CACHE and INITIALIZE leaves other sessions their default."""
    fill(ask(), b"1000", SHORT)
    sshd = ask()
    name = sshd.gen_new()
    sshd.set_default_cache(name)
    sshd.close()
    assert klist(ask()) == (b"1000", ALICE)
    # Should it be filled after all, it is the default.
    fill(ask(), name)
    assert klist(ask()) == (name, ALICE)


def test_refused_initialize_keeps_the_default(runner: asyncio.Runner, store: Store) -> None:
    """A refused INITIALIZE of the new default leaves the default as it was."""
    server = Server(runner, store, quotas=Quotas(max_uid_ccaches=1))
    fill(server.ask_as(1000), b"1000", SHORT)
    sshd = server.connect(1000, SSHD)
    name = sshd.gen_new()
    sshd.set_default_cache(name)
    with refused(errno.EDQUOT):
        sshd.initialize(name, BOB)
    assert sshd.get_default_cache() == name
    sshd.close()
    for each in (server, server.restarted()):
        assert klist(each.connect(1000, SSHD)) == (b"1000", ALICE)


def test_process_keeps_the_name_that_it_chose(server: Server) -> None:
    """Between SET_DEFAULT_CACHE and INITIALIZE only the process that chose the name gets it."""
    fill(server.ask_as(1000), b"1000", SHORT)
    sshd, again = server.connect(1000, SSHD), server.connect(1000, SSHD)
    name = sshd.gen_new()
    sshd.set_default_cache(name)
    assert sshd.get_default_cache() == again.get_default_cache() == name
    assert server.connect(1000, SHELL).get_default_cache() == b"1000"
    sshd.close()
    assert again.get_default_cache() == name
    again.close()
    assert server.connect(1000, SSHD).get_default_cache() == b"1000"


def test_process_keeps_the_free_default_that_it_got(server: Server) -> None:
    """A kinit that got the free default fills it, even if another ccache is created meanwhile."""
    kinit_ = server.connect(1000, SHELL)
    assert kinit_.get_default_cache() == b"1000"
    fill(server.connect(1000, OTHER), b"1000:x", LONG)
    assert server.connect(1000, OTHER).get_default_cache() == b"1000:x"
    assert kinit_.get_default_cache() == b"1000"
    fill(kinit_, b"1000", SHORT)
    assert klist(server.connect(1000, OTHER)) == (b"1000", ALICE)


def test_processes_without_a_pid_are_known_by_their_connections(server: Server) -> None:
    """Each connection of a client in another PID namespace counts as a process."""
    fill(server.ask_as(1000), b"1000", SHORT)
    one, two = server.connect(1000, 0), server.connect(1000, 0)
    one.set_default_cache(b"1000:new")
    assert one.get_default_cache() == b"1000:new"
    assert two.get_default_cache() == b"1000"


def test_process_gets_another_default_after_others_removed_it(server: Server) -> None:
    """A process that stays connected for days gets another default after its own was reaped."""
    fill(server.ask_as(1000), b"1000", LONG)
    staying = server.connect(1000, SHELL)
    staying.set_default_cache(b"1000:a")
    fill(staying, b"1000:a", SHORT)
    assert staying.get_default_cache() == b"1000:a"
    uuid = staying.get_cache_uuid_list()[1]
    server.runner.run(server.change(1000, lambda each: each.remove_expired([uuid], 5000)))
    assert staying.get_default_cache() == b"1000"


def test_process_that_destroys_its_choice_keeps_the_name(server: Server) -> None:
    """The process that chose and destroyed the ccache by name keeps its name; others get another ccache."""
    fill(server.ask_as(1000), b"1000", SHORT)
    one, other = server.connect(1000, SHELL), server.connect(1000, SHELL)
    fill(one, b"1000:a", SHORT)
    one.set_default_cache(b"1000:a")
    one.destroy(b"1000:a")
    one.close()
    assert other.get_default_cache() == b"1000:a"
    assert server.connect(1000, OTHER).get_default_cache() == b"1000"


def test_default_after_a_session_ends(ask: Callable[[], Asking]) -> None:
    """At logout sshd destroys its ccache by name; then that of the other session is the default."""
    fill(ask(), b"1000", SHORT)
    name = kinit_another(ask())
    assert klist(ask()) == (name, BOB)
    ask().destroy(name)
    assert klist(ask()) == (b"1000", ALICE)


def test_latest_session_has_the_default_after_one_ends(ask: Callable[[], Asking]) -> None:
    """Of the remaining sessions, the one whose TGT ends last has the default."""
    for name, end in ((b"1000:a", 3000), (b"1000:b", 4000), (b"1000:c", 3500)):
        fill(ask(), name, ticket(ends=end).blob)
        ask().set_default_cache(name)
    ask().destroy(b"1000:c")
    assert ask().get_default_cache() == b"1000:b"
    ask().destroy(b"1000:b")
    assert ask().get_default_cache() == b"1000:a"
    ask().destroy(b"1000:a")
    assert ask().get_default_cache() == b"1000:c"


@pytest.mark.parametrize("without_a_name", [False, True], ids=["MIT", "Heimdal"])
def test_kdestroy_leaves_no_default(ask: Callable[[], Asking], without_a_name: bool) -> None:
    """After a plain kdestroy klist finds nothing, even if other ccaches exist; kinit creates the default."""
    fill(ask(), b"1000", LONG)
    name = kinit_another(ask())
    if without_a_name:
        ask().destroy(b"")
    else:
        assert kdestroy(ask()) == name
    for _ in range(2):
        assert ask().get_default_cache() == name
        with refused(Code.FCC_NOFILE):
            klist(ask())
    assert kinit(ask()) == name
    assert klist(ask()) == (name, ALICE)
    ask().destroy(name)
    assert ask().get_default_cache() == b"1000"


def test_choice_after_kdestroy_counts(ask: Callable[[], Asking]) -> None:
    """A choice after a kdestroy counts, also of the same name that sshd fills later."""
    fill(ask(), b"1000", LONG)
    name = kinit_another(ask())
    kdestroy(ask())
    ask().set_default_cache(b"1000")
    assert klist(ask()) == (b"1000", ALICE)
    ask().set_default_cache(name)
    assert klist(ask()) == (b"1000", ALICE)


def test_kdestroy_of_a_substitute_leaves_no_default(ask: Callable[[], Asking]) -> None:
    """A plain kdestroy also leaves no default if nobody had chosen the ccache that klist showed."""
    fill(ask(), b"1000:a", LONG)
    fill(ask(), b"1000:b", SHORT)
    assert kdestroy(ask()) == b"1000:a"
    with refused(Code.FCC_NOFILE):
        klist(ask())
    assert kinit(ask()) == b"1000"


def test_first_ccache_after_kdestroy_of_the_last_is_the_default(ask: Callable[[], Asking]) -> None:
    """After a kdestroy of the last ccache the first new one is the default, whatever its name is."""
    fill(ask(), b"1000", LONG)
    kdestroy(ask())
    assert ask().get_default_cache() == b"1000"
    fill(ask(), b"1000:x", SHORT)
    assert klist(ask()) == (b"1000:x", ALICE)


def test_destroying_another_than_the_default_is_no_kdestroy(server: Server) -> None:
    """Destroying another ccache than the default, or an older default, keeps the default."""
    fill(server.ask_as(1000), b"1000", LONG)
    fill(server.ask_as(1000), b"1000:a", SHORT)
    one = server.ask_as(1000)
    assert one.get_default_cache() == b"1000"
    one.destroy(b"1000:a")
    fill(server.ask_as(1000), b"1000:b", SHORT)
    server.ask_as(1000).set_default_cache(b"1000:b")
    one.destroy(b"1000")
    server.ask_as(1000).destroy(b"1000:b")
    fill(server.ask_as(1000), b"1000:c", SHORT)
    assert klist(server.ask_as(1000)) == (b"1000:c", ALICE)


def test_kdestroy_counts_on_the_same_connection_only(server: Server) -> None:
    """Only the connection that got the default destroys it as the default."""
    fill(server.ask_as(1000), b"1000", LONG)
    fill(server.ask_as(1000), b"1000:a", SHORT)
    asked, other = server.connect(1000, SHELL), server.connect(1000, SHELL)
    assert asked.get_default_cache() == b"1000"
    other.destroy(b"1000")
    assert server.connect(1000, OTHER).get_default_cache() == b"1000:a"


@EMBEDDED_STORES
def test_failed_kdestroy_changes_nothing(server: Server) -> None:
    """A kdestroy that could not be stored has changed nothing."""
    fill(server.ask_as(1000), b"1000", LONG)
    fill(server.ask_as(1000), b"1000:a", LONG)
    server.store.refusal = lambda _: OSError(errno.ENOSPC, "full")
    asking = server.ask_as(1000)
    with refused(errno.EIO):
        kdestroy(asking)
    server.store.refusal = lambda _: None
    assert klist(asking) == klist(server.ask_as(1000)) == (b"1000", ALICE)


def test_empty_name_means_the_current_default(ask: Callable[[], Asking]) -> None:
    """Requests without a name also concern a ccache that takes the default's place."""
    fill(ask(), b"1000:x", SHORT)
    assert ask().get_name(b"") == b"1000:x"
    ask().store(b"", credential_bytes(HTTP))
    assert len(ask().get_cred_list(b"1000:x")) == 2
    ask().move_cache(b"", b"1000:y")
    assert klist(ask()) == (b"1000:y", ALICE)


def test_remaining_ccache_replaces_a_reaped_default(server: Server) -> None:
    """After the default is reaped, the remaining ccache is the default, also after a restart."""
    asking = server.ask_as(1000)
    fill(asking, b"1000", LONG)
    fill(asking, b"1000:a", SHORT)
    asking.set_default_cache(b"1000:a")
    uuid = asking.get_cache_uuid_list()[1]
    server.runner.run(server.change(1000, lambda each: each.remove_expired([uuid], 5000)))
    for each in (server, server.restarted()):
        assert klist(each.ask_as(1000)) == (b"1000", ALICE)


def test_latest_tgt_replaces_an_evicted_default(runner: asyncio.Runner, store: Store) -> None:
    """After a quota evicts the default, the ccache whose TGT ends last is the default."""
    server = Server(runner, store, quotas=Quotas(max_uid_ccaches=3))
    asking = server.ask_as(1000)
    for name, blob in ((b"1000:a", EXPIRED), (b"1000:b", LONG), (b"1000:c", SHORT)):
        fill(asking, name, blob)
    asking.set_default_cache(b"1000:a")
    fill(server.ask_as(1000), b"1000:d", SHORT)
    for each in (server, server.restarted()):
        assert each.ask_as(1000).get_default_cache() == b"1000:b"


def test_asking_for_the_default_writes_nothing(server: Server) -> None:
    """Asking for the default writes nothing, whichever ccache it is; a plain kdestroy writes once."""
    fill(server.ask_as(1000), b"1000:a", LONG)
    fill(server.ask_as(1000), b"1000:b", SHORT)
    server.store.commits.clear()
    for _ in range(3):
        assert server.ask_as(1000).get_default_cache() == b"1000:a"
    assert server.store.commits == []
    kdestroy(server.ask_as(1000))
    assert len(server.store.commits) == 1
    server.ask_as(1000).destroy(b"1000:b")
    assert server.runner.run(secrets_of(server.store, 1000)) == []


@EMBEDDED_STORES
def test_default_is_found_without_waiting(server: Server) -> None:
    """A collection in memory answers in a plain call, also if the default is a substitute."""
    asking = server.connect(1000, SHELL)
    fill(asking, b"1000:a", LONG)
    for name in (b"1000:a", b"1000:missing"):
        server.connect(1000, OTHER).set_default_cache(name)
        performing = answer(server.dispatcher, asking._who, frame(Opcode.GET_DEFAULT_CACHE))
        with pytest.raises(StopIteration):
            performing.send(None)


def test_finding_the_default_scans_no_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many credentials the ccaches have, none of them is examined."""
    asking = server.ask_as(1000)
    fill(asking, b"1000:a", LONG)
    fill(asking, b"1000:b", SHORT)
    asking.get_default_cache()

    def looked(_self: object) -> None:
        raise AssertionError("a credential was looked at")

    monkeypatch.setattr("pykcm.ccaches.credentials.Credentials.__iter__", looked)
    monkeypatch.setattr("pykcm.ccaches.credentials.Credentials.items", looked)
    assert asking.get_default_cache() == b"1000:a"


# The stored default


def test_default_of_an_older_version_is_read(runner: asyncio.Runner, store: Store) -> None:
    """A default that an older version wrote is read as a chosen one."""
    fill(Server(runner, store).ask_as(1000), b"1000", LONG)
    fill(Server(runner, store).ask_as(1000), b"1000:a", SHORT)
    secret = b'{"version":1,"name":"1000:a","own":{"s0:c1":"1000:b"}}'
    runner.run(commit_changes(store, [Put(uid_container(1000), DEFAULT, secret)]))
    assert Server(runner, store).ask_as(1000).get_default_cache() == b"1000:a"


def test_older_version_reads_the_default(server: Server) -> None:
    """An older version can read the stored default; a destroyed one adds one field."""
    alice = server.ask_as(1000)
    fill(alice, b"1000", LONG)
    name = kinit_another(alice)
    assert _stored_default(server) == {"version": 1, "name": name.decode()}
    kdestroy(alice)
    assert _stored_default(server) == {"version": 1, "name": name.decode(), "destroyed": True}


def _stored_default(server: Server) -> object:
    secrets = server.runner.run(secrets_of(server.store, 1000))
    (default,) = [each for each in secrets if (each.container, each.name) == (uid_container(1000), DEFAULT)]
    return json.loads(default.value)
