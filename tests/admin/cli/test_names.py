"""Users as they are named in questions."""

from pykcm.admin.cli.names import user_shown

NOBODYS = 3_999_999_999


def test_users() -> None:
    """By name where there is one, and always by number."""
    assert user_shown(0) == "root (UID 0)"
    assert user_shown(NOBODYS) == f"UID {NOBODYS}"
