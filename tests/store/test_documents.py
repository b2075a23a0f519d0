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
def test_any_bytes_round_trip_as_text(value: bytes) -> None:
    """Any bytes come back from the document that they are written into."""
    document = read_default(encode(DefaultDocument(VERSION, to_text(value))))
    assert from_text(document.name) == value


@given(st.dictionaries(st.text(max_size=5), texts, max_size=4))
def test_any_defaults_by_range_round_trip(own: dict[str, bytes]) -> None:
    """Any defaults by range come back in order, whatever bytes their names have."""
    written = {range_: to_text(name) for range_, name in own.items()}
    document = read_default(encode(DefaultDocument(VERSION, "1000", written)))
    assert [(range_, from_text(name)) for range_, name in document.by_range.items()] == list(own.items())


def test_default_without_ranges_is_read_and_written_as_before() -> None:
    """A document without defaults by range has none, and is written like one of an earlier version."""
    assert read_default(json.dumps(DEFAULT).encode()).by_range == {}
    assert json.loads(encode(DefaultDocument(VERSION, "1000:a", {}))) == DEFAULT


@pytest.mark.parametrize("own", [None, [], "x", 1, {"s0:c1": None}, {"s0:c1": 7}, {"s0:c1": ["x"]}])
def test_defaults_by_range_of_other_types_are_unreadable(own: object) -> None:
    """Defaults by range that are not names make the document unreadable."""
    unreadable(read_default, json.dumps(DEFAULT | {"own": own}).encode())


def test_utf_8_is_written_as_text() -> None:
    """UTF-8 is written as it is; other bytes in base64."""
    assert json.loads(encode(DefaultDocument(VERSION, to_text("Grüße".encode())))) == {
        "version": 1,
        "name": "Grüße",
    }
    assert json.loads(encode(DefaultDocument(VERSION, to_text(b"\xff\0"))))["name"] == {"base64": "/wA="}


@given(principals, st.integers(-(2**31), 2**31 - 1), st.none() | st.text(max_size=10))
def test_any_ccache_round_trips(principal: Principal, kdc_offset: int, label: str | None) -> None:
    """Any principal, KDC offset and label come back from a ccache's document."""
    written = CCacheDocument(VERSION, kdc_offset, to_principal_document(principal), label)
    read = read_ccache(encode(written))
    assert read == written
    assert from_principal_document(read.principal) == principal


def test_documents_have_the_documented_fields() -> None:
    """The documents have the documented fields and names."""
    principal = Principal(1, b"PYKCM.TEST", (b"host", b"www"))
    document = CCacheDocument(VERSION, -7, to_principal_document(principal))
    assert json.loads(encode(document)) == {
        "version": 1,
        "kdc_offset": -7,
        "principal": {"type": 1, "realm": "PYKCM.TEST", "components": ["host", "www"]},
    }


def test_unknown_field_is_ignored() -> None:
    """An unknown field is ignored: an incompatible change has another version."""
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
def test_other_json_is_unreadable(read: Callable[[bytes], object], value: bytes) -> None:
    """Other JSON and other bytes are unreadable, and raise nothing else."""
    unreadable(read, value)


@pytest.mark.parametrize("read", READERS)
@given(value=st.binary(max_size=50))
def test_random_bytes_are_unreadable(read: Callable[[bytes], object], value: bytes) -> None:
    """Random bytes are unreadable."""
    unreadable(read, value)


@pytest.mark.parametrize(("read", "document"), list(zip(READERS, [CCACHE, DEFAULT], strict=True)))
def test_incomplete_document_is_unreadable(read: Callable[[bytes], object], document: dict[str, Any]) -> None:
    """A document is unreadable if it lacks a field, has a null or another type in one, or is truncated."""
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
def test_other_version_is_unreadable(version: object) -> None:
    """A document of another version is unreadable, even if it has the same fields."""
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
def test_wrong_principal_is_unreadable(wrong: dict[str, Any]) -> None:
    """A principal that cannot be sent is unreadable."""
    document = CCACHE | {"principal": CCACHE["principal"] | wrong}
    unreadable(read_ccache, json.dumps(document).encode())


@pytest.mark.parametrize("wrong", [2**31, -(2**31) - 1, 2**70, "0", 0.5, None])
def test_wrong_kdc_offset_is_unreadable(wrong: object) -> None:
    """A KDC offset that cannot be sent is unreadable."""
    unreadable(read_ccache, json.dumps(CCACHE | {"kdc_offset": wrong}).encode())


def test_messages_hold_no_secrets() -> None:
    """The message about an unreadable secret holds nothing of it."""
    for read in READERS:
        for value in (b'{"version": 1, "name": 1, "comment": "SECRET!"}', b"SECRET", b'{"SECRET": SECRET}'):
            with pytest.raises(UnreadableSecretError) as caught:
                read(value)
            assert "SECRET" not in str(caught.value)
