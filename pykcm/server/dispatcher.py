"""Answers requests: decodes, decides access, calls the engine, counts and traces."""

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import chain
from time import perf_counter_ns
from typing import Any, cast

import msgspec

from pykcm.engine.committer import Durations
from pykcm.engine.engine import CollectionNeededError, Collections, Engine
from pykcm.engine.observers import Observers
from pykcm.logs import LimitedLog, User
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.protocol.codes import Code, KcmError, name_of
from pykcm.protocol.framing import Frame, Sendable, pack_reply
from pykcm.protocol.messages import NAME
from pykcm.protocol.text import escape
from pykcm.server.context import Context
from pykcm.server.defaults import ChangeNeededError
from pykcm.server.operations import EVERYONE, OPERATIONS, Operation
from pykcm.server.sessions import Session, Sessions
from pykcm.store.interface import StoreError

log = logging.getLogger(__name__)

# Lines that users cause.
_QUOTA_WARNINGS = LimitedLog(log, "requests refused by a quota", 1)
_STORE_ERRORS = LimitedLog(log, "requests that failed in the store", 10)
_FAULTS = LimitedLog(log, "requests that failed by an error in pykcm", 10)

_UNKNOWN = pack_reply(Code.FCC_INTERNAL)


class OperationStatistics(Durations):
    """The requests of one operation; `errors` counts replies by their codes other than 0."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__()
        self.errors: Counter[int] = Counter()


class Statistics:
    """Counts of requests; `operations` is by opcode."""

    def __init__(self, opcodes: Iterable[int]) -> None:
        self.operations = {opcode: OperationStatistics() for opcode in opcodes}
        self.started = time.time()  # seconds since the epoch
        self.unknown_operations = 0
        self.store_errors = 0


class Exchange(msgspec.Struct, frozen=True):
    """One request and its reply, as tracers get them. It holds keys and tickets.

    `operation` is None if the opcode is unknown. `arguments` is empty if they cannot be decoded. `duration`
    is in nanoseconds.
    """

    peer: Peer
    frame: Frame
    operation: Operation | None
    arguments: list[Any]
    code: int
    reason: str
    payload: Sendable
    duration: int


class _Request(msgspec.Struct):
    """A request that waits.

    `begun`: when it came, in nanoseconds of perf_counter_ns. `session_before`: the session's state before the
    first call of the operation.
    """

    peer: Peer
    frame: Frame
    session: Session
    operation: Operation
    begun: int
    arguments: list[Any]
    uids: tuple[int, ...]
    session_before: tuple[Any, ...] | None = None


class Dispatcher:
    """Answers requests. An error in one request does not affect the others.

    `tracers` get every exchange; usually there are none.
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
        """Return the packed reply to one request, or a coroutine that returns it later. Neither raises.

        `session`: that of the connection (see sessions). Without one nothing is remembered between requests.
        """
        operation = OPERATIONS.get(frame.opcode)
        if operation is None:
            return self._answer_unknown(peer, frame)
        begun = perf_counter_ns()
        session = session or Session()
        arguments: list[Any] = []
        try:
            arguments = operation.read_arguments(frame.message)
            uids = operation.scope(self._access, peer, *arguments)
            collections = None if operation.changes else self._engine.cached(uids)
            if collections is not None:
                context = Context(peer, session, self._access, uids, collections, may_change=False)
                payload = self._call(operation, context, arguments)
                return self._finish(peer, frame, operation, begun, arguments, payload)
        except (CollectionNeededError, ChangeNeededError):
            pass
        except Exception as error:  # noqa: BLE001 - answered, and logged if need be
            return self._fail(peer, frame, operation, begun, arguments, error)
        if not self.tracers:
            # The arguments are copies, therefore a waiting request does not keep its frame. A trace that
            # begins meanwhile leaves the request out.
            frame = Frame(frame.opcode, b"")
        return self._answer_later(_Request(peer, frame, session, operation, begun, arguments, uids))

    async def _answer_later(self, request: _Request) -> Sendable:
        operation = request.operation
        try:
            if request.uids is EVERYONE:
                payload: Sendable = await self._list_everyone(request)
            else:
                changes = operation.changes if request.peer.label is None else operation.changes_by_label
                run = self._engine.change if changes else self._engine.read
                payload = await run(request.uids, partial(self._call_in_queue, request), keep=True)
        except Exception as error:  # noqa: BLE001 - answered, and logged if need be
            return self._fail(*_exchanged(request), error)
        return self._finish(*_exchanged(request), payload)

    async def _list_everyone(self, request: _Request) -> bytes:
        """Return the payloads of all UIDs, joined, the peer's own first.

        The collections are read one after the other, and do not stay in the cache. Other requests wait for
        one of them at most.
        """
        payloads: list[bytes] = []
        peer_uid = request.peer.uid
        for uid in chain([peer_uid], await asyncio.ensure_future(self._engine.store.uids())):
            if payloads and uid == peer_uid:
                continue
            request.uids = (uid,)
            payload = await self._engine.read((uid,), partial(self._call_on, request))
            payloads.append(cast("bytes", payload))
            await asyncio.sleep(0)
        return b"".join(payloads)

    def _call_in_queue(self, request: _Request, collections: Collections) -> Sendable:
        """Call the operation. After a conflict it is called again, with the session as it was at first."""
        session = request.session
        if request.session_before is None:
            request.session_before = session.state
        else:
            session.state = request.session_before
        return self._call_on(request, collections)

    def _call_on(self, request: _Request, collections: Collections) -> Sendable:
        context = Context(request.peer, request.session, self._access, request.uids, collections)
        return self._call(request.operation, context, request.arguments)

    def _call(self, operation: Operation, context: Context, arguments: list[Any]) -> Sendable:
        if b"" in arguments:
            arguments = self._name_default(operation, context, arguments)
        return operation.run(context, *arguments)

    def _name_default(self, operation: Operation, context: Context, arguments: list[Any]) -> list[Any]:
        """Replace empty names by the default's. Heimdal's clients send them under KRB5CCNAME=KCM:."""
        named = []
        for field, value, collection in zip(
            operation.arguments, arguments, context.collections, strict=False
        ):
            if field is NAME and not value:
                default = context.session.given_default = context.default(collection).name()
                if self._access.collection_to_change(context.peer, default) != collection.uid:
                    raise KcmError(Code.FCC_NOFILE, "root's default is another UID's ccache: name it")
                named.append(default)
            else:
                named.append(value)
        return named + arguments[len(named) :]

    # Replies

    def _answer_unknown(self, peer: Peer, frame: Frame) -> Sendable:
        log.debug("%s asked for the unknown operation %d", User(peer.uid), frame.opcode)
        self.statistics.unknown_operations += 1
        if self.tracers:
            self._tell_tracers(
                Exchange(peer, frame, None, [], Code.FCC_INTERNAL, "unknown operation", b"", 0)
            )
        return _UNKNOWN

    def _fail(
        self,
        peer: Peer,
        frame: Frame,
        operation: Operation,
        begun: int,
        arguments: list[Any],
        error: Exception,
    ) -> Sendable:
        """Count and report a request that raised an exception; return the reply."""
        if isinstance(error, KcmError):
            self._report(operation, peer, arguments, error)
            return self._finish(peer, frame, operation, begun, arguments, b"", error.code, error.reason)
        _FAULTS.write(
            logging.ERROR,
            peer.uid,
            "%s: %s failed by an error in pykcm",
            User(peer.uid),
            _call_of(operation, arguments),
            fields=_fields(operation, peer, arguments, errno.EIO),
            with_traceback=True,
        )
        return self._finish(peer, frame, operation, begun, arguments, b"", errno.EIO, "an error in pykcm")

    def _finish(
        self,
        peer: Peer,
        frame: Frame,
        operation: Operation,
        begun: int,
        arguments: list[Any],
        payload: Sendable,
        code: int = 0,
        reason: str = "",
    ) -> Sendable:
        """Count and trace a request; return the reply."""
        duration = perf_counter_ns() - begun
        # Durations.add, inlined: the call would double the cost.
        counted = self._counted[frame.opcode]
        counted.buckets[duration.bit_length()] += 1
        counted.total += duration
        if duration > counted.longest:  # noqa: PLR1730 - so does max, at three times the cost
            counted.longest = duration
        if code:
            counted.errors[code] += 1
        if self._traces:
            self._trace(operation, peer, arguments, code, reason, duration)
        if self.tracers and frame.message:
            self._tell_tracers(Exchange(peer, frame, operation, arguments, code, reason, payload, duration))
        return pack_reply(code, payload)

    def _report(self, operation: Operation, peer: Peer, arguments: list[Any], error: KcmError) -> None:
        """Report an error: every one to the watchers, and those of the store and of quotas to the log."""
        if self._engine.watchers:
            name = _ccache_of(operation, arguments)
            self._engine.watchers.each(lambda watcher: watcher.refused(peer.uid, peer.label, name, error))
        if isinstance(error, StoreError):
            self.statistics.store_errors += 1
            _STORE_ERRORS.write(
                logging.ERROR,
                peer.uid,
                "%s: %s failed in the store: %s",
                User(peer.uid),
                _call_of(operation, arguments),
                error,
                fields=_fields(operation, peer, arguments, error.code),
            )
        elif error.code == errno.EDQUOT:
            _QUOTA_WARNINGS.write(
                logging.WARNING,
                peer.uid,
                "%s: %s refused: %s",
                User(peer.uid),
                _call_of(operation, arguments),
                error,
                fields=_fields(operation, peer, arguments, error.code),
            )

    def connection_refused(self, uid: int, label: str | None, reason: str) -> None:
        """Report a refused connection to the watchers; `label` is None for a peer that is not identified."""
        self._engine.watchers.each(lambda watcher: watcher.connection_refused(uid, label, reason))

    def _tell_tracers(self, exchange: Exchange) -> None:
        self.tracers.each(lambda tracer: tracer(exchange))

    @staticmethod
    def _trace(
        operation: Operation, peer: Peer, arguments: list[Any], code: int, reason: str, duration: int
    ) -> None:
        fields = _fields(operation, peer, arguments, code)
        log.debug(
            "%s: %s: %s%s (%.0f us)",
            User(peer.uid),
            _call_of(operation, arguments),
            fields["KCM_RESULT"],
            f" ({reason})" if reason else "",
            duration / 1e3,
            extra=fields,
        )


def _exchanged(request: _Request) -> tuple[Peer, Frame, Operation, int, list[Any]]:
    return request.peer, request.frame, request.operation, request.begun, request.arguments


def _ccache_of(operation: Operation, arguments: list[Any]) -> bytes:
    name: bytes = arguments[0] if arguments and operation.names_ccache else b""
    return name


def _call_of(operation: Operation, arguments: list[Any]) -> str:
    """The operation's name, followed by the ccache with `KCM:` if it names one."""
    name = _ccache_of(operation, arguments)
    return f"{operation.name} KCM:{escape(name)}" if name else operation.name


def _fields(operation: Operation, peer: Peer, arguments: list[Any], code: int) -> dict[str, Any]:
    return {
        "KCM_OP": operation.name,
        "KCM_UID": peer.uid,
        "KCM_PID": peer.pid,
        "KCM_CCACHE": escape(_ccache_of(operation, arguments)),
        "KCM_RESULT": name_of(code),
    }
