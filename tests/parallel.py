"""Hooks for pytest-xdist: tests marked `alone` run alone, long tests run first, every report can be sent."""

import fcntl
import os
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest

# Of a test for which the worker has kept the lock.
_IS_LOCKED = pytest.StashKey[bool]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests marked `alone` first, then those with their own timeout: they are long.

    At the end, a worker without tests takes some of another one. If all are short, both end at the same time.
    """
    if _is_worker():
        items.sort(key=lambda item: (not _is_alone(item), item.get_closest_marker("timeout") is None))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Run a test that is marked `alone` while no worker runs another test."""
    if not _is_worker():
        return (yield)
    assert item.config.inipath is not None
    queue, running = _open_lock(item.config.rootpath), _open_lock(item.config.inipath)
    if not item.stash.get(_IS_LOCKED, False):
        # Each test passes the queue first. Otherwise others would overtake one that waits for all to end.
        fcntl.flock(queue, fcntl.LOCK_EX)
        try:
            fcntl.flock(running, fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH)
        finally:
            fcntl.flock(queue, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        # If a test of another worker began between two such tests, the second one would wait for its end.
        if nextitem is not None and _is_alone(item) and _is_alone(nextitem):
            nextitem.stash[_IS_LOCKED] = True
        else:
            fcntl.flock(running, fcntl.LOCK_UN)


def _is_worker() -> bool:
    return "PYTEST_XDIST_WORKER" in os.environ


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@cache
def _open_lock(path: Path) -> int:
    """Open a file or folder that is the same for all workers."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Escape bytes that are not UTF-8 in a worker's report: pytest-xdist cannot send them."""
    return _escape((yield))


def _escape(data: object) -> object:
    match data:
        case str():
            return data.encode(errors="backslashreplace").decode()
        case dict():
            return {_escape(key): _escape(value) for key, value in data.items()}
        case list() | tuple():
            return type(data)(map(_escape, data))
    return data
