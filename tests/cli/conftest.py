"""Folders of root and of a user, and a metrics server."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pykcm.cli import metrics_server
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE
from tests.cli.owned import USER, folder
from tests.cli.scraping import Daemon, Pages, serving
from tests.control.controlling import Controlling
from tests.server.asking import Server


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder of root that everyone may enter."""
    path = Path(tempfile.mkdtemp(prefix="pykcm-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def users(top: Path) -> Path:
    """A folder of a user in `top`."""
    return folder(top / "user", USER)


@pytest.fixture
def daemon() -> Daemon:
    """A daemon with the statistics of a real one."""
    with asyncio.Runner() as runner:
        server = Server(runner, MemoryStore())
        server.ask_as(1000).initialize(b"1000", ALICE)
        (stats,) = Controlling(server).ask("stats")
    return Daemon(stats)


@pytest.fixture
async def pages(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pages]:
    """A metrics server that asks this daemon without a pause between two scrapes."""
    monkeypatch.setattr(metrics_server, "_INTERVAL", 0.0)
    path = tmp_path / "metrics.sock"
    async with serving(f"unix:{path}", daemon) as server:
        yield Pages(server, daemon, path)
    assert not path.exists()
