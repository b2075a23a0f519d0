"""The JSON of the secrets: what is written can be read, and what is anything else is told."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.principal import Principal
from pykcm.store.documents import (
    VERSION,
    CCacheDocument,
    DefaultDocument,
    UnreadableSecretError,
    encode,
    from_principal_document,
    from_text,
    read_ccache,
    read_default,
    to_principal_document,
    to_text,
)

CCACHE: dict[str, Any] = {
    "version": 1,
    "kdc_offset": 0,
    "principal": {"type": 1, "realm": "PYKCM.TEST", "components": ["alice"]},
}
DEFAULT: dict[str, Any] = {"version": 1, "name": "1000:a"}

texts = st.binary(max_size=20) | st.text(max_size=10).map(lambda text: text.encode())
principals = st.builds(
    Principal,
    st.integers(0, 2**32 - 1),
    texts,
    st.lists(texts, max_size=4).map(tuple),
)


@given(texts)
def test_any_bytes_as_text(value: bytes) -> None:
    """Any bytes come back from the document that they are written into."""
    document = read_default(encode(DefaultDocument(VERSION, to_text(value))))
    assert from_text(document.name) == value


@given(st.dictionaries(st.text(max_size=5), texts, max_size=4))
def test_any_own_defaults(own: dict[str, bytes]) -> None:
    """Any defaults by range come back in their order, whatever their names' bytes."""
    written = {range_: to_text(name) for range_, name in own.items()}
    document = read_default(encode(DefaultDocument(VERSION, "1000", written)))
    assert [(range_, from_text(name)) for range_, name in document.by_range.items()] == list(own.items())


def test_a_default_from_before_there_were_own_ones() -> None:
    """A document without them is read, and one without any is written as before."""
    assert read_default(json.dumps(DEFAULT).encode()).by_range == {}
    assert json.loads(encode(DefaultDocument(VERSION, "1000:a", {}))) == DEFAULT


@pytest.mark.parametrize("own", [None, [], "x", 1, {"s0:c1": None}, {"s0:c1": 7}, {"s0:c1": ["x"]}])
def test_own_defaults_of_other_types(own: object) -> None:
    """Defaults by range that are no names make the document unreadable."""
    unreadable(read_default, json.dumps(DEFAULT | {"own": own}).encode())


def test_text_is_readable() -> None:
    """UTF-8 is written as it is; other bytes in base64."""
    assert json.loads(encode(DefaultDocument(VERSION, to_text("Grüße".encode())))) == {
        "version": 1,
        "name": "Grüße",
    }
    assert json.loads(encode(DefaultDocument(VERSION, to_text(b"\xff\0"))))["name"] == {"base64": "/wA="}


@given(principals, st.integers(-(2**31), 2**31 - 1), st.none() | st.text(max_size=10))
def test_any_ccache(principal: Principal, kdc_offset: int, label: str | None) -> None:
    """Any principal, KDC offset and label come back from a ccache's document."""
    written = CCacheDocument(VERSION, kdc_offset, to_principal_document(principal), label)
    read = read_ccache(encode(written))
    assert read == written
    assert from_principal_document(read.principal) == principal


def test_the_documented_layout() -> None:
    """The documents have the fields of the design page, by its names."""
    principal = Principal(1, b"PYKCM.TEST", (b"host", b"www"))
    document = CCacheDocument(VERSION, -7, to_principal_document(principal))
    assert json.loads(encode(document)) == {
        "version": 1,
        "kdc_offset": -7,
        "principal": {"type": 1, "realm": "PYKCM.TEST", "components": ["host", "www"]},
    }


def test_an_added_field_is_no_hindrance() -> None:
    """A field that is not known is left unread: a version of its own says when that is wrong."""
    assert read_default(json.dumps(DEFAULT | {"comment": "x"}).encode()).name == "1000:a"


def unreadable(read: Callable[[bytes], object], value: bytes) -> None:
    with pytest.raises(UnreadableSecretError):
        read(value)


OTHER_TYPES: list[object] = [None, True, 1.5, [], [[]], {"base64": 7}, {"base64": "%%"}]

READERS = [read_ccache, read_default]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"{",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b'{"version": 1',
        b"{'version': 1}",
        b"\xff\xfe{\0}\0",
        b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"version": 1, "version": 1}',
        b'{"version": ' + b"9" * 5000 + b"}",
        b'{"version": 1e999, "name": "x"}',
        b'{"version": NaN}',
        b"{}{}",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_what_is_no_document(read: Callable[[bytes], object], value: bytes) -> None:
    """Whatever is no document is unreadable, and nothing else is raised."""
    unreadable(read, value)


@pytest.mark.parametrize("read", READERS)
@given(value=st.binary(max_size=50))
def test_any_other_bytes(read: Callable[[bytes], object], value: bytes) -> None:
    """Any bytes that are no document are unreadable, too."""
    unreadable(read, value)


@pytest.mark.parametrize(("read", "document"), list(zip(READERS, [CCACHE, DEFAULT], strict=True)))
def test_whole_documents_only(read: Callable[[bytes], object], document: dict[str, Any]) -> None:
    """A document that lacks a field, has a null or another type there, or is cut short, is unreadable."""
    read(json.dumps(document).encode())
    for name in document:
        lacking = {other: value for other, value in document.items() if other != name}
        unreadable(read, json.dumps(lacking).encode())
        for value in OTHER_TYPES:
            unreadable(read, json.dumps(document | {name: value}).encode())
    text = json.dumps(document).encode()
    for size in range(len(text)):
        unreadable(read, text[:size])


@pytest.mark.parametrize("version", [0, 2, -1, 2**70, "1", 1.5, None, True])
def test_other_versions(version: object) -> None:
    """A document of another version is unreadable, even if it looks alike."""
    unreadable(read_ccache, json.dumps(CCACHE | {"version": version}).encode())
    unreadable(read_default, json.dumps(DEFAULT | {"version": version}).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": -1},
        {"type": 2**32},
        {"type": "1"},
        {"realm": None},
        {"realm": {"base64": "AAE"}},
        {"components": "alice"},
        {"components": [7]},
        {"components": [None]},
    ],
    ids=json.dumps,
)
def test_wrong_principals(wrong: dict[str, Any]) -> None:
    """A principal that could not go over the wire is unreadable."""
    document = CCACHE | {"principal": CCACHE["principal"] | wrong}
    unreadable(read_ccache, json.dumps(document).encode())


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**70, "0", 0.5, None])
def test_wrong_offsets(wrong: object) -> None:
    """A KDC offset that could not go over the wire is unreadable."""
    unreadable(read_ccache, json.dumps(CCACHE | {"kdc_offset": wrong}).encode())


def test_messages_hold_no_secrets() -> None:
    """What is said of an unreadable secret holds nothing of it."""
    for read in READERS:
        for value in (b'{"version": 1, "name": 1, "comment": "SECRET!"}', b"SECRET", b'{"SECRET": SECRET}'):
            with pytest.raises(UnreadableSecretError) as caught:
                read(value)
            assert "SECRET" not in str(caught.value)
