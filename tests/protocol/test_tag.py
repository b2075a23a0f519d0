"""Tags: reading and packing them."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.credential import NO_AUTHDATA, Times
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.tag import Tag, read_tag
from pykcm.protocol.wire import MAX_COMPONENTS, MAX_LIST, Reader
from tests.builders import data, typed_list
from tests.protocol.bad_input import (
    assert_every_prefix_refused,
    assert_harmless,
    assert_refused,
    assert_refused_cheaply,
)
from tests.protocol.layouts import (
    AES256,
    ALICE,
    BOB,
    HOST,
    REALM,
    TagFields,
    keyblock,
    principal,
    u32,
)
from tests.protocol.strategies import I16, U32, blob, fewer, principals, tags, typed_lists

EVERY_FIELD = TagFields(
    client=ALICE,
    server=HOST,
    keyblock=(AES256, b"a key"),
    authtime=1,
    starttime=2,
    endtime=3,
    renew_till=4,
    is_skey=1,
    flags=5,
    addresses=[(2, b"\x7f\0\0\1")],
    authdata=[(1, b"some authdata")],
    ticket=b"a ticket",
    second_ticket=b"a second ticket",
)


def read(packed: bytes) -> Tag:
    return read_tag(Reader(packed))


# Reading


@fewer
@given(tags)
def test_every_field_of_a_tag_is_read(fields: TagFields) -> None:
    """Every field for matching is read from its place; one that the header does not name is empty."""
    tag = read(fields.pack())
    assert tag.client == (None if fields.client is None else read_principal(Reader(fields.client)))
    assert tag.server == (None if fields.server is None else read_principal(Reader(fields.server)))
    assert tag.enctype == (0 if fields.keyblock is None else fields.keyblock[0])
    assert tag.times == (fields.authtime, fields.starttime, fields.endtime, fields.renew_till)
    assert tag.is_skey is bool(fields.is_skey)
    assert tag.flags == fields.flags
    assert tag.authdata == typed_list(fields.authdata or [])
    assert tag.second_ticket == (fields.second_ticket or b"")


def test_order_of_fields_on_the_wire() -> None:
    """The fields are in the documented order, which is not that of the header's bits."""
    packed = b"".join([
        u32(0x7F),
        ALICE,
        HOST,
        keyblock(AES256, b"a key"),
        *map(u32, (1, 2, 3, 4)),
        b"\1",
        u32(5),
        typed_list([(2, b"\x7f\0\0\1")]),
        typed_list([(1, b"some authdata")]),
        data(b"a ticket"),
        data(b"a second ticket"),
    ])  # fmt: skip
    assert packed == EVERY_FIELD.pack()
    reader = Reader(packed)
    assert read_tag(reader) == Tag(
        client=Principal(1, REALM, (b"alice",)),
        server=Principal(3, REALM, (b"host", b"www.example.test")),
        enctype=AES256,
        times=Times(1, 2, 3, 4),
        is_skey=True,
        flags=5,
        authdata=typed_list([(1, b"some authdata")]),
        second_ticket=b"a second ticket",
    )
    assert reader.rest() == b""


# The bits, what each names, and what a tag with it alone is read as.
HEADER_BITS: list[tuple[int, TagFields, Tag]] = [
    (0, TagFields(), Tag()),
    (1, TagFields(client=ALICE), Tag(client=Principal(1, REALM, (b"alice",)))),
    (2, TagFields(server=BOB), Tag(server=Principal(1, REALM, (b"bob",)))),
    (4, TagFields(keyblock=(-133, b"a key")), Tag(enctype=-133)),
    (8, TagFields(ticket=b"a ticket"), Tag()),
    (0x10, TagFields(second_ticket=b"a second ticket"), Tag(second_ticket=b"a second ticket")),
    (0x20, TagFields(authdata=[(1, b"one")]), Tag(authdata=typed_list([(1, b"one")]))),
    (0x40, TagFields(addresses=[(2, b"\x7f\0\0\1")]), Tag()),
]


@pytest.mark.parametrize(
    ("header", "fields", "tag"),
    HEADER_BITS,
    ids=lambda value: f"{value:#x}" if isinstance(value, int) else "",
)
def test_each_header_bit_names_one_field(header: int, fields: TagFields, tag: Tag) -> None:
    """A bit names one field, and with it alone only that field is present, after times and flags."""
    fields = replace(fields, authtime=6, starttime=7, endtime=8, renew_till=9, is_skey=1, flags=10)
    packed = fields.pack()
    assert packed[:4] == u32(header)
    reader = Reader(packed + b"behind")
    assert read_tag(reader) == tag._replace(times=Times(6, 7, 8, 9), is_skey=True, flags=10)
    assert reader.rest() == b"behind"


@fewer
@given(tags, blob)
def test_bytes_after_a_tag_are_ignored(fields: TagFields, behind: bytes) -> None:
    """Bytes after the last field are accepted and ignored."""
    reader = Reader(fields.pack() + behind)
    assert read_tag(reader) == read(fields.pack())
    assert reader.rest() == behind


def test_unnamed_second_ticket_of_heimdal_is_ignored() -> None:
    """An empty second ticket that no bit names, as Heimdal writes it, is ignored."""
    fields = TagFields(client=ALICE, server=HOST)
    assert read(fields.pack() + u32(0)) == read(fields.pack())


tags_as_written = st.builds(
    Tag,
    client=st.none() | principals.map(lambda packed: read_principal(Reader(packed))),
    server=st.none() | principals.map(lambda packed: read_principal(Reader(packed))),
    enctype=I16,
    times=st.builds(Times, U32, U32, U32, U32),
    is_skey=st.booleans(),
    flags=U32,
    authdata=typed_lists.map(typed_list),
    second_ticket=blob,
)


@fewer
@given(tags_as_written)
def test_any_tag_round_trips(tag: Tag) -> None:
    """A packed tag is read as the same tag."""
    reader = Reader(tag.pack())
    assert read_tag(reader) == tag
    assert reader.rest() == b""


@fewer
@given(tags)
def test_fields_that_do_not_match_are_not_packed(fields: TagFields) -> None:
    """A tag without key, tickets and addresses is packed to the bytes that were read."""
    fields = replace(
        fields,
        keyblock=fields.keyblock and (fields.keyblock[0] or 1, b""),
        is_skey=min(fields.is_skey, 1),
        addresses=None,
        authdata=fields.authdata or None,
        ticket=None,
        second_ticket=fields.second_ticket or None,
    )
    assert read(fields.pack()).pack() == fields.pack()


# How client and server match


# Bad input


@pytest.mark.parametrize(
    "fields",
    [EVERY_FIELD, *(row[1] for row in HEADER_BITS)],
    ids=["every bit", *(f"{row[0]:#x}" for row in HEADER_BITS)],
)
def test_truncated_tag_is_malformed(fields: TagFields) -> None:
    """A tag that is cut off anywhere is malformed."""
    assert_every_prefix_refused(read_tag, fields.pack())


@pytest.mark.parametrize("lie", [2, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    ("header", "before"),
    [
        (1, u32(1)),
        (4, b"\0\x12"),
        (8, bytes(21)),
        (0x10, bytes(21)),
        (0x20, bytes(21)),
        (0x40, bytes(21)),
    ],
    ids=["client", "key", "ticket", "second ticket", "authdata", "addresses"],
)
def test_wrong_lengths_and_counts_of_a_tag_are_malformed(header: int, before: bytes, lie: int) -> None:
    """A length or count beyond the tag's end is malformed and allocates nothing."""
    assert_refused_cheaply(read_tag, u32(header) + before + u32(lie) + b"x")


@pytest.mark.parametrize("field", ["addresses", "authdata"])
def test_number_of_list_entries_of_a_tag_is_bounded(field: str) -> None:
    """Lists of as many entries as are accepted are read; one more is refused, even if it is present."""
    most: dict[str, Any] = {field: [(1, b"")] * MAX_LIST}
    more: dict[str, Any] = {field: [(1, b"")] * (MAX_LIST + 1)}
    read(TagFields(**most).pack())
    assert_refused(read_tag, TagFields(**more).pack())


@pytest.mark.parametrize("field", ["client", "server"])
def test_number_of_components_in_a_tag_is_bounded(field: str) -> None:
    """A principal of too many components is refused within a tag too."""
    crowd: dict[str, Any] = {field: principal(REALM, *[b"x"] * (MAX_COMPONENTS + 1))}
    assert_refused(read_tag, TagFields(**crowd).pack())


@fewer
@given(tags, st.data())
def test_damaged_tag_raises_only_format_errors(fields: TagFields, made_up: st.DataObject) -> None:
    """A tag with any bytes replaced is another one or malformed."""
    sent = fields.pack()
    begin = made_up.draw(st.integers(0, len(sent)))
    end = made_up.draw(st.integers(begin, len(sent)))
    assert_harmless(read_tag, sent[:begin] + made_up.draw(blob) + sent[end:])


@given(st.binary(max_size=200))
def test_random_tag_raises_only_format_errors(message: bytes) -> None:
    """Random bytes are a tag or malformed, whatever the header is."""
    assert_harmless(read_tag, message)
    for header in (0, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x7F, 2**32 - 1):
        assert_harmless(read_tag, u32(header) + message)


def test_no_authdata_is_packed_as_an_empty_list() -> None:
    """The constant for absent authdata has the bytes of an empty list."""
    assert typed_list([]) == NO_AUTHDATA
