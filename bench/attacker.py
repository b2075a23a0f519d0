"""An attacker that sends costly requests, one after the other on one connection.

    python attacker.py -k KIND -u UID SOCKET

It is started as root and changes to the UID. It prints a line when the preparation is done, waits for a line,
and attacks until it is killed. If the daemon closes the connection, it connects again.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice
from struct import pack

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag

# The default limits of a UID and of a ccache, and the number of credentials in a REPLACE.
UID_CCACHES = 256
UID_CREDENTIALS = 8192
CCACHE_CREDENTIALS = 2048
REPLACED = 1024

_NOBODY = Principal(0, b"", ())
_TGS = Principal(0, b"R", (b"krbtgt", b"R"))
_LAST_SECOND = 2**32 - 1
_STORED_SIZE = 60_000
_STORED_CCACHES = 4
_REPLACED_WITH_TICKETS = 64  # in each ccache, first
_STORED_AT_THE_QUOTA = (16 << 20) // _STORED_SIZE

# The daemon accepts principals of at most 8 KiB.
_LARGEST_PRINCIPAL = Principal(1, b"R" * (8 * 1024 - 17), (b"x",))

# Second tickets count twice: a ccache with this one has no room for another credential.
_LARGEST_TICKET = bytes(2_090_000)
_TOO_LARGE = bytes(5_000_000)

_PR_SET_PDEATHSIG = 1


def credential(
    number: int,
    server: Principal = _NOBODY,
    ends: int = _LAST_SECOND,
    ticket: bytes = b"",
    second: bytes = b"",
) -> bytes:
    """Return a minimal credential; credentials of different numbers differ in their enctype."""
    return b"".join(
        [
            _NOBODY.pack() + server.pack(),
            pack(">hI", number - 2**15, 0),
            pack(">IIII", 1, 1, ends, 0),
            pack(">BIII", 0, 0, 0, 0),
            pack(">I", len(ticket)) + ticket,
            pack(">I", len(second)) + second,
        ]
    )


_MANY = [credential(number) for number in range(REPLACED)]
_MANY_EXPIRED = [credential(number, ends=2) for number in range(REPLACED)]
_ALL = Tag(None, _NOBODY)


class Attacker:
    """A UID and its connection."""

    def __init__(self, kcm: KcmClient, uid: int) -> None:
        self.kcm = kcm
        self._uid = uid

    def name(self, number: int) -> bytes:
        """The name of the UID's ccache of that number."""
        return b"%d:%d" % (self._uid, number)

    def fill(self, number: int) -> None:
        """Make a ccache with as many credentials as a request may hold."""
        self.kcm.replace(self.name(number), 0, _NOBODY, _MANY)

    def expect_refusal(self, request: Callable[[], object]) -> None:
        """Make a request that a quota must refuse."""
        try:
            request()
        except KcmError as error:
            if error.code != errno.EDQUOT:
                raise
        else:
            raise AssertionError("a request over a quota was not refused")


def _read_full(user: Attacker) -> Iterator[None]:
    """Read a collection with the most credentials that a UID may have, one ccache after the other."""
    ccaches = range(UID_CREDENTIALS // REPLACED)
    for number in ccaches:
        user.fill(number)
    for number in cycle(ccaches):
        yield
        user.kcm.get_cred_list(user.name(number))
        user.kcm.get_principal(user.name(number))


def _store_largest(user: Attacker) -> Iterator[None]:
    """Store a credential so large that all 2,047 others, of one server, are evicted."""
    name = user.name(0)
    for number in cycle(range(0, 2**16, CCACHE_CREDENTIALS)):
        user.kcm.replace(name, 0, _NOBODY, [credential(number + each) for each in range(REPLACED)])
        for each in range(REPLACED, CCACHE_CREDENTIALS):
            user.kcm.store(name, credential(number + each))
        yield
        user.kcm.store(name, credential(number, _TGS, second=_LARGEST_TICKET))
        user.kcm.destroy(name)


def _move(user: Attacker) -> Iterator[None]:
    """Move a full ccache over another one, then back and forth."""
    while True:
        user.fill(0)
        user.fill(1)
        yield
        user.kcm.move_cache(user.name(0), user.name(1))
        for _ in range(8):
            user.kcm.move_cache(user.name(1), user.name(0))
            user.kcm.move_cache(user.name(0), user.name(1))
            yield


def _remove(user: Attacker) -> Iterator[None]:
    """Remove all credentials of a full ccache by one tag, and fill it again."""
    while True:
        user.fill(0)
        yield
        user.kcm.remove_cred(user.name(0), 0, _ALL)


def _initialize(user: Attacker) -> Iterator[None]:
    """Empty and destroy full ccaches."""
    while True:
        user.fill(0)
        yield
        user.kcm.initialize(user.name(0), _NOBODY)
        user.fill(0)
        yield
        user.kcm.destroy(user.name(0))


def _set_offset(user: Attacker) -> Iterator[None]:
    """Write a ccache with the largest principal again and again."""
    user.kcm.initialize(user.name(0), _LARGEST_PRINCIPAL)
    for seconds in cycle(range(1000)):
        yield
        user.kcm.set_kdc_offset(user.name(0), seconds)


def _expire_many(user: Attacker) -> Iterator[None]:
    """Store full ccaches whose tickets have ended; the reaper or a quota removes them."""
    for number in count():
        user.kcm.replace(user.name(number), 0, _NOBODY, _MANY_EXPIRED)
        if number >= UID_CREDENTIALS // REPLACED:
            yield


def _expire(user: Attacker) -> Iterator[None]:
    """Store ccaches of ever new names with one expired ticket each, beyond the quota of ccaches."""
    for number in count():
        user.kcm.replace(user.name(number), 0, _NOBODY, _MANY_EXPIRED[:1])
        if number >= UID_CCACHES:
            yield


def _exceed(user: Attacker) -> Iterator[None]:
    """Make requests that quotas refuse: one ccache too many, and a credential that is too large."""
    ticket = [credential(0, _TGS)]
    for number in range(UID_CCACHES):
        user.kcm.replace(user.name(number), 0, _NOBODY, ticket)
    while True:
        yield
        for _ in range(100):
            user.expect_refusal(lambda: user.kcm.replace(user.name(UID_CCACHES), 0, _NOBODY, ticket))
        user.expect_refusal(lambda: user.kcm.store(user.name(0), credential(0, ticket=_TOO_LARGE)))


def _keep(user: Attacker) -> Iterator[None]:
    """Store as much as the quota of the UID allows, then do nothing."""
    for _ in islice(_write(user), 1):
        yield
    signal.pause()


def _write(user: Attacker) -> Iterator[None]:
    """Store tickets of 60,000 bytes at the quota of the UID, so that each evicts an older one."""

    def stored(number: int) -> bytes:
        return credential(number % 2**16, ticket=os.urandom(_STORED_SIZE))

    replaced = _REPLACED_WITH_TICKETS * _STORED_CCACHES
    for ccache in range(_STORED_CCACHES):
        numbers = range(ccache, replaced, _STORED_CCACHES)
        user.kcm.replace(user.name(ccache), 0, _NOBODY, list(map(stored, numbers)))
    for number in count(replaced):
        user.kcm.store(user.name(number % _STORED_CCACHES), stored(number))
        if number >= _STORED_AT_THE_QUOTA:
            yield


def _list_all(user: Attacker) -> Iterator[None]:
    """As root, list the ccaches of all users."""
    while True:
        yield
        user.kcm.get_cache_uuid_list()


KINDS = {
    "read-full": _read_full,
    "store-largest": _store_largest,
    "move": _move,
    "remove": _remove,
    "initialize": _initialize,
    "set-offset": _set_offset,
    "expire-many": _expire_many,
    "expire": _expire,
    "exceed": _exceed,
    "write": _write,
    "keep": _keep,
    "list-all": _list_all,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-k", dest="kind", choices=KINDS, required=True)
    parser.add_argument("-u", dest="uid", type=int, required=True)
    parser.add_argument("socket_path")
    options = parser.parse_args()
    os.setgroups([])
    os.setgid(options.uid)
    os.setuid(options.uid)
    # It must end even if the program that started it is killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    has_begun = False
    while True:
        # The daemon may close the connection for another one, or the queue of connections may be full.
        with contextlib.suppress(ConnectionError, BlockingIOError), KcmClient(options.socket_path) as kcm:
            for _ in KINDS[options.kind](Attacker(kcm, options.uid)):
                if not has_begun:
                    has_begun = True
                    sys.stdout.write("prepared\n")
                    sys.stdout.flush()
                    sys.stdin.readline()


if __name__ == "__main__":
    main()
