"""The ccaches in each kept database: `make` stores them, and the test expects them."""

from typing import NamedTuple

from pykcm.protocol.principal import Principal
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    LAST_SECOND,
    TGS,
    configuration,
    credential_bytes,
    credential_of_size,
    principal,
    service,
    tgs,
)


class KeptCCache(NamedTuple):
    """A ccache with its credentials, in the order in which they were stored; `kdc_offset` in seconds."""

    principal: Principal
    credentials: list[bytes]
    kdc_offset: int = 0


class KeptUser(NamedTuple):
    """The ccaches of one UID by name, in the order in which they were made."""

    ccaches: dict[bytes, KeptCCache]
    default: bytes


_ENTERPRISE = Principal(10, b"PYKCM.TEST", (b"dave@example.test",))
# Neither its principal nor its name is UTF-8.
_ODD = Principal(0, b"\xff\0", (b"", b"a/b", b"\xfe"))
_END = (1000, 1000, LAST_SECOND, LAST_SECOND)

USERS = {
    1000: KeptUser(
        {
            b"1000": KeptCCache(
                ALICE,
                [
                    configuration(b"start_realm", b"PYKCM.TEST").blob,
                    credential_bytes(TGS, times=_END),
                    credential_bytes(HTTP, times=_END, ticket=b"service ticket"),
                    credential_bytes(
                        service(1), addresses=[(2, b"\x7f\0\0\1")], authdata=[(1, b"authdata")], is_skey=True
                    ),
                ],
                -7,
            ),
            b"1000:work": KeptCCache(_ENTERPRISE, [credential_bytes(TGS, _ENTERPRISE, times=_END)]),
            b"1000:x/y% \xff": KeptCCache(_ODD, [credential_bytes(tgs(1), _ODD)]),
            b"1000:empty": KeptCCache(BOB, []),
        },
        b"1000:work",
    ),
    # Credentials that need more than one page.
    70000: KeptUser(
        {
            b"70000:%d" % number: KeptCCache(
                principal(f"user{number}"),
                [credential_of_size(3000 + 700 * number, service(each)).blob for each in range(number)],
            )
            for number in range(1, 5)
        },
        b"70000:3",
    ),
    # Stored last: after a crash it is in the write-ahead log.
    4_000_000_000: KeptUser({b"4000000000": KeptCCache(ALICE, [credential_bytes()])}, b"4000000000"),
}
