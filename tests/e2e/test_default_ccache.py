"""What moves the default and what does not, and a login service's order of calls, as sshd has it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError

from .clients import HeimdalClient, Listed, MitClient
from .conftest import USER, started
from .daemon import Pykcmd, effective_uid
from .kdc import REALM
from .waiting import wait_until

TGT = f"krbtgt/{REALM}"
OWN = f"KCM:{USER}"

# The one that every user may run.
PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_delegated_ticket_becomes_the_default(mit: MitClient, pykcmd: Pykcmd, *, restarts: bool) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE, INITIALIZE, STORE: then it is the default, and the old one beside it."""
    mit.kinit("alice")
    old = mit.klist()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        # A name and nothing else: no ccache yet.
        assert name.startswith(b"%d:" % USER)
        assert len(kcm.get_cache_uuid_list()) == 1
        assert kcm.get_default_cache() == b"%d" % USER
        kcm.set_default_cache(name)
        assert kcm.get_default_cache() == name
        with pytest.raises(KcmError) as missing:
            kcm.get_principal(name)
        assert missing.value.code == Code.FCC_NOFILE
    ccache = f"KCM:{name.decode()}"
    # Until the name is filled, other processes go on with what is there.
    assert mit.klist() == old
    assert mit.klist_all() == [old]
    if restarts:
        pykcmd.restart()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        (*_, ticket) = kcm.get_cred_list(b"%d" % USER)
        kcm.initialize(name, kcm.get_principal(b"%d" % USER))
        kcm.store(name, ticket)
    forwarded = Listed(ccache, f"alice@{REALM}", [TGT])
    assert mit.klist() == forwarded
    assert mit.klist_all() == [forwarded, old]
    assert mit.kvno("host/server.pykcm.test")
    assert mit.klist().tickets == [TGT, "host/server.pykcm.test"]


def test_initialize_never_moves_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """INITIALIZE of another ccache leaves the default where it is, even while that names no ccache."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        own = kcm.get_default_cache()
        principal = kcm.get_principal(own)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own
        kcm.destroy(own)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache 'KCM:{USER}' not found\n")
    assert [listed.principal for listed in mit.klist_all()] == [f"alice@{REALM}"] * 2


@pytest.mark.parametrize("is_default", [False, True])
def test_a_default_that_is_moved(mit: MitClient, pykcmd: Pykcmd, *, is_default: bool) -> None:
    """MOVE_CACHE of the default takes the default along, of another does not; a restart keeps it."""
    mit.kinit("alice")
    mit.kinit("bob", "-c", f"KCM:{USER}:old")
    mit.kvno("host/server.pykcm.test", ccache=f"KCM:{USER}:old")
    if is_default:
        mit.ok("kswitch", "-c", f"KCM:{USER}:old")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.move_cache(b"%d:old" % USER, b"%d:new" % USER)
    alices = Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT])
    bobs = Listed(f"KCM:{USER}:new", f"bob@{REALM}", [TGT, "host/server.pykcm.test"])
    for _ in range(2):
        assert mit.klist_all() == ([bobs, alices] if is_default else [alices, bobs])
        assert mit.klist() == (bobs if is_default else alices)
        pykcmd.restart()


def test_logging_out(mit: MitClient, pykcmd: Pykcmd) -> None:
    """When the session's ccache is destroyed and it was the only one, its name stays the default's."""
    mit.kinit("alice", ccache=f"KCM:{USER}:other")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        kcm.set_default_cache(name)
        kcm.move_cache(b"%d:other" % USER, name)
    assert mit.klist() == Listed(f"KCM:{name.decode()}", f"alice@{REALM}", [TGT])
    assert mit.ok("kdestroy", "-c", f"KCM:{name.decode()}") == ""
    mit.kinit("bob")
    assert mit.klist_all() == [Listed(f"KCM:{name.decode()}", f"bob@{REALM}", [TGT])]


def test_default_that_was_reaped(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """When the default has expired and is removed, klist shows the ticket that is left."""
    stopped_pykcmd.configure("expired_retention = 0\nreap_interval = 1\n")
    with started(stopped_pykcmd):
        mit.kinit("bob", ccache=f"{OWN}:short")
        mit.kinit("alice", ccache=f"{OWN}:long")
        mit.kinit("bob", "-l", "2s", ccache=f"{OWN}:short")
        mit.ok("kswitch", "-c", f"{OWN}:short")
        wait_until(lambda: [each.ccache for each in mit.klist_all()] == [f"{OWN}:long"])
        for _ in range(2):
            assert mit.klist() == Listed(f"{OWN}:long", f"alice@{REALM}", [TGT])
            stopped_pykcmd.restart()


def test_first_ccache_without_a_switch(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A ccache that was made by its name alone is what klist shows; a later plain kinit does not hide it."""
    mit.kinit("alice", ccache=f"{OWN}:x")
    assert mit.klist() == Listed(f"{OWN}:x", f"alice@{REALM}", [TGT])
    assert mit.kvno("host/server.pykcm.test")
    pykcmd.restart()
    assert mit.klist().ccache == f"{OWN}:x"


def test_the_own_name_stays_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """Where nothing was chosen, a ccache made by its name does not take the place of the UID's own one."""
    mit.kinit("alice", "-l", "1h")
    mit.kinit("bob", ccache=f"{OWN}:x")
    assert mit.klist().principal == f"alice@{REALM}"


@pytest.mark.parametrize("flavour", ["mit", "heimdal"])
def test_klist_finds_nothing_after_kdestroy(
    request: pytest.FixtureRequest, mit: MitClient, pykcmd: Pykcmd, flavour: str
) -> None:
    """After a plain kdestroy there is no default, also after a restart, until another ccache is chosen."""
    client: MitClient | HeimdalClient = request.getfixturevalue(flavour)
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:other")
    client.ok("kdestroy", ccache="KCM:")
    for _ in range(2):
        assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{OWN}' not found\n")
        pykcmd.restart()
    mit.ok("kswitch", "-p", "bob")
    assert mit.klist().principal == f"bob@{REALM}"


def test_ccache_destroyed_by_its_name(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A ccache that is destroyed by its name, as at a logout, leaves the other session with its ticket."""
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:second")
    mit.ok("kswitch", "-p", "bob")
    mit.ok("kdestroy", "-c", f"{OWN}:second")
    for _ in range(2):
        assert mit.klist().principal == f"alice@{REALM}"
        pykcmd.restart()


@pytest.fixture
def collection(mit: MitClient, folder: Path) -> Callable[..., list[dict[str, object]]]:
    """Runs a process of the user that goes through these steps; gives what it sees after each."""
    if shutil.which(PYTHON) is None:
        pytest.skip(f"no {PYTHON}: others than root cannot run the one in use")
    program = shutil.copy(Path(__file__).with_name("krb5_collection.py"), folder)

    def run(*steps: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in mit.ok(PYTHON, str(program), *steps).splitlines()]

    return run


def sees(primary: int, holder: int | None, listed: list[int]) -> dict[str, object]:
    """What krb5_collection.py prints where each ccache that is listed is found by its principal."""
    found = [number if number in listed else None for number in range(3)]
    return {"primary": primary, "holder": holder, "listed": listed, "found": found}


def test_one_process_sees_its_own_choices(
    pykcmd: Pykcmd, collection: Callable[..., list[dict[str, object]]]
) -> None:
    """A program that holds its ccaches open is given the names that it chose, filled or not."""
    steps = {
        "look:0": sees(0, None, []),
        # The first name was given to the process, and waits for it while others are filled.
        "initialize:1": sees(0, None, [1]),
        "initialize:2": sees(0, None, [1, 2]),
        "initialize:0": sees(0, 0, [0, 1, 2]),
        "switch:1": sees(1, 1, [1, 2, 0]),
        "switch:2": sees(2, 2, [2, 1, 0]),
        "switch:0": sees(0, 0, [0, 1, 2]),
        "destroy:0": sees(0, None, [1, 2]),
    }
    assert collection(*steps) == list(steps.values())


def test_an_empty_collection_keeps_the_chosen_name(
    pykcmd: Pykcmd, collection: Callable[..., list[dict[str, object]]]
) -> None:
    """A chosen name stays chosen before its ccache is made, and after it was destroyed as the last one."""
    steps = {
        "switch:1": sees(1, None, []),
        "initialize:2": sees(1, None, [2]),
        "initialize:1": sees(1, 1, [1, 2]),
        "destroy:2": sees(1, 1, [1]),
        "destroy:1": sees(1, None, []),
    }
    assert collection(*steps) == list(steps.values())
