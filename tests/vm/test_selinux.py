"""An enforcing policy: clients of one UID at different levels, and the real daemon."""

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

# By operation on a ccache of another level: the result.
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
    """A container of the UID, with a TGT of alice."""
    return with_ticket(client_as(USER, ONE), "alice")


@pytest.fixture
def two(client_as: ClientAs, one: LabelledClient) -> LabelledClient:
    """A container with other categories, and a TGT of bob."""
    return with_ticket(client_as(USER, TWO), "bob")


def with_ticket(client: LabelledClient, principal: str) -> LabelledClient:
    client.kinit(principal)
    return client


def principals(client: LabelledClient) -> list[str]:
    return [listed.principal.removesuffix("@PYKCM.TEST") for listed in client.klist_all()]


def try_all(client: LabelledClient, target: tuple[str, str, str]) -> dict[str, str | None]:
    """Return the results of all operations of a client on a ccache, by name and UUIDs."""
    program = str(Path(__file__).with_name("trying.py"))
    output = client.ok(sys.executable, program, str(machine.SOCKET), *target)
    results: dict[str, str | None] = json.loads(output)
    return results


def known(client: LabelledClient) -> tuple[str, str, str]:
    """Return the name, the UUID and a credential's UUID of the client's default ccache."""
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


def test_machine_enforces_the_policy() -> None:
    """The other tests prove nothing in permissive mode."""
    assert machine.run("getenforce") == "Enforcing\n"


def test_containers_of_one_uid_have_their_own_tickets(one: LabelledClient, two: LabelledClient) -> None:
    """Each of two containers of one UID uses KCM:, and sees only its own tickets."""
    for client, principal in ((one, "alice"), (two, "bob")):
        client.kvno(SERVICE)
        (listed,) = client.klist_all()
        assert listed == client.klist()
        assert listed == Listed(listed.ccache, f"{principal}@PYKCM.TEST", [TGT, SERVICE])
        assert client.klist_l() == [(listed.principal, listed.ccache)]


def test_ccache_of_another_level_cannot_be_accessed(one: LabelledClient, two: LabelledClient) -> None:
    """Neither container can access the other's ccache by name or UUID, and the ccache does not change."""
    for client, other in ((one, two), (two, one)):
        before = other.klist()
        assert try_all(client, known(other)) == REFUSED
        assert other.klist_all() == [before]


def test_programs_do_not_find_the_ccache_of_another_level(one: LabelledClient, two: LabelledClient) -> None:
    """For klist and kdestroy the other's ccache does not exist; kinit into it is refused."""
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


def test_all_categories_see_all_ccaches(
    one: LabelledClient, two: LabelledClient, client_as: ClientAs
) -> None:
    """A client with all categories and the machine's own processes see both ccaches; others see none."""
    for level in (ALL, "s0:c1.c4", None):
        assert sorted(principals(client_as(USER, level))) == ["alice", "bob"]
    for level in ("s0:c1,c3", "s0:c1", "s0"):
        assert principals(client_as(USER, level)) == []
    assert principals(client_as(USER + 1, ALL)) == []


def test_levels_are_separated_after_a_restart(
    one: LabelledClient, two: LabelledClient, client_as: ClientAs
) -> None:
    """After a restart, the daemon separates the levels as before."""
    before = [client.klist_all() for client in (one, two)]
    machine.run("systemctl", "restart", machine.SERVICE)
    assert [client.klist_all() for client in (one, two)] == before
    assert [client.klist() for client in (one, two)] == [listed for (listed,) in before]
    assert try_all(two, known(one)) == REFUSED
    assert sorted(principals(client_as(USER, ALL))) == ["alice", "bob"]


def test_root_in_a_container_is_restricted_by_its_level(client_as: ClientAs) -> None:
    """Root in a container has the same restrictions, for all names; the machine's root sees all."""
    user = with_ticket(client_as(USER, ONE), "alice")
    inside, outside = client_as(0, TWO), client_as(0)
    assert inside.run("klist", ccache="KCM:1000").code == 1
    assert client_as(0, ONE).klist(ccache="KCM:1000") == user.klist()
    assert outside.klist(ccache="KCM:1000") == user.klist()
    with_ticket(inside, "bob")
    assert principals(client_as(0, ONE)) == []
    assert principals(outside) == ["bob"]


def test_containers_cannot_access_ccaches_of_a_root_login(client_as: ClientAs) -> None:
    """No container can access the ccache of a root login, and each has its own default."""
    host, container = client_as(0, ALL), client_as(0, ONE)
    with_ticket(host, "alice")
    assert principals(container) == []
    assert try_all(container, known(host)) == REFUSED
    with_ticket(container, "bob")
    assert principals(container) == ["bob"]
    assert container.klist().principal == "bob@PYKCM.TEST"
    assert host.klist() == Listed("KCM:0", "alice@PYKCM.TEST", [TGT])


@pytest.mark.parametrize("name", ["KCM:1000", "KCM:1000:trap"])
def test_prepared_ccache_does_not_get_the_hosts_ticket(client_as: ClientAs, name: str) -> None:
    """A ccache that a container has prepared for a principal's name does not get the host's ticket."""
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


def test_ccache_of_the_lowest_level_is_readable_at_every_level(client_as: ClientAs) -> None:
    """Every level of the UID reads a ccache that a process at s0 created."""
    with_ticket(client_as(USER), "alice")
    for level in (ONE, TWO, ALL, "s0"):
        assert principals(client_as(USER, level)) == ["alice"]


def test_user_without_categories_reads_tickets_of_sshd(client_as: ClientAs) -> None:
    """A confined user reads the ccache that sshd has stored at all categories, and no container's."""
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


def test_permissive_mode_shows_all_ccaches(one: LabelledClient, two: LabelledClient) -> None:
    """In permissive mode all ccaches of the UID are visible; in enforcing mode they are hidden again."""
    with machine.permissive():
        assert sorted(principals(one)) == sorted(principals(two)) == ["alice", "bob"]
    assert (principals(one), principals(two)) == (["alice"], ["bob"])
