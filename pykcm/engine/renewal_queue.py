"""The order of renewals: TGTs wait until they are due, then for their turn.

The TGT that ends first is next. A user who has attempts in progress comes after users who have fewer, so that
many TGTs of one user never hold up those of others. Realms whose KDCs do not answer hold up no others either.
No step grows with the number of TGTs that are not due.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# Realms whose answers are remembered: users choose the names of realms.
_MOST_REALMS = 4096

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

    `ccache` and `uuid`: of the ccache and of the credential. `digest`: of the credential. `first_due`: when
    it is due, if no attempt fails. `due`: when it is due, or next tried; None: never. `is_final`: it can
    never be renewed. `failures`: in a row.
    """

    uid: int
    ccache: bytes
    uuid: bytes
    digest: int
    realm: bytes
    end: int
    first_due: float
    due: float | None = None
    is_final: bool = False
    failures: int = 0
    losses: int = 0
    last_time: float | None = None
    last_result: str = ""
    last_message: str = ""

    def __post_init__(self) -> None:
        self.due = self.first_due

    def note(self, time: float, result: str, message: str = "") -> None:
        """Note how an attempt has ended."""
        self.last_time, self.last_result, self.last_message = time, result, message


class Realms:
    """How many attempts each realm may have at a time, and which realms answer.

    `most_of_realm`: for a realm that answers. Each attempt without an answer halves the number, to one at
    least: a KDC that is away is tried, but not with all TGTs.
    """

    def __init__(self, most_of_realm: int) -> None:
        self._most_of_realm = most_of_realm
        self._answering: dict[bytes, None] = {}
        self._limits: dict[bytes, int] = {}

    def limit(self, realm: bytes) -> int:
        return self._limits.get(realm, self._most_of_realm)

    def answers(self, realm: bytes) -> bool:
        """Whether a KDC of the realm answered last time."""
        return realm in self._answering

    def is_silent(self, realm: bytes) -> bool:
        """Whether no KDC of the realm answered last time."""
        return realm in self._limits

    def note(self, realm: bytes, *, answers: bool) -> None:
        """Note whether an attempt had an answer from a KDC of the realm."""
        limit = self.limit(realm)
        self._limits.pop(realm, None)
        self._answering.pop(realm, None)
        if answers:
            self._answering[realm] = None
        else:
            self._limits[realm] = max(1, limit // 2)
        for known in (self._answering, self._limits):
            if len(known) > _MOST_REALMS:
                del known[next(iter(known))]


class _ReadyTgts:
    """TGTs that are due. The user with the fewest attempts is next, with the TGT that ends first.

    TGTs of realms that were silent come after others. `tried`: the number of attempts of each UID, which has
    at most `most_of_uid`.
    """

    def __init__(self, tried: Counter[int], most_of_uid: int) -> None:
        self._tried = tried
        self._most_of_uid = most_of_uid
        # By UID, and the UIDs in the order of their turns.
        self._of_uids: dict[int, OrderedQueue[Tgt]] = {}
        self._turns: OrderedQueue[int] = OrderedQueue()

    def __len__(self) -> int:
        return sum(map(len, self._of_uids.values()))

    def first(self) -> Any:
        """The key by which turns are ordered, of the TGT that is next; None: there is none."""
        found = self._turns.first()
        return None if found is None else found[0]

    def pop(self) -> Tgt:
        """Remove the TGT that is next, which must exist. Its UID needs a new turn."""
        return self._of_uids[self._turns.pop()].pop()

    def put(self, tgt: Tgt, *, is_silent: bool) -> None:
        self._of_uids.setdefault(tgt.uid, OrderedQueue()).put(tgt, (is_silent, tgt.end))
        self.give_turn(tgt.uid)

    def discard(self, tgt: Tgt) -> None:
        of_uid = self._of_uids.get(tgt.uid)
        if of_uid is not None:
            of_uid.discard(tgt)
            self.give_turn(tgt.uid)

    def give_turn(self, uid: int) -> None:
        """Give a UID its place among the turns, if it has a ready TGT and may try one more."""
        of_uid = self._of_uids.get(uid)
        first = None if of_uid is None else of_uid.first()
        if first is None:
            self._of_uids.pop(uid, None)
            self._turns.discard(uid)
            return
        tried = self._tried[uid]
        if tried < self._most_of_uid:
            self._turns.put(uid, (tried, first[0]))
        else:
            self._turns.discard(uid)


class RenewalQueue:
    """TGTs that wait, are ready, or are being tried.

    `most`: attempts at a time; `most_of_realm`: those of one realm. One user has at most half of them, and
    one ccache at most one. Realms that are not known to answer have at most three quarters of them together.
    """

    def __init__(self, most: int, most_of_realm: int) -> None:
        self.realms = Realms(most_of_realm)
        self._most = most
        self._most_of_others = most - most // 4
        self._waiting: OrderedQueue[Tgt] = OrderedQueue()
        self._tried_by_uid: Counter[int] = Counter()
        self._tried_by_realm: Counter[bytes] = Counter()
        # Ready TGTs of realms that answered when they became ready, and of other realms.
        most_of_uid = (most + 1) // 2
        self._ready = _ReadyTgts(self._tried_by_uid, most_of_uid)
        self._ready_of_others = _ReadyTgts(self._tried_by_uid, most_of_uid)
        # Attempts at realms that were not known to answer.
        self._tried_of_others: set[Tgt] = set()
        # TGTs that wait for an attempt of their realm or their ccache to end.
        self._of_full_realms: dict[bytes, OrderedQueue[Tgt]] = {}
        self._of_busy_ccaches: defaultdict[tuple[int, bytes], dict[Tgt, None]] = defaultdict(dict)
        # The TGT that is being tried.
        self._busy_ccaches: dict[tuple[int, bytes], Tgt] = {}

    @property
    def trying(self) -> int:
        """The number of attempts in progress."""
        return len(self._busy_ccaches)

    @property
    def ready(self) -> int:
        """The number of TGTs that are due and wait for their turn."""
        of_realms = sum(map(len, self._of_full_realms.values()))
        of_ccaches = sum(map(len, self._of_busy_ccaches.values()))
        return len(self._ready) + len(self._ready_of_others) + of_realms + of_ccaches

    @property
    def next_due(self) -> float | None:
        """When the next TGT is due that is not ready yet; None: there is none."""
        found = self._waiting.first()
        return None if found is None else found[0]

    def put(self, tgt: Tgt) -> None:
        """Add a TGT, which waits until it is due; it is not being tried."""
        if tgt.due is not None:
            self._waiting.put(tgt, tgt.due)

    def is_tried(self, tgt: Tgt) -> bool:
        """Whether an attempt is in progress."""
        return self._busy_ccaches.get((tgt.uid, tgt.ccache)) is tgt

    def discard(self, tgt: Tgt) -> None:
        """Remove a TGT. An attempt in progress goes on."""
        self._waiting.discard(tgt)
        self._ready.discard(tgt)
        self._ready_of_others.discard(tgt)
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
            # Those that are made ready may be of users without a further attempt.
            while (ready := self._next_ready()) is None and self._ready_again():
                pass
            if ready is None:
                return None
            tgt = ready.pop()
            if (tgt.uid, tgt.ccache) in self._busy_ccaches:
                self._of_busy_ccaches[tgt.uid, tgt.ccache][tgt] = None
            elif self._tried_by_realm[tgt.realm] >= self.realms.limit(tgt.realm):
                self._of_full_realms.setdefault(tgt.realm, OrderedQueue()).put(tgt, tgt.end)
            elif ready is not self._ready_for(tgt):
                # Meanwhile its realm has answered, or has ceased to.
                self._make_ready(tgt)
            else:
                self._begin(tgt)
                return tgt
            ready.give_turn(tgt.uid)
        return None

    def _next_ready(self) -> _ReadyTgts | None:
        """Where the next TGT is that may be tried; None: there is none."""
        first, of_others = self._ready.first(), self._ready_of_others.first()
        if of_others is None or len(self._tried_of_others) >= self._most_of_others:
            return None if first is None else self._ready
        return self._ready if first is not None and first <= of_others else self._ready_of_others

    def _begin(self, tgt: Tgt) -> None:
        self._busy_ccaches[tgt.uid, tgt.ccache] = tgt
        if not self.realms.answers(tgt.realm):
            self._tried_of_others.add(tgt)
        self._tried_by_uid[tgt.uid] += 1
        self._tried_by_realm[tgt.realm] += 1
        self._give_turn(tgt.uid)

    def end(self, tgt: Tgt) -> None:
        """End an attempt. The TGT is not in the queue until it is put there again."""
        self._busy_ccaches.pop((tgt.uid, tgt.ccache), None)
        self._tried_of_others.discard(tgt)
        _count_down(self._tried_by_uid, tgt.uid)
        _count_down(self._tried_by_realm, tgt.realm)
        for other in self._of_busy_ccaches.pop((tgt.uid, tgt.ccache), ()):
            self._make_ready(other)
        self._give_turn(tgt.uid)
        self._ready_again()

    def _ready_for(self, tgt: Tgt) -> _ReadyTgts:
        return self._ready if self.realms.answers(tgt.realm) else self._ready_of_others

    def _make_ready(self, tgt: Tgt) -> None:
        self._ready_for(tgt).put(tgt, is_silent=self.realms.is_silent(tgt.realm))

    def _ready_again(self) -> bool:
        """Make TGTs ready again whose realm was full, as many as it has room for; returns whether any is."""
        found = False
        for realm, waiting in list(self._of_full_realms.items()):
            room = self.realms.limit(realm) - self._tried_by_realm[realm]
            for _ in range(min(len(waiting), room)):
                self._make_ready(waiting.pop())
                found = True
            if not waiting:
                del self._of_full_realms[realm]
        return found

    def _give_turn(self, uid: int) -> None:
        self._ready.give_turn(uid)
        self._ready_of_others.give_turn(uid)


def _count_down(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
