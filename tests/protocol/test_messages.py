"""The layouts of requests and replies."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.framing import HEADER_SIZE
from pykcm.protocol.messages import (
    ARGUMENTS,
    BLOBS,
    CREDENTIALS,
    FLAGS,
    NAME,
    OFFSET,
    PAYLOAD,
    PRINCIPAL,
    UUID,
    UUIDS,
    pack_arguments,
    pack_blobs,
    read_arguments,
)
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.wire import FormatError, Reader
from tests.protocol.bad_input import (
    assert_refused,
)
from tests.protocol.cases import (
    ALICES,
    CCACHE,
    REPLIES,
    REQUESTS,
    UNSUPPORTED,
    every_reply,
    every_request,
    message,
    payload_of,
)
from tests.protocol.layouts import (
    ALICE,
    CredentialFields,
    blobs,
    i32,
    name,
    u32,
)
from tests.protocol.strategies import I32, U32, blob, credentials, fewer, names, uuids

# The tables


def test_every_operation_has_a_layout() -> None:
    """Every supported operation has a layout for its request and its reply, and no other has one."""
    supported = set(Opcode) - UNSUPPORTED
    assert set(ARGUMENTS) == set(PAYLOAD) == set(REQUESTS) == supported
    assert {opcode for opcode, field in PAYLOAD.items() if field is not None} == set(REPLIES)


@every_request
def test_requests_are_read(opcode: Opcode) -> None:
    """The arguments are read from the request's bytes as documented."""
    packed, values = REQUESTS[opcode]
    assert read_arguments(ARGUMENTS[opcode], message(opcode, packed)) == values


@every_request
def test_requests_are_packed(opcode: Opcode) -> None:
    """The client's packing produces the documented bytes."""
    packed, values = REQUESTS[opcode]
    assert pack_arguments(ARGUMENTS[opcode], as_given(opcode, values)) == packed


def as_given(opcode: Opcode, values: list[Any]) -> tuple[Any, ...]:
    """A client gives credentials as bytes, where the server gets them parsed."""
    *others, last = values or [None]
    if opcode in {Opcode.STORE, Opcode.RENEW}:
        return (*others, last.blob)
    if opcode == Opcode.REPLACE:
        return (*others, [credential.blob for credential in last])
    return tuple(values)


@every_reply
def test_replies_are_read(opcode: Opcode) -> None:
    """The payload's value is read from the reply's bytes as documented."""
    packed, (value,) = REPLIES[opcode]
    assert payload_of(opcode).read(Reader(packed)) == value


@every_reply
def test_replies_are_packed(opcode: Opcode) -> None:
    """The payload's packing produces the documented bytes."""
    packed, (value,) = REPLIES[opcode]
    assert payload_of(opcode).pack(value) == packed


@every_request
def test_bytes_after_the_last_argument_are_accepted(opcode: Opcode) -> None:
    """Bytes after the last argument are accepted; in STORE they are part of the credential."""
    packed, values = REQUESTS[opcode]
    for behind in (b"\0", u32(0), b"behind"):
        read = read_arguments(ARGUMENTS[opcode], message(opcode, packed + behind))
        if opcode in {Opcode.STORE, Opcode.RENEW}:
            assert read[-1].blob == values[-1].blob + behind
            read[-1] = values[-1]
        assert read == values


def test_too_few_values_cannot_be_packed() -> None:
    """Packing fewer values than the layout has raises an exception."""
    with pytest.raises(ValueError, match="shorter"):
        pack_arguments(ARGUMENTS[Opcode.INITIALIZE], (b"20001",))


# Values of any kind


@given(names, blob)
def test_any_name_round_trips(value: bytes, behind: bytes) -> None:
    """Any name without a NUL is read as packed, and bytes after it are left."""
    reader = Reader(NAME.pack(value) + behind)
    assert NAME.read(reader) == value
    assert reader.rest() == behind


@given(names, names)
def test_two_names_are_separate(old: bytes, new: bytes) -> None:
    """MOVE_CACHE keeps its two names separate, whatever they are."""
    fields = ARGUMENTS[Opcode.MOVE_CACHE]
    packed = pack_arguments(fields, (old, new))
    assert read_arguments(fields, message(Opcode.MOVE_CACHE, packed)) == [old, new]


@given(I32)
def test_kdc_offset_is_signed(value: int) -> None:
    """A KDC offset is signed."""
    assert OFFSET.pack(value) == i32(value)
    assert OFFSET.read(Reader(i32(value))) == value


@given(U32)
def test_flag_word_is_unsigned(value: int) -> None:
    """A flag word is unsigned."""
    assert FLAGS.pack(value) == u32(value)
    assert FLAGS.read(Reader(u32(value))) == value


@given(uuids, blob)
def test_uuid_is_any_sixteen_bytes(value: bytes, behind: bytes) -> None:
    """A UUID is any sixteen bytes."""
    reader = Reader(UUID.pack(value) + behind)
    assert UUID.read(reader) == value
    assert reader.rest() == behind


@given(st.lists(uuids, max_size=20))
def test_list_of_uuids_has_no_count(values: list[bytes]) -> None:
    """A list of UUIDs has no count: it fills the payload, and an empty one is no bytes."""
    assert UUIDS.pack(values) == b"".join(values)
    assert UUIDS.read(Reader(b"".join(values))) == values


@pytest.mark.parametrize("size", [1, 15, 17, 31, 33])
def test_incomplete_list_of_uuids_is_malformed(size: int) -> None:
    """A list that does not end with a complete UUID is malformed."""
    assert_refused(UUIDS.read, bytes(size))


@given(st.lists(blob, max_size=8), blob)
def test_list_of_blobs_round_trips(values: list[bytes], behind: bytes) -> None:
    """The payload of GET_CRED_LIST keeps each credential's bytes, whatever they are."""
    assert pack_blobs(values) == blobs(values)
    reader = Reader(blobs(values) + behind)
    assert BLOBS.read(reader) == values
    assert reader.rest() == behind


@fewer
@given(st.lists(st.tuples(credentials, blob), max_size=3))
def test_replace_keeps_the_bytes_of_credentials(sent: list[tuple[CredentialFields, bytes]]) -> None:
    """REPLACE keeps each credential's bytes as sent, including those after its last field."""
    values = [fields.pack() + behind for fields, behind in sent]
    read = CREDENTIALS.read(Reader(blobs(values)))
    assert [credential.blob for credential in read] == values
    assert CREDENTIALS.pack(values) == blobs(values)


@fewer
@given(credentials, blob)
def test_store_keeps_the_bytes_of_the_credential(fields: CredentialFields, behind: bytes) -> None:
    """STORE keeps the credential's bytes as sent, including those after its last field."""
    sent = fields.pack() + behind
    read = read_arguments(ARGUMENTS[Opcode.STORE], message(Opcode.STORE, name(CCACHE) + sent))
    assert read[0] == CCACHE
    assert read[1].blob == sent


def test_arguments_begin_after_version_and_opcode() -> None:
    """The arguments begin after version and opcode."""
    assert HEADER_SIZE == 4
    assert read_arguments((PRINCIPAL,), b"\2\0\0\4" + ALICE) == [ALICES]
    with pytest.raises(FormatError):
        read_arguments((PRINCIPAL,), b"\2\0\0\4")
