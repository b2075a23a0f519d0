"""The requests watch and trace: events of ccaches, and each KCM request with its reply, as they happen."""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from pykcm.control.administration import MOST_CONNECTIONS, Administration
from pykcm.control.calls import Call
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import Uid
from pykcm.peer.identity import Peer
from pykcm.processes import program_of
from pykcm.protocol.codes import EVERYDAY

if TYPE_CHECKING:
    from pykcm.engine.events import Event
    from pykcm.server.dispatcher import Exchange


# Connections whose programs a trace remembers.
_MOST_PROGRAMS = 1024

_MOST_FOLLOWERS = MOST_CONNECTIONS // 2


def _check_number(call: Call) -> None:
    """Keep connections free for other requests, because following never ends; raises ControlError."""
    administration = call.administration
    watchers = sum(watcher.is_client for watcher in administration.engine.watchers)
    followers = watchers + len(administration.dispatcher.tracers)
    if followers >= _MOST_FOLLOWERS:
        raise ControlError(ErrorCode.BUSY, f"{_MOST_FOLLOWERS} watch or trace already")


class WatchArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`uid`: only events of this UID's ccaches, and refusals of its requests; None: everybody's."""

    uid: Uid | None = None


async def watch(call: Call) -> AsyncIterator[Any]:
    """Yield each event, until the client closes the connection."""
    # Imported late, because there is rarely a watching client.
    from pykcm.control.event_queue import EventQueue  # noqa: PLC0415
    from pykcm.control.snapshots import unconstrained_default  # noqa: PLC0415
    from pykcm.control.trace_format import event_item  # noqa: PLC0415
    from pykcm.engine.events import Watch  # noqa: PLC0415

    wanted: WatchArguments = call.arguments
    _check_number(call)
    queue = EventQueue()

    def report(event: "Event") -> None:
        if wanted.uid is not None and event.uid != wanted.uid:
            return
        if call.sees(event.label):
            queue.put(lambda: event_item(event))

    watchers = call.administration.engine.watchers
    watcher = Watch(report, unconstrained_default)
    async with _remote_changes(call.administration):
        watchers.add(watcher, queue.fail)
        try:
            yield {"watching": True}
            while True:
                yield await queue.next()
        finally:
            watchers.discard(watcher)


def _remote_changes(administration: Administration) -> AbstractAsyncContextManager[None]:
    """Within it, changes of other hosts are reported as well, if the store is shared."""
    engine, sharing = administration.engine, administration.store.sharing
    if sharing is None:
        return nullcontext()
    from pykcm.control.snapshots import unconstrained_default  # noqa: PLC0415 - as above
    from pykcm.engine.remote_changes import RemoteChanges  # noqa: PLC0415

    for observer in engine.watchers:
        if isinstance(observer, RemoteChanges):
            return observer.watched()
    return RemoteChanges(engine, sharing, unconstrained_default).watched()


class TraceArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Only these requests are traced.

    `uid`: of this UID's processes; None: everybody's. `errors`: that failed, except for everyday answers.
    `operation`, `ccache`: of this name; None: all.
    """

    uid: Uid | None = None
    errors: bool = False
    operation: str | None = None
    ccache: bytes | None = None

    def include(self, exchange: "Exchange") -> bool:
        if self.uid is not None and exchange.peer.uid != self.uid:
            return False
        if self.errors and (not exchange.code or exchange.code in EVERYDAY):
            return False
        if self.operation is not None and _operation_of(exchange) != self.operation:
            return False
        return self.ccache is None or self.ccache in _ccaches_of(exchange)


def _operation_of(exchange: "Exchange") -> str:
    return exchange.operation.name if exchange.operation else str(exchange.frame.opcode)


def _ccaches_of(exchange: "Exchange") -> list[bytes]:
    """The names of ccaches in the request, and that in the reply."""
    from pykcm.protocol.messages import NAME, PAYLOAD  # noqa: PLC0415 - only a filter needs them

    names = []
    if exchange.operation is not None:
        fields = zip(exchange.operation.arguments, exchange.arguments, strict=False)
        names = [value for field, value in fields if field is NAME]
    if PAYLOAD.get(exchange.frame.opcode) is NAME and isinstance(exchange.payload, bytes):
        names.append(exchange.payload[:-1])
    return names


class _Programs:
    """The programs at the other ends of connections, each read at the connection's first request.

    A client waits for its reply at that moment, so that it cannot have ended.
    """

    def __init__(self) -> None:
        # By the identity of the peer, which is kept: another object never has its address.
        self._known: OrderedDict[int, tuple[Peer, str]] = OrderedDict()

    def of(self, peer: Peer) -> str:
        known = self._known.get(id(peer))
        if known is None:
            known = self._known[id(peer)] = (peer, program_of(peer.pid))
            if len(self._known) > _MOST_PROGRAMS:
                self._known.popitem(last=False)
        return known[1]


async def trace(call: Call) -> AsyncIterator[Any]:
    """Yield each request with its reply, without keys and tickets, until the client closes the connection."""
    from pykcm.control.event_queue import EventQueue  # noqa: PLC0415 - as above
    from pykcm.control.trace_format import exchange_item  # noqa: PLC0415

    wanted: TraceArguments = call.arguments
    _check_number(call)
    queue, programs = EventQueue(), _Programs()

    def report(exchange: "Exchange") -> None:
        if wanted.include(exchange) and call.sees_answers_to(exchange.peer):
            program = programs.of(exchange.peer)
            queue.put(lambda: exchange_item(exchange, program))

    tracers = call.administration.dispatcher.tracers
    tracers.add(report, queue.fail)
    try:
        yield {"tracing": True}
        while True:
            yield await queue.next()
    finally:
        tracers.discard(report)
