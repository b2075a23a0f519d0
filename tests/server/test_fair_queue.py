"""The fair queue: which requests are served at once, which wait, and in which order those are served."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from pykcm.peer.identity import Peer
from pykcm.protocol.framing import Frame, Sendable
from pykcm.server.connection import State
from pykcm.server.fair_queue import _PAUSE, _SLICE, FairQueue, Servable
from pykcm.server.outbox import Outbox
from pykcm.server.sessions import Session
from tests.builders import ALICE, Clock, principal_bytes
from tests.server.listening import GET_CRED_LIST, GET_PRINCIPAL, INITIALIZE, NOOP, OK, Listen, Listening
from tests.server.waiting import settle, until

LONG = 2 * _SLICE


class Table:
    """A fair queue, its clock, and the names of the requests in the order in which they were served."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fair_queue = FairQueue(self.clock)
        self.served: list[str] = []

    def pass_a_slice(self) -> None:
        """Serve one request that takes as long as a slice may be."""
        assert self.fair_queue.admits(1)
        self.clock.now += 1.01 * _SLICE
        self.fair_queue.now = self.fair_queue.clock()
        assert not self.fair_queue.admits(1)

    def wait(self, uid: int, *names: str, cost: float = 0.0) -> list["Request"]:
        requests = [Request(self, name, cost) for name in names]
        for request in requests:
            self.fair_queue.wait(uid, request)
        return requests


class Request:
    """A request that takes `cost` seconds to be served, and then calls `afterwards`."""

    def __init__(self, table: Table, name: str, cost: float) -> None:
        self.table = table
        self.name = name
        self.cost = cost
        self.afterwards: Callable[[], object] = lambda: None

    def take_turn(self) -> None:
        self.table.clock.now += self.cost
        self.table.served.append(self.name)
        self.afterwards()


@pytest.fixture
def table() -> Table:
    """A fair queue in which nothing waits."""
    return Table()


async def test_requests_are_served_at_once_within_a_slice(table: Table) -> None:
    """While nothing waits and the slice is not over, requests are served when they arrive."""
    for _ in range(10):
        assert table.fair_queue.admits(1)
        table.clock.now += _SLICE / 20
    assert not table.fair_queue._is_due


async def test_now_is_the_time_of_the_last_request(table: Table) -> None:
    """`now` is the time at which a request last came."""
    for _ in range(2):
        table.fair_queue.admits(1)
        assert table.fair_queue.now == table.clock.now
        table.clock.now += 5


async def test_requests_wait_after_a_slice(table: Table) -> None:
    """A request that comes when a slice is over waits for the next iteration of the event loop."""
    table.pass_a_slice()
    table.wait(1, "a")
    assert table.served == []
    assert not table.fair_queue.admits(1)
    await settle()
    assert table.served == ["a"]
    assert table.fair_queue.admits(1)


async def test_iteration_near_the_end_of_a_slice_begins_the_next(table: Table) -> None:
    """An iteration of the event loop towards the end of a slice begins the next one; nothing waits."""
    for _ in range(5):
        assert table.fair_queue.admits(1)
        table.clock.now += _PAUSE * 0.9
    assert table.fair_queue.admits(1)
    await settle()
    table.clock.now += _PAUSE * 0.9
    assert table.fair_queue.admits(1)


async def test_pause_begins_a_new_slice(table: Table) -> None:
    """After a pause without requests the next one is served at once; after a shorter time it waits."""
    table.pass_a_slice()
    table.clock.now += _PAUSE * 0.9
    assert not table.fair_queue.admits(1)
    table.clock.now += _PAUSE * 1.1
    assert table.fair_queue.admits(1)


async def test_time_of_serving_is_no_pause(table: Table) -> None:
    """Requests that each take longer than a pause use up the slice all the same."""
    for _ in range(3):
        assert table.fair_queue.admits(1)
        table.clock.now += 4 * _PAUSE
        table.fair_queue.now = table.fair_queue.clock()
    assert not table.fair_queue.admits(1)


async def test_no_request_overtakes_a_waiting_one(table: Table) -> None:
    """While a request waits, no other one is served at once, however long the pause was."""
    table.pass_a_slice()
    table.wait(1, "a")
    table.clock.now += 100 * _PAUSE
    assert not table.fair_queue.admits(1)


async def test_first_request_of_another_uid_is_served_after_the_slice(table: Table) -> None:
    """When a slice is over, the first request of a UID that was not served in it is served at once."""
    table.pass_a_slice()
    table.wait(1, "a")
    assert table.fair_queue.admits(2)
    assert not table.fair_queue.admits(2)
    table.wait(3, "b")
    assert not table.fair_queue.admits(3)
    await asyncio.sleep(0)
    assert table.served == ["a", "b"]
    assert table.fair_queue.admits(2)


@pytest.mark.parametrize("cost", [0.0, LONG], ids=["within a slice", "each a slice"])
async def test_uids_are_served_in_rotation(table: Table, cost: float) -> None:
    """One request of each UID is served in rotation, those of one UID in the order in which they came."""
    table.wait(1, "1a", "1b", "1c", "1d", cost=cost)
    table.wait(2, "2a", cost=cost)
    table.wait(3, "3a", "3b", cost=cost)
    await until(lambda: len(table.served) == 7)
    assert table.served == ["1a", "2a", "3a", "1b", "3b", "1c", "1d"]
    assert not table.fair_queue._waiting


async def test_event_loop_runs_between_slices(table: Table) -> None:
    """After a slice, the event loop looks at its sockets before the next one begins."""
    table.wait(1, "a", "b", "c", cost=_SLICE / 2)
    await asyncio.sleep(0)
    served = len(table.served)
    await settle()
    assert (served, table.served) == (2, ["a", "b", "c"])


async def test_new_uid_waits_for_one_request_of_a_flooding_uid(table: Table) -> None:
    """A UID that comes while another has many requests waiting is served after one of them at most."""
    flood = table.wait(1, *[f"flood{number}" for number in range(50)], cost=LONG)
    flood[4].afterwards = lambda: table.wait(2, "other")
    await until(lambda: len(table.served) == 51)
    assert table.served.index("other") == 6


async def test_connection_with_more_requests_queues_again(table: Table) -> None:
    """A connection's requests are served one in each rotation, behind the UID's other connections."""
    names = iter(["again", "and again"])

    def queue_again() -> None:
        for name in names:
            table.wait(1, name)[0].afterwards = queue_again
            break

    table.wait(1, "first")[0].afterwards = queue_again
    table.wait(1, "second", "third")
    table.wait(2, "other", "other's second")
    await settle()
    assert table.served == ["first", "other", "second", "other's second", "third", "again", "and again"]


async def test_nothing_is_kept_of_served_uids(table: Table) -> None:
    """When all requests are served, nothing of any UID is kept, and no callback is scheduled."""
    for uid in range(1000):
        table.wait(uid, "a")
    await settle()
    assert len(table.served) == 1000
    assert not table.fair_queue._waiting
    assert not table.fair_queue._is_due


# Over sockets


async def test_pipelined_requests_of_many_connections_are_answered(listening: Listening) -> None:
    """Pipelined requests of many connections are all answered, those of each connection in order."""
    clients = [await listening.connected() for _ in range(20)]
    assert await clients[0].ask(INITIALIZE) == (0, b"")
    for client in clients:
        await client.send((NOOP + GET_PRINCIPAL) * 60)
    one = OK + struct.pack(">IIi", 4 + len(principal_bytes(ALICE)), 0, 0) + principal_bytes(ALICE)
    replies = await asyncio.gather(*[client.receive(60 * len(one)) for client in clients])
    assert set(replies) == {one * 60}


async def test_queued_requests_of_a_client_that_has_gone_are_dropped(listening: Listening) -> None:
    """A client that goes while its requests are queued leaves nothing, and others are served."""
    gone, other = await listening.connected(), await listening.connected()
    await gone.send(NOOP * 20_000)
    await until(lambda: listening.fair_queue.waiting or listening.made[0].state is State.SENDING)
    gone.close()
    assert await other.ask(NOOP) == (0, b"")
    await until(lambda: listening.connections.open == 1)


@pytest.mark.parametrize("slow", ["serving", "sending", "neither"])
async def test_requests_beyond_a_slice_are_queued(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """Of many requests at once, those beyond a slice wait, whether serving or sending takes the time."""
    clock = Clock()
    queued: list[int] = []
    listening = await listen(clock=clock)
    clients = [await listening.connected() for _ in range(10)]
    assert await clients[0].ask(INITIALIZE) == (0, b"")
    clock.now += 1
    answer, wait, send = listening.dispatcher.answer, listening.fair_queue.wait, Outbox.send

    def slow_answer(peer: Peer, frame: Frame, session: Session | None) -> Any:
        if slow == "serving":
            clock.now += 0.000_2
        return answer(peer, frame, session)

    def slow_send(outbox: Outbox, reply: Sendable) -> int:
        if slow == "sending":
            clock.now += 0.000_2
        return send(outbox, reply)

    def noted_wait(uid: int, servable: Servable) -> None:
        queued.append(uid)
        wait(uid, servable)

    monkeypatch.setattr(listening.dispatcher, "answer", slow_answer)
    monkeypatch.setattr(listening.fair_queue, "wait", noted_wait)
    monkeypatch.setattr(Outbox, "send", slow_send)
    queued.clear()
    for client in clients:
        client.socket.send(GET_CRED_LIST)
    for client in clients:
        code, _ = await client.reply()
        assert code == 0
    assert bool(queued) is (slow != "neither")
