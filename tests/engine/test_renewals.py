"""TGTs that are due are offered to the client, and come back renewed."""

import asyncio
import errno
import logging
from collections.abc import Sequence

import pytest

from pykcm.ccaches.collection import Collection
from pykcm.engine.renewal_attempts import BusyError, Failure, HandedBack
from pykcm.protocol.credential import Credential
from pykcm.store.interface import Committed, Entry, Outcome, Refused, StoreError
from pykcm.store.memory import MemoryStore
from tests.builders import BOB, HTTP, configuration, principal, tag_for, ticket
from tests.engine.renewing import NOW, UID, Client, Host, tgt

NEW = tgt(NOW + 50, NOW + 150, ticket=b"renewed")


async def test_tgt_is_offered_when_half_of_its_life_has_passed() -> None:
    """A TGT stored before or after the client has come is offered when it is due, once."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.fill(b"1000:b", tgt(end=NOW + 120))
        assert await host.at(NOW + 49, client) == []
        assert await host.at(NOW + 50, client) == [b"1000"]
        assert await host.at(NOW + 60, client) == [b"1000", b"1000:b"]
        assert await host.at(NOW + 70, client) == [b"1000", b"1000:b"]
    (first, _) = client.offers
    assert (first.uid, first.credential, first.realm) == (UID, tgt(), b"PYKCM.TEST")
    assert (first.due, first.end, first.renew_until) == (NOW + 50, NOW + 100, NOW + 1000)


async def test_renewed_tgt_takes_the_place_of_the_old_one() -> None:
    """The new TGT is in the old one's place, all else stays, and the new one is due later."""
    host = Host()
    before = [
        configuration(b"a", b"b"),
        tgt(),
        ticket(HTTP),
        tgt(server=principal("krbtgt/X"), renew_until=0),
    ]
    await host.fill(b"1000:other", tgt(end=NOW + 5000, renew_until=0))
    await host.fill(b"1000", *before, kdc_offset=7, label="a:b:c:s0")
    await host.change(lambda each: each.set_default(b"1000:other"))
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        (offer,) = client.offers
        assert offer.kdc_offset == 7
        assert await host.renewals.hand_back(offer.id, NEW.blob) == HandedBack("renewed")
        assert await host.credentials(b"1000") == [before[0], NEW, *before[2:]]

        def look(collection: Collection) -> None:
            ccache = collection.get(b"1000")
            assert ccache is not None
            assert (ccache.kdc_offset, ccache.label) == (7, "a:b:c:s0")
            assert [each.name for each in collection] == [b"1000:other", b"1000"]
            assert collection.default_name == b"1000:other"

        await host.change(look)
        assert await host.at(NOW + 92, client) == [b"1000"]
        assert await host.at(NOW + 94, client) == [b"1000", b"1000"]
    assert client.offers[1].credential == NEW
    assert host.renewals.renewed == 1


async def test_session_key_of_another_type_keeps_the_place() -> None:
    """A renewed TGT whose session key has another enctype replaces the old one as well."""
    host = Host()
    await host.fill(b"1000", tgt(), ticket(HTTP))
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        new = tgt(NOW + 50, NOW + 150, enctype=17)
        assert (await host.renewals.hand_back(client.offers[0].id, new.blob)).result == "renewed"
    assert await host.credentials(b"1000") == [new, ticket(HTTP)]


async def test_result_without_an_attempt_changes_nothing() -> None:
    """A result counts once, and for an attempt that was offered."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        assert await host.renewals.hand_back(bytes(16), NEW.blob) == HandedBack("unknown")
        await host.renewals.hand_back(client.offers[0].id, NEW.blob)
        assert await host.renewals.hand_back(client.offers[0].id, NEW.blob) == HandedBack("unknown")
        assert await host.credentials(b"1000") == [NEW]


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (tgt(NOW + 50, NOW + 150, client=BOB).blob, "refused"),
        (NEW.blob[:-30], "refused"),
        (b"", "refused"),
        # The KDC has shortened the lives of TGTs.
        (tgt().blob, "kdc"),
    ],
    ids=["other client", "truncated", "empty", "ends no later"],
)
async def test_other_credential_is_refused_and_tried_again(new: bytes, reason: str) -> None:
    """A credential that is not the renewed TGT is not stored, and the attempt counts as failed."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        handed_back = await host.renewals.hand_back(client.offers[0].id, new)
        assert handed_back == HandedBack("refused", NOW + 51)
        assert await host.credentials(b"1000") == [tgt()]
        assert len(await host.at(NOW + 51, client)) == 2
    assert host.renewals.failures == {reason: 1, "lost": 1}


async def test_new_tgt_that_equals_another_one_is_refused() -> None:
    """If the ccache has an equal TGT in another place, neither is touched, and there is a pause."""
    host = Host()
    stored = [tgt(), tgt(enctype=17, renew_until=0)]
    await host.fill(b"1000", *stored)
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        new = tgt(NOW + 50, NOW + 150, enctype=17)
        handed_back = await host.renewals.hand_back(client.offers[0].id, new.blob)
    assert handed_back == HandedBack("refused", NOW + 51)
    assert await host.credentials(b"1000") == stored


async def test_pause_doubles_after_each_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Attempts are repeated after 1, 2, 4 … seconds, at most a quarter of the rest of the life."""
    caplog.set_level(logging.WARNING)
    host = Host()
    await host.fill(b"1000", tgt(end=NOW + 200, renew_until=NOW + 9000))
    pauses = []
    async with Client(host.renewals) as client:
        now = NOW + 100.0
        while True:
            await host.at(now, client)
            failure = Failure("unreachable", "Cannot contact any KDC", -1765328228)
            handed_back = await host.renewals.hand_back(client.offers[-1].id, failure)
            if handed_back.next_attempt is None:
                break
            pauses.append(handed_back.next_attempt - now)
            now = handed_back.next_attempt
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert pauses[5] == pytest.approx((100 - 31) / 4)
    assert min(pauses) >= 1
    assert NOW + 198 < now < NOW + 200
    first = caplog.records[0]
    assert first.getMessage() == (
        "UID 1000: KCM:1000: TGT of alice@PYKCM.TEST not renewed: unreachable: Cannot contact any KDC (code "
        "-1765328228); it ends at 1970-01-01 00:20:00 UTC; next attempt in 1 s"
    )
    assert (first.__dict__["KCM_UID"], first.__dict__["KCM_CCACHE"]) == (1000, "1000")


async def test_tgt_that_can_never_be_renewed_is_left_alone() -> None:
    """After a final failure there is no attempt with this TGT, but with a new one in the same ccache."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        failure = Failure("not-renewable", again=False)
        assert await host.renewals.hand_back(client.offers[0].id, failure) == HandedBack("failed")
        assert len(await host.at(NOW + 99, client)) == 1
        await host.fill(b"1000", NEW)
        assert len(await host.at(NOW + 101, client)) == 2


async def test_lost_client_frees_its_attempts_at_once() -> None:
    """The next client gets the TGTs of a client that has gone; one that is lost again has to wait."""
    host = Host(most=8)
    for number in range(4):
        await host.fill(b"1000:%d" % number, tgt())
    host.clock.now = NOW + 50
    async with Client(host.renewals) as first:
        assert len(first.offers) == 4
    assert host.renewals.trying == 0
    async with Client(host.renewals) as second:
        assert set(second.names()) == set(first.names())
        assert (await host.renewals.hand_back(first.offers[0].id, NEW.blob)).result == "unknown"
    async with Client(host.renewals) as third:
        assert third.names() == []
        assert len(await host.at(NOW + 51, third)) == 4


async def test_second_client_is_refused() -> None:
    """One client at a time renews TGTs."""
    host = Host()
    async with Client(host.renewals):
        with pytest.raises(BusyError):
            async with Client(host.renewals):
                pass
    async with Client(host.renewals):
        pass


async def test_attempt_without_a_result_ends_by_itself() -> None:
    """An attempt that the client forgets ends as a failure after its time."""
    host = Host()
    host.renewals._settings = host.renewals._settings._replace(patience=0.01)
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        async with asyncio.timeout(60):
            while host.renewals.trying:  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.001)
        assert dict(host.renewals.failures) == {"lost": 1}
        assert len(await host.at(NOW + 52, client)) == 2


async def test_user_who_wants_no_renewal_gets_none() -> None:
    """The setting counts from the moment it is stored, also for an attempt in progress."""
    host = Host()
    off = configuration(b"pykcm_renewal", b"no")
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        await host.change(lambda each: store(each, off))
        assert await host.renewals.hand_back(client.offers[0].id, NEW.blob) == HandedBack("changed")
        assert await host.at(NOW + 60, client) == [b"1000"]
        await host.change(lambda each: remove(each, off))
        assert await host.at(NOW + 60, client) == [b"1000", b"1000"]
    assert await host.credentials(b"1000") == [tgt()]


def store(collection: Collection, credential: Credential, name: bytes = b"1000") -> None:
    ccache = collection.get(name)
    assert ccache is not None
    collection.store(ccache, credential)


def remove(collection: Collection, credential: Credential, name: bytes = b"1000") -> None:
    ccache = collection.get(name)
    assert ccache is not None
    assert collection.remove_credentials(ccache, tag_for(credential.server), 0) == 1


async def test_hidden_ccaches_are_not_offered() -> None:
    """A ccache that the SELinux policy hides from the client is not offered, until its label changes."""
    host = Host()
    await host.fill(b"1000", tgt(), label="hidden")
    async with Client(host.renewals, lambda label: label != "hidden") as client:
        assert await host.at(NOW + 50, client) == []

        def relabel(collection: Collection) -> None:
            ccache = collection.get(b"1000")
            assert ccache is not None
            collection.relabel(ccache, "seen")

        await host.change(relabel)
        await client.settled()
        assert client.names() == [b"1000"]


async def test_expired_tgt_is_not_offered() -> None:
    """No KDC renews a TGT that has expired."""
    host = Host()
    await host.fill(b"1000", tgt())
    host.clock.now = NOW + 100
    async with Client(host.renewals) as client:
        assert client.names() == []
        assert (host.renewals.trying, host.renewals.ready, host.renewals.next_due) == (0, 0, None)


def due_at(host: Host) -> float | None:
    return host.renewals.next_due


async def test_each_change_of_a_ccache_is_noticed() -> None:
    """Moved, replaced, removed and added TGTs, and a KDC offset, change what is due."""
    host = Host()
    async with Client(host.renewals) as client:
        await host.fill(b"1000", ticket(HTTP))
        assert due_at(host) is None
        await host.change(lambda each: store(each, tgt()))
        assert due_at(host) == NOW + 50
        await host.change(lambda each: store(each, tgt(end=NOW + 200)))
        assert due_at(host) == NOW + 100

        def set_offset(collection: Collection) -> None:
            ccache = collection.get(b"1000")
            assert ccache is not None
            collection.set_kdc_offset(ccache, -10)

        await host.change(set_offset)
        assert due_at(host) == NOW + 110
        await host.change(lambda each: each.rename(b"1000", b"1000:moved", lambda _: True))
        assert due_at(host) == NOW + 110
        assert await host.at(NOW + 110, client) == [b"1000:moved"]
        await host.renewals.hand_back(client.offers[0].id, Failure("kdc"))
        await host.change(lambda each: remove(each, tgt(), b"1000:moved"))
        assert due_at(host) is None
        await host.fill(b"1000", tgt(end=NOW + 400))
        assert due_at(host) == NOW + 200
        await host.change(lambda each: each.initialize(b"1000", BOB, None))
        assert due_at(host) is None
        await host.fill(b"1000", tgt(end=NOW + 400))
        await host.change(lambda each: each.destroy(b"1000"))
        assert (due_at(host), len(host.renewals.index)) == (None, 0)
        assert host.renewals.index._by_uid == {}


class RefusingStore(MemoryStore):
    """A store that refuses as many commits as a test says."""

    refusals = 0

    async def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        if self.refusals:
            self.refusals -= 1
            return [Refused(StoreError("the disk is full", errno.ENOSPC)) for _ in entries]
        await super().commit(entries)
        return [Committed(dict.fromkeys(entry.bases, 1)) for entry in entries]


async def test_change_that_is_refused_does_not_hide_a_tgt() -> None:
    """A TGT whose removal the store refuses is still renewed."""
    store = RefusingStore()
    host = Host(store=store)
    async with Client(host.renewals) as client:
        kinit = asyncio.create_task(host.fill(b"1000", tgt()))
        await asyncio.sleep(0)
        store.refusals = 1
        with pytest.raises(StoreError):
            await asyncio.gather(kinit, host.change(lambda each: remove(each, tgt())))
        await client.settled()
        if not await host.credentials(b"1000"):
            await host.fill(b"1000", tgt())
        assert await host.at(NOW + 50, client) == [b"1000"]


async def test_store_that_fails_at_the_hand_back_delays_the_renewal() -> None:
    """If the renewed TGT cannot be stored, the old one stays, and there is another attempt."""
    store = RefusingStore()
    host = Host(store=store)
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        store.refusals = 1
        handed_back = await host.renewals.hand_back(client.offers[0].id, NEW.blob)
        assert handed_back == HandedBack("failed", NOW + 51)
        assert await host.credentials(b"1000") == [tgt()]
        assert len(await host.at(NOW + 51, client)) == 2
        assert (await host.renewals.hand_back(client.offers[1].id, NEW.blob)).result == "renewed"


async def test_daemon_waits_for_attempts_and_for_tgts_that_are_due_soon() -> None:
    """An idle daemon goes on only while an attempt is in progress, or a TGT is due within 10 seconds."""
    host = Host()
    await host.fill(b"1000", tgt())
    assert not host.renewals.is_needed
    async with Client(host.renewals) as client:
        for now, is_needed in [(NOW, False), (NOW + 39, False), (NOW + 40, True), (NOW + 50, True)]:
            await host.at(now, client)
            assert host.renewals.is_needed is is_needed
        await host.renewals.hand_back(client.offers[0].id, NEW.blob)
        assert not host.renewals.is_needed
        assert host.renewals.next_due == NOW + 100
    host.clock.now = NOW + 100
    assert not host.renewals.is_needed


async def test_search_reads_each_collection_once_and_keeps_none() -> None:
    """The search for TGTs reads the collections of all users, and none of them stays in the cache for it."""
    host = Host()
    for uid in range(1000, 1100):
        await host.fill(b"%d" % uid, tgt(end=NOW + uid, renew_until=9000), uid=uid)
    fresh = Host(store=host.store)
    async with Client(fresh.renewals) as client:
        async with asyncio.timeout(60):
            while fresh.renewals.is_searching:  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.001)
        assert len(fresh.renewals.index) == 100
        assert len(fresh.engine.collection_cache) == 0
        assert fresh.renewals.next_due == NOW + 500
        await client.settled()


async def test_finish_ends_the_offers() -> None:
    """When the daemon ends, the client's stream ends without an error."""
    host = Host()
    await host.fill(b"1000", tgt())
    with host.renewals.connected(lambda _: True) as offers:
        finishing = asyncio.create_task(host.renewals.finish())
        assert [offer async for offer in offers] == []
    await finishing
