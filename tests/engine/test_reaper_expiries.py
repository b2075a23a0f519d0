"""Ccaches that an older version stored as never expiring."""

import asyncio

import pytest

from pykcm.ccaches.expiry import EMPTY_LIFETIME
from pykcm.store.interface import StoreError
from pykcm.store.tree import Put, ccaches_container
from tests.builders import ALICE, credential_bytes, principal, ticket
from tests.engine.reaping import DUE, ENDS, LASTING, RETENTION, fill, reaper_of
from tests.server.asking import Server
from tests.server.programs import listed
from tests.storing import EMBEDDED_STORES, commit_changes, secrets_of


def forget_expiries(server: Server, uid: int) -> None:
    """Leave the UID's ccaches in the store as never expiring."""
    runner, store = server.runner, server.store.inner
    secrets = runner.run(secrets_of(store, uid))
    ccaches = [each for each in secrets if each.container == ccaches_container(uid)]
    runner.run(commit_changes(store, [Put(each.container, each.name, each.value) for each in ccaches]))


def run_at(server: Server, *times: int) -> None:
    """Let the reaper of a daemon that has just started run at these times."""
    left = iter(times)

    async def sleep(_: float) -> None:
        try:
            server.clock.now = next(left)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        server.runner.run(reaper_of(server).run(1, sleep))


ENTRY = credential_bytes(principal("Encrypted/Credentials/v1@X-GSSPROXY:"), times=(0, 0, 0, 0))


@EMBEDDED_STORES
def test_expiries_of_an_older_version_are_corrected(server: Server) -> None:
    """After a restart, ccaches that never expired because of an entry in them expire, and no others do."""
    fill(server, 1000, 2000, 3000)
    for uid in (1000, 3000):
        server.ask_as(uid).store(b"%d" % uid, ENTRY)
    server.ask_as(1000).replace(b"1000:entry alone", 0, ALICE, [ENTRY])
    server.ask_as(1000).replace(b"1000:unending", 0, ALICE, [ticket(ends=0).blob])
    server.ask_as(1000).replace(b"1000:lasting", 0, ALICE, [LASTING, ENTRY])
    for uid in (1000, 3000):
        forget_expiries(server, uid)
    server = server.restarted()
    run_at(server, DUE - 1)
    assert listed(server.ask_as(3000)) == [b"3000"]
    run_at(server, DUE)
    assert [listed(server.ask_as(uid)) for uid in (2000, 3000)] == [[], []]
    left = [b"1000:entry alone", b"1000:unending", b"1000:lasting"]
    assert listed(server.ask_as(1000)) == left
    # An hour, as an empty one has, begins with the first start of this version.
    run_at(server.restarted(), DUE - 1 + EMPTY_LIFETIME + RETENTION)
    assert listed(server.restarted().ask_as(1000)) == [b"1000:unending", b"1000:lasting"]
    run_at(server.restarted(), 10 * ENDS + RETENTION)
    assert listed(server.restarted().ask_as(1000)) == [b"1000:unending"]


@EMBEDDED_STORES
def test_expiries_are_corrected_once(server: Server) -> None:
    """The reaper reads ccaches without expiry once, and no others."""
    fill(server, 1000, 2000, blob=LASTING)
    forget_expiries(server, 1000)
    server = server.restarted()
    run_at(server, DUE, DUE, DUE)
    assert server.store.loads == [1000]
    assert server.collection_cache.present(1000) is None
    server = server.restarted()
    run_at(server, DUE)
    assert server.store.loads == []


@EMBEDDED_STORES
def test_failed_correction_of_expiries_is_tried_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """If the store refuses the correction, other ccaches are removed, and it is tried again."""
    fill(server, 1000, 2000)
    forget_expiries(server, 1000)
    server = server.restarted()
    server.store.refusal = lambda changes: StoreError("full") if Put in map(type, changes) else None
    run_at(server, DUE)
    assert listed(server.ask_as(2000)) == []
    assert listed(server.ask_as(1000)) == [b"1000"]
    server.store.refusal = lambda _: None
    assert "full" in caplog.text
    run_at(server, DUE)
    assert listed(server.ask_as(1000)) == []
