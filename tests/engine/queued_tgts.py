"""TGTs in the queue of renewals, and what it gives out."""

from pykcm.engine.renewal_queue import RenewalQueue, Tgt


def tgt(end: int, uid: int = 1, *, due: float = 0, realm: bytes = b"R", ccache: bytes | None = None) -> Tgt:
    """A TGT in a ccache of its own."""
    return Tgt(uid, b"%d" % end if ccache is None else ccache, b"u%d" % end, 0, realm, end, due)


def queue_of(
    *tgts: Tgt, most: int = 10, most_of_realm: int = 10, silent: tuple[bytes, ...] = ()
) -> RenewalQueue:
    """A queue with these TGTs; except those that are `silent`, their realms have answered."""
    queue = RenewalQueue(most, most_of_realm)
    for each in tgts:
        if each.realm not in silent:
            queue.realms.note(each.realm, answers=True)
        queue.put(each)
    return queue


def taken(queue: RenewalQueue, now: float = 1) -> list[int]:
    """The ends of TGTs that may be tried now, in order."""
    ends = []
    while (each := queue.take(now)) is not None:
        ends.append(each.end)
    return ends
