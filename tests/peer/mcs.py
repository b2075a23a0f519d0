"""A policy of categories, as the distributions' policies have it, and labels to use with it."""

from pykcm.peer.labels import parse_label
from pykcm.peer.selinux import Permission

CONTAINER_1 = "system_u:system_r:container_t:s0:c1,c2"
CONTAINER_2 = "system_u:system_r:container_t:s0:c3,c4"
HOST = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
HOST_LOW = "user_u:user_r:user_t:s0"


class Mcs:
    """Allows whoever's high level has all the categories of the target's, as `h1 dom h2` says.

    `read_only`: contexts that may not write to any other level than their own.
    """

    def __init__(self, *read_only: str) -> None:
        self._read_only = read_only

    def allows(self, peer: str, target: str, permission: Permission) -> bool:
        if permission is Permission.WRITE and peer in self._read_only:
            return parse_label(peer).level == parse_label(target).level
        return _categories(peer) >= _categories(target)

    def has_context(self, context: str) -> bool:
        """Its users are `system_u` and `unconfined_u`, who can have categories, and others, who cannot."""
        return context.startswith(("system_u:", "unconfined_u:")) or not _categories(context)


def _categories(label: str) -> set[int]:
    """The categories of the high level."""
    high = (parse_label(label).range or "").rpartition("-")[2]
    numbers: set[int] = set()
    for part in filter(None, high.partition(":")[2].split(",")):
        first, _, last = part.replace("c", "").partition(".")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
