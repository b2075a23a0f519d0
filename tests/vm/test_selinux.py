"""What an enforcing policy keeps apart: clients of one UID at levels of their own, and the real daemon."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.clients import Listed

from . import machine
from .clients import LabelledClient

USER = 1000
ONE, TWO, ALL = "s0:c1,c2", "s0:c3,c4", "s0-s0:c0.c1023"
TGT = "krbtgt/PYKCM.TEST"
SERVICE = "host/server.pykcm.test"

# What is done to a ccache of another level, and what comes of it.
REFUSED = {
    "GET_CACHE_BY_UUID": "CC_END",
    "GET_PRINCIPAL": "FCC_NOFILE",
    "GET_CRED_UUID_LIST": "FCC_NOFILE",
    "GET_CRED_BY_UUID": "CC_END",
    "GET_CRED_LIST": "FCC_NOFILE",
    "RETRIEVE": "FCC_NOFILE",
    "GET_KDC_OFFSET": "FCC_NOFILE",
    "SET_KDC_OFFSET": "FCC_NOFILE",
    "REMOVE_CRED": "FCC_NOFILE",
    "INITIALIZE": "FCC_PERM",
    "REPLACE": "FCC_PERM",
    "MOVE_CACHE onto it": "FCC_PERM",
    "MOVE_CACHE away": "FCC_NOFILE",
    "DESTROY": "FCC_NOFILE",
}

ClientAs = Callable[..., LabelledClient]


@pytest.fixture
def one(client_as: ClientAs) -> LabelledClient:
    """A container of the UID, with alice's TGT."""
    return with_ticket(client_as(USER, ONE), "alice")


@pytest.fixture
def two(client_as: ClientAs, one: LabelledClient) -> LabelledClient:
    """Another one with other categories, and bob's TGT."""
    return with_ticket(client_as(USER, TWO), "bob")


def with_ticket(client: LabelledClient, principal: str) -> LabelledClient:
    client.kinit(principal)
    return client


def principals(client: LabelledClient) -> list[str]:
    return [listed.principal.removesuffix("@PYKCM.TEST") for listed in client.klist_all()]


def try_all(client: LabelledClient, target: tuple[str, str, str]) -> dict[str, str | None]:
    """What comes of all that a client can do to a ccache, by name and UUIDs."""
    program = str(Path(__file__).with_name("trying.py"))
    output = client.ok(sys.executable, program, str(machine.SOCKET), *target)
    results: dict[str, str | None] = json.loads(output)
    return results


def known(client: LabelledClient) -> tuple[str, str, str]:
    """Name, UUID and one credential's UUID of the client's default ccache, as somebody might betray them."""
    name = client.klist().ccache.removeprefix("KCM:")
    ccache, credential = client.ok(sys.executable, "-c", _UUIDS_OF, str(machine.SOCKET), name).split()
    return name, ccache, credential


_UUIDS_OF = """
import sys
from pykcm.client import KcmClient
name = sys.argv[2].encode()
with KcmClient(sys.argv[1]) as client:
    by_name = {client.get_cache_by_uuid(uuid): uuid for uuid in client.get_cache_uuid_list()}
    print(by_name[name].hex(), client.get_cred_uuid_list(name)[0].hex())
"""


def test_the_machine_enforces() -> None:
    """All of this is worth nothing otherwise."""
    assert machine.run("getenforce") == "Enforcing\n"


def test_plain_kcm(one: LabelledClient, two: LabelledClient) -> None:
    """Each of two containers of one UID works with plain KCM: and has its own tickets and nothing else."""
    for client, principal in ((one, "alice"), (two, "bob")):
        client.kvno(SERVICE)
        (listed,) = client.klist_all()
        assert listed == client.klist()
        assert listed == Listed(listed.ccache, f"{principal}@PYKCM.TEST", [TGT, SERVICE])
        assert client.klist_l() == [(listed.principal, listed.ccache)]


def test_the_other_ones(one: LabelledClient, two: LabelledClient) -> None:
    """Neither can do anything to the other's ccache by name or UUID, and it is as it was afterwards."""
    for client, other in ((one, two), (two, one)):
        before = other.klist()
        assert try_all(client, known(other)) == REFUSED
        assert other.klist_all() == [before]


def test_the_other_ones_with_the_real_programs(one: LabelledClient, two: LabelledClient) -> None:
    """To klist and kdestroy the other's is one that is not there; kinit into it is refused."""
    for client, other in ((one, two), (two, one)):
        before = other.klist()
        for program in ("klist", "kdestroy"):
            missing = client.run(program, ccache="KCM:1000:missing")
            hidden = client.run(program, ccache=before.ccache)
            said = hidden.output.replace(before.ccache, "KCM:1000:missing")
            assert (hidden.code, said) == (missing.code, missing.output)
        kinit = client.run("kinit", "-k", "-t", str(client.keytab), "carol", ccache=before.ccache)
        assert kinit.code == 1
        assert "ermission" in kinit.output
        assert other.klist_all() == [before]
        client.ok("kdestroy", "-A")
        assert other.klist_all() == [before]
        client.kinit(before.principal)
        client.ok("kdestroy", "-A")
        assert other.klist_all() == [before]
        client.kinit("carol")


def test_all_categories(one: LabelledClient, two: LabelledClient, client_as: ClientAs) -> None:
    """A client with all categories sees both, and so do the machine's own processes; others see none."""
    for level in (ALL, "s0:c1.c4", None):
        assert sorted(principals(client_as(USER, level))) == ["alice", "bob"]
    for level in ("s0:c1,c3", "s0:c1", "s0"):
        assert principals(client_as(USER, level)) == []
    assert principals(client_as(USER + 1, ALL)) == []


def test_after_a_restart(one: LabelledClient, two: LabelledClient, client_as: ClientAs) -> None:
    """The daemon, started again, keeps them apart as before."""
    before = [client.klist_all() for client in (one, two)]
    machine.run("systemctl", "restart", machine.SERVICE)
    assert [client.klist_all() for client in (one, two)] == before
    assert [client.klist() for client in (one, two)] == [listed for (listed,) in before]
    assert try_all(two, known(one)) == REFUSED
    assert sorted(principals(client_as(USER, ALL))) == ["alice", "bob"]


def test_root(client_as: ClientAs) -> None:
    """Root in a container is under the same rules, by whatever name; the machine's root sees all."""
    user = with_ticket(client_as(USER, ONE), "alice")
    inside, outside = client_as(0, TWO), client_as(0)
    assert inside.run("klist", ccache="KCM:1000").code == 1
    assert client_as(0, ONE).klist(ccache="KCM:1000") == user.klist()
    assert outside.klist(ccache="KCM:1000") == user.klist()
    with_ticket(inside, "bob")
    assert principals(client_as(0, ONE)) == []
    assert principals(outside) == ["bob"]


def test_the_hosts_root(client_as: ClientAs) -> None:
    """What a login shell of root has no container can reach, each has a default of its own beside it."""
    host, container = client_as(0, ALL), client_as(0, ONE)
    with_ticket(host, "alice")
    assert principals(container) == []
    assert try_all(container, known(host)) == REFUSED
    with_ticket(container, "bob")
    assert principals(container) == ["bob"]
    assert container.klist().principal == "bob@PYKCM.TEST"
    assert host.klist() == Listed("KCM:0", "alice@PYKCM.TEST", [TGT])


@pytest.mark.parametrize("name", ["KCM:1000", "KCM:1000:trap"])
def test_a_trap(client_as: ClientAs, name: str) -> None:
    """A ccache that a container has laid out under a principal's name does not get it the host's ticket."""
    container, host = client_as(USER, ONE), client_as(USER, ALL)
    container.ok(sys.executable, "-c", _TRAP, str(machine.SOCKET), name.removeprefix("KCM:"))
    host.kinit("alice")
    assert host.klist() == Listed(name, "alice@PYKCM.TEST", [TGT])
    assert principals(container) == []
    assert try_all(container, known(host)) == REFUSED
    with_ticket(container, "bob")
    assert principals(container) == ["bob"]


_TRAP = """
import sys
from pykcm.client import KcmClient
from pykcm.protocol.principal import Principal
with KcmClient(sys.argv[1]) as client:
    client.initialize(sys.argv[2].encode(), Principal(1, b"PYKCM.TEST", (b"alice",)))
"""


def test_a_service_at_the_lowest_level(client_as: ClientAs) -> None:
    """What a process at s0 creates every level of the UID reads."""
    with_ticket(client_as(USER), "alice")
    for level in (ONE, TWO, ALL, "s0"):
        assert principals(client_as(USER, level)) == ["alice"]


def test_a_user_without_categories(client_as: ClientAs) -> None:
    """A confined user reads what sshd, at all categories, has stored, and nothing of a container's."""
    container = with_ticket(client_as(USER, ONE), "alice")
    hidden = known(container)
    confined = "user_u:user_r:user_t:s0"
    program = str(Path(__file__).with_name("trying.py"))
    own = client_as(USER)
    tried = json.loads(own.ok(sys.executable, program, "--as", confined, str(machine.SOCKET), *hidden))
    assert tried == REFUSED
    container.ok("kdestroy")
    stored = with_ticket(client_as(USER, ALL), "bob")
    tried = json.loads(own.ok(sys.executable, program, "--as", confined, str(machine.SOCKET), *known(stored)))
    assert tried["GET_PRINCIPAL"] is tried["GET_CRED_BY_UUID"] is tried["REMOVE_CRED"] is None


def test_permissive(one: LabelledClient, two: LabelledClient) -> None:
    """In permissive mode everything of the UID is seen, and from the moment of enforcing no more."""
    with machine.permissive():
        assert sorted(principals(one)) == sorted(principals(two)) == ["alice", "bob"]
    assert (principals(one), principals(two)) == (["alice"], ["bob"])
