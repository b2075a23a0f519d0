"""The requests watch and trace, item by item, without a socket."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

from msgspec.msgpack import encode as packb

from pykcm.control.calls import Call
from pykcm.control.messages import read_arguments
from pykcm.control.requests import REQUESTS
from tests.builders import peer
from tests.control.controlling import Controlling, as_sent
from tests.server.asking import Server


class Following:
    """A request of root with this label, which has begun."""

    def __init__(
        self, server: Server, control: Controlling, request: str, label: str | None = None, **arguments: Any
    ) -> None:
        self._runner = server.runner
        found = REQUESTS[request]
        who = peer(0)._replace(label=label)
        call = Call(control.administration, who, read_arguments(packb(arguments), found.arguments))
        self._items = cast("AsyncGenerator[Any, None]", found.run(call))
        self.first = self.next()

    def next(self) -> dict[str, Any]:
        return self._runner.run(self._next())

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return cast("dict[str, Any]", as_sent(await anext(self._items)))

    def take(self, count: int) -> list[dict[str, Any]]:
        return self._runner.run(self._take(count))

    async def _take(self, count: int) -> list[dict[str, Any]]:
        return [await self._next() for _ in range(count)]

    def close(self) -> None:
        """End the request, as the daemon does for a closed connection."""
        self._runner.run(self._items.aclose())
