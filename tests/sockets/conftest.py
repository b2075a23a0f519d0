"""Each async test runs on the daemon's event loop."""

from typing import Any

import pytest

from pykcm.sockets.event_loop import EventLoop


@pytest.fixture
def anyio_backend() -> Any:
    """The daemon's event loop."""
    return "asyncio", {"loop_factory": EventLoop}
