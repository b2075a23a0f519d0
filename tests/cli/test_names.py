"""Names of users and ccaches, as pykcmctl prints and accepts them."""

import os

import pytest

from pykcm.cli.names import format_ccache, format_user, naming_ccache
from pykcm.cli.parameters import CCacheType
from pykcm.control.messages import ControlError, ErrorCode

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


@pytest.mark.parametrize(
    ("uid", "name", "hint"),
    [
        (0, b"root", "list --wide --user root`"),
        (0, b"0:x", "list --wide --user root`"),
        (0, b"%d:x" % NOBODYS, f"list --wide --user {NOBODYS}`"),
        (0, b"alice@PYKCM.TEST", "list --principal alice@PYKCM.TEST`"),
        (0, b"no such user", "list --wide`"),
        (1000, b"root", "list --wide`"),
    ],
)
def test_missing_ccache_hints_at_the_list_that_has_it(
    uid: int, name: bytes, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user may list their own ccaches only, and is not told to list another user's."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(ControlError) as caught, naming_ccache(name):
        raise ControlError(ErrorCode.NOT_FOUND, "there is no such ccache")
    assert caught.value.message.startswith(f"{format_ccache(name)}: no such ccache; for the ")
    assert caught.value.message.endswith(hint)
