"""Tickets that differ only in their second ticket: user-to-user, and delegation (S4U2Proxy).

Debian's KDC does not issue S4U2Proxy tickets, because its db2 backend cannot store who may delegate. A test
makes one from a real ticket and stores it, and a real client has to find it: otherwise the client would ask
the KDC, which refuses.
"""

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.tag import Match, Tag

from .clients import MitClient
from .conftest import USER
from .credentials import parse_all, server_of, ticket_of, with_client, with_second_ticket
from .daemon import Pykcmd, effective_uid
from .kdc import DELEGATE, REALM

NAME = b"%d" % USER
WWW = "HTTP/www.pykcm.test"
TGT = f"krbtgt/{REALM}"
CACHED_BY_SECOND_TICKET = Match.GC_CACHED | Match.SECOND_TICKET

pytestmark = pytest.mark.usefixtures("pykcmd")


def _stored(daemon: Pykcmd) -> list[Credential]:
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        return parse_all(kcm.get_cred_list(NAME))


def test_user_to_user_ticket_is_found_by_second_ticket(mit: MitClient, pykcmd: Pykcmd) -> None:
    """It is never used as an ordinary ticket."""
    bobs = f"KCM:{USER}:bob"
    mit.kinit("alice")
    mit.kinit("bob", ccache=bobs)
    for _ in range(2):
        # It is encrypted with a session key and has no key version.
        assert mit.kvno("--u2u", bobs, "bob") == [f"bob@{REALM}: kvno = 0"]
        assert mit.klist().tickets == [TGT, "bob"]
    ran = mit.run("kvno", "--cached-only", "bob")
    assert ran.code == 1
    assert "Matching credential not found" in ran.output
    assert mit.kvno("bob") == [f"bob@{REALM}: kvno = 1"]
    found = [c for c in _stored(pykcmd) if server_of(c) == "bob"]
    assert [(c.is_skey, bool(c.second_ticket)) for c in found] == [(True, True), (False, False)]
    # With both present, each kind of lookup finds its own.
    assert mit.kvno("--u2u", bobs, "--cached-only", "bob") == [f"bob@{REALM}: kvno = 0"]
    assert mit.kvno("--cached-only", "bob") == [f"bob@{REALM}: kvno = 1"]


def test_second_tickets_are_distinguished(mit: MitClient, pykcmd: Pykcmd) -> None:
    """After a new TGT of the other user, the new ticket is stored next to the old one."""
    bobs = f"KCM:{USER}:bob"
    mit.kinit("alice")
    for _ in range(2):
        mit.kinit("bob", "-c", bobs)
        mit.kvno("--u2u", bobs, "bob")
    second_tickets = [c.second_ticket for c in _stored(pykcmd) if server_of(c) == "bob"]
    assert len(second_tickets) == 2
    assert len(set(second_tickets)) == 2


def test_s4u2self_ticket_is_found_for_its_user(mit: MitClient, pykcmd: Pykcmd) -> None:
    """A service's ticket to itself in a user's name is found only for that user."""
    mit.kinit(DELEGATE)
    assert mit.kvno("-U", "alice", DELEGATE) == [f"{DELEGATE}@{REALM}: kvno = 1"]
    assert "\tfor client alice@" in mit.ok("klist")
    assert mit.kvno("-U", "alice", DELEGATE) == [f"{DELEGATE}@{REALM}: kvno = 1"]
    assert mit.klist().tickets == [TGT, DELEGATE]
    assert mit.kvno("-U", "bob", DELEGATE) == [f"{DELEGATE}@{REALM}: kvno = 1"]
    assert mit.klist().tickets == [TGT, DELEGATE, DELEGATE]
    clients = [c.client.components for c in _stored(pykcmd) if server_of(c) == DELEGATE]
    assert clients == [(b"alice",), (b"bob",)]


def _delegated(mit: MitClient, daemon: Pykcmd, evidence: dict[str, Credential]) -> dict[str, bytes]:
    """For each user a ticket to WWW whose second ticket is the user's evidence; not yet stored."""
    mit.kvno(WWW)
    (real,) = (c for c in _stored(daemon) if server_of(c) == WWW)
    with effective_uid(USER), KcmClient(daemon.socket_path) as kcm:
        kcm.remove_cred(NAME, 0, Tag(server=real.server))
    return {
        user: with_second_ticket(ticket_of(ticket.blob), with_client(ticket.client, real.blob))
        for user, ticket in evidence.items()
    }


def test_delegated_ticket_is_found_by_evidence(mit: MitClient, pykcmd: Pykcmd) -> None:
    """`kvno -P` finds only the ticket whose second ticket is the user's evidence."""
    mit.kinit(DELEGATE)
    for user in ("alice", "bob"):
        mit.kvno("-U", user, DELEGATE)
    evidence = {c.client.components[0].decode(): c for c in _stored(pykcmd) if server_of(c) == DELEGATE}
    delegated = _delegated(mit, pykcmd, {user: evidence[user] for user in ("alice", "bob")})
    refused = mit.run("kvno", "-U", "bob", "-P", WWW)
    assert refused.code == 1
    assert "constrained delegation failed" in refused.output
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.store(NAME, delegated["alice"])
    assert mit.run("kvno", "-U", "bob", "-P", WWW).code == 1
    assert mit.kvno("-U", "alice", "-P", WWW) == [f"{WWW}@{REALM}: kvno = 1"]
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        kcm.store(NAME, delegated["bob"])
    pykcmd.restart()
    for user in ("alice", "bob"):
        assert mit.kvno("-U", user, "-P", WWW) == [f"{WWW}@{REALM}: kvno = 1"]
    assert [c.client.components for c in _stored(pykcmd) if server_of(c) == WWW] == [(b"alice",), (b"bob",)]


def test_operations_distinguish_second_tickets(mit: MitClient, pykcmd: Pykcmd) -> None:
    """Credentials that differ only in the second ticket are different to every operation."""
    mit.kinit("alice")
    mit.kvno(WWW)
    (plain,) = (c for c in _stored(pykcmd) if server_of(c) == WWW)
    first, second = (with_second_ticket(ticket, plain.blob) for ticket in (b"first", b"second"))
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        stored = [c.blob for c in _stored(pykcmd)]
        for blob in (first, second, first):
            kcm.store(NAME, blob)
        assert kcm.get_cred_list(NAME) == [*stored, first, second]
        tags = {
            name: Tag(server=plain.server, second_ticket=name) for name in (b"first", b"second", b"third")
        }
        assert kcm.retrieve(NAME, CACHED_BY_SECOND_TICKET, tags[b"second"]) == second
        assert kcm.retrieve(NAME, CACHED_BY_SECOND_TICKET, tags[b"first"]) == first
        with pytest.raises(KcmError) as missing:
            kcm.retrieve(NAME, CACHED_BY_SECOND_TICKET, tags[b"third"])
        assert missing.value.code == Code.CC_NOTFOUND
        # Without a second ticket in the lookup, the first stored credential wins.
        assert kcm.retrieve(NAME, Match.GC_CACHED, tags[b"second"]) == plain.blob
        kcm.remove_cred(NAME, Match.SECOND_TICKET, tags[b"first"])
        assert kcm.get_cred_list(NAME) == [*stored, second]
    assert mit.kvno("--cached-only", WWW) == [f"{WWW}@{REALM}: kvno = 1"]
