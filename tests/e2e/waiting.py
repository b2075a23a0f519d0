"""Wait for an effect of another process."""

import time
from collections.abc import Callable

# In seconds; reached only on an overloaded machine.
_PATIENCE = 60.0


def wait_until(condition: Callable[[], object]) -> None:
    """Return when the condition is true; fail the test after a time limit."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
