"""From a request to its reply: decode, decide, wait for the UID's turn, run, make durable, answer."""

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pykcm.ccaches.changes import Change, added_ccaches, removals_in, written_size
from pykcm.ccaches.collection import Collection
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.committer import Committer
from pykcm.engine.observers import Observers
from pykcm.engine.persistence import secret_changes
from pykcm.engine.removals import log_removals
from pykcm.engine.uid_queues import UidQueues
from pykcm.logs import LimitedLog
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError, name_of
from pykcm.protocol.framing import Frame, Sendable, pack_reply
from pykcm.protocol.messages import NAME, read_arguments
from pykcm.protocol.text import escape
from pykcm.server.defaults import CollectionNeededError
from pykcm.server.operations import EVERYONE, OPERATIONS, Context, Operation
from pykcm.server.sessions import Session, Sessions
from pykcm.server.statistics import Statistics
from pykcm.store.interface import Entry, Outcome, Refused, Store, StoreError, Unknown

if TYPE_CHECKING:
    from pykcm.engine.events import Watch

log = logging.getLogger(__name__)

# Lines that users cause.
_QUOTA_WARNINGS = LimitedLog(log, "requests refused by a quota", 1)
_STORE_ERRORS = LimitedLog(log, "requests that failed in the store", 10)
_FAULTS = LimitedLog(log, "requests that failed by an error in pykcm", 10)

T = TypeVar("T")

# The peer, and the session of its connection.
_Asking = tuple[Peer, Session]

_NO_OTHERS: Mapping[int, Collection] = {}

_UNKNOWN = pack_reply(Code.FCC_INTERNAL)


class Exchange(NamedTuple):
    """One request and its reply, for whoever traces: it holds keys and tickets.

    `operation` is None where the opcode is unknown, and `arguments` is empty where they cannot be read;
    `duration` is in nanoseconds.
    """

    peer: Peer
    frame: Frame
    operation: Operation | None
    arguments: list[Any]
    code: int
    reason: str
    payload: Sendable
    duration: int


class Dispatcher:
    """Answers requests. Whatever happens in one, the others go on.

    `watchers` are told what happens to ccaches, `tracers` of every exchange; nearly always there are none.
    """

    def __init__(self, store: Store, collection_cache: CollectionCache, access: Access) -> None:
        self._store = store
        self._collection_cache = collection_cache
        self._access = access
        self._uid_queues = UidQueues()
        self._committer = Committer(store)
        self._traces = log.isEnabledFor(logging.DEBUG)
        self.sessions = Sessions()
        self.statistics = Statistics(OPERATIONS)
        self._counted = self.statistics.operations
        self.watchers: Observers[Watch] = Observers()
        self.tracers: Observers[Callable[[Exchange], None]] = Observers()

    @property
    def collection_cache(self) -> CollectionCache:
        return self._collection_cache

    @property
    def committer(self) -> Committer:
        return self._committer

    @property
    def uid_queues(self) -> UidQueues:
        return self._uid_queues

    async def perform(self, peer: Peer, frame: Frame, session: Session | None = None) -> Sendable:
        """The packed reply to one request. Never raises.

        `session`: of the connection that the request came on, see sessions; None: nothing is remembered.
        """
        session = session or Session()
        opcode = frame.opcode
        operation = OPERATIONS.get(opcode)
        if operation is None:
            log.debug("UID %d asked for the unknown operation %d", peer.uid, opcode)
            self.statistics.unknown_operations += 1
            if self.tracers:
                self._tell_tracers(
                    Exchange(peer, frame, None, [], Code.FCC_INTERNAL, "unknown operation", b"", 0)
                )
            return _UNKNOWN
        begun = perf_counter_ns()
        arguments: list[Any] = []
        code = 0
        reason = ""
        payload: Sendable = b""
        try:
            arguments = read_arguments(operation.arguments, frame.message)
            uids = operation.scope(self._access, peer, *arguments)
            asking = peer, session
            changes = operation.changes if peer.label is None else operation.changes_by_label
            at_once = None if changes else self._read_at_once(operation, asking, uids, arguments)
            payload = await self._run(operation, asking, uids, arguments) if at_once is None else at_once
        except KcmError as error:
            code, reason = error.code, error.reason
            self._report(operation, peer, arguments, error)
        except Exception:  # noqa: BLE001 - logged with its traceback
            code, reason = errno.EIO, "an error in pykcm"
            _FAULTS.write(
                logging.ERROR,
                peer.uid,
                "UID %d: %s failed by an error in pykcm",
                peer.uid,
                _call_of(operation, arguments),
                fields=_fields(operation, peer, arguments, errno.EIO),
                with_traceback=True,
            )
        duration = perf_counter_ns() - begun
        # As Durations.add does: a call would cost as much again.
        counted = self._counted[opcode]
        counted.buckets[duration.bit_length()] += 1
        counted.total += duration
        if duration > counted.longest:  # noqa: PLR1730 - so does max, at three times the cost
            counted.longest = duration
        if code:
            counted.errors[code] += 1
        if self._traces:
            self._trace(operation, peer, arguments, code, reason, duration)
        if self.tracers:
            self._tell_tracers(Exchange(peer, frame, operation, arguments, code, reason, payload, duration))
        return pack_reply(code, payload)

    async def _run(
        self, operation: Operation, asking: _Asking, uids: tuple[int, ...], arguments: list[Any]
    ) -> Sendable:
        others: tuple[int, ...] = ()
        while True:
            try:
                return await self._run_with(others, operation, asking, uids, arguments)
            except CollectionNeededError as needed:
                others = (needed.uid,)

    async def _run_with(
        self,
        others: tuple[int, ...],
        operation: Operation,
        asking: _Asking,
        uids: tuple[int, ...],
        arguments: list[Any],
    ) -> Sendable:
        if uids is EVERYONE:
            return await self._list_everyone(operation, asking, arguments)
        # In one order for all, so that two that want the same queues never wait for each other.
        wanted = sorted({*uids, *others}) if len(uids) + len(others) > 1 else uids
        entered = 0
        try:
            for uid in wanted:
                if not self._uid_queues.enter_if_free(uid):
                    await self._uid_queues.enter(uid)
                entered += 1
            return await self._run_in_turn(operation, asking, uids, arguments, others)
        finally:
            for uid in wanted[:entered]:
                self._uid_queues.leave(uid)
            self._make_room()

    def _make_room(self) -> None:
        try:
            self._collection_cache.make_room(self._uid_queues.is_free)
        except Exception:  # noqa: BLE001 - logged with its traceback
            _FAULTS.write(
                logging.ERROR, None, "no room made in the cache, by an error in pykcm", with_traceback=True
            )

    async def _list_everyone(self, operation: Operation, asking: _Asking, arguments: list[Any]) -> bytes:
        """The payloads of all UIDs' turns, joined.

        One UID after the other: nobody waits for more than one collection, and none of them stays in memory.
        """
        payloads: list[bytes] = []
        own = asking[0].uid
        for uid in chain([own], await self._store.uids()):
            if payloads and uid == own:
                continue
            payload = await self._change(
                uid, lambda collection: self._call(operation, asking, [collection], arguments)
            )
            payloads.append(cast("bytes", payload))
            await asyncio.sleep(0)
        return b"".join(payloads)

    def _read_at_once(
        self, operation: Operation, asking: _Asking, uids: tuple[int, ...], arguments: list[Any]
    ) -> Sendable | None:
        """The payload, if all that is read is in memory and in nobody's turn."""
        present = []
        for uid in uids:
            if (
                not self._uid_queues.is_free(uid)
                or (collection := self._collection_cache.present(uid)) is None
            ):
                return None
            present.append(collection)
        try:
            return self._call(operation, asking, present, arguments)
        except CollectionNeededError:
            return None

    async def _run_in_turn(
        self,
        operation: Operation,
        asking: _Asking,
        uids: tuple[int, ...],
        arguments: list[Any],
        others: tuple[int, ...],
    ) -> Sendable:
        collections = [await self._collection_cache.get(uid) for uid in uids]
        beside = {uid: await self._collection_cache.get(uid) for uid in others}
        return await self._make_durable(
            collections, lambda: self._call(operation, asking, collections, arguments, beside)
        )

    async def change(self, uid: int, change: Callable[[Collection], T]) -> T:
        """Change the UID's collection in its turn, durably; raises StoreError, and then nothing has changed.

        It may read as well, and change nothing. A collection that was not in memory does not stay there: it
        is no user who has asked for it. Whoever is cancelled meanwhile waits for the end of it.
        """
        task = asyncio.ensure_future(self._change(uid, change))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _change(self, uid: int, change: Callable[[Collection], T]) -> T:
        await self._uid_queues.enter(uid)
        try:
            was_present = self._collection_cache.is_present(uid)
            try:
                collection = await self._collection_cache.get(uid, is_wanted=False)
                return await self._make_durable([collection], lambda: change(collection))
            finally:
                if not was_present:
                    self._collection_cache.release(uid)
        finally:
            self._uid_queues.leave(uid)

    async def _make_durable(self, collections: Sequence[Collection], change: Callable[[], T]) -> T:
        """Make the change, commit what it has changed, and tell of what went by the way."""
        befores = self.watchers.each(lambda watcher: watcher.before(collections)) if self.watchers else []
        taken: list[tuple[Collection, list[Change]]] = []
        try:
            try:
                result = change()
            finally:
                taken += [(each, changes) for each in collections if (changes := each.take_changes())]
                size = sum(written_size(changes) for _, changes in taken)
                number = sum(added_ccaches(changes) for _, changes in taken)
            todo = [
                secret_change
                for collection, changes in taken
                for secret_change in secret_changes(collection.uid, changes)
            ]
            if todo:
                _check(await self._committer.commit(Entry(todo, size=size)))
        except BaseException:
            # Memory has what the store has not: read again.
            for collection, _ in taken:
                self._collection_cache.drop(collection.uid)
            self._collection_cache.take_back(number)
            raise
        if taken:
            self._note_changed(collections, taken, befores)
        return result

    def _note_changed(
        self,
        collections: Sequence[Collection],
        taken: list[tuple[Collection, list[Change]]],
        befores: "list[tuple[Watch, Any]]",
    ) -> None:
        """Weigh, log, count and tell what has changed. It is durable: nothing here may fail the operation."""
        try:
            removals = {}
            for collection, _ in taken:
                self._collection_cache.weigh(collection)
            for collection, changes in taken:
                if gone := removals_in(changes):
                    removals[collection.uid] = gone
                    log_removals(collection.uid, gone)
                    self.statistics.count_removals(gone)
            for watcher, before in befores:
                self.watchers.tell(watcher, watcher.changed, before, removals)
        except Exception:  # noqa: BLE001 - logged with its traceback
            for collection, _ in taken:
                self._collection_cache.drop(collection.uid)
            _FAULTS.write(
                logging.ERROR,
                collections[0].uid,
                "UID %d: a change is durable, but was not counted, logged or told, by an error in pykcm",
                collections[0].uid,
                fields={"KCM_UID": collections[0].uid},
                with_traceback=True,
            )

    def _call(
        self,
        operation: Operation,
        asking: _Asking,
        collections: list[Collection],
        arguments: list[Any],
        others: Mapping[int, Collection] = _NO_OTHERS,
    ) -> Sendable:
        context = Context(*asking, self._access, collections, others)
        if b"" in arguments:
            arguments = self._name_default(operation, context, arguments)
        return operation.run(context, *arguments)

    def _name_default(self, operation: Operation, context: Context, arguments: list[Any]) -> list[Any]:
        """Put the default's name where no name is given, as Heimdal's clients do under KRB5CCNAME=KCM:."""
        named = []
        for field, value, collection in zip(
            operation.arguments, arguments, context.collections, strict=False
        ):
            if field is NAME and not value:
                default = context.session.given = context.default(collection).name()
                if self._access.collection_to_change(context.peer, default) != collection.uid:
                    raise KcmError(Code.FCC_NOFILE, "root's default is another's ccache: name it")
                named.append(default)
            else:
                named.append(value)
        return named + arguments[len(named) :]

    def _report(self, operation: Operation, peer: Peer, arguments: list[Any], error: KcmError) -> None:
        """Tell the administrator what needs attention; what merely was not found is nobody's business."""
        if self.watchers:
            name = _ccache_of(operation, arguments)
            self.watchers.each(lambda watcher: watcher.refused(peer, name, error))
        if isinstance(error, StoreError):
            self.statistics.store_errors += 1
            _STORE_ERRORS.write(
                logging.ERROR,
                peer.uid,
                "UID %d: %s failed in the store: %s",
                peer.uid,
                _call_of(operation, arguments),
                error,
                fields=_fields(operation, peer, arguments, error.code),
            )
        elif error.code == errno.EDQUOT:
            _QUOTA_WARNINGS.write(
                logging.WARNING,
                peer.uid,
                "UID %d: %s refused: %s",
                peer.uid,
                _call_of(operation, arguments),
                error,
                fields=_fields(operation, peer, arguments, error.code),
            )

    def connection_refused(self, uid: int, label: str | None, why: str) -> None:
        """Tell those who watch; there is no label where the peer cannot be known for certain."""
        self.watchers.each(lambda watcher: watcher.connection_refused(uid, label, why))

    def _tell_tracers(self, exchange: Exchange) -> None:
        self.tracers.each(lambda tracer: tracer(exchange))

    @staticmethod
    def _trace(
        operation: Operation, peer: Peer, arguments: list[Any], code: int, reason: str, duration: int
    ) -> None:
        fields = _fields(operation, peer, arguments, code)
        log.debug(
            "UID %d: %s: %s%s (%.0f us)",
            peer.uid,
            _call_of(operation, arguments),
            fields["KCM_RESULT"],
            f" ({reason})" if reason else "",
            duration / 1e3,
            extra=fields,
        )


def _check(outcome: Outcome) -> None:
    if isinstance(outcome, Refused | Unknown):
        raise outcome.error


def _ccache_of(operation: Operation, arguments: list[Any]) -> bytes:
    name: bytes = arguments[0] if arguments and operation.names_ccache else b""
    return name


def _call_of(operation: Operation, arguments: list[Any]) -> str:
    """The operation's name, and the ccache's where it has one."""
    return f"{operation.name} {escape(_ccache_of(operation, arguments))}".rstrip()


def _fields(operation: Operation, peer: Peer, arguments: list[Any], code: int) -> dict[str, Any]:
    return {
        "KCM_OP": operation.name,
        "KCM_UID": peer.uid,
        "KCM_PID": peer.pid,
        "KCM_CCACHE": escape(_ccache_of(operation, arguments)),
        "KCM_RESULT": name_of(code),
    }
