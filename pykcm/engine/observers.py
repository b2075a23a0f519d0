"""Observers of requests and changes. An error in one affects no request and no other observer."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from pykcm.logs import LimitedLog

log = logging.getLogger(__name__)

_FAULTS = LimitedLog(log, "observers that failed by an error in pykcm", 10)

T = TypeVar("T")
R = TypeVar("R")


class Observers(list[T]):
    """Observers of one kind. An observer that raises an exception is logged and removed.

    A request never fails because of an observer: its change may be durable, and the client must know that.
    """

    def __init__(self) -> None:
        super().__init__()
        self._at_failure: dict[int, Callable[[], None]] = {}

    def add(self, observer: T, at_failure: Callable[[], None]) -> None:
        """Add an observer; `at_failure` is called if it is removed because it raised an exception."""
        self.append(observer)
        self._at_failure[id(observer)] = at_failure

    def discard(self, observer: T) -> None:
        """Remove an observer, if it is still there."""
        if observer in self:
            self.remove(observer)
        self._at_failure.pop(id(observer), None)

    def each(self, call: Callable[[T], R]) -> list[tuple[T, R]]:
        """Call a function with each observer; returns its results, with the observers that did not fail."""
        results = []
        for observer in list(self):
            try:
                results.append((observer, call(observer)))
            except Exception:  # noqa: BLE001 - logged with its traceback
                self._fail(observer)
        return results

    def call(self, observer: T, method: Callable[..., None], *arguments: Any) -> None:
        """Call one observer's method, if the observer is still there."""
        if observer not in self:
            return
        try:
            method(*arguments)
        except Exception:  # noqa: BLE001 - logged with its traceback
            self._fail(observer)

    def _fail(self, observer: T) -> None:
        _FAULTS.write(
            logging.ERROR,
            None,
            "an observer (pykcmctl watch or trace) is ended by an error in pykcm; requests go on",
            with_traceback=True,
        )
        at_failure = self._at_failure.get(id(observer))
        self.discard(observer)
        if at_failure is not None:
            at_failure()
