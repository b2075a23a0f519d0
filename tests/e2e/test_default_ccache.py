"""Changes of the default ccache, and the order of calls of a login service such as sshd."""

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

# The interpreter that every user may run.
PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("restarts", [False, True])
def test_delegated_ticket_becomes_the_default(mit: MitClient, pykcmd: Pykcmd, *, restarts: bool) -> None:
    """The calls of sshd, GEN_NEW to STORE, make a new default ccache; the old one remains."""
    mit.kinit("alice")
    old = mit.klist()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        # Only a name: there is no ccache yet.
        assert name.startswith(b"%d:" % USER)
        assert len(kcm.get_cache_uuid_list()) == 1
        assert kcm.get_default_cache() == b"%d" % USER
        kcm.set_default_cache(name)
        assert kcm.get_default_cache() == name
        with pytest.raises(KcmError) as missing:
            kcm.get_principal(name)
        assert missing.value.code == Code.FCC_NOFILE
    ccache = f"KCM:{name.decode()}"
    # Until the ccache is created, other processes continue to use the existing ones.
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


def test_initialize_keeps_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """INITIALIZE of another ccache does not change the default, even if the default does not exist."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        own_name = kcm.get_default_cache()
        principal = kcm.get_principal(own_name)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own_name
        kcm.destroy(own_name)
        kcm.initialize(kcm.gen_new(), principal)
        assert kcm.get_default_cache() == own_name
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache 'KCM:{USER}' not found\n")
    assert [listed.principal for listed in mit.klist_all()] == [f"alice@{REALM}"] * 2


@pytest.mark.parametrize("is_default", [False, True])
def test_move_cache_takes_the_default_along(mit: MitClient, pykcmd: Pykcmd, *, is_default: bool) -> None:
    """MOVE_CACHE of the default ccache moves the default as well; a restart keeps it."""
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


def test_name_of_destroyed_ccache_stays_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """If the destroyed ccache of a session was the only one, its name remains the default."""
    mit.kinit("alice", ccache=f"KCM:{USER}:other")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        name = kcm.gen_new()
        kcm.set_default_cache(name)
        kcm.move_cache(b"%d:other" % USER, name)
    assert mit.klist() == Listed(f"KCM:{name.decode()}", f"alice@{REALM}", [TGT])
    assert mit.ok("kdestroy", "-c", f"KCM:{name.decode()}") == ""
    mit.kinit("bob")
    assert mit.klist_all() == [Listed(f"KCM:{name.decode()}", f"bob@{REALM}", [TGT])]


def test_remaining_ccache_replaces_reaped_default(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """When the expired default ccache is removed, klist shows the remaining ticket."""
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


def test_first_named_ccache_is_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A ccache that was created by name is what klist shows; a later plain kinit does not hide it."""
    mit.kinit("alice", ccache=f"{OWN}:x")
    assert mit.klist() == Listed(f"{OWN}:x", f"alice@{REALM}", [TGT])
    assert mit.kvno("host/server.pykcm.test")
    pykcmd.restart()
    assert mit.klist().ccache == f"{OWN}:x"


def test_ccache_named_after_uid_stays_the_default(mit: MitClient, pykcmd: Pykcmd) -> None:
    """If no default was chosen, a ccache created by name does not replace the one named after the UID."""
    mit.kinit("alice", "-l", "1h")
    mit.kinit("bob", ccache=f"{OWN}:x")
    assert mit.klist().principal == f"alice@{REALM}"


@pytest.mark.parametrize("flavour", ["mit", "heimdal"])
def test_klist_finds_nothing_after_kdestroy(
    request: pytest.FixtureRequest, mit: MitClient, pykcmd: Pykcmd, flavour: str
) -> None:
    """After a plain kdestroy there is no default ccache until another is chosen, also after a restart."""
    client: MitClient | HeimdalClient = request.getfixturevalue(flavour)
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:other")
    client.ok("kdestroy", ccache="KCM:")
    for _ in range(2):
        assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{OWN}' not found\n")
        pykcmd.restart()
    mit.ok("kswitch", "-p", "bob")
    assert mit.klist().principal == f"bob@{REALM}"


def test_destroying_a_named_ccache_keeps_other_sessions(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A logout destroys its ccache by name, and the other session keeps its ticket."""
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:second")
    mit.ok("kswitch", "-p", "bob")
    mit.ok("kdestroy", "-c", f"{OWN}:second")
    for _ in range(2):
        assert mit.klist().principal == f"alice@{REALM}"
        pykcmd.restart()


@pytest.fixture
def collection(mit: MitClient, folder: Path) -> Callable[..., list[dict[str, object]]]:
    """Runs a process of the user that executes these steps; returns its view after each."""
    if shutil.which(PYTHON) is None:
        pytest.skip(f"no {PYTHON}: others than root cannot run the one in use")
    program = shutil.copy(Path(__file__).with_name("krb5_collection.py"), folder)

    def run(*steps: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in mit.ok(PYTHON, str(program), *steps).splitlines()]

    return run


def sees(primary: int, holder: int | None, listed: list[int]) -> dict[str, object]:
    """The output of krb5_collection.py if each listed ccache is found by its principal."""
    found = [number if number in listed else None for number in range(3)]
    return {"primary": primary, "holder": holder, "listed": listed, "found": found}


def test_process_sees_names_that_it_chose(
    pykcmd: Pykcmd, collection: Callable[..., list[dict[str, object]]]
) -> None:
    """A process that holds its ccaches open gets the names that it chose, created or not."""
    steps = {
        "look:0": sees(0, None, []),
        # The first name is reserved for the process while other ccaches are created.
        "initialize:1": sees(0, None, [1]),
        "initialize:2": sees(0, None, [1, 2]),
        "initialize:0": sees(0, 0, [0, 1, 2]),
        "switch:1": sees(1, 1, [1, 2, 0]),
        "switch:2": sees(2, 2, [2, 1, 0]),
        "switch:0": sees(0, 0, [0, 1, 2]),
        "destroy:0": sees(0, None, [1, 2]),
    }
    assert collection(*steps) == list(steps.values())


def test_empty_collection_keeps_the_chosen_name(
    pykcmd: Pykcmd, collection: Callable[..., list[dict[str, object]]]
) -> None:
    """A name remains chosen before its ccache is created, and after the last ccache is destroyed."""
    steps = {
        "switch:1": sees(1, None, []),
        "initialize:2": sees(1, None, [2]),
        "initialize:1": sees(1, 1, [1, 2]),
        "destroy:2": sees(1, 1, [1]),
        "destroy:1": sees(1, None, []),
    }
    assert collection(*steps) == list(steps.values())
