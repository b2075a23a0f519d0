"""Which ccache is the default, whether it was chosen or takes the place of one that is gone."""

from collections.abc import Callable

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection

# Whether those who ask may use a ccache of this label.
MayUse = Callable[[str | None], bool]


def current_default(collection: Collection, name: bytes, whose: str | None, may_use: MayUse) -> bytes:
    """The default's name, where `name` is the chosen one of the range `whose` (None: of all who share one).

    It is the chosen one where a ccache has that name, where its user has destroyed it, and where there is no
    other ccache; else that of the ccache whose TGT ends last.
    """
    if collection.has(name) and may_use(collection.label_of(name)):
        return name
    other = None if collection.is_destroyed(whose) else stand_in(collection, may_use)
    return name if other is None else other.name


def shared_default(collection: Collection, name: bytes | None = None) -> bytes:
    """The name of the default that peers share, for one from whom no ccache is hidden.

    `name` counts as the chosen one, if it is given.
    """
    chosen = collection.default_name if name is None else name
    return current_default(collection, chosen, None, lambda _label: True)


def stand_in(collection: Collection, may_use: MayUse) -> CCache | None:
    """The ccache that takes the place of a default that is gone: the one whose TGT ends last.

    Without any TGT it is the one whose last ticket does. Of equal ones it is the one of the collection's own
    name, then the first. None: there is no ccache that may be used.
    """
    own_name = b"%d" % collection.uid

    def rank(ccache: CCache) -> tuple[bool, int, bool]:
        # By the KDCs' clocks, which agree: a KDC offset is about this machine's.
        tgt_end = ccache.credentials.tgt_end
        end = ccache.credentials.latest_end if tgt_end is None else tgt_end
        return tgt_end is not None, end or 0, ccache.name == own_name

    return max((ccache for ccache in collection if may_use(ccache.label)), key=rank, default=None)
