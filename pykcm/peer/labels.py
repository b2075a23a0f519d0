"""SELinux labels taken apart: the context `user:role:type:range` of a peer, and what it is asked about."""

import re
from functools import lru_cache
from typing import NamedTuple

# The lowest level of the policies: what was stored while there were no labels counts as created there.
SYSTEM_LOW = "s0"

_PART = r"[^:\s\x00-\x1f]+"
_LEVEL = r"[^-\s\x00-\x1f]+"
_CONTEXT = re.compile(rf"({_PART}:{_PART}:{_PART})(?::({_LEVEL})(-{_LEVEL})?)?")


class LabelError(ValueError):
    """A label is no SELinux context."""


class SecurityContext(NamedTuple):
    """A label's parts; the range has colons of its own (`s0-s0:c0.c1023`).

    `domain`: user, role and type, with the colons between them. `level`: the low one of the range, which is
    the level that the process is at. Both `level` and `range` are None under policies without levels.
    """

    domain: str
    level: str | None
    range: str | None


@lru_cache(1024)
def parse_label(label: str) -> SecurityContext:
    """Raises LabelError."""
    match = _CONTEXT.fullmatch(label)
    if match is None:
        raise LabelError("not an SELinux context")
    domain, low, high = match.groups()
    return SecurityContext(domain, low, None if low is None else low + (high or ""))


@lru_cache(4096)
def target_for(peer: str, ccache: str | None) -> str:
    """The context that a peer's access to a ccache is asked for, by their labels; raises LabelError.

    It is the peer's own user, role and type, so that type enforcement plays no part, with the whole range of
    the ccache's creator: what `s0-s0:c0.c1023` makes is out of reach for whoever lacks a category. A file of
    its would be at `s0`, but that keeps containers away by its type. A ccache without a label or a level is
    from a time without SELinux or without levels, and at the system's lowest; a peer without a level asks
    without one.
    """
    stored = None if ccache is None else parse_label(ccache).range
    return _with_range(parse_label(peer), stored)


@lru_cache(4096)
def low_target_for(peer: str, ccache: str | None) -> str | None:
    """The same with the creator's low level, for a peer on the lowest level alone; None for all others.

    Such a peer's user may be one who cannot have categories, so that no context has the creator's range.
    """
    asking = parse_label(peer)
    if asking.range != SYSTEM_LOW or ccache is None:
        return None
    return _with_range(asking, parse_label(ccache).level)


@lru_cache(1024)
def categorized(peer: str) -> str:
    """The peer's own user, role and type with a category: who can have one can have a context with it."""
    return f"{parse_label(peer).domain}:{SYSTEM_LOW}:c0"


def _with_range(asking: SecurityContext, stored: str | None) -> str:
    return asking.domain if asking.range is None else f"{asking.domain}:{stored or SYSTEM_LOW}"
