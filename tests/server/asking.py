"""A server without a socket: requests go in as bytes, and replies come out as bytes."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import NO_LIMITS, Quotas
from pykcm.client import KcmClient
from pykcm.engine.clock import CheckedClock
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.peer.selinux import Policy
from pykcm.protocol.codes import KcmError
from pykcm.protocol.framing import Frame, Sendable
from pykcm.server.dispatcher import Dispatcher
from pykcm.server.sessions import Session
from pykcm.store.interface import (
    Blocked,
    Committed,
    Entry,
    Loaded,
    Outcome,
    Pause,
    Refused,
    Store,
    StoreError,
)
from pykcm.store.tree import Expired, SecretChange
from tests.builders import Clock, peer

T = TypeVar("T")


class Asking(KcmClient):
    """One connection to a server, which runs until each request is answered.

    Without a `session` it is the only connection of a process of its own.
    """

    def __init__(
        self, runner: asyncio.Runner, dispatcher: Dispatcher, who: Peer, session: Session | None = None
    ) -> None:
        self._runner = runner
        self._dispatcher = dispatcher
        self._who = who
        self._session = session or Session()

    def close(self) -> None:
        self._dispatcher.sessions.close(self._session)

    def call(self, opcode: int, arguments: bytes = b"") -> bytes:
        code, payload = self.answer(opcode, arguments)
        if code:
            raise KcmError(code)
        return payload

    def answer(self, opcode: int, arguments: bytes = b"") -> tuple[int, bytes]:
        """The reply's code and payload."""
        return unpack(
            self._runner.run(answer(self._dispatcher, self._who, frame(opcode, arguments), self._session))
        )


async def answer(dispatcher: Dispatcher, who: Peer, asked: Frame, session: Session | None = None) -> Sendable:
    """Return the reply to a request, whether it comes at once or later."""
    answered = dispatcher.answer(who, asked, session)
    return await answered if isinstance(answered, Coroutine) else answered


def frame(opcode: int, arguments: bytes = b"") -> Frame:
    return Frame(opcode, struct.pack(">BBH", 2, 0, opcode) + arguments)


def unpack(reply: Sendable) -> tuple[int, bytes]:
    """Return the code and the payload of one packed reply."""
    if not isinstance(reply, bytes):
        reply = b"".join(reply.pieces)
    length, outer, code = struct.unpack_from(">IIi", reply)
    assert length == len(reply) - 8
    assert outer == 0, "MIT's client stops reading when the outer status is not 0"
    return code, reply[12:]


class ScriptedStore:
    """A store around another one that remembers its calls, and can be slow or fail.

    `gate`, `load_gate`: a commit or a load waits until it is set. `refusal`: returns the exception that a
    commit raises. `load_error`: each load raises it.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.persistent = inner.persistent
        self.commits_at_once = inner.commits_at_once
        self.freshness = inner.freshness
        self.sharing = inner.sharing
        self.commits: list[list[SecretChange]] = []
        self.loads: list[int] = []
        self.gate: asyncio.Event | None = None
        self.load_gate: asyncio.Event | None = None
        self.load_error: BaseException | None = None
        self.refusal: Callable[[list[SecretChange]], BaseException | None] = lambda _: None

    async def load(self, uid: int, pause: Pause | None = None) -> Loaded:
        self.loads.append(uid)
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.load_error is not None:
            raise self.load_error
        return await self.inner.load(uid, pause)

    def delay(self, changes: Sequence[SecretChange], size: int = 0) -> Awaitable[None] | None:
        return self.inner.delay(changes, size)

    async def commit(self, entries: Sequence[Entry]) -> Sequence[Outcome | Blocked]:
        changes = [change for entry in entries for change in entry.changes]
        self.commits.append(changes)
        if self.gate is not None:
            await self.gate.wait()
        error = self.refusal(changes)
        if error is None:
            return await self.inner.commit(entries)
        if isinstance(error, StoreError):
            if len(entries) == 1:
                return [Refused(error)]
            return [outcome for entry in entries for outcome in await self.commit([entry])]
        raise error

    async def outcome(self, entry: Entry) -> Committed | None:
        return await self.inner.outcome(entry)

    async def uids(self) -> list[int]:
        return await self.inner.uids()

    async def expired(self, until: int, after: Expired | None, limit: int) -> list[Expired]:
        return await self.inner.expired(until, after, limit)

    async def uids_without_expiry(self, after: int) -> tuple[list[int], int | None]:
        return await self.inner.uids_without_expiry(after)

    async def count_ccaches(self) -> int:
        return await self.inner.count_ccaches()

    def close(self) -> None:
        self.inner.close()


class Server:
    """A server without sockets, and its parts."""

    def __init__(
        self,
        runner: asyncio.Runner,
        store: Store,
        *,
        quotas: Quotas = NO_LIMITS,
        root_lists_all: bool = False,
        cache_size: int = 0,
        clock: Clock | None = None,
        steady: Clock | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.runner = runner
        self.policy = policy
        self._quotas = quotas
        self._root_lists_all = root_lists_all
        self.clock = clock or Clock()
        self.store = ScriptedStore(store)
        # With one clock for both, moving it on is time that passes; otherwise the wall clock is set.
        self._steady = steady
        self.checked_clock = CheckedClock(wall=self.clock, steady=steady or self.clock)
        removal_time = self.checked_clock.removal_time
        self.collection_cache = CollectionCache(self.store, quotas, cache_size, self.clock, removal_time)
        self.access = Access(root_lists_all=root_lists_all, policy=policy)
        self.engine = Engine(self.store, self.collection_cache)
        self.dispatcher = Dispatcher(self.engine, self.access)

    def ask_as(self, uid: int, label: str | None = None) -> Asking:
        """A connection of a process of its own."""
        return Asking(self.runner, self.dispatcher, peer(uid)._replace(label=label))

    def connect(self, uid: int, pid: int, label: str | None = None) -> Asking:
        """A connection of the process with this PID."""
        who = peer(uid)._replace(pid=pid, label=label)
        return Asking(self.runner, self.dispatcher, who, self.dispatcher.sessions.open(who))

    async def change(self, uid: int, function: Callable[[Collection], T]) -> T:
        """As Engine.change, for one UID."""
        return await self.engine.change((uid,), lambda collections: function(collections[uid]))

    def begin(self, uid: int, opcode: int, arguments: bytes = b"") -> asyncio.Task[tuple[int, bytes]]:
        """Begin a request; its answer comes when the runner runs."""

        async def answered() -> tuple[int, bytes]:
            return unpack(await answer(self.dispatcher, peer(uid), frame(opcode, arguments)))

        return self.runner.get_loop().create_task(answered())

    def answers(self, requests: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, bytes]]:
        """The answers to requests (UID, opcode, arguments) of one iteration of the event loop."""
        tasks = [self.begin(*each) for each in requests]
        self.runner.run(asyncio.wait(tasks))
        return [task.result() for task in tasks]

    def restarted(self) -> "Server":
        """Another server on the same store, which reads everything again."""
        return Server(
            self.runner,
            self.store.inner,
            quotas=self._quotas,
            root_lists_all=self._root_lists_all,
            clock=self.clock,
            steady=self._steady,
            policy=self.policy,
        )
