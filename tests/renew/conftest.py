"""Worker processes of the tests, which are forks of pytest's process."""

import resource
from pathlib import Path

import pytest

from pykcm.renew import workers


@pytest.fixture(autouse=True)
def room_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers have their memory beyond that of pytest's process, as a part of which they begin.

    After other tests this process may have a larger address space than workers may. They have room then only
    where the earlier tests have left some.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    monkeypatch.setattr(workers, "_MOST_MEMORY", workers._MOST_MEMORY + pages * resource.getpagesize())
