"""The answers that a KCM server must give, computed with plain lists and dictionaries.

Written from the protocol and not from pykcm: nothing of its domain is used. Principals, names and replies are
bytes as they are sent.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from .credentials_model import Credential, Tag, are_equal, is_entry_realm, matches

NOFILE, PERM, BADNAME = -1765328189, -1765328190, -1765328245
NOTFOUND, END, NOSUPP = -1765328243, -1765328242, -1765328137
INTERNAL, FORMAT = -1765328188, -1765328185

# In seconds: with a larger KDC offset, a client has to iterate to learn the offset.
OFFSET_THAT_MATTERS = 60

# In bytes.
LONGEST_NAME = 1024

# The reply's code and payload.
Answer = tuple[int, bytes]


class Asker(NamedTuple):
    """One client connection: its UID, and the numbers of its process and of itself."""

    uid: int
    process: int
    connection: int


class Stored(NamedTuple):
    """A credential in a ccache. `uuid` is None until a reply has shown it."""

    credential: Credential
    uuid: bytes | None = None


@dataclass
class CCache:
    """A ccache. `uuid` is None until a reply has shown it."""

    name: bytes
    principal: bytes
    offset: int = 0
    credentials: list[Stored] = field(default_factory=list)
    uuid: bytes | None = None

    def copy(self) -> "CCache":
        return CCache(self.name, self.principal, self.offset, list(self.credentials), self.uuid)

    def fingerprint(self) -> tuple[object, ...]:
        credentials = tuple([(each.credential.blob, each.uuid) for each in self.credentials])
        return self.name, self.principal, self.offset, credentials, self.uuid


@dataclass(frozen=True)
class Process:
    """A client process: the default that it chose or got, and whether it knows of no ccache of that name."""

    default: bytes | None = None
    is_missing: bool = False


@dataclass
class Collection:
    """The ccaches of one UID in order, and the name that was chosen as the default."""

    uid: int
    ccaches: list[CCache] = field(default_factory=list)
    chosen: bytes = b""
    is_destroyed: bool = False

    def __post_init__(self) -> None:
        self.chosen = self.chosen or b"%d" % self.uid

    def find(self, name: bytes) -> CCache | None:
        return next((ccache for ccache in self.ccaches if ccache.name == name), None)

    def copy(self) -> "Collection":
        ccaches = [ccache.copy() for ccache in self.ccaches]
        return Collection(self.uid, ccaches, self.chosen, self.is_destroyed)

    def fingerprint(self) -> tuple[object, ...]:
        return self.chosen, self.is_destroyed, tuple([ccache.fingerprint() for ccache in self.ccaches])


class Model:
    """One state of a server. A method for each operation takes the asker and arguments, and gives the answer.

    `processes` and `given` are by the number of a process and of a connection: the latter is the default that
    the connection got last.
    """

    def __init__(self, uids: Iterable[int]) -> None:
        self.collections = {uid: Collection(uid) for uid in uids}
        self.processes: dict[int, Process] = {}
        self.given: dict[int, bytes] = {}

    def copy(self) -> Self:
        copied = type(self)(())
        copied.collections = {uid: each.copy() for uid, each in self.collections.items()}
        copied.processes = dict(self.processes)
        copied.given = dict(self.given)
        return copied

    def fingerprint(self) -> tuple[object, ...]:
        """Equal for states that answer the same for ever."""
        return (
            tuple([each.fingerprint() for _, each in sorted(self.collections.items())]),
            tuple(sorted((key, each.default, each.is_missing) for key, each in self.processes.items())),
            tuple(sorted(self.given.items())),
        )

    # Clients and the daemon come and go

    def close(self, asker: Asker, *, is_last: bool) -> None:
        """The connection is closed; `is_last`: its process has no other one."""
        self.given.pop(asker.connection, None)
        if is_last:
            self.processes.pop(asker.process, None)

    def restart(self, *, persists: bool) -> None:
        """The daemon has started again; `persists`: with what its store had."""
        self.processes.clear()
        self.given.clear()
        if not persists:
            self.collections = {uid: Collection(uid) for uid in self.collections}

    # Names

    def owner(self, name: bytes) -> int | None:
        digits = name.split(b":")[0]
        is_decimal = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0"))
        return int(digits) if is_decimal and int(digits) < 2**32 - 1 else None

    def refusal(self, asker: Asker, name: bytes, code: int) -> int:
        """Why this peer may not use the name; 0 if it may. `code` answers for another user's."""
        owner = self.owner(name)
        if len(name) > LONGEST_NAME:
            return BADNAME
        if not name or asker.uid in {0, owner}:
            return 0
        return BADNAME if owner is None else code

    def owns(self, asker: Asker, name: bytes) -> bool:
        """Whether the name is in the peer's own collection; a free name is in root's."""
        return self.owner(name) in {None, asker.uid}

    def collection_of(self, asker: Asker, name: bytes) -> Collection:
        owner = self.owner(name)
        uid = asker.uid if owner is None else owner
        return self.collections.setdefault(uid, Collection(uid))

    def resolve_empty(self, asker: Asker, name: bytes) -> bytes | None:
        """The name; an empty one stands for the default. None: that is another UID's ccache."""
        if name:
            return name
        default = self.given[asker.connection] = self.default(asker)
        return default if self.owns(asker, default) else None

    def find(self, asker: Asker, name: bytes, code: int) -> CCache | int:
        """The ccache, or why there is none for this peer; `code` answers for another user's name."""
        if refusal := self.refusal(asker, name, code):
            return refusal
        resolved = self.resolve_empty(asker, name)
        if resolved is None:
            return NOFILE
        return self.collection_of(asker, resolved).find(resolved) or NOFILE

    def read(self, asker: Asker, name: bytes) -> CCache | int:
        return self.find(asker, name, NOFILE)

    def change(self, asker: Asker, name: bytes) -> CCache | int:
        return self.find(asker, name, PERM)

    # The default

    def process(self, asker: Asker) -> Process:
        return self.processes.get(asker.process, Process())

    def exists(self, asker: Asker, name: bytes) -> bool:
        return self.collection_of(asker, name).find(name) is not None

    def awaits(self, asker: Asker, name: bytes) -> bool:
        process = self.process(asker)
        return process.is_missing and process.default == name

    def chosen(self, asker: Asker) -> bytes:
        """The chosen name. Root may have chosen another UID's ccache, which counts as long as it exists."""
        chosen = self.collections[asker.uid].chosen
        is_usable = self.owns(asker, chosen) or self.awaits(asker, chosen) or self.exists(asker, chosen)
        return chosen if is_usable else b"%d" % asker.uid

    def default(self, asker: Asker) -> bytes:
        collection = self.collections[asker.uid]
        chosen = self.chosen(asker)
        if self.exists(asker, chosen) or self.awaits(asker, chosen):
            return chosen
        if not collection.ccaches or collection.is_destroyed:
            return chosen
        best = collection.ccaches[0]
        for ccache in collection.ccaches:
            if self.rank(collection, ccache) > self.rank(collection, best):
                best = ccache
        return best.name

    def rank(self, collection: Collection, ccache: CCache) -> tuple[bool, int, bool]:
        credentials = [each.credential for each in ccache.credentials]
        tgts = [each.endtime for each in credentials if each.is_tgt]
        tickets = [each.endtime for each in credentials if not each.is_entry]
        return bool(tgts), max(tgts or tickets, default=0), ccache.name == b"%d" % collection.uid

    def chose(self, asker: Asker, name: bytes) -> None:
        """The process has chosen this default, or has got the chosen one."""
        self.processes[asker.process] = Process(name, not self.exists(asker, name))

    def filled(self, asker: Asker, collection: Collection, name: bytes, *, is_new: bool) -> None:
        process = self.process(asker)
        if process.default == name:
            self.processes[asker.process] = replace(process, is_missing=False)
        if is_new and name == collection.chosen:
            collection.is_destroyed = False

    def get_default(self, asker: Asker) -> Answer:
        name = self.given[asker.connection] = self.default(asker)
        if name == self.chosen(asker):
            self.chose(asker, name)
        return 0, name + b"\0"

    def set_default(self, asker: Asker, name: bytes) -> Answer:
        if code := self.refusal(asker, name, PERM):
            return code, b""
        resolved = self.resolve_empty(asker, name)
        if resolved is None:
            return NOFILE, b""
        self.chose(asker, resolved)
        collection = self.collections[asker.uid]
        collection.chosen = resolved
        collection.is_destroyed = False
        return 0, b""

    # One ccache

    def initialize(self, asker: Asker, name: bytes, principal: bytes) -> Answer:
        return self.replace(asker, name, 0, principal, [])

    def replace(
        self, asker: Asker, name: bytes, offset: int, principal: bytes, credentials: list[Credential]
    ) -> Answer:
        if code := self.refusal(asker, name, PERM):
            return code, b""
        resolved = self.resolve_empty(asker, name)
        if resolved is None:
            return NOFILE, b""
        collection = self.collection_of(asker, resolved)
        ccache = collection.find(resolved)
        is_new = ccache is None
        if ccache is None:
            ccache = CCache(resolved, principal)
            collection.ccaches.append(ccache)
        ccache.principal, ccache.offset, ccache.credentials = principal, offset, []
        for credential in credentials:
            self.put(ccache, credential)
        self.filled(asker, collection, resolved, is_new=is_new)
        return 0, b""

    def destroy(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        collection = self.collection_of(asker, ccache.name)
        was_default = (
            collection.uid == asker.uid
            and self.given.get(asker.connection) == ccache.name
            and self.default(asker) == ccache.name
        )
        collection.ccaches.remove(ccache)
        process = self.process(asker)
        if process.default == ccache.name:
            self.processes[asker.process] = replace(process, is_missing=True)
        if was_default and collection.ccaches:
            collection.chosen = self.chosen(asker)
            collection.is_destroyed = True
        collection.is_destroyed = collection.is_destroyed and bool(collection.ccaches)
        return 0, b""

    def move(self, asker: Asker, old: bytes, new: bytes) -> Answer:
        if code := self.refusal(asker, old, PERM) or self.refusal(asker, new, PERM):
            return code, b""
        source_name, target_name = self.resolve_empty(asker, old), self.resolve_empty(asker, new)
        if source_name is None or target_name is None:
            return NOFILE, b""
        source, target = self.collection_of(asker, source_name), self.collection_of(asker, target_name)
        moved = source.find(source_name)
        if moved is None:
            return NOFILE, b""
        if source_name != target_name:
            self.rename(asker, source, moved, target, target_name)
        self.filled(asker, target, target_name, is_new=False)
        return 0, b""

    def rename(
        self, asker: Asker, source: Collection, moved: CCache, target: Collection, name: bytes
    ) -> None:
        there = target.find(name)
        if there is None:
            there = CCache(name, moved.principal)
            target.ccaches.append(there)
            self.filled(asker, target, name, is_new=True)
        there.principal, there.offset = moved.principal, moved.offset
        there.credentials = moved.credentials
        source.ccaches.remove(moved)
        if source is target and source.chosen == moved.name:
            source.chosen = name
            source.is_destroyed = False
        source.is_destroyed = source.is_destroyed and bool(source.ccaches)

    def get_name(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        return (ccache, b"") if isinstance(ccache, int) else (0, ccache.name + b"\0")

    def get_principal(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        return (ccache, b"") if isinstance(ccache, int) else (0, ccache.principal)

    def get_offset(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        return (ccache, b"") if isinstance(ccache, int) else (0, struct.pack(">i", ccache.offset))

    def set_offset(self, asker: Asker, name: bytes, offset: int) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        ccache.offset = offset
        return 0, b""

    # Its credentials

    def are_equal(self, one: Credential, other: Credential) -> bool:
        return are_equal(one, other)

    def matches(self, tag: Tag, credential: Credential) -> bool:
        return matches(tag, credential)

    def put(self, ccache: CCache, credential: Credential) -> None:
        for place, stored in enumerate(ccache.credentials):
            if self.are_equal(stored.credential, credential):
                ccache.credentials[place] = Stored(credential, stored.uuid)
                return
        ccache.credentials.append(Stored(credential))

    def store(self, asker: Asker, name: bytes, credential: Credential) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        self.put(ccache, credential)
        return 0, b""

    def retrieve(self, asker: Asker, name: bytes, tag: Tag) -> Answer:
        ccache = self.read(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        if abs(ccache.offset) > OFFSET_THAT_MATTERS:
            return NOSUPP, b""
        for stored in ccache.credentials:
            if self.matches(tag, stored.credential):
                return 0, stored.credential.blob
        return NOTFOUND, b""

    def remove(self, asker: Asker, name: bytes, tag: Tag) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        kept = [each for each in ccache.credentials if not self.matches(tag, each.credential)]
        is_found = len(kept) < len(ccache.credentials)
        ccache.credentials = kept
        # libkrb5 removes configuration that may not be there, and takes an error for a failure.
        is_entry = tag.server is not None and is_entry_realm(tag.server.realm)
        return (0 if is_found or is_entry else NOTFOUND), b""

    def list_credentials(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        blobs = [each.credential.blob for each in ccache.credentials]
        packed = b"".join([struct.pack(">I", len(blob)) + blob for blob in blobs])
        return 0, struct.pack(">I", len(blobs)) + packed
