"""The quotas, the number of ccaches in all collections, and the users who are near a quota."""

import math
from typing import NamedTuple, Self


class Quotas(NamedTuple):
    """The limits, named as in the configuration; sizes in bytes; 0: no limit."""

    max_ccaches: int = 0
    max_uid_ccaches: int = 0
    max_ccache_size: int = 0
    max_uid_size: int = 0
    max_ccache_credentials: int = 0
    max_uid_credentials: int = 0

    def at_least(
        self, ccache_size: int, uid_size: int, ccache_credentials: int, uid_credentials: int
    ) -> Self:
        """Return these limits, raised to what is in use: what exceeds a limit stays, but cannot grow."""
        return self._replace(
            max_ccache_size=self.max_ccache_size and max(self.max_ccache_size, ccache_size),
            max_uid_size=self.max_uid_size and max(self.max_uid_size, uid_size),
            max_ccache_credentials=self.max_ccache_credentials
            and max(self.max_ccache_credentials, ccache_credentials),
            max_uid_credentials=self.max_uid_credentials and max(self.max_uid_credentials, uid_credentials),
        )


NO_LIMITS = Quotas()

_KIB = 1024


def quota_excess(option: str, wanted: int, limit: int) -> str:
    """Describe by how much a change would exceed a limit; `wanted` is the amount after the change."""
    if option in {"max_ccaches", "max_uid_ccaches"}:
        return f"{wanted - 1} of {limit}"
    if option in {"max_ccache_credentials", "max_uid_credentials"}:
        return f"{wanted} needed, {limit} allowed"
    return f"{-(-wanted // _KIB)} KiB needed, {limit // _KIB} KiB allowed"


class CCacheCount:
    """The number of ccaches in all collections together; `total` is None until it is counted."""

    __slots__ = ("total",)

    def __init__(self, total: int | None = None) -> None:
        self.total = total

    def add(self, more: int) -> None:
        """Count ccaches that were created, or removed where `more` is negative."""
        if self.total is not None:
            self.total += more


# The share of a quota from which a user is near it.
NEAR_SHARE = 0.8


class Use(NamedTuple):
    """The use of quotas by all ccaches of one UID together; the size is in bytes."""

    ccaches: int
    size: int
    credentials: int


class _Floors(NamedTuple):
    """The use from which a UID is near a quota, in the order of Use."""

    ccaches: float
    size: float
    credentials: float


class UsersNearQuotas:
    """How many UIDs use NEAR_SHARE or more of each quota that a UID has.

    `numbers`: by the quota's option, for quotas with a limit. Memory is needed for the UIDs near one alone.
    """

    def __init__(self, quotas: Quotas) -> None:
        limits = {
            "max_uid_ccaches": quotas.max_uid_ccaches,
            "max_uid_size": quotas.max_uid_size,
            "max_uid_credentials": quotas.max_uid_credentials,
        }
        self.numbers = {option: 0 for option, limit in limits.items() if limit}
        # Without a limit, no use is near it.
        self._floors = _Floors(*(limit * NEAR_SHARE or math.inf for limit in limits.values()))
        self._options = tuple(limits)
        self._near: dict[int, tuple[str, ...]] = {}

    def note(self, uid: int, use: Use) -> None:
        """Note the use of a UID, which has changed or was read."""
        floors = self._floors
        is_near = (
            use.ccaches >= floors.ccaches or use.size >= floors.size or use.credentials >= floors.credentials
        )
        # The usual case, after each change: the UID is near no quota, and was near none.
        if not is_near and uid not in self._near:
            return
        for option in self._near.pop(uid, ()):
            self.numbers[option] -= 1
        if is_near:
            self._near[uid] = tuple(
                option
                for option, used, floor in zip(self._options, use, floors, strict=True)
                if used >= floor
            )
            for option in self._near[uid]:
                self.numbers[option] += 1
