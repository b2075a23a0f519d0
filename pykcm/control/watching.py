"""The requests watch and trace: events of ccaches, and each KCM request with its reply, as they happen."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from pykcm.control.calls import MOST_CONNECTIONS, Administration, Call
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import Uid

if TYPE_CHECKING:
    from pykcm.engine.events import Event
    from pykcm.server.dispatcher import Exchange


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
    """`uid`: only requests of this UID's processes; None: everybody's."""

    uid: Uid | None = None


async def trace(call: Call) -> AsyncIterator[Any]:
    """Yield each request with its reply, without keys and tickets, until the client closes the connection."""
    from pykcm.control.event_queue import EventQueue  # noqa: PLC0415 - as above
    from pykcm.control.trace_format import exchange_item  # noqa: PLC0415

    wanted: TraceArguments = call.arguments
    _check_number(call)
    queue = EventQueue()

    def report(exchange: "Exchange") -> None:
        peer = exchange.peer
        if (wanted.uid is None or peer.uid == wanted.uid) and call.sees_answers_to(peer):
            queue.put(lambda: exchange_item(exchange))

    tracers = call.administration.dispatcher.tracers
    tracers.add(report, queue.fail)
    try:
        yield {"tracing": True}
        while True:
            yield await queue.next()
    finally:
        tracers.discard(report)
