"""The control socket's entrance: what serves administrators is loaded when the first one comes."""

import asyncio
from typing import TYPE_CHECKING

from pykcm.admin.calls import Administration
from pykcm.peer.identity import Kernel

if TYPE_CHECKING:
    from pykcm.admin.connection import Controls


class Entrance:
    """Makes the connections of the control socket, and ends them."""

    def __init__(self, administration: Administration, kernel: Kernel) -> None:
        self._administration = administration
        self._kernel = kernel
        self._controls: Controls | None = None

    def connection(self) -> asyncio.Protocol:
        # Most daemons end without having been asked anything: more than 1 MiB less, and a faster start.
        from pykcm.admin.connection import ControlConnection, Controls  # noqa: PLC0415
        from pykcm.admin.requests import REQUESTS  # noqa: PLC0415

        if self._controls is None:
            self._controls = Controls(self._administration, REQUESTS, self._kernel)
        return ControlConnection(self._controls)

    async def finish(self) -> None:
        """End what administrators have asked for."""
        if self._controls is not None:
            await self._controls.finish()
