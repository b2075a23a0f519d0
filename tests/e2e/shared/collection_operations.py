"""Operations of KCM on one UID's collection, with the domain's `Collection` as the model of their answers."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from struct import pack
from typing import Any

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection, move
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.messages import ARGUMENTS, pack_arguments, pack_blobs
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from tests.builders import Clock, credential_bytes, principal, service, tag_for

from .linearizability import Answer

_READ = {
    Opcode.GET_CRED_LIST,
    Opcode.GET_PRINCIPAL,
    Opcode.GET_KDC_OFFSET,
    Opcode.GET_DEFAULT_CACHE,
    Opcode.GET_CACHE_UUID_LIST,
    Opcode.RETRIEVE,
}

# Those whose arguments are used once, so that each makes something new.
_ALWAYS_NEW = {Opcode.REPLACE, Opcode.INITIALIZE}

# Services: a second ticket for one of them takes the place of the first.
_SERVICES = 6


class CollectionState:
    """A collection, which is not changed any more."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.fingerprint = (
            collection.default_name,
            tuple([_fingerprint(ccache) for ccache in collection]),
        )

    @classmethod
    def empty(cls, uid: int) -> "CollectionState":
        return cls(Collection(uid, Clock()))

    def after(self, change: Callable[[Collection], object]) -> "CollectionState":
        """The state after a change; raises KcmError."""
        changed = self.collection.copy()
        change(changed)
        return CollectionState(changed)


def _fingerprint(ccache: CCache) -> tuple[object, ...]:
    blobs = tuple([credential.blob for credential in ccache.credentials])
    return ccache.name, ccache.packed_principal, ccache.kdc_offset, blobs


@dataclass(frozen=True)
class CollectionOperation:
    """A request with these values; credentials are bytes."""

    opcode: Opcode
    values: tuple[Any, ...] = ()

    @property
    def only_reads(self) -> bool:
        return self.opcode in _READ

    @property
    def surely_changes(self) -> bool:
        return self.opcode in _ALWAYS_NEW

    @property
    def arguments(self) -> bytes:
        return pack_arguments(ARGUMENTS[self.opcode], self.values)

    def run(self, state: CollectionState) -> tuple[Answer, CollectionState]:
        try:
            if self.only_reads:
                return Answer(0, _READINGS[self.opcode](state.collection, *self.values)), state
            return Answer(0, b""), state.after(lambda each: _CHANGES[self.opcode](each, *self.values))
        except KcmError as error:
            return Answer(error.code, b""), state

    def is_right(self, state: CollectionState, expected: Answer, answer: Answer) -> bool:
        if expected.code != answer.code:
            return False
        if self.opcode == Opcode.GET_CACHE_UUID_LIST:
            # The UUIDs are random.
            return len(answer.payload) == len(expected.payload)
        if self.opcode == Opcode.GET_DEFAULT_CACHE and not state.collection.has(expected.payload[:-1]):
            # Which ccache takes the place of a missing one depends on what the client did before.
            names = {state.collection.default_name, *(ccache.name for ccache in state.collection)}
            return answer.payload[:-1] in names
        return expected == answer

    def __str__(self) -> str:
        return f"{self.opcode.name} {', '.join(map(_short, self.values))}"


def _short(value: object) -> str:
    if isinstance(value, Principal):
        return "/".join(each.decode() for each in value.components)
    if isinstance(value, Tag):
        return _short(value.server)
    if isinstance(value, bytes) and len(value) > 40:
        return marks_in(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_short, value))}]"
    return str(value)


def marks_in(payload: bytes) -> str:
    """The marks of all that is in a credential or a reply, for people."""
    return " ".join(mark.decode() for mark in re.findall(rb"(?<=[^\d.])\d+\.\d+(?:\.\d+)?(?![\d.])", payload))


def _ccache(collection: Collection, name: bytes) -> CCache:
    ccache = collection.get(name)
    if ccache is None:
        raise KcmError(Code.FCC_NOFILE)
    return ccache


def _remove(collection: Collection, name: bytes, flags: int, tag: Tag) -> None:
    if not collection.remove_credentials(_ccache(collection, name), tag, flags):
        raise KcmError(Code.CC_NOTFOUND)


def _retrieve(collection: Collection, name: bytes, flags: int, tag: Tag) -> bytes:
    ccache = _ccache(collection, name)
    if ccache.needs_kdc_offset:
        raise KcmError(Code.CC_NOSUPP)
    credential = ccache.credentials.find(tag, flags)
    if credential is None:
        raise KcmError(Code.CC_NOTFOUND)
    return credential.blob


_READINGS: dict[Opcode, Callable[..., bytes]] = {
    Opcode.GET_CRED_LIST: lambda collection, name: pack_blobs(
        [credential.blob for credential in _ccache(collection, name).credentials]
    ),
    Opcode.GET_PRINCIPAL: lambda collection, name: _ccache(collection, name).packed_principal,
    Opcode.GET_KDC_OFFSET: lambda collection, name: pack(">i", _ccache(collection, name).kdc_offset),
    Opcode.GET_DEFAULT_CACHE: lambda collection: collection.default_name + b"\0",
    Opcode.GET_CACHE_UUID_LIST: lambda collection: b"".join([ccache.uuid for ccache in collection]),
    Opcode.RETRIEVE: _retrieve,
}

_CHANGES: dict[Opcode, Callable[..., object]] = {
    Opcode.INITIALIZE: lambda collection, name, client: collection.initialize(name, client, None),
    Opcode.REPLACE: lambda collection, name, offset, client, blobs: collection.replace(
        name, client, offset, [parse_credential(blob) for blob in blobs], None
    ),
    Opcode.STORE: lambda collection, name, blob: collection.store(
        _ccache(collection, name), parse_credential(blob)
    ),
    Opcode.REMOVE_CRED: _remove,
    Opcode.DESTROY: lambda collection, name: collection.destroy(name),
    Opcode.MOVE_CACHE: lambda collection, old, new: move(collection, old, collection, new),
    Opcode.SET_DEFAULT_CACHE: lambda collection, name: collection.set_default(name),
    Opcode.SET_KDC_OFFSET: lambda collection, name, offset: collection.set_kdc_offset(
        _ccache(collection, name), offset
    ),
}


class RandomOperations:
    """Operations of one client; all that it writes is marked as its own, and by a number.

    `always_change`: without changes that may succeed and change nothing.
    """

    def __init__(self, rng: random.Random, uid: int, client: int, *, always_change: bool = False) -> None:
        self._rng = rng
        self._client = client
        self._number = 0
        self._names = names_of(uid)
        self._always_change = always_change
        self._makers = [
            *[self._replace] * 8,
            *[self._initialize] * 3,
            *[self._store] * 14,
            *[self._remove] * 4,
            *[self._destroy] * 5,
            *[self._move] * 5,
            *[self._get_cred_list] * 24,
            *[self._retrieve] * 8,
            *[self._get_principal] * 8,
            *[self._get_default] * 6,
            *[self._get_uuids] * 6,
            *[self._get_offset] * 4,
        ]
        if not always_change:
            self._makers += [*[self._set_default] * 4, *[self._set_offset] * 3]

    def make(self) -> CollectionOperation:
        self._number += 1
        return self._rng.choice(self._makers)()

    @property
    def _mark(self) -> str:
        return f"{self._client}.{self._number}"

    def _name(self) -> bytes:
        return self._rng.choice(self._names)

    def _blob(self, server: int) -> bytes:
        return credential_bytes(service(server), ticket=f"{self._mark}.{server}".encode())

    def _replace(self) -> CollectionOperation:
        servers = self._rng.sample(range(_SERVICES), self._rng.randrange(1, 5))
        blobs = tuple(map(self._blob, servers))
        return CollectionOperation(
            Opcode.REPLACE, (self._name(), self._rng.randrange(50), principal(self._mark), blobs)
        )

    def _initialize(self) -> CollectionOperation:
        return CollectionOperation(Opcode.INITIALIZE, (self._name(), principal(self._mark)))

    def _store(self) -> CollectionOperation:
        return CollectionOperation(Opcode.STORE, (self._name(), self._blob(self._rng.randrange(_SERVICES))))

    def _tagged(self, opcode: Opcode) -> CollectionOperation:
        return CollectionOperation(
            opcode, (self._name(), 0, tag_for(service(self._rng.randrange(_SERVICES))))
        )

    def _remove(self) -> CollectionOperation:
        return self._tagged(Opcode.REMOVE_CRED)

    def _retrieve(self) -> CollectionOperation:
        return self._tagged(Opcode.RETRIEVE)

    def _move(self) -> CollectionOperation:
        if self._always_change:
            return CollectionOperation(Opcode.MOVE_CACHE, tuple(self._rng.sample(self._names, 2)))
        return CollectionOperation(Opcode.MOVE_CACHE, (self._name(), self._name()))

    def _set_offset(self) -> CollectionOperation:
        return CollectionOperation(Opcode.SET_KDC_OFFSET, (self._name(), self._rng.randrange(50)))

    def _destroy(self) -> CollectionOperation:
        return CollectionOperation(Opcode.DESTROY, (self._name(),))

    def _set_default(self) -> CollectionOperation:
        return CollectionOperation(Opcode.SET_DEFAULT_CACHE, (self._name(),))

    def _get_cred_list(self) -> CollectionOperation:
        return CollectionOperation(Opcode.GET_CRED_LIST, (self._name(),))

    def _get_principal(self) -> CollectionOperation:
        return CollectionOperation(Opcode.GET_PRINCIPAL, (self._name(),))

    def _get_offset(self) -> CollectionOperation:
        return CollectionOperation(Opcode.GET_KDC_OFFSET, (self._name(),))

    def _get_default(self) -> CollectionOperation:
        return CollectionOperation(Opcode.GET_DEFAULT_CACHE)

    def _get_uuids(self) -> CollectionOperation:
        return CollectionOperation(Opcode.GET_CACHE_UUID_LIST)


def names_of(uid: int) -> list[bytes]:
    """The names of a UID's ccaches in the random operations."""
    return [b"%d" % uid, *(b"%d:%s" % (uid, suffix) for suffix in (b"a", b"b", b"c"))]


def readings(uid: int) -> list[CollectionOperation]:
    """Operations that show all ccaches of the random operations."""
    return [
        CollectionOperation(Opcode.GET_CACHE_UUID_LIST),
        CollectionOperation(Opcode.GET_DEFAULT_CACHE),
        *(
            CollectionOperation(opcode, (name,))
            for name in names_of(uid)
            for opcode in (Opcode.GET_PRINCIPAL, Opcode.GET_KDC_OFFSET, Opcode.GET_CRED_LIST)
        ),
    ]
