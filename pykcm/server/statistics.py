"""What is counted while requests are served: plain numbers, for whoever asks for them."""

import time
from collections import Counter
from collections.abc import Iterable

from pykcm.ccaches.changes import Removal

# A time of 2**63 ns is none that anybody waits for.
_BUCKETS = 64


class Durations:
    """How often something happened and how long it took, in nanoseconds.

    `buckets[n]` is how often it took less than 2**n ns, and not less than half of that.
    """

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.total = 0
        self.longest = 0

    def add(self, duration: int) -> None:
        self.buckets[duration.bit_length()] += 1
        self.total += duration
        if duration > self.longest:  # noqa: PLR1730 - so does max, at three times the cost
            self.longest = duration


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
