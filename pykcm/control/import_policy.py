"""The rules of an import: which ccaches are valid, and which existing ccaches they overwrite.

An equal ccache stays as it is, so that an import can be repeated. A newer ccache of the same principal
overwrites one with other contents; one of another principal does only if the old tickets have all expired.
"""

from enum import StrEnum
from typing import Any, NamedTuple

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.expiry import end_of
from pykcm.config import Config
from pykcm.control.calls import Call
from pykcm.control.frames import FrameError, FrameType, FrameTypeError
from pykcm.control.listing import tgt_of
from pykcm.control.records import HEADER, LARGEST_RECORD, CCacheHeader, principal_text
from pykcm.control.snapshots import unconstrained_default
from pykcm.logs import User
from pykcm.peer.labels import LabelError, parse_label
from pykcm.peer.names import MAX_NAME, collection_of
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.wire import MAX_COMPONENTS, MAX_PRINCIPAL_SIZE, UUID_SIZE, FormatError


class Outcome(StrEnum):
    """The outcome of one ccache."""

    IMPORTED = "imported"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    REFUSED = "refused"


class Result(NamedTuple):
    """The answer for one ccache; `name` None: no name was chosen. `reason` is for people."""

    result: Outcome
    uid: int | None
    name: bytes | None
    principal: str | None
    reason: str = ""
    default: bool = False

    def item(self) -> dict[str, Any]:
        return self._asdict() | {"result": str(self.result)}


class ImportRefusedError(Exception):
    """The client has sent no valid ccache; `result` says why."""

    def __init__(self, reason: str, record: CCacheHeader | None = None) -> None:
        super().__init__(reason)
        self.result = (
            Result(Outcome.REFUSED, None, None, None, reason)
            if record is None
            else Result(
                Outcome.REFUSED, record.uid, record.name, principal_text(record.principal.principal), reason
            )
        )


class ImportedCCache(NamedTuple):
    """A received ccache: its header, and the ccache, which has no final name and UUID yet."""

    record: CCacheHeader
    ccache: CCache

    def become(
        self, result: Outcome, reason: str = "", name: bytes | None = None, *, default: bool = False
    ) -> Result:
        return Result(
            result,
            self.record.uid,
            name or self.record.name,
            principal_text(self.ccache.principal),
            reason,
            default,
        )


class CCacheReader:
    """Reads one ccache: the frame with its header, and the frames with its credentials.

    An error is kept for the result, because the rest of the frames still has to be received.
    """

    def __init__(self, frame: bytes, config: Config, blob_type: FrameType[bytes]) -> None:
        self._blob_type = blob_type
        self._most_bytes = min(config.max_ccache_size * 1024 or LARGEST_RECORD, LARGEST_RECORD)
        self._blobs = self._bytes = 0
        self._refusal: ImportRefusedError | None = None
        try:
            self._header = HEADER.decode(frame)
            _check(self._header)
            _check_number(self._header, config.max_ccache_credentials)
        except (FrameError, FrameTypeError) as error:
            self._refusal = ImportRefusedError(f"not a ccache's record: {error}")
        except ImportRefusedError as refusal:
            self._refusal = refusal
        else:
            header = self._header
            self._ccache = CCache(
                bytes(UUID_SIZE),
                header.name or b"",
                header.principal.principal,
                header.label,
                header.kdc_offset,
            )

    def add(self, frame: bytes) -> None:
        """Add a credential; after a refusal it is dropped."""
        if self._refusal is not None:
            return
        try:
            self._add(frame)
        except ImportRefusedError as refusal:
            self._refusal = refusal
            del self._ccache

    def _add(self, frame: bytes) -> None:
        header, credentials = self._header, self._ccache.credentials
        self._blobs += 1
        self._bytes += len(frame)
        if self._bytes > self._most_bytes:
            raise ImportRefusedError(f"larger than a ccache may be ({self._most_bytes} bytes)", header)
        try:
            credential = parse_credential(self._blob_type.decode(frame))
        except (FrameError, FrameTypeError) as error:
            raise ImportRefusedError(f"credential {self._blobs} is invalid: {error}", header) from None
        except FormatError as error:
            raise ImportRefusedError(f"credential {self._blobs} is invalid: {error.reason}", header) from None
        # Ccache files may have credentials that equal each other: the last one counts.
        uuid = credentials.uuid_of_equal(credential) or self._blobs.to_bytes(UUID_SIZE)
        credentials.put(uuid, credential)

    def result(self) -> "ImportedCCache | ImportRefusedError":
        """The ccache, when the frame behind it has come, or why it is refused."""
        if self._refusal is not None:
            return self._refusal
        if self._blobs != self._header.credentials:
            return ImportRefusedError(
                f"{self._header.credentials} credentials were announced, {self._blobs} were sent",
                self._header,
            )
        return ImportedCCache(self._header, self._ccache)


def _check_number(record: CCacheHeader, most: int) -> None:
    if most and record.credentials > most:
        raise ImportRefusedError(
            f"max_ccache_credentials: {record.credentials} needed, {most} allowed", record
        )


def _check(record: CCacheHeader) -> None:
    name = record.name
    if name is not None:
        if not 0 < len(name) <= MAX_NAME or 0 in name:
            raise ImportRefusedError("its name is not valid", record)
        if collection_of(name) != record.uid:
            raise ImportRefusedError(f"its name does not belong to {User(record.uid)}", record)
    elif record.uid == 2**32 - 1:
        raise ImportRefusedError("its UID is not valid", record)
    principal = record.principal.principal
    if len(principal.components) > MAX_COMPONENTS or len(principal.pack()) > MAX_PRINCIPAL_SIZE:
        raise ImportRefusedError("its principal is too long", record)
    try:
        if record.label is not None:
            parse_label(record.label)
        for range_ in record.default_of:
            if parse_label(f"u:r:t:{range_}").range != range_:
                raise ImportRefusedError("one of its SELinux ranges is not valid", record)
    except LabelError as error:
        raise ImportRefusedError(f"its SELinux label is {error}", record) from None


class ImportPolicy:
    """Puts ccaches into collections by the rules above."""

    def __init__(self, call: Call, *, replace: bool, skip_expired: bool) -> None:
        self._call = call
        self._access = call.administration.access
        self._replace = replace
        self._skip_expired = skip_expired
        # By UID, the ranges (None: all share it) whose default named a ccache before the import, and stays.
        self._defaults: dict[int, set[str | None]] = {}

    def take(self, collection: Collection, imported: ImportedCCache) -> Result:
        """Import one ccache into the collection. The result says so if it cannot be imported."""
        self._note_defaults(collection)
        if self._skip_expired and imported.ccache.has_expired(collection.removal_time):
            return imported.become(Outcome.EXPIRED)
        name = imported.record.name or self._choose_name(collection, imported)
        peer = self._call.peer
        label = self._access.label_of_import(peer, imported.ccache.label)
        try:
            outcome, reason = self._decide(collection, imported, name)
            if outcome in {Outcome.IMPORTED, Outcome.REPLACED}:
                new = imported.ccache
                ccache = collection.replace(name, new.principal, new.kdc_offset, list(new.credentials), label)
                collection.relabel(ccache, self._access.label_after_write(peer, ccache.label, label))
        except KcmError as error:
            return imported.become(Outcome.REFUSED, error.reason or str(error), name)
        is_there = outcome in {Outcome.IMPORTED, Outcome.REPLACED, Outcome.UNCHANGED}
        default = is_there and self._make_default(collection, imported.record, name)
        return imported.become(outcome, reason, name, default=default)

    @staticmethod
    def weight(collection: Collection, imported: ImportedCCache) -> int:
        """About how many bytes the ccache would write and overwrite, as quotas count them."""
        name = imported.record.name
        if name is None:
            # It may overwrite any one.
            overwritten = max((ccache.size for ccache in collection), default=0)
        else:
            ccache = None if name in collection.unavailable else collection.get(name)
            overwritten = 0 if ccache is None else ccache.size
        return imported.ccache.size + overwritten

    def _decide(self, collection: Collection, imported: ImportedCCache, name: bytes) -> tuple[Outcome, str]:
        """Return the outcome and its reason; raises KcmError if the existing ccache cannot be read."""
        new = imported.ccache
        if new.label is not None and not self._is_changeable(new.label):
            return Outcome.REFUSED, "this peer may not change ccaches at its SELinux level"
        if not collection.has(name):
            return Outcome.IMPORTED, ""
        if not self._is_changeable(collection.label_of(name)):
            return (
                Outcome.REFUSED,
                "this peer may not change the existing ccache at its SELinux level",
            )
        old = collection.get(name)
        assert old is not None
        if not self._access.may_import_over(new.label, old.label):
            return Outcome.REFUSED, "the existing ccache is at another SELinux level: destroy it first"
        if _contents(new) == _contents(old):
            return Outcome.UNCHANGED, ""
        if new.principal.identity == old.principal.identity:
            gives_way = _end(old) < _end(new)
            reason = "the existing ccache is not older"
        else:
            gives_way = old.has_expired(collection.removal_time) and not new.has_expired(
                collection.removal_time
            )
            reason = f"the existing ccache belongs to {principal_text(old.principal)}"
        if gives_way or self._replace:
            return Outcome.REPLACED, ""
        return Outcome.SKIPPED, f"{reason}: use --replace to overwrite it"

    def _choose_name(self, collection: Collection, imported: ImportedCCache) -> bytes:
        """The name of a ccache of the same principal, else the default name if it is free, else a new one."""
        identity = imported.ccache.principal.identity
        same = [
            ccache.name
            for ccache in collection
            if ccache.principal.identity == identity
            and self._is_changeable(ccache.label)
            and self._access.may_import_over(imported.ccache.label, ccache.label)
        ]
        default = unconstrained_default(collection)
        if same:
            return default if default in same else same[0]
        is_free = not collection.has(default) and collection_of(default) == collection.uid
        return default if is_free else collection.unused_name()

    def _is_changeable(self, label: str | None) -> bool:
        return self._access.may_use(self._call.peer, label)

    def _note_defaults(self, collection: Collection) -> None:
        if collection.uid not in self._defaults:
            by_range = {range_ for range_, name in collection.defaults.by_range if collection.has(name)}
            shared = {None} if collection.has(collection.default_name) else set()
            self._defaults[collection.uid] = by_range | shared

    def _make_default(self, collection: Collection, record: CCacheHeader, name: bytes) -> bool:
        """Make it the default where it was one; returns whether it is the shared default."""
        kept = set() if self._replace else self._defaults[collection.uid]
        wanted = [*([None] if record.default else []), *record.default_of]
        for range_ in wanted:
            if range_ not in kept and self._call.moves_default(range_):
                collection.set_default(name, range_)
        return record.default and name == collection.default_name


def _contents(ccache: CCache) -> tuple[Any, ...]:
    return ccache.principal, ccache.kdc_offset, [credential.blob for credential in ccache.credentials]


def _end(ccache: CCache) -> int:
    """The end of its TGT, if it has one, else that of the last ticket."""
    tgt = tgt_of(ccache.principal, ccache.credentials)
    end = ccache.credentials.latest_end if tgt is None else end_of(tgt)
    return -1 if end is None else end
