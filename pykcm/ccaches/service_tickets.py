"""The service tickets of a ccache in the order in which they may go."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice

from pykcm.ccaches.expiry import is_ticket
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import is_tgs

# When it was issued, its place among the others as they were stored, its UUID.
_Entry = tuple[int, int, bytes]


class ServiceTickets:
    """The UUIDs of those of the credentials that are service tickets, the one issued first ahead.

    Neither TGTs nor entries that are no tickets are; of those issued at once the one stored first is ahead.
    A ccache that is full stays full, and so the order is kept up and not made anew for each that comes.
    """

    __slots__ = ("_begin", "_entries", "_in_order", "_next_place")

    def __init__(self, credentials: Iterable[tuple[bytes, Credential]]) -> None:
        self._entries: dict[bytes, _Entry] = {}
        # From `_begin` on: what has gone at the beginning, where nearly all go, moves nothing.
        self._in_order: list[_Entry] = []
        self._begin = 0
        self._next_place = 0
        for uuid, credential in credentials:
            self.put(uuid, credential)

    def __iter__(self) -> Iterator[bytes]:
        return (uuid for _, _, uuid in islice(self._in_order, self._begin, None))

    def put(self, uuid: bytes, credential: Credential) -> None:
        """Take in a credential, new or in the place of the one of its UUID; what is no such ticket is not."""
        if is_tgs(credential.equality.server) or not is_ticket(credential):
            return
        place = self._remove(uuid)
        if place is None:
            place = self._next_place
            self._next_place += 1
        entry = credential.issued, place, uuid
        self._entries[uuid] = entry
        insort(self._in_order, entry, self._begin)

    def remove(self, uuid: bytes) -> None:
        self._remove(uuid)

    def _remove(self, uuid: bytes) -> int | None:
        entry = self._entries.pop(uuid, None)
        if entry is None:
            return None
        at = bisect_left(self._in_order, entry, self._begin)
        if at > self._begin:
            del self._in_order[at]
        else:
            self._begin += 1
            if self._begin > len(self._in_order) // 2:
                del self._in_order[: self._begin]
                self._begin = 0
        return entry[1]
