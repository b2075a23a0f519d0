"""Random operations: their bytes, what a failure calls them, and what the model makes of them."""

import random
from collections.abc import Callable
from struct import pack
from typing import NamedTuple

from pykcm.protocol.opcodes import Opcode
from tests.builders import credential_bytes, data, principal, principal_bytes

from .collections_model import (
    FLAGS,
    FORMAT,
    INTERNAL,
    IS_SKEY,
    KEYTYPE,
    NAME_ONLY,
    SECOND_TICKET,
    TIMES,
    Answer,
    Asker,
    Credential,
    Model,
    Tag,
)

UNKNOWN_OPCODE = 999

_CLIENTS = ("alice", "bob")
_SERVERS = (
    ("krbtgt/PYKCM.TEST", "PYKCM.TEST"),
    ("krbtgt/PYKCM.TEST", "OTHER.TEST"),
    ("HTTP/www.pykcm.test", "PYKCM.TEST"),
    ("HTTP/www.pykcm.test", "OTHER.TEST"),
    ("krb5_ccache_conf_data/pa_type", "X-CACHECONF:"),
)
_REALM = "PYKCM.TEST"
_OFFSETS = (0, 0, 5, -60, 61, -10800)
_FLAG_WORDS = (0x40E10000, 0x40A10000, 0)
# None of them ends while the tests run.
_FIRST_END = 4_000_000_000


class Operation(NamedTuple):
    """One request. `run` gives what the model answers; `check` decides where that is not one answer."""

    opcode: int
    arguments: bytes
    words: str
    run: Callable[[Model, Asker], Answer]
    check: Callable[[Model, Asker, Answer], bool] | None = None


class Operations:
    """Makes operations of the UIDs given, of which the first is root."""

    def __init__(self, rng: random.Random, uids: list[int]) -> None:
        self._rng = rng
        self._uids = uids
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
            *[self._list] * 5,
            *[self._uuids] * 3,
            *[self._by_uuid] * 3,
            *[self._get_principal] * 3,
            *[self._get_name],
            *[self._get_offset] * 2,
            *[self._set_offset] * 2,
            *[self._gen_new],
            *[self._noop],
            *[self._unknown],
            *[self._damaged],
        ]

    def make(self, model: Model, uid: int) -> Operation:
        return self._rng.choice(self._makers)(model, uid)

    # Arguments

    def own_name(self, uid: int) -> bytes:
        return self._rng.choice([b"%d", b"%d:a", b"%d:b", b"%d:c/d \xff"]) % uid

    def _name(self, uid: int, *, empty: bool = True) -> bytes:
        chance = self._rng.random()
        if empty and chance < 0.05:
            return b""
        if chance < (0.4 if uid == 0 else 0.1):
            return self.own_name(self._rng.choice([each for each in self._uids if each != uid]))
        return b"free" if chance > 0.97 else self.own_name(uid)

    def _principal(self) -> bytes:
        return principal_bytes(principal(self._rng.choice(_CLIENTS)))

    def _credential(self) -> Credential:
        rng = self._rng
        client = rng.choice(_CLIENTS)
        server, realm = rng.choice(_SERVERS)
        enctype, flags = rng.choice((17, 18)), rng.choice(_FLAG_WORDS)
        is_skey = rng.random() < 0.15
        second_ticket = b"second" if rng.random() < 0.15 else b""
        endtime = 0 if realm.endswith(":") else _FIRST_END + rng.randrange(1000)
        blob = credential_bytes(
            principal(f"{server}@{realm}"),
            principal(client),
            enctype=enctype,
            times=(1000 if endtime else 0, 0, endtime, 0),
            is_skey=is_skey,
            flags=flags,
            ticket=rng.randbytes(rng.choice((0, 40, 900))),
            second_ticket=second_ticket,
        )
        return Credential(client, server, realm, enctype, endtime, is_skey, flags, second_ticket, blob)

    def _tag(self) -> Tag:
        rng = self._rng
        client = rng.choice((None, None, *_CLIENTS))
        server, realm = rng.choice(_SERVERS)
        is_named = rng.random() < 0.85
        match_flags = 0
        for bit, likely in ((IS_SKEY, 0.2), (SECOND_TICKET, 0.1), (TIMES, 0.2), (NAME_ONLY, 0.2)):
            match_flags |= bit if rng.random() < likely else 0
        for bit in (FLAGS, KEYTYPE):
            match_flags |= bit if rng.random() < 0.15 else 0
        enctype, flags = rng.choice((17, 18)), rng.choice(_FLAG_WORDS)
        endtime = rng.choice((0, _FIRST_END + rng.randrange(1000)))
        is_skey = rng.random() < 0.5
        second_ticket = rng.choice((b"", b"second"))
        header, fields = 4 | (16 if second_ticket else 0), b""
        if client is not None:
            header |= 1
            fields += principal_bytes(principal(client))
        if is_named:
            header |= 2
            fields += principal_bytes(principal(f"{server}@{realm}"))
        fields += pack(">h", enctype) + data(b"") + pack(">IIIIBI", 0, 0, endtime, 0, is_skey, flags)
        if second_ticket:
            fields += data(second_ticket)
        packed = pack(">II", match_flags, header) + fields
        return Tag(
            *(client, server if is_named else None, realm, enctype, endtime, is_skey, flags),
            *(second_ticket, match_flags, packed),
        )

    # Operations

    def _initialize(self, _: Model, uid: int) -> Operation:
        name, holder = self._name(uid), self._principal()
        return _named(
            Opcode.INITIALIZE, name, holder, lambda model, asker, name: model.initialize(asker, name, holder)
        )

    def _store(self, _: Model, uid: int) -> Operation:
        name, credential = self._name(uid), self._credential()
        return _named(
            Opcode.STORE,
            name,
            credential.blob,
            lambda model, asker, name: model.store(asker, name, credential),
        )

    def _replace(self, _: Model, uid: int) -> Operation:
        name, offset, holder = self._name(uid, empty=False), self._rng.choice(_OFFSETS), self._principal()
        credentials = [self._credential() for _ in range(self._rng.randrange(5))]
        arguments = pack(">i", offset) + holder + pack(">I", len(credentials))
        return _named(
            Opcode.REPLACE,
            name,
            arguments + b"".join(data(each.blob) for each in credentials),
            lambda model, asker, name: model.replace(asker, name, offset, holder, credentials),
        )

    def _retrieve(self, _: Model, uid: int) -> Operation:
        name, tag = self._name(uid), self._tag()
        return _named(
            Opcode.RETRIEVE, name, tag.packed, lambda model, asker, name: model.retrieve(asker, name, tag)
        )

    def _remove(self, _: Model, uid: int) -> Operation:
        name, tag = self._name(uid), self._tag()
        return _named(
            Opcode.REMOVE_CRED, name, tag.packed, lambda model, asker, name: model.remove(asker, name, tag)
        )

    def _move(self, _: Model, uid: int) -> Operation:
        old, new = self._name(uid, empty=False), self._name(uid, empty=False)
        return _named(
            Opcode.MOVE_CACHE, old, new + b"\0", lambda model, asker, old: model.move(asker, old, new)
        )

    def _destroy(self, _: Model, uid: int) -> Operation:
        return _named(
            Opcode.DESTROY, self._name(uid), b"", lambda model, asker, name: model.destroy(asker, name)
        )

    def _get_default(self, _: Model, uid: int) -> Operation:
        return Operation(Opcode.GET_DEFAULT_CACHE, b"", "GET_DEFAULT_CACHE", Model.get_default)

    def _set_default(self, _: Model, uid: int) -> Operation:
        name = self.own_name(uid) if uid == 0 else self._name(uid, empty=False)
        return set_default(name)

    def _list(self, _: Model, uid: int) -> Operation:
        return _named(
            Opcode.GET_CRED_LIST,
            self._name(uid),
            b"",
            lambda model, asker, name: model.list_credentials(asker, name),
        )

    def _get_principal(self, _: Model, uid: int) -> Operation:
        return _named(
            Opcode.GET_PRINCIPAL,
            self._name(uid),
            b"",
            lambda model, asker, name: model.get_principal(asker, name),
        )

    def _get_name(self, _: Model, uid: int) -> Operation:
        return _named(
            Opcode.GET_NAME, self._name(uid), b"", lambda model, asker, name: model.get_name(asker, name)
        )

    def _get_offset(self, _: Model, uid: int) -> Operation:
        return _named(
            Opcode.GET_KDC_OFFSET,
            self._name(uid),
            b"",
            lambda model, asker, name: model.get_offset(asker, name),
        )

    def _set_offset(self, _: Model, uid: int) -> Operation:
        name, offset = self._name(uid), self._rng.choice(_OFFSETS)
        return _named(
            Opcode.SET_KDC_OFFSET,
            name,
            pack(">i", offset),
            lambda model, asker, name: model.set_offset(asker, name, offset),
        )

    def _uuids(self, _: Model, uid: int) -> Operation:
        return Operation(
            Opcode.GET_CACHE_UUID_LIST,
            b"",
            "GET_CACHE_UUID_LIST",
            lambda _, __: (0, b""),
            lambda model, asker, answer: answer[0] == 0 and model.takes_uuids(asker, answer[1]),
        )

    def _by_uuid(self, model: Model, uid: int) -> Operation:
        known = [each.uuid for one in model.collections.values() for each in one.ccaches if each.uuid]
        uuid = self._rng.choice([*known, bytes(16)])
        return Operation(
            Opcode.GET_CACHE_BY_UUID,
            uuid,
            f"GET_CACHE_BY_UUID {uuid.hex()}",
            lambda model, asker: model.find_uuid(asker, uuid),
        )

    def _gen_new(self, _: Model, uid: int) -> Operation:
        def is_free(model: Model, asker: Asker, answer: Answer) -> bool:
            name = answer[1].removesuffix(b"\0")
            is_own = name.startswith(b"%d:" % asker.uid)
            return answer[0] == 0 and is_own and model.collections[asker.uid].find(name) is None

        return Operation(Opcode.GEN_NEW, b"", "GEN_NEW", lambda _, __: (0, b""), is_free)

    def _noop(self, _: Model, uid: int) -> Operation:
        return Operation(Opcode.NOOP, b"", "NOOP", lambda _, __: (0, b""))

    def _unknown(self, _: Model, uid: int) -> Operation:
        return Operation(UNKNOWN_OPCODE, b"x", "an unknown opcode", lambda _, __: (INTERNAL, b""))

    def _damaged(self, _: Model, uid: int) -> Operation:
        opcode = self._rng.choice((Opcode.STORE, Opcode.REPLACE, Opcode.INITIALIZE, Opcode.RETRIEVE))
        arguments = self.own_name(uid) + b"\0\0\0"
        return Operation(opcode, arguments, f"{opcode.name}, cut off", lambda _, __: (FORMAT, b""))


def set_default(name: bytes) -> Operation:
    return _named(
        Opcode.SET_DEFAULT_CACHE, name, b"", lambda model, asker, name: model.set_default(asker, name)
    )


def _named(
    opcode: Opcode, name: bytes, more: bytes, run: Callable[[Model, Asker, bytes], Answer]
) -> Operation:
    return Operation(
        opcode,
        name + b"\0" + more,
        f"{opcode.name} {name!r}" + (f" to {more!r}" if opcode == Opcode.MOVE_CACHE else ""),
        lambda model, asker: run(model, asker, model.named(asker, name)),
    )
