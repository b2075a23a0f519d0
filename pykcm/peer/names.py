"""The UID that a ccache name belongs to."""

from functools import lru_cache

from pykcm.peer.identity import ROOT

MAX_NAME = 1024

# (uid_t) -1 means "no UID" to the kernel.
_NO_UID = 2**32 - 1
_LONGEST_UID = len(str(_NO_UID))


@lru_cache(4096)
def _own_names(uid: int) -> tuple[bytes, bytes]:
    return b"%d" % uid, b"%d:" % uid


def belongs_to(name: bytes, uid: int) -> bool:
    """Whether `name` is `<uid>` or begins with `<uid>:`."""
    plain, prefix = _own_names(uid)
    return name == plain or name.startswith(prefix)


def owner_of(name: bytes) -> int | None:
    """The UID that `<uid>` and `<uid>:anything` belong to; None for a free name.

    The UID is plain decimal: no sign, no leading zero, below 2^32-1. `1000x` is a free name. The result is
    not cached: the time of an answer would show a user which names others use.
    """
    digits = name.partition(b":")[0]
    if not digits.isdigit() or len(digits) > _LONGEST_UID or (digits[0] == ord("0") and len(digits) > 1):
        return None
    uid = int(digits)
    return uid if uid < _NO_UID else None


def collection_of(name: bytes) -> int:
    """The UID whose collection a ccache of this name is in: free names are root's."""
    owner = owner_of(name)
    return ROOT if owner is None else owner
