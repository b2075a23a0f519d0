"""Counts of requests, by operation: plain numbers."""

import time
from collections import Counter
from collections.abc import Iterable

from pykcm.engine.committer import Durations


class OperationStatistics(Durations):
    """The requests of one operation; `errors` has the replies' codes other than 0."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__()
        self.errors: Counter[int] = Counter()


class Statistics:
    """Counts of requests; `operations` is by opcode."""

    def __init__(self, opcodes: Iterable[int]) -> None:
        self.operations = {opcode: OperationStatistics() for opcode in opcodes}
        self.started = time.time()  # seconds since the epoch
        self.unknown_operations = 0
        self.store_errors = 0
