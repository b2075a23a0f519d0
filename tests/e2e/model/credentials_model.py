"""Credentials and tags of the model, and which credentials a tag matches. Written from the protocol alone."""

from typing import NamedTuple

# Bits of the matching flags. GC_CACHED is always set by MIT's client and changes nothing.
GC_CACHED = 1
IS_SKEY, SECOND_TICKET, AUTHDATA, TIMES, TIMES_EXACT, FLAGS, FLAGS_EXACT, NAME_ONLY, KEYTYPE, NO_REALM = (
    1 << bit for bit in range(22, 32)
)

# authtime, starttime, endtime, renew_till
Times = tuple[int, int, int, int]
TypedList = tuple[tuple[int, bytes], ...]


class Name(NamedTuple):
    """A principal. Its name type never counts, and is only in the bytes."""

    components: str
    realm: str


class Credential(NamedTuple):
    """The fields of a credential that count somewhere, and its bytes."""

    client: Name
    server: Name
    enctype: int
    times: Times
    is_skey: bool
    flags: int
    authdata: TypedList
    second_ticket: bytes
    blob: bytes

    @property
    def endtime(self) -> int:
        return self.times[2]

    @property
    def is_entry(self) -> bool:
        """Whether it holds data of a program and is no ticket."""
        return is_entry_realm(self.server.realm)

    @property
    def is_tgt(self) -> bool:
        return self.server.components.startswith("krbtgt/")


class Tag(NamedTuple):
    """The arguments of RETRIEVE and REMOVE_CRED after the name. A client or server of None matches any."""

    client: Name | None
    server: Name | None
    enctype: int
    times: Times
    is_skey: bool
    flags: int
    authdata: TypedList
    second_ticket: bytes
    match_flags: int
    packed: bytes


def is_entry_realm(realm: str) -> bool:
    return realm.startswith("X-") and realm.endswith(":")


def are_equal(one: Credential, other: Credential) -> bool:
    """Whether a STORE of one replaces the other."""
    fields = ("client", "server", "is_skey", "enctype", "authdata", "second_ticket")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def matches(tag: Tag, credential: Credential) -> bool:
    asked = tag.match_flags
    names = (
        (tag.client, credential.client, asked & NO_REALM),
        (tag.server, credential.server, asked & (NAME_ONLY | NO_REALM)),
    )
    for wanted, found, any_realm in names:
        if wanted is None:
            continue
        if wanted.components != found.components or (wanted.realm != found.realm and not any_realm):
            return False
    if credential.is_skey != (tag.is_skey if asked & IS_SKEY else False):
        return False
    if asked & TIMES and (tag.times[2] > credential.times[2] or tag.times[3] > credential.times[3]):
        return False
    if asked & FLAGS and tag.flags & ~credential.flags:
        return False
    exact = (
        (TIMES_EXACT, "times"),
        (FLAGS_EXACT, "flags"),
        (AUTHDATA, "authdata"),
        (SECOND_TICKET, "second_ticket"),
        (KEYTYPE, "enctype"),
    )
    return all(getattr(tag, name) == getattr(credential, name) for bit, name in exact if asked & bit)
