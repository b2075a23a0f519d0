"""The requests of the control socket asked without a socket."""

from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from typing import Any

from msgspec.msgpack import decode as unpackb
from msgspec.msgpack import encode as packb

from pykcm.config import Config
from pykcm.control.administration import Administration, RenewalsOnDemand
from pykcm.control.calls import Call
from pykcm.control.messages import read_arguments
from pykcm.control.requests import REQUESTS
from pykcm.engine.clock import ClockKeeper
from pykcm.engine.reaper import Reaper
from pykcm.server.connections import Connections
from pykcm.server.fair_queue import FairQueue
from pykcm.store.copies import Copies
from pykcm.store.interface import Store
from pykcm.store.sqlcipher.backup import backup
from pykcm.store.sqlcipher.rekey import rekey
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import peer
from tests.server.asking import Server


class Controlling:
    """Makes requests to `server` as root; `summary` is that of the last request."""

    def __init__(self, server: Server, config: Config | None = None) -> None:
        self._server = server
        config = config or Config()
        reaper = Reaper(server.engine, config.expired_retention, server.checked_clock.removal_time)
        self.administration = Administration(
            config,
            server.engine,
            server.dispatcher,
            server.store,
            copies_of(server.store.inner),
            server.access,
            reaper,
            Connections(0, lambda: None),
            FairQueue(),
            ClockKeeper(server.checked_clock),
            RenewalsOnDemand(server.engine, config),
        )
        self.summary: dict[str, Any] = {}

    def ask(self, request: str, /, *items: Any, label: str | None = None, **arguments: Any) -> list[Any]:
        """The items of the answer."""
        return self._server.runner.run(self._ask(request, items, label, arguments))

    async def _ask(
        self, request: str, items: tuple[Any, ...], label: str | None, arguments: dict[str, Any]
    ) -> list[Any]:
        frames = [packb(each) for item in items for each in split(item)]

        async def receive() -> bytes | None:
            return frames.pop(0) if frames else None

        found = REQUESTS[request]
        who = peer(0)._replace(label=label)
        call = Call(self.administration, who, read_arguments(packb(arguments), found.arguments), receive)
        answer = found.run(call)
        answered = []
        if isinstance(answer, AsyncIterator):
            answered = [as_sent(each) async for each in answer]
        else:
            await answer
        self.summary = call.summary
        return joined(answered)


def as_sent(item: Any) -> Any:
    """An item as the client decodes it."""
    return unpackb(packb(item))


def split(item: Any) -> list[Any]:
    """The frames of a ccache in an import: a header with the number of credentials, and the credentials."""
    if not isinstance(item, dict) or not isinstance(item.get("credentials"), list):
        return [item]
    credentials = item["credentials"]
    return [item | {"credentials": len(credentials)}, *credentials]


def joined(items: list[Any]) -> list[Any]:
    """The ccaches of an export with their credentials in them, and all other items as they are."""
    joined: list[Any] = []
    left = iter(items)
    for item in left:
        number = item.get("ccache", {}).get("credentials")
        if number is not None:
            credentials = [each["credential"] for each in islice(left, number)]
            item["ccache"]["credentials"] = credentials
        joined.append(item)
    return joined


def copies_of(store: Store) -> Copies | None:
    """As the daemon makes them."""
    if not isinstance(store, SQLCipherStore):
        return None
    return Copies(partial(backup, store), partial(rekey, store))
