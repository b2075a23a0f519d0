"""The service tickets of a ccache in the order of their eviction."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice

from pykcm.ccaches.expiry import is_ticket
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import is_tgs

# The time of issue, the place in the order of storing, and the UUID.
_Entry = tuple[int, int, bytes]


class ServiceTickets:
    """The UUIDs of the service tickets among the credentials, in the order of issue, then of storing.

    TGTs and entries that are no tickets are left out. A full ccache stays full, so the order is maintained
    and not computed again for each new ticket.
    """

    __slots__ = ("_begin", "_entries", "_in_order", "_next_place")

    def __init__(self, credentials: Iterable[tuple[bytes, Credential]]) -> None:
        self._entries: dict[bytes, _Entry] = {}
        # The entries begin at `_begin`. Nearly all are removed at the beginning, and this way nothing moves.
        self._in_order: list[_Entry] = []
        self._begin = 0
        self._next_place = 0
        for uuid, credential in credentials:
            self.put(uuid, credential)

    def __iter__(self) -> Iterator[bytes]:
        return (uuid for _, _, uuid in islice(self._in_order, self._begin, None))

    def put(self, uuid: bytes, credential: Credential) -> None:
        """Add a credential, or replace the one with this UUID; other credentials are ignored."""
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
