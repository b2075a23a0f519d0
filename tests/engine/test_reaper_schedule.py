"""When the reaper runs: by interval, in the UID's queue, between other requests, until it is cancelled."""

import asyncio
import errno
import logging
from typing import Any

import pytest

from pykcm.protocol.opcodes import Opcode
from pykcm.store.interface import StoreError
from tests.builders import ALICE, peer
from tests.engine.reaping import DUE, LASTING, TICKET, reaper_of
from tests.server.asking import Asking, Server, answer, frame, unpack
from tests.server.waiting import settle, until
from tests.storing import EMBEDDED_STORES


class Sleep:
    """Sleeps until the test lets it go on."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._go_on = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._go_on.wait()
        self._go_on.clear()

    async def end(self) -> None:
        """Let the reaper go on, and wait until it sleeps again."""
        times = len(self.slept)
        self._go_on.set()
        await until(lambda: len(self.slept) > times)


async def ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@EMBEDDED_STORES
async def test_reaper_runs_after_start_and_by_interval(server: Server) -> None:
    """The reaper runs soon after the start and after each interval, also after a failed round."""
    await fill_in_loop(server, 1000)
    server.clock.now = DUE

    async def unreadable(*_: object) -> list[Any]:
        raise StoreError("no", errno.EIO)

    sleep = Sleep()
    task = asyncio.create_task(reaper_of(server).run(600, sleep))
    await until(lambda: sleep.slept)
    assert await server.store.count_ccaches() == 1
    await sleep.end()
    assert await server.store.count_ccaches() == 0
    expired = server.store.expired
    server.store.expired = unreadable  # type: ignore[method-assign,assignment]
    await sleep.end()
    server.store.expired = expired  # type: ignore[method-assign]
    await answer(server.dispatcher, peer(1000), replace(1000))
    await sleep.end()
    assert await server.store.count_ccaches() == 0
    assert sleep.slept == [1, 600, 600, 600]
    await ended(task)


def replace(uid: int) -> Any:
    """A REPLACE of the ccache `<uid>` with a ticket that is due."""
    client = Recorder()
    client.replace(b"%d" % uid, 0, ALICE, [TICKET])
    return client.frames[0]


async def fill_in_loop(server: Server, *uids: int) -> None:
    for uid in uids:
        await answer(server.dispatcher, peer(uid), replace(uid))


class Recorder(Asking):
    """A client whose requests go nowhere."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def call(self, opcode: int, arguments: bytes = b"") -> bytes:
        self.frames.append(frame(opcode, arguments))
        return b""


async def test_reaper_waits_in_the_uid_queue(server: Server) -> None:
    """The reaper waits in the UID's queue while others are served; a ccache renewed by then is kept."""
    await fill_in_loop(server, 1000, 2000)
    server.clock.now = DUE
    server.store.commits.clear()
    server.store.gate = asyncio.Event()
    client = Recorder()
    client.replace(b"1000", 0, ALICE, [LASTING])
    renewing = asyncio.create_task(answer(server.dispatcher, peer(1000), client.frames[0]))
    await until(lambda: server.store.commits)
    task = asyncio.create_task(reaper_of(server).reap())
    await settle()
    assert not task.done()
    other = await answer(server.dispatcher, peer(3000), frame(Opcode.GET_DEFAULT_CACHE))
    assert unpack(other)[0] == 0
    server.store.gate.set()
    assert unpack(await renewing) == (0, b"")
    await task
    assert await server.change(
        1000, lambda each: [credential.blob for ccache in each for credential in ccache.credentials]
    ) == [LASTING]
    assert await server.store.uids() == [1000]


# While a database answers, the event loop is free anyway, and the database decides whom it answers first.
@EMBEDDED_STORES
async def test_requests_are_served_between_two_uids(server: Server) -> None:
    """A request is answered before the reaper has finished all UIDs."""
    await fill_in_loop(server, *range(1000, 1020))
    server.clock.now = DUE
    task = asyncio.create_task(reaper_of(server).reap())
    await until(lambda: len(server.store.commits) > 20)
    await answer(server.dispatcher, peer(5000), replace(5000))
    assert not task.done()
    await task
    assert await server.store.uids() == [5000]


async def test_cancelled_reaper_completes_its_removal(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled reaper completes and logs the removal in progress, and begins no other."""
    caplog.set_level(logging.INFO)
    await fill_in_loop(server, 1000, 2000)
    server.clock.now = DUE
    server.store.commits.clear()
    server.store.gate = asyncio.Event()
    task = asyncio.create_task(reaper_of(server).reap())
    await until(lambda: server.store.commits)
    task.cancel()
    await settle()
    assert not task.done()
    server.store.gate.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(await server.store.uids()) == 1
    assert len([record for record in caplog.records if "removed" in record.getMessage()]) == 1
    assert not server.engine.uid_queues.occupied
