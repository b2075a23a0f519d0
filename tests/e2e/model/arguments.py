"""Random arguments of operations: names, principals, credentials and tags, with their bytes."""

import random
from struct import pack

from tests.builders import credential_bytes, data, principal, principal_bytes, typed_list

from .collections_model import LONGEST_NAME
from .credentials_model import (
    AUTHDATA,
    FLAGS,
    FLAGS_EXACT,
    GC_CACHED,
    IS_SKEY,
    KEYTYPE,
    NAME_ONLY,
    NO_REALM,
    SECOND_TICKET,
    TIMES,
    TIMES_EXACT,
    Credential,
    Name,
    Tag,
    is_entry_realm,
)

OFFSETS = (0, 0, 5, -60, 60, 61, -61, -10800, 2**31 - 1, -(2**31))

_REALM, _OTHER_REALM = "PYKCM.TEST", "OTHER.TEST"
_CLIENTS = (*[Name("alice", _REALM)] * 3, Name("bob", _REALM), Name("alice", _OTHER_REALM))
_SERVERS = (
    Name("krbtgt/PYKCM.TEST", _REALM),
    Name("krbtgt/PYKCM.TEST", _OTHER_REALM),
    Name("HTTP/www.pykcm.test", _REALM),
    Name("HTTP/www.pykcm.test", _OTHER_REALM),
    Name("krb5_ccache_conf_data/pa_type", "X-CACHECONF:"),
)
_FLAG_WORDS = (0x40E10000, 0x40A10000, 0)
# None of these ends while the tests run.
_ENDTIMES = range(4_000_000_000, 4_000_000_004)
_RENEW_TILLS = (0, 0, 4_000_000_002, 4_000_001_000)
_AUTHDATA = (*[()] * 6, ((1, b"authdata"),), ((1, b"authdata"), (2, b"")))
_ADDRESSES = (*[()] * 3, ((2, b"\x7f\0\0\1"),))

# The likelihood of each bit of the matching flags.
_MATCH_FLAGS = (
    (GC_CACHED, 0.5),
    (IS_SKEY, 0.2),
    (SECOND_TICKET, 0.1),
    (AUTHDATA, 0.1),
    (TIMES, 0.2),
    (TIMES_EXACT, 0.05),
    (FLAGS, 0.15),
    (FLAGS_EXACT, 0.05),
    (NAME_ONLY, 0.2),
    (KEYTYPE, 0.15),
    (NO_REALM, 0.1),
)

# A UID that no client of the test has: root alone can use its names.
_LARGEST_UID = 2**32 - 2


class Arguments:
    """Makes arguments for clients of the given UIDs, of which the first is root.

    How many random numbers are drawn depends on nothing but earlier draws.
    """

    def __init__(self, rng: random.Random, uids: list[int]) -> None:
        self._rng = rng
        self._uids = uids

    # Names

    def own_names(self, uid: int) -> list[bytes]:
        """Names that belong to the UID."""
        prefix = b"%d:" % uid
        longest = prefix.ljust(LONGEST_NAME, b"n")
        return [b"%d" % uid, prefix + b"a", prefix + b"b", prefix + b"c/d \xff", prefix, longest]

    def free_names(self) -> list[bytes]:
        """Names that belong to no UID, and so to root."""
        uid = self._uids[1]
        patterns = [b"%dx", b"0%d", b"+%d", b" %d", b"%d x", b"-%d", b"%dx:a"]
        longest = b"f".ljust(LONGEST_NAME, b"n")
        numbers = [b"4294967295", b"4294967296", b"4294967295:a", b"00", b"1" * 40]
        return [b"free", longest, *[pattern % uid for pattern in patterns], *numbers]

    def root_names(self) -> list[bytes]:
        """Names that only root can use, and that the test's other UIDs do not have."""
        return [*self.own_names(0), *self.free_names(), b"%d:z" % _LARGEST_UID]

    def name(self, uid: int, *, may_be_empty: bool = True) -> bytes:
        """Mostly one of the UID's own; now and then empty, another UID's, a free one, or too long."""
        rng = self._rng
        chance = rng.random()
        own, other = self._mostly_first_four(uid), self._mostly_first_four(self._other_uid(uid))
        rare = rng.choice([*self.free_names(), b"%d:z" % _LARGEST_UID])
        too_long = (b"%d:" % rng.choice(self._uids)).ljust(LONGEST_NAME + 1, b"n")
        if chance < (0.4 if uid == 0 else 0.08):
            return other
        if chance > 0.99:
            return too_long
        if chance > 0.96:
            return rare
        return b"" if chance > 0.91 and may_be_empty else own

    def _mostly_first_four(self, uid: int) -> bytes:
        names = self.own_names(uid)
        return self._rng.choice([*names[:4] * 4, *names])

    def _other_uid(self, uid: int) -> int:
        return self._rng.choice([each for each in self._uids if each != uid])

    # Principals, credentials, tags

    def principal(self) -> bytes:
        return self._packed(self._rng.choice(_CLIENTS))

    def credential(self) -> Credential:
        rng = self._rng
        client, server = rng.choice(_CLIENTS), rng.choice(_SERVERS)
        times = (0, 0, 0, 0) if is_entry_realm(server.realm) else self._times()
        enctype, flags = rng.choice((17, 18)), rng.choice(_FLAG_WORDS)
        is_skey = rng.random() < 0.15
        second_ticket = b"second" if rng.random() < 0.15 else b""
        authdata, addresses = rng.choice(_AUTHDATA), rng.choice(_ADDRESSES)
        blob = credential_bytes(
            principal("@".join(server), self._name_type()),
            principal("@".join(client), self._name_type()),
            enctype=enctype,
            times=times,
            is_skey=is_skey,
            flags=flags,
            addresses=addresses,
            authdata=authdata,
            # Random, so that no two credentials are the same bytes.
            ticket=rng.randbytes(rng.choice((8, 40, 900))),
            second_ticket=second_ticket,
        )
        return Credential(
            client, server, enctype, times, is_skey, flags, authdata, second_ticket, blob + self.trailing()
        )

    def tag(self) -> Tag:
        rng = self._rng
        client = rng.choice((None, None, *_CLIENTS))
        server = rng.choice(_SERVERS)
        is_named, has_key = rng.random() < 0.85, rng.random() < 0.9
        match_flags = sum(bit if rng.random() < likely else 0 for bit, likely in _MATCH_FLAGS)
        enctype = rng.choice((17, 18)) if has_key else 0
        times = rng.choice((self._times(), (0, 0, 0, 0)))
        is_skey, flags = rng.random() < 0.5, rng.choice(_FLAG_WORDS)
        authdata, addresses = rng.choice(_AUTHDATA), rng.choice(_ADDRESSES)
        second_ticket = rng.choice((b"", b"second"))
        has_ticket = rng.random() < 0.1
        fields = (
            (1, b"" if client is None else self._packed(client)),
            (2, self._packed(server) if is_named else b""),
            (4, pack(">h", enctype) + data(b"a key") if has_key else b""),
            (0, pack(">IIIIBI", *times, is_skey, flags)),
            (0x40, typed_list(addresses) if addresses else b""),
            (0x20, typed_list(authdata) if authdata or rng.random() < 0.1 else b""),
            (8, data(b"a ticket") if has_ticket else b""),
            (0x10, data(second_ticket) if second_ticket else b""),
        )
        header = sum(bit for bit, packed in fields if packed)
        packed = pack(">II", match_flags, header) + b"".join(packed for _, packed in fields)
        return Tag(
            client,
            server if is_named else None,
            *(enctype, times, is_skey, flags, authdata, second_ticket, match_flags, packed),
        )

    def trailing(self) -> bytes:
        """Bytes after the last field of a request: clients add some now and then."""
        return self._rng.choice((*[b""] * 8, b"\0", b"\0\0\0\0"))

    def _times(self) -> tuple[int, int, int, int]:
        rng = self._rng
        return 1000, rng.choice((0, 1000)), rng.choice(_ENDTIMES), rng.choice(_RENEW_TILLS)

    def _packed(self, name: Name) -> bytes:
        return principal_bytes(principal("@".join(name), self._name_type()))

    def _name_type(self) -> int:
        return self._rng.choice((1, 1, 2))
