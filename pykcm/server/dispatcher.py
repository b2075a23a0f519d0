"""From a request to its reply: decode, decide, call the engine, count, answer."""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain
from time import perf_counter_ns
from typing import Any, NamedTuple, cast

from pykcm.engine.engine import CollectionNeededError, Collections, Engine
from pykcm.engine.observers import Observers
from pykcm.logs import LimitedLog
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError, name_of
from pykcm.protocol.framing import Frame, Sendable, pack_reply
from pykcm.protocol.messages import NAME, read_arguments
from pykcm.protocol.text import escape
from pykcm.server.operations import EVERYONE, OPERATIONS, Context, Operation
from pykcm.server.sessions import Session, Sessions
from pykcm.server.statistics import Statistics
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

# Lines that users cause.
_QUOTA_WARNINGS = LimitedLog(log, "requests refused by a quota", 1)
_STORE_ERRORS = LimitedLog(log, "requests that failed in the store", 10)
_FAULTS = LimitedLog(log, "requests that failed by an error in pykcm", 10)

_UNKNOWN = pack_reply(Code.FCC_INTERNAL)


class Exchange(NamedTuple):
    """One request and its reply, for those who trace: it holds keys and tickets.

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


class _Request:
    """A request on its way. `session_before`: the session's state before the operation was first called."""

    __slots__ = ("arguments", "begun", "frame", "operation", "peer", "session", "session_before", "uids")

    def __init__(self, peer: Peer, frame: Frame, session: Session, operation: Operation) -> None:
        self.begun = perf_counter_ns()
        self.peer = peer
        self.frame = frame
        self.session = session
        self.operation = operation
        self.arguments: list[Any] = []
        self.uids: tuple[int, ...] = ()
        self.session_before: tuple[Any, ...] | None = None


class Dispatcher:
    """Answers requests. Whatever happens in one, the others go on.

    `tracers` are told of every exchange; nearly always there are none.
    """

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._access = access
        self._traces = log.isEnabledFor(logging.DEBUG)
        self.sessions = Sessions()
        self.statistics = Statistics(OPERATIONS)
        self._counted = self.statistics.operations
        self.tracers: Observers[Callable[[Exchange], None]] = Observers()

    def answer(
        self, peer: Peer, frame: Frame, session: Session | None = None
    ) -> Sendable | Coroutine[Any, Any, Sendable]:
        """The packed reply to one request, or a coroutine that gives it later. Neither raises.

        `session`: of the connection that the request came on, see sessions; None: nothing is remembered.
        """
        operation = OPERATIONS.get(frame.opcode)
        if operation is None:
            return self._answer_unknown(peer, frame)
        request = _Request(peer, frame, session or Session(), operation)
        try:
            request.arguments = read_arguments(operation.arguments, frame.message)
            request.uids = operation.scope(self._access, peer, *request.arguments)
            changes = operation.changes if peer.label is None else operation.changes_by_label
            collections = None if changes else self._engine.cached(request.uids)
            if collections is not None:
                return self._finish(request, self._call(request, collections))
        except CollectionNeededError:
            changes = False
        except Exception as error:  # noqa: BLE001 - answered, and logged if need be
            return self._fail(request, error)
        if not self.tracers:
            # The arguments are copies: while the request waits, its bytes are in memory only once. A trace
            # that begins meanwhile does not have it.
            request.frame = Frame(frame.opcode, b"")
        return self._answer_later(request, changes=changes)

    async def _answer_later(self, request: _Request, *, changes: bool) -> Sendable:
        try:
            if request.uids is EVERYONE:
                payload: Sendable = await self._list_everyone(request)
            else:
                run = self._engine.change if changes else self._engine.read
                payload = await run(request.uids, partial(self._call_in_queue, request), keep=True)
        except Exception as error:  # noqa: BLE001 - answered, and logged if need be
            return self._fail(request, error)
        return self._finish(request, payload)

    async def _list_everyone(self, request: _Request) -> bytes:
        """The payloads for all UIDs, joined.

        One UID after the other: nobody waits for more than one collection, and none of them stays in the
        cache.
        """
        payloads: list[bytes] = []
        own = request.peer.uid
        for uid in chain([own], await asyncio.ensure_future(self._engine.store.uids())):
            if payloads and uid == own:
                continue
            request.uids = (uid,)
            payload = await self._engine.read((uid,), partial(self._call, request))
            payloads.append(cast("bytes", payload))
            await asyncio.sleep(0)
        return b"".join(payloads)

    def _call_in_queue(self, request: _Request, collections: Collections) -> Sendable:
        """Call the operation, perhaps again after a conflict: the session is then as it was before."""
        session = request.session
        if request.session_before is None:
            request.session_before = session.state
        else:
            session.state = request.session_before
        return self._call(request, collections)

    def _call(self, request: _Request, collections: Collections) -> Sendable:
        operation, arguments = request.operation, request.arguments
        context = Context(
            request.peer,
            request.session,
            self._access,
            [collections[uid] for uid in request.uids],
            collections,
        )
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
                default = context.session.given_default = context.default(collection).name()
                if self._access.collection_to_change(context.peer, default) != collection.uid:
                    raise KcmError(Code.FCC_NOFILE, "root's default is another's ccache: name it")
                named.append(default)
            else:
                named.append(value)
        return named + arguments[len(named) :]

    # Replies

    def _answer_unknown(self, peer: Peer, frame: Frame) -> Sendable:
        log.debug("UID %d asked for the unknown operation %d", peer.uid, frame.opcode)
        self.statistics.unknown_operations += 1
        if self.tracers:
            self._tell_tracers(
                Exchange(peer, frame, None, [], Code.FCC_INTERNAL, "unknown operation", b"", 0)
            )
        return _UNKNOWN

    def _fail(self, request: _Request, error: Exception) -> Sendable:
        """Count and report a request that raised an exception; gives the reply."""
        operation, peer, arguments = request.operation, request.peer, request.arguments
        if isinstance(error, KcmError):
            self._report(operation, peer, arguments, error)
            return self._finish(request, b"", error.code, error.reason)
        _FAULTS.write(
            logging.ERROR,
            peer.uid,
            "UID %d: %s failed by an error in pykcm",
            peer.uid,
            _call_of(operation, arguments),
            fields=_fields(operation, peer, arguments, errno.EIO),
            with_traceback=True,
        )
        return self._finish(request, b"", errno.EIO, "an error in pykcm")

    def _finish(self, request: _Request, payload: Sendable, code: int = 0, reason: str = "") -> Sendable:
        """Count and trace a request; gives the reply."""
        duration = perf_counter_ns() - request.begun
        # As Durations.add does: a call would cost as much again.
        counted = self._counted[request.frame.opcode]
        counted.buckets[duration.bit_length()] += 1
        counted.total += duration
        if duration > counted.longest:  # noqa: PLR1730 - so does max, at three times the cost
            counted.longest = duration
        if code:
            counted.errors[code] += 1
        if self._traces:
            self._trace(request.operation, request.peer, request.arguments, code, reason, duration)
        if self.tracers and request.frame.message:
            self._tell_tracers(
                Exchange(
                    *(request.peer, request.frame, request.operation, request.arguments),
                    *(code, reason, payload, duration),
                )
            )
        return pack_reply(code, payload)

    def _report(self, operation: Operation, peer: Peer, arguments: list[Any], error: KcmError) -> None:
        """Tell the administrator what needs attention; what merely was not found is nobody's business."""
        if self._engine.watchers:
            name = _ccache_of(operation, arguments)
            self._engine.watchers.each(lambda watcher: watcher.refused(peer.uid, peer.label, name, error))
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
        self._engine.watchers.each(lambda watcher: watcher.connection_refused(uid, label, why))

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
