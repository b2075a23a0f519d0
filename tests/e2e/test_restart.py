"""Restarts: acknowledged changes remain, however the daemon ended; the memory store forgets."""

from collections.abc import Iterator

import pytest

from pykcm.client import KcmClient

from .clients import HeimdalClient, Listed, MitClient
from .conftest import USER, started
from .credentials import for_server
from .daemon import Pykcmd, effective_uid
from .database import open_database
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
OWN = f"KCM:{USER}"
NAME = b"%d" % USER


def test_restart_keeps_everything(pykcmd: Pykcmd, mit: MitClient) -> None:
    """Tickets, their order, configuration entries, names and the default are the same."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test", "HTTP/www.pykcm.test")
    mit.kinit("bob")
    mit.kinit("carol", ccache=f"KCM:{USER}:a/b c")
    mit.ok("kswitch", "-p", "alice")
    before = mit.klist_all(), mit.ok("klist", "-A", "-C", "-f", "-e")
    assert before[0][0] == Listed(OWN, ALICE, [TGT, "host/server.pykcm.test", "HTTP/www.pykcm.test"])
    assert len(before[0]) == 3
    pykcmd.restart()
    assert (mit.klist_all(), mit.ok("klist", "-A", "-C", "-f", "-e")) == before
    # The tickets still work, and new ones are appended.
    assert mit.kvno("nfs/files.pykcm.test") == [f"nfs/files.pykcm.test@{REALM}: kvno = 1"]
    assert mit.klist().tickets[-1] == "nfs/files.pykcm.test"


def test_restart_restores_nothing_destroyed(pykcmd: Pykcmd, mit: MitClient) -> None:
    """Destroyed and replaced tickets do not return, and the chosen default remains."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    mit.kinit("alice")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    mit.ok("kdestroy")
    pykcmd.restart()
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{bobs}' not found\n")
    mit.ok("kdestroy", "-A")
    pykcmd.restart()
    assert mit.klist_l() == []
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{bobs}' not found\n")


def test_kill_after_each_command_loses_nothing(pykcmd: Pykcmd, mit: MitClient) -> None:

    def kill() -> None:
        pykcmd.kill()
        pykcmd.start()

    mit.kinit("alice")
    kill()
    mit.kvno("host/server.pykcm.test")
    kill()
    assert mit.klist() == Listed(OWN, ALICE, [TGT, "host/server.pykcm.test"])
    mit.kinit("bob")
    bobs = mit.klist().ccache
    kill()
    mit.ok("kswitch", "-p", "alice")
    kill()
    assert mit.klist().principal == ALICE
    mit.ok("kdestroy", "-c", bobs)
    kill()
    assert mit.klist_l() == [(ALICE, OWN)]


def test_kill_after_store_loses_nothing(pykcmd: Pykcmd, mit: MitClient) -> None:
    """Every acknowledged STORE is there after a SIGKILL, complete and in order."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        expected = kcm.get_cred_list(NAME)
    ticket = expected[-1]
    for attempt in range(5):
        with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
            for index in range(10):
                blob = for_server(b"service%d-%d" % (attempt, index), ticket)
                kcm.store(NAME, blob)
                expected.append(blob)
            pykcmd.kill()
        pykcmd.start()
        with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
            assert kcm.get_cred_list(NAME) == expected


def test_unanswered_replace_is_complete_or_absent(pykcmd: Pykcmd, mit: MitClient) -> None:
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        (*_, ticket) = before = kcm.get_cred_list(NAME)
        principal = kcm.get_principal(NAME)
    after = [for_server(b"replaced%d" % index, ticket) for index in range(200)]
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.replace(NAME, 0, principal, after)
        pykcmd.kill()
        with pytest.raises((OSError, EOFError)):
            kcm.replace(NAME, 0, principal, before)
    pykcmd.start()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_cred_list(NAME) == after


def test_kdc_offset_survives_restart(pykcmd: Pykcmd, mit: MitClient) -> None:
    """A client's KDC offset remains after a restart and a kill; INITIALIZE removes it."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_kdc_offset(NAME) == 0
        kcm.set_kdc_offset(NAME, -7200)
    pykcmd.restart()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_kdc_offset(NAME) == -7200
        kcm.set_kdc_offset(NAME, 2**31 - 1)
    pykcmd.kill()
    pykcmd.start()
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert kcm.get_kdc_offset(NAME) == 2**31 - 1
        kcm.initialize(NAME, kcm.get_principal(NAME))
        assert kcm.get_kdc_offset(NAME) == 0


def test_clients_use_the_kdc_offset(pykcmd: Pykcmd, mit: MitClient, heimdal: HeimdalClient) -> None:
    """With a wrong stored offset, the KDC refuses the client's requests."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.set_kdc_offset(NAME, 36000)
    pykcmd.restart()
    assert heimdal.run("kgetcred", "host/server.pykcm.test").code == 1
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.set_kdc_offset(NAME, 0)
    assert heimdal.ok("kgetcred", "host/server.pykcm.test") == ""


@pytest.fixture
def forgetful_pykcmd(stopped_pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A daemon with the memory store."""
    stopped_pykcmd.store = "memory"
    with started(stopped_pykcmd) as daemon:
        yield daemon


def test_memory_store_forgets(forgetful_pykcmd: Pykcmd, mit: MitClient) -> None:
    """It serves like the other one, writes nothing, and logs no error."""
    mit.kinit("alice")
    mit.kvno("host/server.pykcm.test")
    mit.kinit("bob")
    mit.ok("kswitch", "-p", "alice")
    assert mit.klist() == Listed(OWN, ALICE, [TGT, "host/server.pykcm.test"])
    forgetful_pykcmd.restart()
    assert mit.klist_l() == []
    assert mit.run("klist")[1:] == (1, f"klist: Credentials cache '{OWN}' not found\n")
    mit.kinit("bob")
    assert mit.klist() == Listed(OWN, f"bob@{REALM}", [TGT])
    assert "error" not in forgetful_pykcmd.log.lower()
    state = forgetful_pykcmd.state_dir
    assert not state.exists() or list(state.iterdir()) == []


def test_nothing_readable_is_on_disk(pykcmd: Pykcmd, mit: MitClient) -> None:
    """The files of the state folder contain no principals or tickets, and are private."""
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        ticket = kcm.get_cred_list(NAME)[-1]
    assert pykcmd.stop() == 0
    assert pykcmd.state_dir.stat().st_mode & 0o077 == 0
    files = [path for path in pykcmd.state_dir.iterdir() if path.is_file()]
    assert len(files) >= 2
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        content = path.read_bytes()
        assert b"alice" not in content, path
        assert ticket[-64:] not in content, path
        assert not content.startswith(b"SQLite format"), path


def test_damaged_secret_affects_one_ccache(pykcmd: Pykcmd, mit: MitClient) -> None:
    """The secret is kept, its ccache is unavailable, and other ccaches work."""
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:work")
    assert pykcmd.stop() == 0
    with open_database(pykcmd.state_dir) as database:
        changed = database.execute(
            "UPDATE secrets SET value = '{\"version\":' WHERE name LIKE ?", (f"%-{USER}:work",)
        )
        assert changed.rowcount == 1
        kept = database.execute("SELECT count(*) FROM secrets").fetchone()
    pykcmd.start()
    assert mit.klist_all() == [Listed(OWN, ALICE, [TGT])]
    ran = mit.run("klist", ccache=f"{OWN}:work")
    assert ran[1:] == (1, "klist: Input/output error\n")
    assert f"{USER}:work" in pykcmd.log
    assert pykcmd.stop() == 0
    with open_database(pykcmd.state_dir) as database:
        assert database.execute("SELECT count(*) FROM secrets").fetchone() == kept
    pykcmd.start()
    assert mit.ok("kdestroy", ccache=f"{OWN}:work") == ""
    mit.kinit("bob", ccache=f"{OWN}:work")
    assert mit.klist(ccache=f"{OWN}:work") == Listed(f"{OWN}:work", f"bob@{REALM}", [TGT])
