"""What is counted while requests are served: plain numbers, for whoever asks for them."""

import time
from collections import Counter
from collections.abc import Iterable

from pykcm.ccaches.changes import Removal
from pykcm.engine.durations import Durations


class OperationStatistics(Durations):
    """The requests of one operation; `errors` has the replies' codes other than 0."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__()
        self.errors: Counter[int] = Counter()


class Statistics:
    """What the service counts.

    `operations` is by opcode; `removed_ccaches` and `removed_tickets` are by the option that demanded it.
    """

    def __init__(self, opcodes: Iterable[int]) -> None:
        self.operations = {opcode: OperationStatistics() for opcode in opcodes}
        self.started = time.time()  # seconds since the epoch
        self.unknown_operations = 0
        self.store_errors = 0
        self.removed_ccaches: Counter[str] = Counter()
        self.removed_tickets: Counter[str] = Counter()

    def count_removals(self, removals: Iterable[Removal]) -> None:
        for removal in removals:
            if removal.service_tickets is None:
                self.removed_ccaches[removal.reason] += 1
            else:
                self.removed_tickets[removal.reason] += removal.service_tickets
