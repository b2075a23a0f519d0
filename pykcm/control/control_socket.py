"""The control socket's connections; most modules for them are loaded with the first connection."""

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from pykcm.control.administration import Administration
from pykcm.peer.access import RequestAccess
from pykcm.peer.identity import ROOT, Kernel
from pykcm.sockets.bound_socket import folder_of_others

if TYPE_CHECKING:
    from pykcm.control.connection import Controls

log = logging.getLogger(__name__)


class ControlSocket:
    """Makes the connections of the control socket, and ends them."""

    def __init__(self, administration: Administration, kernel: Kernel, access: RequestAccess) -> None:
        self._administration = administration
        self._kernel = kernel
        self._access = access
        self._controls: Controls | None = None

    def connection(self) -> asyncio.Protocol:
        # Most daemons end without any request: they start faster, and save more than 1 MiB.
        from pykcm.control.connection import ControlConnection, Controls  # noqa: PLC0415
        from pykcm.control.requests import requests_of  # noqa: PLC0415

        if self._controls is None:
            requests = requests_of(self._administration.config)
            self._controls = Controls(self._administration, requests, self._kernel, self._access)
        return ControlConnection(self._controls)

    @staticmethod
    def warn_of_others(paths: Iterable[str]) -> None:
        """Log each path at which other users than root and the daemon's can put another socket."""
        for path in paths:
            with suppress(OSError):
                folder = folder_of_others(path, {ROOT, os.geteuid()})
                if folder is not None:
                    log.warning(
                        "%s: others than root can put their own socket there, because they own %s or can "
                        "write to it: change its owner and mode, or control_socket_path",
                        *(path, folder),
                    )

    async def finish(self) -> None:
        """End the requests of administrators, and renewals, whose client gets the time of the next one."""
        await self._administration.renewals.finish()
        if self._controls is not None:
            await self._controls.finish()
