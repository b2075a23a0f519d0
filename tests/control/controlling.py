"""The requests of the control socket asked without a socket."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from pykcm.config import Config
from pykcm.control.calls import END_OF_ITEMS, Administration, Call
from pykcm.control.messages import convert
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
    """Asks the service of `server`, as root of this label; `summary` is the last request's."""

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
        )
        self.summary: dict[str, Any] = {}

    def ask(self, request: str, /, *items: Any, label: str | None = None, **arguments: Any) -> list[Any]:
        """The items that answer it."""
        return self._server.runner.run(self._ask(request, items, label, arguments))

    async def _ask(
        self, request: str, items: tuple[Any, ...], label: str | None, arguments: dict[str, Any]
    ) -> list[Any]:
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        for each in (*items, END_OF_ITEMS):
            inbox.put_nowait(each)
        found = REQUESTS[request]
        who = peer(0)._replace(label=label)
        call = Call(self.administration, who, convert(arguments, found.arguments), inbox, lambda: None)
        answer = found.run(call)
        answered = []
        if isinstance(answer, AsyncIterator):
            answered = [each async for each in answer]
        else:
            await answer
        self.summary = call.summary
        return answered


def copies_of(store: Store) -> Copies | None:
    """As the daemon makes them."""
    if not isinstance(store, SQLCipherStore):
        return None
    return Copies(partial(backup, store), partial(rekey, store))
