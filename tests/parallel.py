"""Hooks for pytest-xdist: tests marked `alone` run alone, and every report can be sent."""

import fcntl
import os
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that is marked `alone` while no worker runs another test."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    assert item.config.inipath is not None
    queue, running = _open_lock(item.config.rootpath), _open_lock(item.config.inipath)
    # Each test passes the queue first. Otherwise a test that waits for all others to end would be overtaken.
    fcntl.flock(queue, fcntl.LOCK_EX)
    try:
        fcntl.flock(running, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
    finally:
        fcntl.flock(queue, fcntl.LOCK_UN)
    try:
        return (yield)
    finally:
        fcntl.flock(running, fcntl.LOCK_UN)


@cache
def _open_lock(path: Path) -> int:
    """Open a file or folder that is the same for all workers."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Escape in a worker's report what is not UTF-8: pytest-xdist cannot send it."""
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
