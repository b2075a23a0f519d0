"""Sealed values: AES-256-GCM, with keys that only the hosts have.

A sealed value is bound to its row: the UID, the ccache, the item and the expiry. In another row it cannot be
unsealed. The database's administrator can still delete a row, or put back an old value of the same row.

    byte 0        format, 1
    bytes 1-8     id of the shared key
    bytes 9-20    nonce, random
    bytes 21-     ciphertext, and the tag of 16 bytes

Each UID has a key of its own, derived from the shared key by HKDF-SHA256: random nonces of 96 bits allow
2**32 values for a key (NIST SP 800-38D, 8.3), and thousands of hosts write with the shared one.
"""

import os
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_ID_SIZE = 8

_FORMAT = 1
_NONCE_SIZE = 12
_HEADER_SIZE = 1 + KEY_ID_SIZE + _NONCE_SIZE
_UID_KEYS_KEPT = 4096

_BINDING = struct.Struct(">Q16s16sq")
_NEVER = -1

# In the place of a UUID that a row does not have.
NIL = bytes(16)


class UnsealError(Exception):
    """A value cannot be unsealed; the message says why, and holds nothing of it."""


class UnknownKeyError(UnsealError):
    """A value is sealed with a key that this host does not have."""


class Place(NamedTuple):
    """A row: `ccache` and `item` are UUIDs of 16 bytes.

    A ccache has no item; the default ccache's name has neither.
    """

    uid: int
    ccache: bytes = NIL
    item: bytes = NIL


class SharedKey:
    """A key of 32 bytes that all hosts have; `id` may be known to the database."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.id = self._derive(b"pykcm: key id", KEY_ID_SIZE)
        self.of_uid = lru_cache(_UID_KEYS_KEPT)(self._of_uid)

    def _derive(self, purpose: bytes, size: int) -> bytes:
        return HKDF(SHA256(), size, None, purpose).derive(self._raw)

    def _of_uid(self, uid: int) -> AESGCM:
        return AESGCM(self._derive(b"pykcm: rows of UID %d" % uid, 32))


class Sealer:
    """Seals with one key, at first the first one, and unseals with every one."""

    def __init__(self, keys: Iterable[SharedKey]) -> None:
        keys = list(keys)
        self.key = keys[0]
        self._keys = {key.id: key for key in keys}

    def use(self, key: SharedKey, keys: Iterable[SharedKey]) -> None:
        """Seal with one of the keys from now on, and unseal with all of them."""
        # The present objects are kept: they have derived the keys of UIDs.
        self._keys = {each.id: self._keys.get(each.id, each) for each in keys}
        self.key = self._keys[key.id]

    def has(self, key_id: bytes) -> bool:
        """Whether rows of this key can be unsealed."""
        return key_id in self._keys

    def seal(self, place: Place, value: bytes, expires: int | None) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        sealed = self.key.of_uid(place.uid).encrypt(nonce, value, _binding(place, expires))
        return bytes([_FORMAT]) + self.key.id + nonce + sealed

    def unseal(self, place: Place, sealed: bytes, expires: int | None) -> bytes:
        """The value that was sealed for this row; raises UnsealError."""
        if len(sealed) < _HEADER_SIZE or sealed[0] != _FORMAT:
            raise UnsealError("it has an unknown format")
        key = self._keys.get(key_id_of(sealed))
        if key is None:
            raise UnknownKeyError(f"this host does not have its key {key_id_of(sealed).hex()}")
        nonce = sealed[1 + KEY_ID_SIZE : _HEADER_SIZE]
        if place.uid < 0 or len(place.ccache) != len(NIL) or len(place.item) != len(NIL):
            raise UnsealError("it is in a row that pykcm does not write")
        try:
            return key.of_uid(place.uid).decrypt(nonce, sealed[_HEADER_SIZE:], _binding(place, expires))
        except InvalidTag:
            raise UnsealError("it was changed, or sealed for another row") from None


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that a value is sealed with."""
    return sealed[1 : 1 + KEY_ID_SIZE]


def _binding(place: Place, expires: int | None) -> bytes:
    return _BINDING.pack(*place, _NEVER if expires is None else expires)
