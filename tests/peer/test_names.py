"""The owners of ccache names."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pykcm.peer.access import Access
from pykcm.peer.names import belongs_to, owner_of
from tests.builders import peer

LAST_UID = 2**32 - 2

NAMES = (
    b"",
    b"0",
    b"0:x",
    b"10",
    b"1000",
    b"1000:",
    b"1000:a",
    b"10000",
    b"01000",
    b"1000x",
    b"%d:x" % LAST_UID,
)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (b"0", 0),
        (b"0:x", 0),
        (b"1000", 1000),
        (b"1000:", 1000),
        (b"1000:anything", 1000),
        (b"1000:2000", 1000),
        (b"1000::", 1000),
        (b"1000:with space/slash\xff", 1000),
        (b"%d" % LAST_UID, LAST_UID),
        (b"%d:x" % LAST_UID, LAST_UID),
        # (uid_t) -1 is nobody, and what is above it no UID
        (b"%d" % (LAST_UID + 1), None),
        (b"%d" % (LAST_UID + 2), None),
        (b"%d:x" % (2**32 + 1000), None),
        (b"99999999999", None),
        (b"1" * 1024, None),
        (b"", None),
        (b":", None),
        (b":1000", None),
        (b"foobar", None),
        (b"1000x", None),
        (b"x1000", None),
        (b"1000.5", None),
        (b"1000 :x", None),
        (b" 1000", None),
        (b"1000\n", None),
        (b"+1000", None),
        (b"-1000", None),
        (b"-0", None),
        (b"01000", None),
        (b"00", None),
        (b"00:x", None),
        (b"0x3e8", None),
        (b"1_000", None),
        (b"1e3", None),
        ("\N{ARABIC-INDIC DIGIT ONE}".encode(), None),  # digits, but not of plain decimal
        (b"\xb2", None),
    ],
)
def test_owner_of_names(name: bytes, owner: int | None) -> None:
    """`<uid>` and `<uid>:anything` belong to the UID, in plain decimal only; all other names are free."""
    assert owner_of(name) == owner


def by_regular_expression(name: bytes) -> int | None:
    match = re.fullmatch(rb"(0|[1-9][0-9]*)(:.*)?", name, re.DOTALL)
    if match is None or int(match[1]) >= 2**32 - 1:
        return None
    return int(match[1])


likely_names = st.from_regex(rb"[-+ ]?[0-9]{0,11}[:x ]?.{0,3}", fullmatch=True)


@given(st.binary(max_size=20) | likely_names | st.integers(0, 2**33).map(lambda uid: b"%d:a" % uid))
@example(b"1000:a\nb")
def test_owner_of_random_names(name: bytes) -> None:
    """Any bytes have the owner that a regular expression finds, and nothing is raised."""
    assert owner_of(name) == by_regular_expression(name)


@given(st.sampled_from(NAMES), st.sampled_from([0, 1, 10, 100, 1000, LAST_UID]))
def test_name_belongs_to_its_owner_only(name: bytes, uid: int) -> None:
    """A name belongs to its owner, and to nobody else."""
    assert belongs_to(name, uid) is (owner_of(name) == uid)


def test_names_are_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a name was used before makes no difference: no user's names are cached."""
    assert not hasattr(owner_of, "cache_info")
    assert not hasattr(belongs_to, "cache_info")
    asked: list[bytes] = []
    monkeypatch.setattr("pykcm.peer.access.owner_of", asked.append)
    access = Access()
    for name in (b"1000", b"1000:work"):
        assert access.collection_to_read(peer(1000), name) == 1000
    assert asked == []
