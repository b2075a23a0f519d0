"""Random operations: their bytes, their description for a failure, and the model's answer to them."""

import random
from collections.abc import Callable
from struct import pack
from typing import NamedTuple

from pykcm.protocol.opcodes import Opcode
from tests.builders import data

from . import uuids_model
from .arguments import OFFSETS, Arguments
from .collections_model import FORMAT, INTERNAL, NOSUPP, Answer, Asker, Model

_SUCCESS = (0, b"")

_NOT_SUPPORTED = (13, 14, 15, 16, 24, 25, 26, 27, 28)
_UNKNOWN = (29, 999, 13000, 13003, 0xFFFF)

_UUID_SIZE = 16


class Operation(NamedTuple):
    """One request. `run` gives the model's answer; `check` decides instead where more than one is right.

    Both change the model as the operation does, and only one of them is called for one request that was
    answered, `run` first.
    """

    opcode: int
    arguments: bytes
    description: str
    run: Callable[[Model, Asker], Answer]
    check: Callable[[Model, Asker, Answer], bool] | None = None


class Operations:
    """Makes operations for clients of the given UIDs, of which the first is root.

    The model that the methods take is for the UUIDs that are known, and for nothing else: the operations of a
    seed are the same in each run, except for UUIDs.
    """

    def __init__(self, rng: random.Random, uids: list[int]) -> None:
        self._rng = rng
        self._arguments = Arguments(rng, uids)
        # Some of ccaches and credentials that may be gone.
        self._old_uuids = [bytes(_UUID_SIZE)]
        self._makers = [
            *[self._initialize] * 3,
            *[self._store] * 14,
            *[self._replace] * 4,
            *[self._retrieve] * 10,
            *[self._remove] * 4,
            *[self._move] * 4,
            *[self._destroy] * 4,
            *[self._get_default] * 8,
            *[self._set_default] * 4,
            *[self._get_cred_list] * 4,
            *[self._get_cred_uuid_list] * 3,
            *[self._get_cred_by_uuid] * 4,
            *[self._get_cache_uuid_list] * 3,
            *[self._get_cache_by_uuid] * 3,
            *[self._get_principal] * 3,
            *[self._get_name],
            *[self._get_offset] * 2,
            *[self._set_offset] * 2,
            *[self._gen_new],
            *[self._without_effect] * 2,
            *[self._cut_off],
        ]

    def make(self, model: Model, uid: int) -> Operation:
        return self._rng.choice(self._makers)(model, uid)

    def readings(self, uid: int) -> list[Operation]:
        """Operations that show all of a UID's ccaches; root can read some names of other UIDs as well."""
        arguments = self._arguments
        names = arguments.own_names(uid) if uid else arguments.root_names()
        return [
            Operation(
                Opcode.GET_DEFAULT_CACHE,
                b"",
                "GET_DEFAULT_CACHE",
                lambda model, asker: model.get_default(asker),
            ),
            _get_cache_uuid_list(),
            *[
                reading
                for name in names
                for reading in (
                    _named(Opcode.GET_PRINCIPAL, name, b"", lambda model, *rest: model.get_principal(*rest)),
                    _named(Opcode.GET_KDC_OFFSET, name, b"", lambda model, *rest: model.get_offset(*rest)),
                    _named(
                        Opcode.GET_CRED_LIST, name, b"", lambda model, *rest: model.list_credentials(*rest)
                    ),
                    _get_cred_uuid_list(name, b""),
                )
            ],
        ]

    # One ccache

    def _initialize(self, _: Model, uid: int) -> Operation:
        name, holder = self._arguments.name(uid), self._arguments.principal()
        return self._with_trailing(
            Opcode.INITIALIZE, name, holder, lambda model, asker, name: model.initialize(asker, name, holder)
        )

    def _replace(self, _: Model, uid: int) -> Operation:
        name, offset = self._arguments.name(uid), self._rng.choice(OFFSETS)
        holder = self._arguments.principal()
        credentials = [self._arguments.credential() for _ in range(self._rng.randrange(5))]
        blobs = b"".join([data(each.blob) for each in credentials])
        return self._with_trailing(
            Opcode.REPLACE,
            name,
            pack(">i", offset) + holder + pack(">I", len(credentials)) + blobs,
            lambda model, asker, name: model.replace(asker, name, offset, holder, credentials),
        )

    def _move(self, _: Model, uid: int) -> Operation:
        old, new = self._arguments.name(uid), self._arguments.name(uid)
        return self._with_trailing(
            Opcode.MOVE_CACHE, old, new + b"\0", lambda model, asker, old: model.move(asker, old, new)
        )._replace(description=f"MOVE_CACHE {_short(old)} to {_short(new)}")

    def _destroy(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.DESTROY, uid, lambda model, *rest: model.destroy(*rest))

    def _get_principal(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.GET_PRINCIPAL, uid, lambda model, *rest: model.get_principal(*rest))

    def _get_name(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.GET_NAME, uid, lambda model, *rest: model.get_name(*rest))

    def _get_offset(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.GET_KDC_OFFSET, uid, lambda model, *rest: model.get_offset(*rest))

    def _set_offset(self, _: Model, uid: int) -> Operation:
        name, offset = self._arguments.name(uid), self._rng.choice(OFFSETS)
        return self._with_trailing(
            Opcode.SET_KDC_OFFSET,
            name,
            pack(">i", offset),
            lambda model, asker, name: model.set_offset(asker, name, offset),
        )

    # Its credentials

    def _store(self, _: Model, uid: int) -> Operation:
        name, credential = self._arguments.name(uid), self._arguments.credential()
        return _named(
            Opcode.STORE,
            name,
            credential.blob,
            lambda model, asker, name: model.store(asker, name, credential),
        )

    def _retrieve(self, _: Model, uid: int) -> Operation:
        name, tag = self._arguments.name(uid), self._arguments.tag()
        return self._with_trailing(
            Opcode.RETRIEVE, name, tag.packed, lambda model, asker, name: model.retrieve(asker, name, tag)
        )

    def _remove(self, _: Model, uid: int) -> Operation:
        name, tag = self._arguments.name(uid), self._arguments.tag()
        return self._with_trailing(
            Opcode.REMOVE_CRED, name, tag.packed, lambda model, asker, name: model.remove(asker, name, tag)
        )

    def _get_cred_list(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.GET_CRED_LIST, uid, lambda model, *rest: model.list_credentials(*rest))

    def _get_cred_uuid_list(self, _: Model, uid: int) -> Operation:
        return _get_cred_uuid_list(self._arguments.name(uid), self._arguments.trailing())

    def _get_cred_by_uuid(self, model: Model, uid: int) -> Operation:
        name = self._arguments.name(uid)
        ccache = model.collections[uid].find(name)
        uuid = self._uuid([each.uuid for each in ccache.credentials] if ccache else [])
        return Operation(
            Opcode.GET_CRED_BY_UUID,
            name + b"\0" + uuid + self._arguments.trailing(),
            f"GET_CRED_BY_UUID {_short(name)} {uuid.hex()}",
            lambda model, asker: uuids_model.credential_by_uuid(model, asker, name, uuid),
            lambda model, asker, answer: uuids_model.accepts_credential(model, asker, name, uuid, answer),
        )

    # The collection

    def _get_default(self, _: Model, uid: int) -> Operation:
        trailing = self._arguments.trailing()
        return Operation(
            Opcode.GET_DEFAULT_CACHE,
            trailing,
            "GET_DEFAULT_CACHE",
            lambda model, asker: model.get_default(asker),
        )

    def _set_default(self, _: Model, uid: int) -> Operation:
        return self._on_ccache(Opcode.SET_DEFAULT_CACHE, uid, lambda model, *rest: model.set_default(*rest))

    def _get_cache_uuid_list(self, _: Model, uid: int) -> Operation:
        return _get_cache_uuid_list(self._arguments.trailing())

    def _get_cache_by_uuid(self, model: Model, uid: int) -> Operation:
        uuid = self._uuid([each.uuid for one in model.collections.values() for each in one.ccaches])
        return Operation(
            Opcode.GET_CACHE_BY_UUID,
            uuid + self._arguments.trailing(),
            f"GET_CACHE_BY_UUID {uuid.hex()}",
            lambda model, asker: uuids_model.ccache_by_uuid(model, asker, uuid),
            lambda model, asker, answer: uuids_model.accepts_ccache(model, asker, uuid, answer),
        )

    def _gen_new(self, _: Model, uid: int) -> Operation:
        def is_free(model: Model, asker: Asker, answer: Answer) -> bool:
            name = answer[1].removesuffix(b"\0")
            is_own = name.startswith(b"%d:" % asker.uid)
            return answer[0] == 0 and is_own and model.collections[asker.uid].find(name) is None

        return Operation(Opcode.GEN_NEW, self._arguments.trailing(), "GEN_NEW", lambda *_: _SUCCESS, is_free)

    # Others

    def _without_effect(self, _: Model, uid: int) -> Operation:
        """Requests that are answered by their opcode alone."""
        name, noise = self._arguments.name(uid), self._rng.randbytes(self._rng.randrange(20))
        return self._rng.choice(
            [
                Operation(Opcode.NOOP, noise, "NOOP", lambda *_: _SUCCESS),
                Operation(
                    Opcode.RESOLVE, name + b"\0" + noise, f"RESOLVE {_short(name)}", lambda *_: _SUCCESS
                ),
                Operation(
                    Opcode.SET_FLAGS,
                    name + b"\0" + pack(">I", 1) + noise,
                    f"SET_FLAGS {_short(name)}",
                    lambda *_: _SUCCESS,
                ),
                *[
                    Operation(opcode, noise, f"the unsupported opcode {opcode}", lambda *_: (NOSUPP, b""))
                    for opcode in (self._rng.choice(_NOT_SUPPORTED),)
                ],
                *[
                    Operation(opcode, noise, f"the unknown opcode {opcode}", lambda *_: (INTERNAL, b""))
                    for opcode in (self._rng.choice(_UNKNOWN),)
                ],
            ]
        )

    def _cut_off(self, _: Model, uid: int) -> Operation:
        """A request that ends early."""
        arguments, rng = self._arguments, self._rng
        name = arguments.name(uid) + b"\0"
        opcode, rest = rng.choice(
            [
                (Opcode.DESTROY, b""),
                (Opcode.RESOLVE, b""),
                (Opcode.SET_FLAGS, pack(">I", 1)),
                (Opcode.STORE, arguments.credential().blob[:100]),
                (Opcode.INITIALIZE, arguments.principal()),
                (Opcode.RETRIEVE, arguments.tag().packed),
                (Opcode.REMOVE_CRED, arguments.tag().packed),
                (Opcode.MOVE_CACHE, arguments.name(uid) + b"\0"),
                (Opcode.SET_KDC_OFFSET, pack(">i", 5)),
                (Opcode.GET_CRED_BY_UUID, bytes(_UUID_SIZE)),
                (Opcode.REPLACE, pack(">i", 0) + arguments.principal() + pack(">I", 0)),
                (Opcode.REPLACE, pack(">i", 0) + arguments.principal() + pack(">II", 2**32 - 1, 0) + b"\0"),
            ]
        )
        whole = name + rest
        cut = whole[: rng.randrange(len(whole))]
        return Operation(opcode, cut, f"{opcode.name}, cut off", lambda *_: (FORMAT, b""))

    # What they have in common

    def _on_ccache(self, opcode: Opcode, uid: int, run: Callable[[Model, Asker, bytes], Answer]) -> Operation:
        return self._with_trailing(opcode, self._arguments.name(uid), b"", run)

    def _with_trailing(
        self, opcode: Opcode, name: bytes, more: bytes, run: Callable[[Model, Asker, bytes], Answer]
    ) -> Operation:
        return _named(opcode, name, more + self._arguments.trailing(), run)

    def _uuid(self, known: list[bytes | None]) -> bytes:
        """One of the known ones, or one that was known earlier."""
        candidates = [each for each in known if each is not None]
        is_old, place, is_kept = self._rng.random() < 0.1, self._rng.random(), self._rng.random() < 0.1
        if is_old or not candidates:
            return self._old_uuids[int(place * len(self._old_uuids))]
        uuid = candidates[int(place * len(candidates))]
        if is_kept:
            self._old_uuids = [*self._old_uuids[-20:], uuid]
        return uuid


def _get_cache_uuid_list(trailing: bytes = b"") -> Operation:
    return Operation(
        Opcode.GET_CACHE_UUID_LIST,
        trailing,
        "GET_CACHE_UUID_LIST",
        uuids_model.ccache_list,
        uuids_model.accepts_ccaches,
    )


def _get_cred_uuid_list(name: bytes, trailing: bytes) -> Operation:
    return Operation(
        Opcode.GET_CRED_UUID_LIST,
        name + b"\0" + trailing,
        f"GET_CRED_UUID_LIST {_short(name)}",
        lambda model, asker: uuids_model.credential_list(model, asker, name),
        lambda model, asker, answer: uuids_model.accepts_credentials(model, asker, name, answer),
    )


def _named(
    opcode: Opcode, name: bytes, more: bytes, run: Callable[[Model, Asker, bytes], Answer]
) -> Operation:
    return Operation(
        opcode,
        name + b"\0" + more,
        f"{opcode.name} {_short(name)}",
        lambda model, asker: run(model, asker, name),
    )


def _short(name: bytes) -> str:
    return repr(name) if len(name) < 40 else f"{name[:20]!r}… ({len(name)} bytes)"
