"""Journals that are copied beside the loop when a test says so."""

import threading
from typing import Any

from pykcm.store.sqlcipher.wal import copy_wal
from tests.server.waiting import LIMIT


class Copying:
    """The copying, which waits for `may_begin`."""

    def __init__(self) -> None:
        self.is_asked_for = False
        self.may_begin = threading.Event()
        self.has_ended = threading.Event()

    def copy(self, *arguments: Any) -> None:
        self.is_asked_for = True
        assert self.may_begin.wait(LIMIT)
        try:
            copy_wal(*arguments)
        finally:
            self.has_ended.set()
