"""Checkpoints that wait until a test lets them run."""

import threading
from typing import Any

from pykcm.store.sqlcipher.wal import copy_wal
from tests.server.waiting import LIMIT


class Copying:
    """A checkpoint that waits for `may_begin`."""

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
