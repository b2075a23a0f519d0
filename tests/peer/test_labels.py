"""SELinux labels, their parts, and the target contexts of decisions."""

import pytest

from pykcm.peer.labels import LabelError, SecurityContext, low_target_for, parse_label, target_for

UNCONSTRAINED = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"
CONTAINER = "system_u:system_r:container_t:s0:c1,c2"


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        (
            UNCONSTRAINED,
            SecurityContext("unconfined_u:unconfined_r:unconfined_t", "s0", "s0-s0:c0.c1023"),
        ),
        (CONTAINER, SecurityContext("system_u:system_r:container_t", "s0:c1,c2", "s0:c1,c2")),
        ("u:r:t:s0", SecurityContext("u:r:t", "s0", "s0")),
        (
            "u:r:t:s0:c0.c3,c7-s15:c0.c1023",
            SecurityContext("u:r:t", "s0:c0.c3,c7", "s0:c0.c3,c7-s15:c0.c1023"),
        ),
        ("u:r:t", SecurityContext("u:r:t", None, None)),
    ],
)
def test_parts_of_a_context(label: str, wanted: SecurityContext) -> None:
    """User, role and type, then an optional range, which may contain colons and has a low level."""
    assert parse_label(label) == wanted


MALFORMED = [
    "",
    "u",
    "u:r",
    "u:r:",
    "u::t:s0",
    ":r:t:s0",
    "::",
    "u:r:t:",
    "u:r:t:-s0",
    "u:r:t:s0-",
    "u:r:t:s0-s1-s2",
    "u:r:t:s0 ",
    " u:r:t:s0",
    "u:r:t:s0\n",
    "u:r:t:s0\0",
    "u:r\0:t:s0",
    "u r:r:t:s0",
]


@pytest.mark.parametrize("label", MALFORMED)
def test_malformed_labels_are_refused(label: str) -> None:
    """A label that is not a context is refused, whether a peer's or a ccache's."""
    for ask in (
        lambda: parse_label(label),
        lambda: target_for(label, CONTAINER),
        lambda: target_for(CONTAINER, label),
        lambda: low_target_for(label, CONTAINER),
        lambda: low_target_for("u:r:t:s0", label),
    ):
        with pytest.raises(LabelError):
            ask()


@pytest.mark.parametrize(
    ("peer", "ccache", "target"),
    [
        (CONTAINER, UNCONSTRAINED, "system_u:system_r:container_t:s0-s0:c0.c1023"),
        (UNCONSTRAINED, CONTAINER, "unconfined_u:unconfined_r:unconfined_t:s0:c1,c2"),
        (CONTAINER, "other_u:other_r:other_t:s0:c3", "system_u:system_r:container_t:s0:c3"),
        (CONTAINER, None, "system_u:system_r:container_t:s0"),
        (CONTAINER, "u:r:t", "system_u:system_r:container_t:s0"),
        ("u:r:t", CONTAINER, "u:r:t"),
        ("u:r:t", "v:s:w", "u:r:t"),
        ("u:r:t", None, "u:r:t"),
    ],
)
def test_target_has_the_peers_domain_and_the_ccaches_range(
    peer: str, ccache: str | None, target: str
) -> None:
    """The target is the peer's own user, role and type with the whole range of the ccache's creator.

    Without a label, or without a level, that is the lowest; a peer without a level asks without one.
    """
    assert target_for(peer, ccache) == target


@pytest.mark.parametrize(
    ("peer", "ccache", "target"),
    [
        ("u:r:t:s0", UNCONSTRAINED, "u:r:t:s0"),
        ("u:r:t:s0", CONTAINER, "u:r:t:s0:c1,c2"),
        ("u:r:t:s0", "v:s:w", "u:r:t:s0"),
        ("u:r:t:s0", None, None),
        ("u:r:t:s0-s0:c0.c1023", UNCONSTRAINED, None),
        (CONTAINER, UNCONSTRAINED, None),
        ("u:r:t:s1", UNCONSTRAINED, None),
        ("u:r:t", UNCONSTRAINED, None),
    ],
)
def test_low_target_is_for_the_lowest_level_only(peer: str, ccache: str | None, target: str | None) -> None:
    """Only for a peer on the lowest level the target may have the low level of the ccache's creator."""
    assert low_target_for(peer, ccache) == target
