"""The tree of secrets: each thing has its place, and can be found again from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.store.tree import (
    Put,
    Secret,
    ccache_container,
    ccache_name,
    ccaches_container,
    credential_uuid,
    is_ccaches_container,
    split_ccache_name,
    uid_container,
    uid_of_container,
)

UUID = bytes(range(16))
HEX = "000102030405060708090a0b0c0d0e0f"

uuids = st.binary(min_size=16, max_size=16)
names = st.binary(min_size=1, max_size=30) | st.text(min_size=1, max_size=10).map(lambda name: name.encode())
uids = st.integers(0, 2**32 - 2)


def test_paths_are_the_documented_ones() -> None:
    """Paths and names are the documented ones."""
    assert uid_container(1000) == "/kcm/persistent/1000"
    assert ccaches_container(1000) == "/kcm/persistent/1000/ccaches"
    assert ccache_name(UUID, b"1000:a-b") == f"{HEX}-1000:a-b"
    assert ccache_container(1000, UUID, b"1000") == f"/kcm/persistent/1000/ccaches/{HEX}-1000"


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        (b"1000:a/b", "1000:a%2Fb"),
        (b"1000:%2F", "1000:%252F"),
        (b"1000:\xff", "1000:%FF"),
        (b"1000: ", "1000:%20"),
        (b"1000:krb_cc-x.y@z", "1000:krb_cc-x.y@z"),
    ],
)
def test_names_are_percent_encoded(name: bytes, encoded: str) -> None:
    """All bytes except plain characters are percent-encoded, also the percent sign and slashes."""
    assert ccache_name(UUID, name) == f"{HEX}-{encoded}"


@given(uuids, names)
def test_any_name_round_trips(uuid: bytes, name: bytes) -> None:
    """UUID and name come back from the secret's name, which is plain text without slashes."""
    encoded = ccache_name(uuid, name)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert "/" not in encoded
    assert " " not in encoded
    assert split_ccache_name(encoded) == (uuid, name)


@given(uuids, names, names)
def test_different_names_have_different_secrets(uuid: bytes, one: bytes, other: bytes) -> None:
    """Different names have different secrets."""
    assert (ccache_name(uuid, one) == ccache_name(uuid, other)) == (one == other)


@given(uids, uuids, names)
def test_container_has_its_uid(uid: int, uuid: bytes, name: bytes) -> None:
    """Each container's path has the UID, and shows whether it holds ccaches."""
    own, ccaches, ccache = uid_container(uid), ccaches_container(uid), ccache_container(uid, uuid, name)
    assert uid_of_container(own) == uid_of_container(ccaches) == uid_of_container(ccache) == uid
    assert [is_ccaches_container(path) for path in (own, ccaches, ccache)] == [False, True, False]


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/kcm", "/kcm/persistent/", "/kcm/persistent/x", "/kcm/volatile/7", "/kcm/transitory/7"),
        *(
            "/kcm/persistent/007",
            "/kcm/persistent/-7",
            "/kcm/persistent/\u0667",
            f"/kcm/persistent/{'7' * 5000}",
        ),
    ],
)
def test_other_paths_have_no_uid(path: str) -> None:
    """Any other path belongs to no UID."""
    assert uid_of_container(path) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "default",
        HEX,
        f"{HEX}1000",
        f"{HEX[:-1]}-1000",
        f"{HEX}0-1000",
        f"{'g' * 32}-1000",
        f"{' ' * 32}-1000",
        f"{HEX}-100%",
        f"{HEX}-%4",
        f"{HEX}-%zz",
        f"{HEX}-%  ",
        f"{HEX}-Grüße",
        f"{HEX}-%41",
    ],
)
def test_other_names_of_secrets_are_refused(name: str) -> None:
    """A secret's name that is not a ccache's raises ValueError and nothing else."""
    with pytest.raises(ValueError):  # noqa: PT011 - its message is its caller's
        split_ccache_name(name)


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-f ]{32}-[%0-9A-Fz ]{0,6}", fullmatch=True))
def test_random_name_is_a_ccaches_or_refused(name: str) -> None:
    """Any text is the complete name of a ccache's secret or raises ValueError."""
    try:
        uuid, ccache = split_ccache_name(name)
    except ValueError:
        return
    assert len(uuid) == 16
    assert ccache_name(uuid, ccache) == name


def test_name_of_a_credential_is_its_uuid() -> None:
    """A credential's name is its UUID, 32 digits in lower case, and nothing else."""
    assert credential_uuid("0123456789abcdef" * 2) == bytes.fromhex("0123456789abcdef" * 2)
    for other in ("", "00", "0" * 31, "0" * 33, "A" * 32, "0 " * 16, "\u0663" * 32, " " + "0" * 31):
        with pytest.raises(ValueError):  # noqa: PT011 - its message is its caller's
            credential_uuid(other)


def test_repr_of_a_secret_hides_its_value() -> None:
    """A traceback or a failed assertion shows only the place of a secret."""
    for kind in (Put, Secret):
        assert repr(kind("/kcm/persistent/1000", "default", b"SECRET")) == (
            f"<{kind.__name__} /kcm/persistent/1000/default>"
        )
