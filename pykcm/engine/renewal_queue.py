"""The order of renewals: TGTs wait until they are due, then for their turn.

The TGT that ends first is next. A user who has attempts in progress comes after users who have fewer, so that
many TGTs of one user never hold up those of others. No step grows with the number of TGTs that are not due.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# Removed entries stay in a heap until they are as many as the others, and some more.
_MOST_REMOVED = 64


class OrderedQueue(Generic[T]):
    """Items in the order of their keys. An item is in it once."""

    __slots__ = ("_entries", "_heap", "_numbers")

    def __init__(self) -> None:
        # An entry: the key, its number, and the item, None if it was removed.
        self._heap: list[list[Any]] = []
        self._entries: dict[T, list[Any]] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, item: T, key: Any) -> None:
        """Add an item, or give it another place."""
        self.discard(item)
        entry = self._entries[item] = [key, next(self._numbers), item]
        heapq.heappush(self._heap, entry)

    def discard(self, item: T) -> None:
        entry = self._entries.pop(item, None)
        if entry is None:
            return
        entry[2] = None
        if len(self._heap) > 2 * len(self._entries) + _MOST_REMOVED:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def first(self) -> tuple[Any, T] | None:
        """The key and the item that are first."""
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
        return (self._heap[0][0], self._heap[0][2]) if self._heap else None

    def pop(self) -> T:
        """Remove the first item, which must exist, and return it."""
        found = self.first()
        assert found is not None
        self.discard(found[1])
        return found[1]


@dataclass(slots=True, eq=False)
class Tgt:
    """One TGT that can be renewed, in a ccache. Times are in seconds since the epoch.

    `ccache` and `uuid`: of the ccache and of the credential. `digest`: of the credential. `due`: when it is
    due, or next tried; None: never. `failures`: in a row. The last attempt ended at `last_time` with
    `last_result`, and `last_message` has the reason.
    """

    uid: int
    ccache: bytes
    uuid: bytes
    digest: int
    realm: bytes
    end: int
    due: float | None
    failures: int = 0
    losses: int = 0
    last_time: float | None = None
    last_result: str = ""
    last_message: str = ""


class RenewalQueue:
    """TGTs that wait, are ready, or are being tried.

    `most`: attempts at a time; `most_of_realm`: those of one realm. One user has at most half of them, and
    one ccache at most one.
    """

    def __init__(self, most: int, most_of_realm: int) -> None:
        self._most = most
        self._most_of_realm = most_of_realm
        self._most_of_uid = (most + 1) // 2
        self._waiting: OrderedQueue[Tgt] = OrderedQueue()
        # Ready TGTs by UID, and the UIDs in the order of their turns.
        self._ready: dict[int, OrderedQueue[Tgt]] = {}
        self._turns: OrderedQueue[int] = OrderedQueue()
        # TGTs that wait for an attempt of their realm or their ccache to end.
        self._of_full_realms: dict[bytes, OrderedQueue[Tgt]] = {}
        self._of_busy_ccaches: defaultdict[tuple[int, bytes], dict[Tgt, None]] = defaultdict(dict)
        self._tried_by_uid: Counter[int] = Counter()
        self._tried_by_realm: Counter[bytes] = Counter()
        self._busy_ccaches: set[tuple[int, bytes]] = set()

    @property
    def trying(self) -> int:
        """The number of attempts in progress."""
        return len(self._busy_ccaches)

    @property
    def ready(self) -> int:
        """The number of TGTs that are due and wait for their turn."""
        of_realms = sum(map(len, self._of_full_realms.values()))
        return sum(map(len, self._ready.values())) + of_realms + sum(map(len, self._of_busy_ccaches.values()))

    @property
    def next_due(self) -> float | None:
        """When the next TGT is due that is not ready yet; None: there is none."""
        found = self._waiting.first()
        return None if found is None else found[0]

    def put(self, tgt: Tgt) -> None:
        """Add a TGT, which waits until it is due; it is not being tried."""
        if tgt.due is not None:
            self._waiting.put(tgt, tgt.due)

    def discard(self, tgt: Tgt) -> None:
        """Remove a TGT. An attempt in progress goes on."""
        self._waiting.discard(tgt)
        ready = self._ready.get(tgt.uid)
        if ready is not None:
            ready.discard(tgt)
            self._give_turn(tgt.uid)
        of_realm = self._of_full_realms.get(tgt.realm)
        if of_realm is not None:
            of_realm.discard(tgt)
            if not of_realm:
                del self._of_full_realms[tgt.realm]
        place = tgt.uid, tgt.ccache
        of_ccache = self._of_busy_ccaches.get(place)
        if of_ccache is not None:
            of_ccache.pop(tgt, None)
            if not of_ccache:
                del self._of_busy_ccaches[place]

    def take(self, now: float) -> Tgt | None:
        """Begin an attempt: return the TGT that is next, or None if none may be tried now."""
        while (found := self._waiting.first()) is not None and found[0] <= now:
            self._make_ready(self._waiting.pop())
        while len(self._busy_ccaches) < self._most:
            if not self._turns:
                self._ready_again()
            if not self._turns:
                return None
            uid = self._turns.pop()
            tgt = self._ready[uid].pop()
            if (uid, tgt.ccache) in self._busy_ccaches:
                self._of_busy_ccaches[uid, tgt.ccache][tgt] = None
            elif self._tried_by_realm[tgt.realm] >= self._most_of_realm:
                self._of_full_realms.setdefault(tgt.realm, OrderedQueue()).put(tgt, tgt.end)
            else:
                self._busy_ccaches.add((uid, tgt.ccache))
                self._tried_by_uid[uid] += 1
                self._tried_by_realm[tgt.realm] += 1
                self._give_turn(uid)
                return tgt
            self._give_turn(uid)
        return None

    def end(self, tgt: Tgt) -> None:
        """End an attempt. The TGT is not in the queue until it is put there again."""
        self._busy_ccaches.discard((tgt.uid, tgt.ccache))
        _count_down(self._tried_by_uid, tgt.uid)
        _count_down(self._tried_by_realm, tgt.realm)
        for other in self._of_busy_ccaches.pop((tgt.uid, tgt.ccache), ()):
            self._make_ready(other)
        self._give_turn(tgt.uid)
        self._ready_again()

    def _make_ready(self, tgt: Tgt) -> None:
        self._ready.setdefault(tgt.uid, OrderedQueue()).put(tgt, tgt.end)
        self._give_turn(tgt.uid)

    def _ready_again(self) -> None:
        """Make TGTs ready again whose realm was full, as many as it has room for."""
        for realm, waiting in list(self._of_full_realms.items()):
            for _ in range(min(len(waiting), self._most_of_realm - self._tried_by_realm[realm])):
                self._make_ready(waiting.pop())
            if not waiting:
                del self._of_full_realms[realm]

    def _give_turn(self, uid: int) -> None:
        """Give a UID its place among the turns, if it has a ready TGT and may try one more."""
        ready = self._ready.get(uid)
        first = None if ready is None else ready.first()
        if first is None:
            self._ready.pop(uid, None)
            self._turns.discard(uid)
            return
        tried = self._tried_by_uid[uid]
        if tried < self._most_of_uid:
            self._turns.put(uid, (tried, first[0]))
        else:
            self._turns.discard(uid)


def _count_down(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
