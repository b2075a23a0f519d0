"""Administration of hosts that share a store: rekey, backup, watch, export and import, idle exit."""

from pathlib import Path

from pykcm.client import KcmClient
from tests.e2e.activation import launch_with, listening
from tests.e2e.clients import Listed
from tests.e2e.conftest import USER, public_folder, watched
from tests.e2e.following import Followed
from tests.e2e.kdc import REALM
from tests.e2e.waiting import wait_until

from .conftest import MitOf
from .hosts import Host, by_socket
from .servers import DATABASE, Server

TGT = f"krbtgt/{REALM}"
ALICES = Listed(f"KCM:{USER}", f"alice@{REALM}", [TGT])
NEW_KEY = bytes(range(100, 132))


def give_next_key(host: Host) -> Path:
    path = host.key_path.with_name("key.next")
    path.touch(0o600)
    path.write_bytes(NEW_KEY)
    return path


def test_rekey_while_all_hosts_serve(hosts: list[Host], mit_of: MitOf, server: Server) -> None:
    """Hosts with both keys go on; one with only the old key refuses, says why, and serves with both."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    assert [each.klist() for each in (two, three)] == [ALICES] * 2
    refused = hosts[0].ctl.run("rekey")
    assert (refused.status, "on every host" in refused.errors) == (1, True)
    following = [give_next_key(host) for host in hosts[:2]]
    assert "is ready for `pykcmctl rekey`" in hosts[1].check()[1]
    said = hosts[0].ctl.run("rekey")
    assert (said.status, "All rows in the database are sealed with the new key" in said.errors) == (0, True)
    assert server.query("SELECT DISTINCT count(*) FROM pykcm.keys", DATABASE) == [(1,)]
    assert [each.klist() for each in (one, two)] == [ALICES] * 2
    assert (hosts[0].key_path.read_bytes(), following[0].exists()) == (NEW_KEY, False)
    assert three.run("klist").code != 0
    assert "requests are refused until then" in hosts[2].log
    status, text = hosts[2].check()
    assert (status, "give all hosts the same key" in text) == (1, True)
    give_next_key(hosts[2])
    wait_until(lambda: three.run("klist").code == 0)
    assert three.klist() == ALICES
    two.kinit("bob", "-c", f"KCM:{USER}")
    assert three.klist().principal == f"bob@{REALM}"
    hosts[0].restart()
    assert one.klist().principal == f"bob@{REALM}"


def test_backup_is_the_databases(hosts: list[Host], folder: Path) -> None:
    """`backup` refuses, and names the database's own way."""
    said = hosts[0].ctl.run("backup", str(folder / "copy"))
    assert (said.status, "pg_dump" in said.errors) == (1, True)
    assert not (folder / "copy").exists()


def test_watch_shows_what_happens_on_other_hosts(hosts: list[Host], mit_of: MitOf) -> None:
    """Kinit and kdestroy on one host are events on another one."""
    one = mit_of(hosts[0])
    with Followed(hosts[1].ctl, "watch", "--json") as watching:
        one.kinit("alice")
        events = watching.until(event="created")
        assert (events[-1]["uid"], events[-1]["principal"]) == (USER, f"alice@{REALM}")
        one.ok("kdestroy")
        assert watching.until(event="destroyed")[-1]["uid"] == USER


def test_export_of_one_host_is_imported_by_another(hosts: list[Host], mit_of: MitOf, folder: Path) -> None:
    """An export has the ccaches of all hosts, and any host takes them back."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    file = folder / "tickets"
    hosts[1].ctl.ok("export", "--plain", str(file))
    two.ok("kdestroy")
    assert three.klist_all() == []
    hosts[2].ctl.ok("import", str(file))
    assert one.klist() == ALICES


def test_idle_daemon_ends_and_nothing_is_lost(server: Server, mit_of: MitOf) -> None:
    """Under socket activation a daemon ends when idle; the next one serves the ccaches."""
    with public_folder() as folder, watched(Host(folder / "host", by_socket(server))) as host:
        host.connect_to(by_socket(server), 'responder_idle_timeout = "1s"\n')
        with listening(host.socket_path) as listener:
            # The open connections keep the daemons running meanwhile.
            with KcmClient(host.socket_path):
                launch_with(host, [listener])
                mit_of(host).kinit("alice")
            assert host.wait() == 0
            assert "stopping: idle for 1 s" in host.log
            with KcmClient(host.socket_path):
                launch_with(host, [listener])
                assert mit_of(host).klist() == ALICES
            assert host.wait() == 0
