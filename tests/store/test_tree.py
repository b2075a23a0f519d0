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


def test_the_documented_places() -> None:
    """Paths and names are those of the design page."""
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
def test_names_are_encoded(name: bytes, encoded: str) -> None:
    """What is not plain is percent-encoded, the percent sign and slashes first of all."""
    assert ccache_name(UUID, name) == f"{HEX}-{encoded}"


@given(uuids, names)
def test_any_name_comes_back(uuid: bytes, name: bytes) -> None:
    """UUID and name come back from the secret's name, which is plain text without slashes."""
    encoded = ccache_name(uuid, name)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert "/" not in encoded
    assert " " not in encoded
    assert split_ccache_name(encoded) == (uuid, name)


@given(uuids, names, names)
def test_no_two_names_meet(uuid: bytes, one: bytes, other: bytes) -> None:
    """Different names have different secrets."""
    assert (ccache_name(uuid, one) == ccache_name(uuid, other)) == (one == other)


@given(uids, uuids, names)
def test_any_container_tells_its_uid(uid: int, uuid: bytes, name: bytes) -> None:
    """The UID can be told from each container, and which of them holds ccaches."""
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
def test_other_containers(path: str) -> None:
    """Any other path is nobody's."""
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
def test_what_is_no_ccaches_name(name: str) -> None:
    """A secret whose name is not that of a ccache raises ValueError and nothing else."""
    with pytest.raises(ValueError):  # noqa: PT011 - its message is its caller's
        split_ccache_name(name)


@given(st.text(max_size=60) | st.from_regex(r"[0-9a-f ]{32}-[%0-9A-Fz ]{0,6}", fullmatch=True))
def test_any_other_name(name: str) -> None:
    """Any text either is the name of a ccache's secret, whole, or raises ValueError."""
    try:
        uuid, ccache = split_ccache_name(name)
    except ValueError:
        return
    assert len(uuid) == 16
    assert ccache_name(uuid, ccache) == name


def test_a_credentials_name() -> None:
    """A credential's name is its UUID, 32 digits in lower case, and nothing else."""
    assert credential_uuid("0123456789abcdef" * 2) == bytes.fromhex("0123456789abcdef" * 2)
    for other in ("", "00", "0" * 31, "0" * 33, "A" * 32, "0 " * 16, "\u0663" * 32, " " + "0" * 31):
        with pytest.raises(ValueError):  # noqa: PT011 - its message is its caller's
            credential_uuid(other)


def test_reprs_hold_no_values() -> None:
    """What a traceback or a failed assertion would print of a secret is its place alone."""
    for kind in (Put, Secret):
        assert repr(kind("/kcm/persistent/1000", "default", b"SECRET")) == (
            f"<{kind.__name__} /kcm/persistent/1000/default>"
        )
