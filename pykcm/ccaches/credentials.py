"""The credentials of one ccache in stored order, with indexes that make look-ups fast."""

from collections.abc import Iterable, Iterator

from pykcm.ccaches.expiry import LatestEnd, end_of, tgt_end_of
from pykcm.ccaches.service_tickets import ServiceTickets
from pykcm.protocol.credential import Credential, Equality
from pykcm.protocol.framing import Pieces
from pykcm.protocol.messages import blobs_in_pieces
from pykcm.protocol.principal import name_of
from pykcm.protocol.tag import Tag


class Credentials:
    """Credentials by UUID (16 bytes), in the order in which they were stored.

    A credential that replaces its equal keeps the place and the UUID. `size` is the sum of all sizes.
    """

    __slots__ = (
        "_by_server",
        "_by_uuid",
        "_latest_end",
        "_packed",
        "_service_tickets",
        "_tgt_end",
        "_tgt_ends",
        "_uuid_of",
        "size",
    )

    def __init__(self) -> None:
        self.size = 0
        self._latest_end = LatestEnd()
        # The end of each TGT by its UUID, and the latest of them, computed on demand. There are one or two.
        self._tgt_ends: dict[bytes, int] = {}
        self._tgt_end: int | None = None
        self._service_tickets: ServiceTickets | None = None
        self._packed: Pieces | None = None
        self._by_uuid: dict[bytes, Credential] = {}
        self._uuid_of: dict[Equality, bytes] = {}
        # By the name of the server: a look-up may ignore the realm, but never this. The UUIDs are the keys
        # of a dictionary, in stored order: removing one of many tickets for a server needs no search.
        self._by_server: dict[bytes, dict[bytes, None]] = {}

    def copy(self) -> "Credentials":
        """Return an independent copy; the credentials themselves are shared."""
        copied = Credentials()
        copied.size = self.size
        copied._latest_end = self._latest_end.copy()
        copied._tgt_ends = self._tgt_ends.copy()
        copied._by_uuid = self._by_uuid.copy()
        copied._uuid_of = self._uuid_of.copy()
        copied._by_server = {server: uuids.copy() for server, uuids in self._by_server.items()}
        return copied

    def __len__(self) -> int:
        return len(self._by_uuid)

    def __iter__(self) -> Iterator[Credential]:
        return iter(self._by_uuid.values())

    def uuids(self) -> Iterable[bytes]:
        return self._by_uuid.keys()

    def items(self) -> Iterable[tuple[bytes, Credential]]:
        return self._by_uuid.items()

    def get(self, uuid: bytes) -> Credential | None:
        return self._by_uuid.get(uuid)

    @property
    def latest_end(self) -> int | None:
        """When the last ticket ends by the KDC's clock, or NO_END (see expiry); None without tickets."""
        return self._latest_end.among(self._by_uuid.values())

    @property
    def tgt_end(self) -> int | None:
        """When the last TGT ends, as latest_end; None without a TGT."""
        if self._tgt_end is None and self._tgt_ends:
            self._tgt_end = max(self._tgt_ends.values())
        return self._tgt_end

    def tgts(self) -> Iterable[tuple[bytes, Credential]]:
        """The TGTs with their UUIDs."""
        return [(uuid, self._by_uuid[uuid]) for uuid in self._tgt_ends]

    def of_server(self, name: bytes) -> Iterable[Credential]:
        """The credentials for servers of this name (see name_of) in any realm."""
        return [self._by_uuid[uuid] for uuid in self._by_server.get(name, ())]

    @property
    def service_tickets(self) -> Iterable[bytes]:
        """The UUIDs of the service tickets in the order in which they were issued."""
        if self._service_tickets is None:
            self._service_tickets = ServiceTickets(self.items())
        return self._service_tickets

    @property
    def packed(self) -> Pieces:
        """All of them, as GET_CRED_LIST returns them. Kept until something changes: clients ask often."""
        if self._packed is None:
            self._packed = blobs_in_pieces([credential.blob for credential in self])
        return self._packed

    def uuid_of_equal(self, credential: Credential) -> bytes | None:
        """The UUID of the stored credential that this one would replace, if there is one."""
        return self._uuid_of.get(credential.equality)

    def put(self, uuid: bytes, credential: Credential) -> None:
        """Add a credential at the end, or replace the one with this UUID in its place.

        Raises ValueError if an equal credential has another UUID (see uuid_of_equal).
        """
        if self._uuid_of.get(credential.equality, uuid) != uuid:
            raise ValueError("an equal credential is stored under another UUID")
        self._packed = None
        replaced = self._by_uuid.get(uuid)
        self._by_uuid[uuid] = credential
        self.size += credential.size
        self._latest_end.add(end_of(credential))
        self._forget_tgt(uuid)
        tgt_end = tgt_end_of(credential)
        if tgt_end is not None:
            self._tgt_ends[uuid] = tgt_end
            self._tgt_end = None
        if replaced is not None:
            self.size -= replaced.size
            self._latest_end.remove(end_of(replaced))
            if replaced.equality != credential.equality:
                self._replace_in_indexes(uuid, replaced, credential)
                return
        if self._service_tickets is not None:
            self._service_tickets.put(uuid, credential)
        if replaced is None:
            self._add_to_indexes(uuid, credential)

    def remove(self, uuid: bytes) -> Credential:
        """Remove the credential of this UUID, and return it."""
        self._packed = None
        credential = self._by_uuid.pop(uuid)
        self.size -= credential.size
        self._latest_end.remove(end_of(credential))
        self._forget_tgt(uuid)
        if self._service_tickets is not None:
            self._service_tickets.remove(uuid)
        self._drop_from_indexes(uuid, credential)
        return credential

    def _add_to_indexes(self, uuid: bytes, credential: Credential) -> None:
        self._uuid_of[credential.equality] = uuid
        self._by_server.setdefault(name_of(credential.equality.server), {})[uuid] = None

    def _replace_in_indexes(self, uuid: bytes, replaced: Credential, credential: Credential) -> None:
        self._drop_from_indexes(uuid, replaced)
        self._uuid_of[credential.equality] = uuid
        # Its place is before others that were added to the indexes earlier.
        name = name_of(credential.equality.server)
        same_server = {uuid, *self._by_server.get(name, ())}
        self._by_server[name] = dict.fromkeys(each for each in self._by_uuid if each in same_server)
        self._service_tickets = None

    def _drop_from_indexes(self, uuid: bytes, credential: Credential) -> None:
        del self._uuid_of[credential.equality]
        name = name_of(credential.equality.server)
        same_server = self._by_server[name]
        del same_server[uuid]
        if not same_server:
            del self._by_server[name]

    def _forget_tgt(self, uuid: bytes) -> None:
        if self._tgt_ends.pop(uuid, None) is not None:
            self._tgt_end = None

    def find(self, tag: Tag, match_flags: int) -> Credential | None:
        """Return the first match in stored order; `match_flags` as in Match."""
        for uuid in self._candidates(tag):
            credential = self._by_uuid[uuid]
            if tag.matches(credential, match_flags):
                return credential
        return None

    def find_all(self, tag: Tag, match_flags: int) -> list[bytes]:
        """Return the UUIDs of all matches, in stored order."""
        return [uuid for uuid in self._candidates(tag) if tag.matches(self._by_uuid[uuid], match_flags)]

    def _candidates(self, tag: Tag) -> Iterable[bytes]:
        if tag.server is None:
            return self._by_uuid
        return self._by_server.get(name_of(tag.server.identity), ())
