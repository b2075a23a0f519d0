"""The limits that keep one user from starving others, and the tally of ccaches in all collections."""

import errno
from typing import NamedTuple

from pykcm.protocol.codes import KcmError


class Quotas(NamedTuple):
    """Limits by their configuration names; sizes in bytes; 0: no limit."""

    max_ccaches: int = 0
    max_uid_ccaches: int = 0
    max_ccache_size: int = 0
    max_uid_size: int = 0


NO_LIMITS = Quotas()


class Census:
    """How many ccaches there are in all collections together; None: to be counted anew."""

    __slots__ = ("total",)

    def __init__(self, total: int | None = None) -> None:
        self.total = total


def check_room(limit: int, wanted: int, option: str, whose: str) -> None:
    """Raise EDQUOT when `wanted` is over `limit`; `option` and `whose` tell the administrator which."""
    if limit and wanted > limit:
        raise KcmError(errno.EDQUOT, f"{option} reached by {whose}")
