"""Wait for what another process brings about."""

import time
from collections.abc import Callable

# In seconds. Nothing takes as long, except on a machine that does a lot besides.
_PATIENCE = 60.0


def wait_until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail the test if it does not come to hold."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
