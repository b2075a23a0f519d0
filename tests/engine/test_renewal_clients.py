"""Clients that fail: they read nothing, give no results, go away at any time. And a clock that is set."""

import asyncio
import logging

import pytest

from pykcm.engine.renewal_attempts import BusyError, Failure
from pykcm.engine.renewal_queue import Tgt
from tests.engine.renewing import NOW, UID, Client, Host, tgt
from tests.server.waiting import settle

NEW = tgt(NOW + 50, NOW + 150, ticket=b"renewed")
HOUR = 3600
DAY = 86400


async def attempts_end(host: Host) -> None:
    """Let all attempts end without a result, as if their time had passed."""
    async with asyncio.timeout(60):
        while host.renewals.trying:
            for attempt in [*host.renewals._attempts.values()]:
                host.renewals._give_up(attempt.offer.id)
            await asyncio.sleep(0)


async def known(host: Host, name: bytes = b"1000") -> Tgt:
    """The TGT of a ccache, as the index has it."""
    uuid = await host.engine.read((UID,), lambda collections: collections[UID].get(name).uuid)  # type: ignore[union-attr]
    (found,) = host.renewals.index.of_ccache(UID, uuid).values()
    return found


async def test_client_without_results_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    """After an attempt without a result the next client is served, and the first one's offers end."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as silent:
        await host.at(NOW + 50, silent)
        with pytest.raises(BusyError), host.renewals.connected(lambda _: True):
            pass
        await attempts_end(host)
        async with Client(host.renewals) as second:
            await host.at(NOW + 51, second)
            with pytest.raises(BusyError):
                await silent._task
            assert (await host.renewals.hand_back(silent.offers[0].id, NEW.blob)).result == "unknown"
            assert (await host.renewals.hand_back(second.offers[-1].id, NEW.blob)).result == "renewed"
    assert "another client renews TGTs now, because the one before it gave no result in time" in caplog.text
    assert host.renewals.trying == 0


async def test_end_of_a_client_that_gave_way_leaves_its_successor_alone() -> None:
    """The first client's connection may end much later: the second one's attempts go on."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as silent:
        await host.at(NOW + 50, silent)
        await attempts_end(host)
        second = await Client(host.renewals).__aenter__()
        await host.at(NOW + 51, second)
        await asyncio.wait([silent._task])
        assert silent._task.exception()
    try:
        assert host.renewals.trying == 1
        assert host.renewals.statistics()["client"]
        assert (await host.renewals.hand_back(second.offers[-1].id, NEW.blob)).result == "renewed"
    finally:
        await second.__aexit__()


async def test_client_with_a_late_result_stays() -> None:
    """A client that has given a result after one that it lost is not replaced."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
        await attempts_end(host)
        await host.at(NOW + 52, client)
        assert (await host.renewals.hand_back(client.offers[-1].id, NEW.blob)).result == "renewed"
        with pytest.raises(BusyError), host.renewals.connected(lambda _: True):
            pass


async def test_offers_that_nobody_reads_are_withdrawn() -> None:
    """A client that reads its offers late gets none whose attempt has ended."""
    host = Host()
    for number in range(4):
        await host.fill(b"1000:%d" % number, tgt())
    host.clock.now = NOW + 50
    with host.renewals.connected(lambda _: True) as offers:
        first = await anext(offers)
        await attempts_end(host)
        host.clock.now = NOW + 52
        async with asyncio.timeout(60):
            late = await anext(offers)
        assert (await host.renewals.hand_back(first.id, NEW.blob)).result == "unknown"
        assert (await host.renewals.hand_back(late.id, NEW.blob)).result == "renewed"


async def test_client_that_leaves_at_once_keeps_no_tgt() -> None:
    """A client may go in the same turn of the event loop in which attempts begin: they end as well."""
    host = Host()
    for number in range(4):
        await host.fill(b"1000:%d" % number, tgt())
    async with Client(host.renewals):
        pass
    host.clock.now = NOW + 50
    with host.renewals.connected(lambda _: True):
        client = host.renewals._client
        assert client is not None
        host.renewals._fill(client)
        assert host.renewals.trying == 4
    await settle()
    assert (host.renewals.trying, host.renewals.ready) == (0, 0)
    async with Client(host.renewals) as next_client:
        assert len(next_client.offers) == 4


async def test_lost_attempt_is_the_last_result() -> None:
    """The state of a ccache shows that the client ended during its attempt."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:
        await host.at(NOW + 50, client)
    found = await known(host)
    assert (found.last_time, found.last_result) == (NOW + 50, "lost")
    assert found.last_message == "pykcm-renew ended during the attempt"
    assert found.due == NOW + 50


async def test_error_in_pykcm_delays_the_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unforeseen error is logged, and the TGT is not tried again at once."""
    host = Host()
    await host.fill(b"1000", tgt())
    async with Client(host.renewals) as client:

        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(host.engine, "read", fail)
            assert await host.at(NOW + 50, client) == []
        assert caplog.text.count("a TGT was not offered by an error in pykcm") == 1
        assert (host.renewals.trying, host.renewals.next_due) == (0, NOW + 51)
        assert await host.at(NOW + 51, client) == [b"1000"]


def set_clock(host: Host, by: float) -> None:
    """Set the clock, as an administrator or NTP does: no time passes."""
    host.clock.now += by
    host.set_by += by


LONG = tgt(end=NOW + 10 * HOUR, renew_until=NOW + 7 * DAY)
DUE = NOW + 5 * HOUR


@pytest.mark.parametrize("by", [HOUR, DAY])
async def test_clock_that_was_ahead(by: int) -> None:
    """A TGT that failed, or seemed expired, by a clock that was ahead is tried when the clock is right."""
    host = Host()
    await host.fill(b"1000", LONG)
    async with Client(host.renewals) as client:
        await host.at(DUE - 60, client)
        set_clock(host, by)
        await host.at(host.clock.now, client)
        assert len(client.offers) == (by == HOUR)
        for offer in client.offers:
            await host.renewals.hand_back(offer.id, Failure("clock", "Clock skew too great"))
        await client.settled()
        before = len(client.offers)
        set_clock(host, -by)
        await host.at(host.clock.now, client)
        assert host.renewals.next_due == DUE
        assert len(client.offers) == before
        await host.at(DUE, client)
        assert len(client.offers) == before + 1


@pytest.mark.parametrize("by", [HOUR, DAY])
async def test_clock_that_was_behind(by: int) -> None:
    """While the clock is behind, nothing is due; when it is right, the TGT is tried at once."""
    host = Host()
    await host.fill(b"1000", LONG)
    async with Client(host.renewals) as client:
        await host.at(NOW + HOUR, client)
        set_clock(host, -by)
        assert await host.at(host.clock.now + 4 * HOUR, client) == []
        set_clock(host, by)
        assert await host.at(host.clock.now, client) == [b"1000"]


async def test_pause_after_failures_ends_when_the_clock_is_set() -> None:
    """A pause that began by the old clock would last for its error as well."""
    host = Host()
    await host.fill(b"1000", tgt(end=NOW + 30 * DAY, renew_until=NOW + 60 * DAY))
    async with Client(host.renewals) as client:
        await host.at(NOW + 15 * DAY + HOUR, client)
        await host.renewals.hand_back(client.offers[-1].id, Failure("unreachable"))
        await client.settled()
        set_clock(host, -HOUR / 2)
        assert len(await host.at(host.clock.now, client)) == 2


async def test_final_failure_stays_final_when_the_clock_is_set() -> None:
    """The KDC's refusal does not depend on this machine's clock."""
    host = Host()
    await host.fill(b"1000", LONG)
    async with Client(host.renewals) as client:
        await host.at(DUE, client)
        await host.renewals.hand_back(client.offers[0].id, Failure("not-renewable", again=False))
        set_clock(host, -HOUR)
        await host.at(host.clock.now, client)
        set_clock(host, HOUR)
        assert len(await host.at(host.clock.now, client)) == 1


async def test_attempt_in_progress_outlives_a_set_clock() -> None:
    """It is not begun a second time, and its result counts."""
    host = Host()
    await host.fill(b"1000", LONG)
    async with Client(host.renewals) as client:
        await host.at(DUE, client)
        set_clock(host, HOUR)
        assert len(await host.at(host.clock.now, client)) == 1
        new = tgt(DUE, DUE + 10 * HOUR, NOW + 7 * DAY, ticket=b"renewed")
        assert (await host.renewals.hand_back(client.offers[0].id, new.blob)).result == "renewed"


async def test_adjusted_clock_is_not_set(caplog: pytest.LogCaptureFixture) -> None:
    """A clock that NTP slows down or speeds up ends no pause."""
    caplog.set_level(logging.WARNING)
    host = Host()
    await host.fill(b"1000", LONG)
    async with Client(host.renewals) as client:
        await host.at(DUE, client)
        for _ in range(5):
            await host.renewals.hand_back(client.offers[-1].id, Failure("unreachable"))
            await host.at(host.renewals.next_due or 0, client)
        await host.renewals.hand_back(client.offers[-1].id, Failure("unreachable"))
        set_clock(host, 1)
        assert len(await host.at(host.clock.now, client)) == 6
