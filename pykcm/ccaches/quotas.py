"""The limits that keep one user from starving others, and the tally of ccaches in all collections."""

from typing import NamedTuple


class Quotas(NamedTuple):
    """Limits by their configuration names; sizes in bytes; 0: no limit."""

    max_ccaches: int = 0
    max_uid_ccaches: int = 0
    max_ccache_size: int = 0
    max_uid_size: int = 0

    def have_room_for(self, ccache_size: int, uid_size: int) -> bool:
        """Whether a ccache and all of its UID's may be of these sizes."""
        return not (0 < self.max_ccache_size < ccache_size or 0 < self.max_uid_size < uid_size)


NO_LIMITS = Quotas()

_KIB = 1024


def shown_excess(option: str, wanted: int, limit: int) -> str:
    """How much of how much, for a limit that a change would exceed: `wanted` is what there would be."""
    if option in {"max_ccaches", "max_uid_ccaches"}:
        return f"{wanted - 1} of {limit}"
    return f"{-(-wanted // _KIB)} KiB needed, {limit // _KIB} KiB allowed"


class Census:
    """How many ccaches there are in all collections together; None: to be counted anew."""

    __slots__ = ("total",)

    def __init__(self, total: int | None = None) -> None:
        self.total = total
