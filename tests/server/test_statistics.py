"""Counts of requests, commits, removals, queues and connections."""

import asyncio
import errno
from collections import Counter

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.engine.committer import Durations
from pykcm.engine.uid_queues import UidQueues
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from pykcm.server.connection import State
from pykcm.server.connections import Limits
from pykcm.store.interface import StoreError
from pykcm.store.memory import MemoryStore
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    credential_bytes,
    credential_of_size,
    principal_bytes,
    refused,
    tag_for,
    ticket,
)
from tests.builders import service as nth_service
from tests.server.asking import Asking, Server
from tests.server.listening import NOOP, Listen, request
from tests.server.waiting import until
from tests.storing import EMBEDDED_STORES


def count(server: Server, opcode: Opcode) -> int:
    return sum(server.dispatcher.statistics.operations[opcode].buckets)


def test_durations_are_counted_by_powers_of_two() -> None:
    """Each duration is counted below the next power of two; the sum and the longest are kept."""
    durations = Durations()
    for duration in (0, 1, 1023, 1024, 3_000_000_000):
        durations.add(duration)
    assert {number: each for number, each in enumerate(durations.buckets) if each} == {
        0: 1,
        1: 1,
        10: 1,
        11: 1,
        32: 1,
    }
    assert durations.total == 3_000_002_048
    assert durations.longest == 3_000_000_000


def test_requests_are_counted_by_operation_and_error(server: Server, alice: Asking, bob: Asking) -> None:
    """Each request is counted once with its operation, and with the error that it was answered with."""
    alice.initialize(b"1000", ALICE)
    for _ in range(3):
        alice.get_principal(b"1000")
    with refused(Code.FCC_NOFILE):
        bob.get_principal(b"1000")
    with refused(Code.CC_NOTFOUND):
        alice.retrieve(b"1000", 0, tag_for(TGS))
    statistics = server.dispatcher.statistics
    assert count(server, Opcode.INITIALIZE) == 1
    assert count(server, Opcode.GET_PRINCIPAL) == 4
    assert statistics.operations[Opcode.INITIALIZE].errors == {}
    assert statistics.operations[Opcode.GET_PRINCIPAL].errors == {Code.FCC_NOFILE: 1}
    assert statistics.operations[Opcode.RETRIEVE].errors == {Code.CC_NOTFOUND: 1}
    longest = statistics.operations[Opcode.INITIALIZE].longest
    assert 0 < longest == statistics.operations[Opcode.INITIALIZE].total


def test_unreadable_and_unknown_requests_are_counted(server: Server, alice: Asking) -> None:
    """An unreadable request counts as an error of its operation; unknown ones have their own count."""
    assert alice.answer(Opcode.GET_PRINCIPAL, b"no end")[0] == Code.CC_FORMAT
    assert alice.answer(999)[0] == Code.FCC_INTERNAL
    assert server.dispatcher.statistics.operations[Opcode.GET_PRINCIPAL].errors == {Code.CC_FORMAT: 1}
    assert server.dispatcher.statistics.unknown_operations == 1


def test_failed_commits_are_counted(server: Server, alice: Asking) -> None:
    """A request that fails in the store is counted, and its commit, until the next successful one."""
    server.store.refusal = lambda _: StoreError("no space left", errno.ENOSPC)
    with refused(errno.ENOSPC):
        alice.initialize(b"1000", ALICE)
    committer = server.engine.committer
    assert server.dispatcher.statistics.store_errors == 1
    assert (committer.failures, committer.is_failing, sum(committer.commits.buckets)) == (1, True, 0)
    server.store.refusal = lambda _: None
    alice.initialize(b"1000", ALICE)
    assert (committer.failures, committer.is_failing, sum(committer.commits.buckets)) == (1, False, 1)


@EMBEDDED_STORES
def test_commits_are_counted_by_the_size_of_their_batch(server: Server) -> None:
    """A commit is counted by the number of operations that it made durable."""
    requests = [(uid, Opcode.INITIALIZE, b"%d\0" % uid + principal_bytes(ALICE)) for uid in (1, 2, 3, 4, 5)]
    server.answers(requests)
    server.answers(requests[:1])
    committer = server.engine.committer
    assert sum(committer.commits.buckets) == 2
    assert committer.operations == 6
    assert {number: each for number, each in enumerate(committer.batches) if each} == {1: 1, 3: 1}


def test_requests_without_a_change_are_no_commits(server: Server, alice: Asking) -> None:
    """Reading, and setting a value that is already set, commits nothing."""
    alice.initialize(b"1000", ALICE)
    alice.set_kdc_offset(b"1000", 0)
    alice.get_principal(b"1000")
    assert sum(server.engine.committer.commits.buckets) == 1


def test_cache_hits_and_misses_are_counted(runner: asyncio.Runner) -> None:
    """A request is a hit if the collection was in memory, otherwise a miss."""
    server = Server(runner, MemoryStore(), cache_size=1)
    alice, bob = server.ask_as(1000), server.ask_as(2000)
    collection_cache = server.collection_cache
    alice.initialize(b"1000", ALICE)
    assert (
        collection_cache.hits,
        collection_cache.misses,
        collection_cache.let_go,
        len(collection_cache),
    ) == (0, 1, 0, 1)
    alice.get_principal(b"1000")
    alice.store(b"1000", credential_bytes(TGS))
    assert (collection_cache.hits, collection_cache.misses, collection_cache.let_go) == (2, 1, 0)
    with refused(Code.FCC_NOFILE):
        bob.get_principal(b"2000")
    assert (
        collection_cache.hits,
        collection_cache.misses,
        collection_cache.let_go,
        len(collection_cache),
    ) == (2, 2, 1, 1)


def test_removals_are_counted_by_option(runner: asyncio.Runner) -> None:
    """Ccaches and tickets that made room are counted by the option that demanded it."""
    quotas = Quotas(max_uid_ccaches=1, max_ccache_size=6000)
    server = Server(runner, MemoryStore(), quotas=quotas)
    alice = server.ask_as(1000)
    alice.initialize(b"1000:old", ALICE)
    alice.store(b"1000:old", ticket(TGS, ends=1400).blob)
    alice.initialize(b"1000:new", ALICE)
    for number in range(3):
        alice.store(b"1000:new", credential_of_size(500, nth_service(number)).blob)
    assert server.engine.removals.ccaches == {"max_uid_ccaches": 1}
    assert server.engine.removals.tickets == {"max_ccache_size": 1}


def test_reaped_ccaches_are_counted(server: Server, alice: Asking) -> None:
    """A ccache that the reaper removes is counted as removed."""
    alice.initialize(b"1000", ALICE)
    alice.store(b"1000", ticket(HTTP, ends=1400).blob)
    (uuid,) = alice.get_cache_uuid_list()
    removed, _ = server.runner.run(
        server.change(1000, lambda collection: collection.remove_expired([uuid], 1500))
    )
    assert removed == 1
    assert server.engine.removals.ccaches == {"expired_retention": 1}


async def test_occupied_queues_and_waiting_requests_are_counted() -> None:
    """The queues by UID say how many are occupied, and how many requests wait for one."""
    uid_queues = UidQueues()
    queue = await uid_queues.enter(1000)
    waiting = asyncio.ensure_future(uid_queues.enter(1000))
    other = await uid_queues.enter(2000)
    await asyncio.sleep(0)
    assert (uid_queues.occupied, uid_queues.waiting) == (2, 1)
    uid_queues.leave(queue)
    uid_queues.leave(other)
    uid_queues.leave(await waiting)
    assert (uid_queues.occupied, uid_queues.waiting) == (0, 0)


async def test_accepted_evicted_and_refused_connections_are_counted(listen: Listen) -> None:
    """Connections are counted when they are accepted, give way, or are refused for want of room."""
    listening = await listen(limits=Limits(uid_connections=2))
    connections = listening.connections
    first, second = await listening.connected(), await listening.connected()
    for client in (first, second):
        await client.ask(NOOP)
    third = listening.client()
    await third.ask(NOOP)
    assert (connections.open, connections.accepted, connections.evicted) == (2, 3, 1)
    for client in (second, third):
        await client.send(NOOP[:5])
    await until(lambda: all(each.state is State.RECEIVING for each in listening.made[1:]))
    refused_one = listening.client()
    assert await refused_one.is_closed()
    assert (connections.open, connections.accepted, connections.refused) == (2, 3, 1)


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        (b"\0\0\0\0\2\0\0\0", "frame"),
        (request(Opcode.STORE, bytes(20_000))[:-1], "requests"),
        (NOOP[:5], "late"),
    ],
)
async def test_connections_closed_at_a_limit_are_counted_by_limit(
    listen: Listen, sent: bytes, limit: str
) -> None:
    """A connection that is closed because its client exceeds a limit is counted by this limit."""
    listening = await listen(limits=Limits(uid_bytes=17_000), patience=0.05 if limit == "late" else 20.0)
    client = await listening.connected()
    await client.send(sent)
    assert await client.is_closed()
    assert listening.connections.broken_off == Counter({limit: 1})
