"""Durations of what happens often: counted in buckets, because a list of them would grow."""

# No duration reaches 2**63 ns.
_BUCKETS = 64


class Durations:
    """How often something happened and how long it took, in nanoseconds.

    `buckets[n]` counts durations of at least 2**(n-1) and less than 2**n ns.
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
