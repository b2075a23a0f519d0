"""One user's ccaches on three hosts, with MIT's and Heimdal's clients: each host shows them all, at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.credential import parse_credential
from tests.builders import ALICE as ALICES
from tests.builders import credential_bytes, principal, service
from tests.e2e.clients import Listed
from tests.e2e.conftest import USER
from tests.e2e.daemon import effective_uid
from tests.e2e.kdc import REALM

from .conftest import HeimdalOf, MitOf
from .hosts import Host

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
BOB = f"bob@{REALM}"
OWN = f"KCM:{USER}"
SERVICE = "host/server.pykcm.test"


def test_kinit_is_shown_by_every_host(hosts: list[Host], mit_of: MitOf) -> None:
    """A ccache that one host stores is listed by the others at once, and a second kinit replaces it there."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    assert [each.klist() for each in (one, two, three)] == [Listed(OWN, ALICE, [TGT])] * 3
    two.kinit("bob", "-c", OWN)
    assert [each.klist() for each in (three, one, two)] == [Listed(OWN, BOB, [TGT])] * 3


def test_kvno_on_one_host_serves_the_others(hosts: list[Host], mit_of: MitOf) -> None:
    """A service ticket that one host got is found by the others, and is stored once."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    assert [each.klist().tickets for each in (two, three)] == [[TGT]] * 2
    for each in (two, three, one):
        assert each.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    assert [each.klist().tickets for each in (one, two, three)] == [[TGT, SERVICE]] * 3


def test_kdestroy_on_one_host_leaves_nothing_on_the_others(hosts: list[Host], mit_of: MitOf) -> None:
    """A destroyed ccache is gone on every host, and can be made again on another one."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    assert three.klist().principal == ALICE
    two.ok("kdestroy")
    assert [each.klist_all() for each in (one, two, three)] == [[], [], []]
    three.kinit("bob")
    assert one.klist() == Listed(OWN, BOB, [TGT])


def test_kswitch_counts_on_every_host(hosts: list[Host], mit_of: MitOf) -> None:
    """The default that one host's client chose is the others'."""
    one, two, three = map(mit_of, hosts)
    one.kinit("alice")
    two.kinit("bob", ccache=f"{OWN}:bob")
    assert [each.klist().principal for each in (one, two, three)] == [ALICE] * 3
    three.ok("kswitch", "-p", "bob")
    assert [each.klist().principal for each in (one, two, three)] == [BOB] * 3
    assert {each.principal for each in one.klist_all()} == {ALICE, BOB}


def test_heimdal_and_mit_share_ccaches_across_hosts(
    hosts: list[Host], mit_of: MitOf, heimdal_of: HeimdalOf
) -> None:
    """Heimdal's client on one host and MIT's on another one use, extend and destroy the same ccache."""
    heimdal, mit = heimdal_of(hosts[0]), mit_of(hosts[1])
    heimdal.kinit("alice")
    listed = heimdal.klist()
    assert mit.klist() == listed == Listed(listed.ccache, ALICE, [TGT])
    mit.kvno(SERVICE)
    assert heimdal.klist().tickets == [TGT, SERVICE]
    assert heimdal.ok("kgetcred", "HTTP/www.pykcm.test") == ""
    assert (
        heimdal_of(hosts[2]).klist()
        == mit.klist()
        == listed._replace(tickets=[TGT, SERVICE, "HTTP/www.pykcm.test"])
    )
    heimdal_of(hosts[2]).ok("kdestroy")
    assert mit.klist_all() == heimdal.klist_all() == []


def test_ccaches_survive_the_end_of_every_host(hosts: list[Host], mit_of: MitOf) -> None:
    """Hosts that were killed together show the ccaches again; nothing of them is in their own state."""
    mit_of(hosts[0]).kinit("alice")
    for host in hosts:
        host.kill()
    for host in hosts:
        host.start()
        assert mit_of(host).klist() == Listed(OWN, ALICE, [TGT])


@pytest.mark.parametrize("number", [12])
def test_hosts_that_write_one_collection_at_once_all_succeed(hosts: list[Host], number: int) -> None:
    """Every host's stores of one ccache succeed, one after the other, and none is lost."""
    with effective_uid(USER):
        clients = [KcmClient(host.socket_path) for host in hosts for _ in range(2)]
    name = b"%d" % USER
    clients[0].initialize(name, ALICES)

    def write(index: int) -> None:
        for each in range(number):
            clients[index].store(name, credential_bytes(service(index * number + each)))
            clients[index].initialize(name + b":%d.%d" % (index, each), principal(f"p{each}"))

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(write, range(len(clients))))
    expected = {service(each).components for each in range(len(clients) * number)}
    for client in clients:
        servers = [parse_credential(blob).server.components for blob in client.get_cred_list(name)]
        assert set(servers) == expected
        assert len(servers) == len(expected)
        assert len(client.get_cache_uuid_list()) == 1 + len(expected)
        client.close()
