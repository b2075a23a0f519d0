"""Users as they are named in questions, and ccaches as they are named in answers."""

import pytest

from pykcm.cli.names import CCacheType, format_ccache, format_user

NOBODYS = 3_999_999_999


def test_users() -> None:
    """By name where there is one, and always by number."""
    assert format_user(0) == "root (UID 0)"
    assert format_user(NOBODYS) == f"UID {NOBODYS}"


@pytest.mark.parametrize(
    "name",
    [
        b"1000",
        b"1000:\xff\t\x1b[31m",
        b"a\\x41",
        b"a\\\\b",
        b"DOMAIN\\alice",
        "ü".encode(),
        b"\\",
        b"\xe2\x80\xae",
    ],
)
def test_what_is_shown_can_be_given(name: bytes) -> None:
    """Each by the name that list has for it, and no other one has."""
    assert CCacheType().convert(format_ccache(name), None, None) == name


@pytest.mark.parametrize("name", [b"DOMAIN\\alice", b"1000:\xff", b"a\\x41", b"a\\x4", b"a\\xZZ", b"a\\"])
def test_as_it_is(name: bytes) -> None:
    """As the user's own programs take it."""
    assert CCacheType().convert(name.decode(errors="surrogateescape"), None, None) == name
