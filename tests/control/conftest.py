"""The requests of the control socket, asked of a server on each store in turn."""

import pytest

from tests.control.controlling import Controlling
from tests.server.asking import Server
from tests.server.conftest import runner, server

__all__ = ["runner", "server"]


@pytest.fixture
def control(server: Server) -> Controlling:
    """The administrator of that server."""
    return Controlling(server)
