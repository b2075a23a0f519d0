"""SELinux labels: their parts `user:role:type:range`, and the context that a decision is asked for."""

import re
from functools import lru_cache

import msgspec

# The lowest level of the policies. Ccaches that were stored without a label count as created there.
SYSTEM_LOW = "s0"

_PART = r"[^:\s\x00-\x1f]+"
_LEVEL = r"[^-\s\x00-\x1f]+"
# Compiled when it is first used: most kernels have no SELinux.
_CONTEXT = rf"({_PART}:{_PART}:{_PART})(?::({_LEVEL})(-{_LEVEL})?)?"


class LabelError(ValueError):
    """A label is not an SELinux context."""


class SecurityContext(msgspec.Struct, frozen=True):
    """The parts of a label; the range may contain colons (`s0-s0:c0.c1023`).

    `domain`: user, role and type, with the colons between them. `level`: the low level of the range, at which
    the process runs. `level` and `range` are None under policies without levels.
    """

    domain: str
    level: str | None
    range: str | None


@lru_cache(1024)
def parse_label(label: str) -> SecurityContext:
    """Raises LabelError."""
    match = re.fullmatch(_CONTEXT, label)
    if match is None:
        raise LabelError("not an SELinux context")
    domain, low, high = match.groups()
    return SecurityContext(domain, low, None if low is None else low + (high or ""))


@lru_cache(4096)
def target_for(peer: str, ccache: str | None) -> str:
    """The target context of a peer's access to a ccache, from both labels; raises LabelError.

    It has the peer's own user, role and type, so that type enforcement plays no part, and the whole range of
    the ccache's creator. A peer without one of the categories cannot use a ccache that was created at
    `s0-s0:c0.c1023`. (A file of that creator would be at `s0`, but its type keeps containers away.) A ccache
    without a label or level counts as at the system's lowest level. For a peer without a level the target has
    none.
    """
    stored = None if ccache is None else parse_label(ccache).range
    return _with_range(parse_label(peer), stored)


@lru_cache(4096)
def low_target_for(peer: str, ccache: str | None) -> str | None:
    """The same with the creator's low level, for a peer on the lowest level only; None for all others.

    The policy may allow such a peer's user no categories, so that no context has the creator's range.
    """
    asking = parse_label(peer)
    if asking.range != SYSTEM_LOW or ccache is None:
        return None
    return _with_range(asking, parse_label(ccache).level)


@lru_cache(1024)
def categorized(peer: str) -> str:
    """The peer's own domain with one category: a valid context if the peer may have categories."""
    return f"{parse_label(peer).domain}:{SYSTEM_LOW}:c0"


def _with_range(asking: SecurityContext, stored: str | None) -> str:
    return asking.domain if asking.range is None else f"{asking.domain}:{stored or SYSTEM_LOW}"
