"""Ticket flags as the letters of klist."""

import pytest

from pykcm.cli.output import flag_names


@pytest.mark.parametrize(
    ("flags", "letters"),
    [
        (0x40E10000, "FRIA"),  # the A of klist, and enc-pa-rep, which has no letter
        (0x00008000, "a"),
        (0x50A50000, "FPRAO"),
        (0, ""),
    ],
)
def test_flags_are_letters_of_klist(flags: int, letters: str) -> None:
    """`anonymous` is bit 16 (RFC 8062)."""
    assert flag_names(flags) == letters
