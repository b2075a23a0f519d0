"""Quotas and a full disk: the least valuable entries are evicted, or the user gets the right error."""

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.expiry import is_ticket
from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import parse_credential

from .clients import Listed, MitClient
from .conftest import OTHER, USER, started
from .credentials import for_server, parse_all, server_of, with_second_ticket
from .daemon import Pykcmd, effective_uid
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
OWN = f"KCM:{USER}"
NAME = b"%d" % USER
QUOTA = "Disk quota exceeded"


def _kinit_refused(mit: MitClient, user: str, ccache: str | None = None) -> str:
    ran = mit.run("kinit", "-k", "-t", str(mit.keytab), user, ccache=ccache)
    assert ran.code == 1
    return ran.output


def test_ccache_over_the_limit_is_refused(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """With max_uid_ccaches reached, existing ccaches can still be filled again."""
    stopped_pykcmd.configure("max_uid_ccaches = 2\n")
    with started(stopped_pykcmd):
        mit.kinit("alice")
        mit.kinit("bob")
        kept = mit.klist_all()
        refusal = f"kinit: Failed to store credentials: {QUOTA} while getting initial credentials\n"
        assert _kinit_refused(mit, "carol") == refusal
        assert _kinit_refused(mit, "carol", f"{OWN}:new") == refusal
        assert mit.klist_all() == kept
        assert "max_uid_ccaches" in stopped_pykcmd.log
        mit.kinit("alice")
        mit.ok("kdestroy", "-p", "bob")
        mit.kinit("carol")
        assert {listed.principal for listed in mit.klist_all()} == {f"alice@{REALM}", f"carol@{REALM}"}


def test_hundred_jobs_get_tickets(pykcmd: Pykcmd, mit: MitClient) -> None:
    """By default, 100 concurrent jobs of one user, each with its own ccache, all get tickets."""
    ccaches = [f"{OWN}:job{number}" for number in range(100)]
    with ThreadPoolExecutor(len(ccaches)) as jobs:
        list(jobs.map(lambda ccache: mit.kinit("alice", ccache=ccache), ccaches))
    listed = mit.klist_all()
    assert sorted(each.ccache for each in listed) == sorted(ccaches)
    assert {each.principal for each in listed} == {f"alice@{REALM}"}
    assert all(len(each.tickets) == 1 for each in listed)


def test_concurrent_principals_get_their_ccaches(pykcmd: Pykcmd, mit: MitClient) -> None:
    """Concurrent jobs with several principals each find or create the principal's ccache."""
    users = ["alice", "bob", "carol"]
    mit.kinit(users[0])
    with ThreadPoolExecutor(99) as jobs:
        list(jobs.map(mit.kinit, users * 33))
    listed = mit.klist_all()
    assert {each.principal for each in listed} == {f"{user}@{REALM}" for user in users}
    # Several kinits may look for their principal's ccache before one of them creates it.
    assert len(listed) <= 99
    assert all(len(each.tickets) == 1 for each in listed)


def test_max_ccaches_counts_all_users(
    several_uids: None, stopped_pykcmd: Pykcmd, mit_as: Callable[[int], MitClient]
) -> None:
    """After a restart as well."""
    stopped_pykcmd.configure("max_ccaches = 2\n")
    with started(stopped_pykcmd):
        mit, other = mit_as(USER), mit_as(OTHER)
        mit.kinit("alice")
        other.kinit("bob")
        assert QUOTA in _kinit_refused(other, "carol")
        stopped_pykcmd.restart()
        assert QUOTA in _kinit_refused(mit, "carol")
        other.ok("kdestroy")
        mit.kinit("carol")


def _store_until_refused(kcm: KcmClient) -> tuple[int, list[bytes]]:
    """Store credentials until one is refused; returns the code, and the contents before it."""
    accepted = kcm.get_cred_list(NAME)
    ticket = accepted[-1]
    for number in range(1000):
        blob = for_server(b"service%d" % number, ticket)
        try:
            kcm.store(NAME, blob)
        except KcmError as refusal:
            return refusal.code, accepted
        accepted.append(blob)
    raise AssertionError("a thousand credentials were accepted")


@pytest.mark.parametrize("option", ["max_ccache_size", "max_uid_size"])
def test_oldest_service_tickets_are_evicted(stopped_pykcmd: Pykcmd, mit: MitClient, option: str) -> None:
    """In a ccache over its limit, only its oldest service tickets are evicted."""
    stopped_pykcmd.configure(f"{option} = 12\n")
    with started(stopped_pykcmd):
        mit.kinit("alice")
        mit.kvno("host/server.pykcm.test")
        with effective_uid(USER), KcmClient(stopped_pykcmd.socket_path) as kcm:
            given = kcm.get_cred_list(NAME)
            full = _store_until_something_goes(kcm)
            size = CCache(bytes(16), NAME, kcm.get_principal(NAME)).size
            size += sum(parse_credential(blob).size for blob in full)
            assert 9 * 1024 < size <= 12 * 1024
            # The first service ticket is gone; configuration and TGT precede it.
            assert full[: len(given) - 1] == given[:-1]
            assert server_of(parse_all(full)[len(given) - 1]) == "service0"
            assert f"removed from ccache KCM:{USER} ({option})" in stopped_pykcmd.log
        # A ticket from the KDC is stored as well, and can be used.
        assert mit.kvno("HTTP/www.pykcm.test") == [f"HTTP/www.pykcm.test@{REALM}: kvno = 1"]
        tickets = mit.klist().tickets
        assert (tickets[0], tickets[-1]) == (TGT, "HTTP/www.pykcm.test")
        assert f"host/server.pykcm.test@{REALM}" not in tickets
        stopped_pykcmd.restart()
        assert mit.klist().tickets == tickets


@pytest.mark.parametrize("option", ["max_ccache_size", "max_uid_size"])
def test_credential_larger_than_limit_is_refused(stopped_pykcmd: Pykcmd, mit: MitClient, option: str) -> None:
    """Nothing is evicted, and the log names the limit."""
    stopped_pykcmd.configure(f"{option} = 12\n")
    with started(stopped_pykcmd):
        mit.kinit("alice")
        mit.kvno("host/server.pykcm.test")
        with effective_uid(USER), KcmClient(stopped_pykcmd.socket_path) as kcm:
            kept = kcm.get_cred_list(NAME)
            too_large = with_second_ticket(bytes(6 * 1024), kept[-1])
            with pytest.raises(KcmError) as refusal:
                kcm.store(NAME, too_large)
            assert refusal.value.code == errno.EDQUOT
            with pytest.raises(KcmError) as refusal:
                kcm.replace(NAME, 0, kcm.get_principal(NAME), [*kept, too_large])
            assert refusal.value.code == errno.EDQUOT
            assert kcm.get_cred_list(NAME) == kept
        assert option in stopped_pykcmd.log
        assert "removed" not in stopped_pykcmd.log
        assert len(mit.klist().tickets) == _number_of_tickets(kept)


def _store_until_something_goes(kcm: KcmClient) -> list[bytes]:
    """Store credentials until one is evicted; returns the contents then."""
    stored = kcm.get_cred_list(NAME)
    for number in range(100):
        stored.append(for_server(b"service%d" % number, stored[-1]))
        kcm.store(NAME, stored[-1])
        there = kcm.get_cred_list(NAME)
        assert there[-1] == stored[-1]
        if there != stored:
            return there
    raise AssertionError("a hundred credentials were accepted")


def _number_of_tickets(blobs: list[bytes]) -> int:
    return sum(map(is_ticket, parse_all(blobs)))


@pytest.fixture
def cramped_pykcmd(several_uids: None, mount_namespaces: None, stopped_pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A daemon whose state folder is a file system of 512 KiB, in its own mount namespace."""
    stopped_pykcmd.state_dir.mkdir(0o700)
    mount = 'mount -t tmpfs -o size=512k,mode=0700 tmpfs "$0" && exec "$@"'
    stopped_pykcmd.command = (
        *("unshare", "--mount", "sh", "-c", mount, str(stopped_pykcmd.state_dir)),
        *stopped_pykcmd.command,
    )
    with started(stopped_pykcmd) as daemon:
        yield daemon


def test_change_on_full_disk_is_refused(
    cramped_pykcmd: Pykcmd, mit: MitClient, mit_as: Callable[[int], MitClient]
) -> None:
    """It changes nothing; existing tickets remain, also for other users."""
    other = mit_as(OTHER)
    other.kinit("bob")
    mit.kinit("alice")
    with effective_uid(USER), KcmClient(cramped_pykcmd.socket_path) as kcm:
        code, expected = _store_until_refused(kcm)
        assert code == errno.ENOSPC
        assert kcm.get_cred_list(NAME) == expected
    database = cramped_pykcmd.state_dir / "pykcm.db"
    failed = f"pykcmd: error: UID {USER}: STORE KCM:{USER} failed in the store: ENOSPC: {database}: "
    assert failed in cramped_pykcmd.log
    assert "the disk is full: make room on it" in cramped_pykcmd.log
    assert "No space left on device" in _kinit_refused(mit, "carol", f"{OWN}:new")
    assert other.klist() == Listed(f"KCM:{OTHER}", f"bob@{REALM}", [TGT])
    assert len(mit.klist().tickets) == _number_of_tickets(expected)
