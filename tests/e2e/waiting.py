"""Wait for an effect of another process."""

import time
from collections.abc import Callable

# In seconds; below the time that pytest gives a test. Renewing 500 TGTs took 64 on an overloaded machine.
_PATIENCE = 240.0


def wait_until(condition: Callable[[], object]) -> None:
    """Return when the condition is true; fail the test after a time limit."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
