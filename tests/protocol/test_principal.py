"""Principals: reading, packing, comparison and text."""

import pytest
from hypothesis import given

from pykcm.protocol.principal import Principal, has_pseudo_realm, is_tgs, read_principal
from pykcm.protocol.wire import MAX_COMPONENTS, FormatError, Reader
from tests.builders import changed, data
from tests.protocol.bad_input import (
    assert_every_prefix_refused,
    assert_harmless,
    assert_refused,
    assert_refused_cheaply,
)
from tests.protocol.layouts import principal, u32
from tests.protocol.strategies import U32, blob, components, principals

CONFIGURATION = b"krb5_ccache_conf_data"


@given(U32, blob, components, blob)
def test_any_principal_round_trips(name_type: int, realm: bytes, parts: list[bytes], behind: bytes) -> None:
    """Any name type, realm and components are read in order, and packed to the same bytes."""
    packed = principal(realm, *parts, name_type=name_type)
    reader = Reader(packed + behind)
    read = read_principal(reader)
    assert read == Principal(name_type, realm, tuple(parts))
    assert read.pack() == packed
    assert reader.rest() == behind


def test_count_is_that_of_the_components() -> None:
    """The count is that of the components, and the realm is before them."""
    packed = u32(1) + u32(2) + data(b"REALM") + data(b"host") + data(b"www")
    assert read_principal(Reader(packed)) == Principal(1, b"REALM", (b"host", b"www"))


def test_name_type_is_not_part_of_the_identity() -> None:
    """Principals that differ only in their name type are equal; realm and components count."""
    one = Principal(1, b"REALM", (b"a", b"b"))
    assert one.identity == changed(one, name_type=2**32 - 1).identity
    assert one.identity != changed(one, realm=b"realm").identity
    assert one.identity != changed(one, components=(b"a",)).identity
    assert one.identity != changed(one, components=(b"a/b",)).identity
    assert one.identity != changed(one, components=(b"b", b"a")).identity


@pytest.mark.parametrize(
    ("realm", "is_pseudo"),
    [
        (b"X-CACHECONF:", True),
        (b"X-RMED-CONF:", True),
        (b"X-GSSPROXY:", True),
        (b"X-:", True),
        (b"X-CACHECONF", False),
        (b"x-cacheconf:", False),
        (b"X-500:C=DE", False),
        (b"EXAMPLE.TEST:", False),
        (b"EXAMPLE.TEST", False),
        (b"", False),
    ],
)
def test_pseudo_realm_is_a_prefix_without_a_name(realm: bytes, is_pseudo: bool) -> None:
    """A pseudo-realm is a prefix with nothing after it, whatever the components are."""
    for parts in ((), (CONFIGURATION,), (b"krbtgt", b"EXAMPLE.TEST")):
        assert has_pseudo_realm(Principal(1, realm, parts).identity) is is_pseudo


@given(principals)
def test_truncated_principal_is_malformed(packed: bytes) -> None:
    """A principal that is cut off anywhere is malformed."""
    assert_every_prefix_refused(read_principal, packed)


@pytest.mark.parametrize("count", [2, 3, MAX_COMPONENTS, MAX_COMPONENTS + 1, 2**31, 2**32 - 1])
def test_wrong_count_of_components_is_malformed(count: int) -> None:
    """More components than are present is malformed and allocates nothing."""
    assert_refused_cheaply(read_principal, u32(1) + u32(count) + data(b"REALM") + data(b"alice"))


@pytest.mark.parametrize("length", [6, 2**31, 2**32 - 1])
def test_wrong_length_of_a_component_is_malformed(length: int) -> None:
    """A realm or component beyond the message's end is malformed and allocates nothing."""
    assert_refused_cheaply(read_principal, u32(1) + u32(1) + u32(length) + b"REALM")
    assert_refused_cheaply(read_principal, u32(1) + u32(1) + data(b"REALM") + u32(length) + b"alice")


def test_number_of_components_of_a_principal_is_bounded() -> None:
    """As many components as are accepted are read; one more is refused, even if it is present."""
    most = [b"x"] * MAX_COMPONENTS
    assert read_principal(Reader(principal(b"R", *most))).components == tuple(most)
    assert_refused(read_principal, principal(b"R", *most, b"x"))


@given(blob)
def test_random_principal_raises_only_format_errors(message: bytes) -> None:
    """Random bytes are a principal or malformed."""
    assert_harmless(read_principal, message)


@pytest.mark.parametrize(
    ("realm", "parts", "text"),
    [
        (b"EXAMPLE.TEST", (b"alice",), "alice@EXAMPLE.TEST"),
        (b"EXAMPLE.TEST", (b"host", b"www.example.test"), "host/www.example.test@EXAMPLE.TEST"),
        (b"EXAMPLE.TEST", (), "@EXAMPLE.TEST"),
        (b"R", (b"a/b", b"c@d"), "a\\/b/c\\@d@R"),
        (b"R", (b"a\\b",), "a\\\\b@R"),
        (b"R", (b"\0\n\t\b",), "\\0\\n\\t\\b@R"),
        (b"R", (b"two words",), "two words@R"),
        ("REALM.ÖSTERREICH".encode(), ("jürgen".encode(),), "jürgen@REALM.ÖSTERREICH"),
    ],
)
def test_principal_is_quoted_as_by_libkrb5(realm: bytes, parts: tuple[bytes, ...], text: str) -> None:
    """A principal is shown quoted as libkrb5 does."""
    assert str(Principal(1, realm, parts)) == text


@pytest.mark.parametrize(("component", "text"), [(b"\xff\xfe", "\\xff\\xfe"), (b"\x1b[31m", "\\x1b[31m")])
def test_unprintable_bytes_of_a_principal_are_escaped(component: bytes, text: str) -> None:
    """Bytes that are not text, and characters that affect a terminal, are shown escaped."""
    assert str(Principal(1, b"R", (component,))) == text + "@R"


@given(principals)
def test_text_of_a_principal_is_always_printable(packed: bytes) -> None:
    """Whatever a principal contains, its text can be shown in a terminal or a log."""
    assert str(read_principal(Reader(packed))).isprintable()


def test_malformed_principal_raises_format_error() -> None:
    """A malformed principal raises FormatError."""
    with pytest.raises(FormatError):
        read_principal(Reader(b""))


@pytest.mark.parametrize(
    ("realm", "parts", "expected"),
    [
        (b"PYKCM.TEST", (b"krbtgt", b"PYKCM.TEST"), True),
        (b"PYKCM.TEST", (b"krbtgt", b"OTHER.TEST"), True),
        (b"OTHER.TEST", (b"krbtgt", b"PYKCM.TEST"), True),
        (b"PYKCM.TEST", (b"host", b"krbtgt"), False),
        (b"PYKCM.TEST", (b"krbtgt2", b"PYKCM.TEST"), False),
        (b"PYKCM.TEST", (b"kadmin", b"changepw"), False),
        (b"PYKCM.TEST", (), False),
    ],
)
def test_krbtgt_of_any_realm_is_a_tgs(realm: bytes, parts: tuple[bytes, ...], expected: bool) -> None:
    """A ticket for the ticket-granting service of any realm is a TGT; others are not."""
    assert is_tgs(Principal(1, realm, parts).identity) is expected
