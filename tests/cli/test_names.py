"""Names of users and ccaches, as pykcmctl prints and accepts them."""

import pytest

from pykcm.cli.names import format_ccache, format_user
from pykcm.cli.parameters import CCacheType

NOBODYS = 3_999_999_999


def test_user_is_shown_by_name_and_uid() -> None:
    """A user without a name is shown by UID."""
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
def test_shown_name_is_accepted(name: bytes) -> None:
    """The name that `list` prints for a ccache stands for this ccache only."""
    assert CCacheType().convert(format_ccache(name), None, None) == name


@pytest.mark.parametrize("name", [b"DOMAIN\\alice", b"1000:\xff", b"a\\x41", b"a\\x4", b"a\\xZZ", b"a\\"])
def test_raw_name_is_accepted(name: bytes) -> None:
    """Names are also accepted in the form that the user's own programs take."""
    assert CCacheType().convert(name.decode(errors="surrogateescape"), None, None) == name
