"""Each async test runs on both event loops."""

from typing import Any

import pytest


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": use_uvloop}), id="uvloop" if use_uvloop else "asyncio")
        for use_uvloop in (False, True)
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both event loops in turn."""
    return request.param
