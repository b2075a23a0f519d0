"""The quotas, and the number of ccaches in all collections."""

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
