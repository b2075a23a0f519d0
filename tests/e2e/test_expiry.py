"""Expired ccaches with the real daemon: they are evicted or reaped, and klist shows it."""

import time

from pykcm.cli.names import format_user
from pykcm.client import KcmClient
from tests.builders import credential_bytes, principal

from .clients import Listed, MitClient
from .conftest import USER, started
from .credentials import lasting_until
from .daemon import LIMIT, Pykcmd, effective_uid
from .database import open_database
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
OWN = f"KCM:{USER}"
NAME = b"%d" % USER
AT_ONCE = "expired_retention = 0\nreap_interval = 1\n"


def _wait_for_log(daemon: Pykcmd, text: str) -> None:
    deadline = time.monotonic() + LIMIT
    while text not in daemon.log:
        assert daemon.running
        assert time.monotonic() < deadline, f"{text!r} is not in the log"
        time.sleep(0.02)


def _expire(daemon: Pykcmd, name: bytes, *, ago: int) -> None:
    """Store the ccache's tickets again as if they had ended this many seconds ago."""
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        principal = kcm.get_principal(name)
        blobs = [lasting_until(int(time.time()) - ago, blob) for blob in kcm.get_cred_list(name)]
        kcm.replace(name, 0, principal, blobs)


def test_short_tickets_are_reaped(pykcmd: Pykcmd, mit: MitClient) -> None:
    """A TGT of one second is listed while it is retained, and removed soon afterwards."""
    mit.kinit("alice", "-l", "1s")
    mit.kinit("bob")
    bobs = mit.klist().ccache
    assert len(mit.klist_all()) == 2
    assert pykcmd.stop() == 0
    pykcmd.configure(AT_ONCE)
    pykcmd.start()
    _wait_for_log(pykcmd, f"{format_user(USER)}: expired ccache KCM:{USER} removed (expired_retention)")
    assert mit.klist_all() == [Listed(bobs, f"bob@{REALM}", [TGT])]
    pykcmd.restart()
    assert mit.klist_all() == [Listed(bobs, f"bob@{REALM}", [TGT])]
    # Bob's ccache remains the default.
    assert mit.klist().ccache == bobs


def test_database_of_older_version_is_reaped(pykcmd: Pykcmd, mit: MitClient) -> None:
    """A ccache stored as never expiring because of an entry is removed after a restart; a valid one stays."""
    mit.kinit("alice", ccache=f"{OWN}:gssproxy")
    mit.kinit("bob", ccache=f"{OWN}:valid")
    _expire(pykcmd, b"%d:gssproxy" % USER, ago=1)
    entry = credential_bytes(principal("Encrypted/Credentials/v1@X-GSSPROXY:"), times=(0, 0, 0, 0))
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        for name in (b"gssproxy", b"valid"):
            kcm.store(b"%d:%s" % (USER, name), entry)
    assert pykcmd.stop() == 0
    with open_database(pykcmd.state_dir) as database:
        assert database.execute("UPDATE secrets SET expires = NULL WHERE expires > 0").rowcount == 2
    pykcmd.configure(AT_ONCE)
    pykcmd.start()
    _wait_for_log(pykcmd, f"expired ccache KCM:{USER}:gssproxy removed (expired_retention)")
    assert [listed.ccache for listed in mit.klist_all()] == [f"{OWN}:valid"]
    assert pykcmd.stop() == 0
    with open_database(pykcmd.state_dir) as database:
        assert database.execute("SELECT count(*) FROM secrets WHERE expires > 0").fetchall() == [(1,)]


def test_expired_ccache_is_reaped_at_the_interval(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """A ccache that expires while the daemon runs is removed at the next interval; a chosen name stays."""
    stopped_pykcmd.configure(AT_ONCE)
    with started(stopped_pykcmd):
        mit.kinit("alice", ccache=f"{OWN}:work")
        mit.ok("kswitch", "-c", f"{OWN}:work")
        mit.kinit("bob", "-l", "1s", ccache=f"{OWN}:short")
        _wait_for_log(stopped_pykcmd, f"expired ccache KCM:{USER}:short removed")
        assert mit.klist() == Listed(f"{OWN}:work", f"alice@{REALM}", [TGT])
        _expire(stopped_pykcmd, NAME + b":work", ago=1)
        _wait_for_log(stopped_pykcmd, f"expired ccache KCM:{USER}:work removed")
        assert mit.klist_l() == []
        assert mit.run("klist").output == f"klist: Credentials cache '{OWN}:work' not found\n"
        assert stopped_pykcmd.stop() == 0
        with open_database(stopped_pykcmd.state_dir) as database:
            assert database.execute("SELECT name FROM secrets").fetchall() == [("default",)]


def test_expired_ccache_is_retained(pykcmd: Pykcmd, mit: MitClient) -> None:
    """By default an expired ccache stays for a day, and klist shows that it has expired."""
    mit.kinit("alice")
    mit.kinit("bob", ccache=f"{OWN}:work")
    _expire(pykcmd, NAME, ago=86400 - 600)
    _expire(pykcmd, NAME + b":work", ago=86400 + 1)
    pykcmd.restart()
    _wait_for_log(pykcmd, f"expired ccache KCM:{USER}:work removed")
    assert mit.klist_all() == [Listed(OWN, f"alice@{REALM}", [TGT])]
    assert mit.run("klist", "-s").code == 1
    mit.kinit("alice")
    assert mit.run("klist", "-s").code == 0


def test_expired_ccache_is_evicted_at_the_limit(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """A ccache that has just expired makes room for a kinit, without the reaper."""
    stopped_pykcmd.configure("reap_interval = 0\nmax_uid_ccaches = 2\n")
    with started(stopped_pykcmd):
        mit.kinit("alice")
        mit.kinit("bob", ccache=f"{OWN}:work")
        _expire(stopped_pykcmd, NAME, ago=5)
        assert len(mit.klist_all()) == 2
        mit.kinit("carol", ccache=f"{OWN}:new")
        assert {listed.principal for listed in mit.klist_all()} == {f"bob@{REALM}", f"carol@{REALM}"}
        assert (
            f"{format_user(USER)}: expired ccache KCM:{USER} removed (max_uid_ccaches)" in stopped_pykcmd.log
        )
