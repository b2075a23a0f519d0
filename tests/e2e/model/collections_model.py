"""What a KCM server has to answer, in lists and dictionaries and without any cleverness.

Written from the protocol and not from pykcm: nothing of its domain is used. A credential is a Credential of
this module; principals, names and replies are bytes as they are sent.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

NOFILE, PERM, BADNAME = -1765328189, -1765328190, -1765328245
NOTFOUND, END, NOSUPP = -1765328243, -1765328242, -1765328137
INTERNAL, FORMAT = -1765328188, -1765328185

# Bits of the matching flags.
IS_SKEY, SECOND_TICKET, TIMES, FLAGS, NAME_ONLY, KEYTYPE = (1 << bit for bit in (22, 23, 25, 27, 29, 30))

# In seconds: a KDC offset beyond this makes clients look through a ccache themselves.
OFFSET_THAT_MATTERS = 60

Answer = tuple[int, bytes]


class Credential(NamedTuple):
    """A credential's fields, as far as these tests vary them, and its bytes."""

    client: str
    server: str
    realm: str
    enctype: int
    endtime: int
    is_skey: bool
    flags: int
    second_ticket: bytes
    blob: bytes

    @property
    def is_entry(self) -> bool:
        """Whether it is no ticket: programs keep data of their own under such realms."""
        return self.realm.startswith("X-") and self.realm.endswith(":")

    @property
    def is_tgt(self) -> bool:
        return self.server.startswith("krbtgt/")


class Tag(NamedTuple):
    """What RETRIEVE and REMOVE_CRED look for; None: any."""

    client: str | None
    server: str | None
    realm: str
    enctype: int
    endtime: int
    is_skey: bool
    flags: int
    second_ticket: bytes
    match_flags: int
    packed: bytes


@dataclass
class CCache:
    """A ccache; `uuid` as far as a reply has told it."""

    name: bytes
    principal: bytes
    offset: int = 0
    credentials: list[Credential] = field(default_factory=list)
    uuid: bytes | None = None


@dataclass
class Process:
    """A process of a UID: the default that it chose or was given, and whether it knows of no ccache there."""

    default: bytes | None = None
    is_missing: bool = False


@dataclass
class Asker:
    """A connection: who is at the other end, and which default it was given last."""

    uid: int
    process: Process
    given: bytes | None = None


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


class Model:
    """Collections by UID. Each method is an operation: who asks, its arguments, and the answer."""

    def __init__(self, uids: list[int]) -> None:
        self.collections = {uid: Collection(uid) for uid in uids}

    # Names

    def owner(self, name: bytes) -> int | None:
        digits = name.split(b":")[0]
        is_decimal = digits.isdigit() and (digits == b"0" or not digits.startswith(b"0"))
        return int(digits) if is_decimal and int(digits) < 2**32 - 1 else None

    def refusal(self, asker: Asker, name: bytes, code: int) -> int:
        """Why this peer may not use the name; 0 if it may. `code` answers for another user's."""
        owner = self.owner(name)
        if asker.uid in {0, owner}:
            return 0
        return BADNAME if owner is None else code

    def collection_of(self, asker: Asker, name: bytes) -> Collection:
        owner = self.owner(name)
        return self.collections[asker.uid if owner is None else owner]

    def named(self, asker: Asker, name: bytes) -> bytes:
        """The name meant: an empty one stands for the default."""
        if name:
            return name
        asker.given = self.default(asker)
        return asker.given

    def read(self, asker: Asker, name: bytes) -> CCache | int:
        code = self.refusal(asker, name, NOFILE)
        return code or self.collection_of(asker, name).find(name) or NOFILE

    def change(self, asker: Asker, name: bytes) -> CCache | int:
        code = self.refusal(asker, name, PERM)
        return code or self.collection_of(asker, name).find(name) or NOFILE

    # The default

    def default(self, asker: Asker) -> bytes:
        collection = self.collections[asker.uid]
        chosen = collection.chosen
        waits = asker.process.is_missing and asker.process.default == chosen
        if collection.find(chosen) or not collection.ccaches or collection.is_destroyed or waits:
            return chosen
        best = collection.ccaches[0]
        for ccache in collection.ccaches:
            if self.rank(collection, ccache) > self.rank(collection, best):
                best = ccache
        return best.name

    def rank(self, collection: Collection, ccache: CCache) -> tuple[bool, int, bool]:
        tgts = [each.endtime for each in ccache.credentials if each.is_tgt]
        tickets = [each.endtime for each in ccache.credentials if not each.is_entry]
        return bool(tgts), max(tgts or tickets, default=0), ccache.name == b"%d" % collection.uid

    def filled(self, asker: Asker, collection: Collection, name: bytes, *, is_new: bool) -> None:
        if asker.process.default == name:
            asker.process.is_missing = False
        if is_new and name == collection.chosen:
            collection.is_destroyed = False

    def get_default(self, asker: Asker) -> Answer:
        name = asker.given = self.default(asker)
        collection = self.collections[asker.uid]
        if name == collection.chosen:
            asker.process.default = name
            asker.process.is_missing = collection.find(name) is None
        return 0, name + b"\0"

    def set_default(self, asker: Asker, name: bytes) -> Answer:
        code = self.refusal(asker, name, PERM)
        if code:
            return code, b""
        collection = self.collections[asker.uid]
        asker.process.default = name
        asker.process.is_missing = collection.find(name) is None
        collection.chosen = name
        collection.is_destroyed = False
        return 0, b""

    # One ccache

    def initialize(self, asker: Asker, name: bytes, principal: bytes) -> Answer:
        return self.replace(asker, name, 0, principal, [])

    def replace(
        self, asker: Asker, name: bytes, offset: int, principal: bytes, credentials: list[Credential]
    ) -> Answer:
        code = self.refusal(asker, name, PERM)
        if code:
            return code, b""
        collection = self.collection_of(asker, name)
        ccache = collection.find(name)
        is_new = ccache is None
        if ccache is None:
            ccache = CCache(name, principal)
            collection.ccaches.append(ccache)
        ccache.principal, ccache.offset, ccache.credentials = principal, offset, []
        for credential in credentials:
            self.put(ccache, credential)
        self.filled(asker, collection, name, is_new=is_new)
        return 0, b""

    def destroy(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        collection = self.collection_of(asker, name)
        is_own = collection.uid == asker.uid
        was_default = is_own and asker.given == name and self.default(asker) == name
        collection.ccaches.remove(ccache)
        if asker.process.default == name:
            asker.process.is_missing = True
        collection.is_destroyed = (was_default or collection.is_destroyed) and bool(collection.ccaches)
        return 0, b""

    def move(self, asker: Asker, old: bytes, new: bytes) -> Answer:
        code = self.refusal(asker, old, PERM) or self.refusal(asker, new, PERM)
        if code:
            return code, b""
        source, target = self.collection_of(asker, old), self.collection_of(asker, new)
        moved = source.find(old)
        if moved is None:
            return NOFILE, b""
        if old != new:
            there = target.find(new)
            if there is None:
                there = CCache(new, moved.principal)
                target.ccaches.append(there)
                self.filled(asker, target, new, is_new=True)
            there.principal, there.offset, there.credentials = (
                moved.principal,
                moved.offset,
                moved.credentials,
            )
            source.ccaches.remove(moved)
            if source is target and source.chosen == old:
                source.chosen = new
                source.is_destroyed = False
            source.is_destroyed = source.is_destroyed and bool(source.ccaches)
        self.filled(asker, target, new, is_new=False)
        return 0, b""

    def get_name(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        return (ccache, b"") if isinstance(ccache, int) else (0, name + b"\0")

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
        fields = ("client", "server", "realm", "is_skey", "enctype", "second_ticket")
        return all(getattr(one, name) == getattr(other, name) for name in fields)

    def put(self, ccache: CCache, credential: Credential) -> None:
        for place, stored in enumerate(ccache.credentials):
            if self.are_equal(stored, credential):
                ccache.credentials[place] = credential
                return
        ccache.credentials.append(credential)

    def store(self, asker: Asker, name: bytes, credential: Credential) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        self.put(ccache, credential)
        return 0, b""

    def matches(self, tag: Tag, credential: Credential) -> bool:
        if tag.client is not None and tag.client != credential.client:
            return False
        if tag.server is not None and tag.server != credential.server:
            return False
        if tag.server is not None and tag.realm != credential.realm and not tag.match_flags & NAME_ONLY:
            return False
        if credential.is_skey != (tag.is_skey if tag.match_flags & IS_SKEY else False):
            return False
        if tag.match_flags & KEYTYPE and tag.enctype != credential.enctype:
            return False
        if tag.match_flags & SECOND_TICKET and tag.second_ticket != credential.second_ticket:
            return False
        if tag.match_flags & FLAGS and tag.flags & credential.flags != tag.flags:
            return False
        return not tag.match_flags & TIMES or tag.endtime <= credential.endtime

    def retrieve(self, asker: Asker, name: bytes, tag: Tag) -> Answer:
        ccache = self.read(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        if abs(ccache.offset) > OFFSET_THAT_MATTERS:
            return NOSUPP, b""
        for credential in ccache.credentials:
            if self.matches(tag, credential):
                return 0, credential.blob
        return NOTFOUND, b""

    def remove(self, asker: Asker, name: bytes, tag: Tag) -> Answer:
        ccache = self.change(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        kept = [each for each in ccache.credentials if not self.matches(tag, each)]
        is_found = len(kept) < len(ccache.credentials)
        ccache.credentials = kept
        # libkrb5 removes configuration that may not be there, and takes an error for a failure.
        is_entry = tag.server is not None and tag.realm.startswith("X-") and tag.realm.endswith(":")
        return (0 if is_found or is_entry else NOTFOUND), b""

    def list_credentials(self, asker: Asker, name: bytes) -> Answer:
        ccache = self.read(asker, name)
        if isinstance(ccache, int):
            return ccache, b""
        blobs = [each.blob for each in ccache.credentials]
        packed = b"".join(struct.pack(">I", len(blob)) + blob for blob in blobs)
        return 0, struct.pack(">I", len(blobs)) + packed

    # The collection

    def find_uuid(self, asker: Asker, uuid: bytes) -> Answer:
        for ccache in self.collections[asker.uid].ccaches:
            if ccache.uuid == uuid:
                return 0, ccache.name + b"\0"
        return END, b""

    def takes_uuids(self, asker: Asker, uuids: bytes) -> bool:
        """Whether a list of UUIDs can be right: one for each ccache, the same as ever; learns new ones."""
        ccaches = self.collections[asker.uid].ccaches
        each = [uuids[at : at + 16] for at in range(0, len(uuids), 16)]
        if len(each) != len(ccaches) or len(set(each)) != len(each):
            return False
        for ccache, uuid in zip(ccaches, each, strict=True):
            if ccache.uuid not in {None, uuid}:
                return False
            ccache.uuid = uuid
        return True
