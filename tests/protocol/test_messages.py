"""The layouts of requests and replies."""

from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.credential import parse_credential
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
    Field,
    arguments_reader,
    pack_arguments,
    pack_blobs,
    read_arguments,
)
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Tag
from pykcm.protocol.wire import FormatError, Reader
from tests.builders import data
from tests.protocol.bad_input import (
    Decoder,
    assert_every_prefix_refused,
    assert_harmless,
    assert_refused,
    assert_refused_cheaply,
)
from tests.protocol.layouts import (
    ALICE,
    BOB,
    HOST,
    REALM,
    CredentialFields,
    TagFields,
    blobs,
    i32,
    name,
    principal,
    u16,
    u32,
)
from tests.protocol.strategies import I32, U32, blob, credentials, fewer, names, uuids

CCACHE = b"20001:work"
ONE = CredentialFields().pack()
TWO = CredentialFields(server=BOB, second_ticket=b"a second ticket").pack()
HOW = 0x00800001
ALICES = Principal(1, REALM, (b"alice",))
SECOND_TICKETS = TagFields(server=HOST, second_ticket=b"a ticket")


class Case(NamedTuple):
    """A request's arguments, as they are packed and as an operation gets them."""

    packed: bytes
    values: list[Any]


REQUESTS: dict[Opcode, Case] = {
    Opcode.NOOP: Case(b"", []),
    Opcode.GET_NAME: Case(name(CCACHE), [CCACHE]),
    Opcode.RESOLVE: Case(name(CCACHE), [CCACHE]),
    Opcode.GEN_NEW: Case(b"", []),
    Opcode.INITIALIZE: Case(name(CCACHE) + ALICE, [CCACHE, ALICES]),
    Opcode.DESTROY: Case(name(CCACHE), [CCACHE]),
    Opcode.STORE: Case(name(CCACHE) + ONE, [CCACHE, parse_credential(ONE)]),
    Opcode.RETRIEVE: Case(
        name(CCACHE) + u32(HOW) + SECOND_TICKETS.pack(),
        [
            CCACHE,
            HOW,
            Tag(server=Principal(3, REALM, (b"host", b"www.example.test")), second_ticket=b"a ticket"),
        ],
    ),
    Opcode.GET_PRINCIPAL: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_CRED_UUID_LIST: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_CRED_BY_UUID: Case(name(CCACHE) + bytes(range(16)), [CCACHE, bytes(range(16))]),
    Opcode.REMOVE_CRED: Case(
        name(CCACHE) + u32(0) + TagFields(client=ALICE).pack(), [CCACHE, 0, Tag(ALICES)]
    ),
    Opcode.SET_FLAGS: Case(name(CCACHE) + u32(2), [CCACHE, 2]),
    Opcode.MOVE_CACHE: Case(name(b"20001:old") + name(b"20001:new"), [b"20001:old", b"20001:new"]),
    Opcode.GET_CACHE_UUID_LIST: Case(b"", []),
    Opcode.GET_CACHE_BY_UUID: Case(bytes(range(16)), [bytes(range(16))]),
    Opcode.GET_DEFAULT_CACHE: Case(b"", []),
    Opcode.SET_DEFAULT_CACHE: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_KDC_OFFSET: Case(name(CCACHE), [CCACHE]),
    Opcode.SET_KDC_OFFSET: Case(name(CCACHE) + i32(-300), [CCACHE, -300]),
    Opcode.GET_CRED_LIST: Case(name(CCACHE), [CCACHE]),
    Opcode.REPLACE: Case(
        name(CCACHE) + i32(-300) + ALICE + blobs([ONE, TWO]),
        [CCACHE, -300, ALICES, [parse_credential(ONE), parse_credential(TWO)]],
    ),
}

# The payload of a successful reply, as it is packed and as a client gets it.
REPLIES: dict[Opcode, Case] = {
    Opcode.GET_NAME: Case(name(CCACHE), [CCACHE]),
    Opcode.GEN_NEW: Case(name(b"20001:x1y2z3"), [b"20001:x1y2z3"]),
    Opcode.RETRIEVE: Case(ONE, [ONE]),
    Opcode.GET_PRINCIPAL: Case(ALICE, [ALICES]),
    Opcode.GET_CRED_UUID_LIST: Case(
        bytes(range(48)), [[bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))]]
    ),
    Opcode.GET_CRED_BY_UUID: Case(TWO + b"\0", [TWO + b"\0"]),
    Opcode.GET_CACHE_UUID_LIST: Case(bytes(range(16)), [[bytes(range(16))]]),
    Opcode.GET_CACHE_BY_UUID: Case(name(CCACHE), [CCACHE]),
    Opcode.GET_DEFAULT_CACHE: Case(name(b"20001"), [b"20001"]),
    Opcode.GET_KDC_OFFSET: Case(i32(-300), [-300]),
    Opcode.GET_CRED_LIST: Case(blobs([ONE, TWO]), [[ONE, TWO]]),
}

UNSUPPORTED = {
    Opcode.CHOWN,
    Opcode.CHMOD,
    Opcode.GET_INITIAL_TICKET,
    Opcode.GET_TICKET,
    Opcode.ADD_NTLM_CRED,
    Opcode.HAVE_NTLM_CRED,
    Opcode.DEL_NTLM_CRED,
    Opcode.DO_NTLM_AUTH,
    Opcode.GET_NTLM_USER_LIST,
}

every_request = pytest.mark.parametrize("opcode", REQUESTS, ids=lambda opcode: opcode.name)
every_reply = pytest.mark.parametrize("opcode", REPLIES, ids=lambda opcode: opcode.name)


def message(opcode: int, arguments: bytes) -> bytes:
    """A request without its length."""
    return b"\2\0" + u16(opcode) + arguments


def as_decoder(opcode: Opcode) -> Decoder:
    """Reading this opcode's arguments, for a reader that holds them alone."""
    return lambda reader: read_arguments(ARGUMENTS[opcode], message(opcode, reader.rest()))


def payload_of(opcode: Opcode) -> Field:
    field = PAYLOAD[opcode]
    assert field is not None
    return field


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
    if opcode == Opcode.STORE:
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
        if opcode == Opcode.STORE:
            assert read[1].blob == ONE + behind
            read[1] = values[1]
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


# Bad input


@every_request
def test_truncated_request_is_malformed(opcode: Opcode) -> None:
    """A request whose arguments are cut off anywhere is malformed."""
    assert_every_prefix_refused(as_decoder(opcode), REQUESTS[opcode].packed)


@every_request
def test_truncated_request_with_every_field_is_malformed(opcode: Opcode) -> None:
    """A request with all fields of a tag and a credential that is cut off is malformed."""
    full = CredentialFields(addresses=[(2, b"abcd")], authdata=[(1, b"x")], second_ticket=b"y").pack()
    asked = TagFields(client=ALICE, server=HOST, keyblock=(18, b"k"), addresses=[(2, b"abcd")]).pack()
    packed = REQUESTS[opcode].packed
    if opcode in {Opcode.RETRIEVE, Opcode.REMOVE_CRED}:
        packed = name(CCACHE) + u32(0) + asked
    elif opcode == Opcode.STORE:
        packed = name(CCACHE) + full
    elif opcode == Opcode.REPLACE:
        packed = name(CCACHE) + i32(0) + ALICE + blobs([full, ONE])
    assert_every_prefix_refused(as_decoder(opcode), packed)


@pytest.mark.parametrize(
    "opcode",
    [Opcode.GET_NAME, Opcode.GEN_NEW, Opcode.GET_PRINCIPAL, Opcode.GET_KDC_OFFSET, Opcode.GET_CRED_LIST],
)
def test_truncated_reply_is_malformed(opcode: Opcode) -> None:
    """A payload that is cut off is malformed, except credentials and UUIDs that end with the payload."""
    assert_every_prefix_refused(payload_of(opcode).read, REPLIES[opcode].packed)


@pytest.mark.parametrize("opcode", [opcode for opcode in REQUESTS if NAME in ARGUMENTS[opcode]])
def test_name_without_a_nul_is_malformed(opcode: Opcode) -> None:
    """A request whose name does not end is malformed."""
    assert_refused(as_decoder(opcode), b"20001:work")
    assert_refused(as_decoder(opcode), b"\xff" * 2000)


@given(st.binary(max_size=40))
def test_name_alone_is_read_as_any_name(rest: bytes) -> None:
    """The shorter way to read a request of one name gives the same name, or the same error."""
    message = bytes(HEADER_SIZE) + rest
    if 0 in rest:
        assert arguments_reader((NAME,))(message) == read_arguments((NAME,), message)
        return
    for read in (arguments_reader((NAME,)), partial(read_arguments, (NAME,))):
        with pytest.raises(FormatError, match="name without NUL"):
            read(message)


def test_second_name_without_a_nul_is_malformed() -> None:
    """MOVE_CACHE needs a NUL after each of its names."""
    assert_refused(as_decoder(Opcode.MOVE_CACHE), b"20001:old\x0020001:new")


@pytest.mark.parametrize("count", [1, 3, 2**30, 2**31, 2**32 - 1])
def test_wrong_count_is_malformed(count: int) -> None:
    """A count of more credentials than are present is malformed and allocates nothing."""
    lie = u32(count) + (data(ONE) + data(TWO) if count > 2 else b"")
    assert_refused_cheaply(BLOBS.read, lie)
    assert_refused_cheaply(CREDENTIALS.read, lie)
    assert_refused_cheaply(as_decoder(Opcode.REPLACE), name(CCACHE) + i32(0) + ALICE + lie)


@pytest.mark.parametrize("length", [len(ONE) + 1, 2**31, 2**32 - 1])
def test_wrong_length_is_malformed(length: int) -> None:
    """A credential longer than the request is malformed and allocates nothing."""
    lie = u32(1) + u32(length) + ONE
    assert_refused_cheaply(BLOBS.read, lie)
    assert_refused_cheaply(as_decoder(Opcode.REPLACE), name(CCACHE) + i32(0) + ALICE + lie)


def test_too_short_length_of_a_credential_is_malformed() -> None:
    """A length that ends within the credential does not let it read the next one's bytes."""
    lie = u32(2) + u32(len(ONE) - 1) + ONE + data(TWO)
    assert_refused(CREDENTIALS.read, lie)
    assert_refused(as_decoder(Opcode.REPLACE), name(CCACHE) + i32(0) + ALICE + lie)


@pytest.mark.parametrize("credential", [b"", b"\0", ALICE, bytes(len(ONE))])
def test_malformed_credential_is_refused(credential: bytes) -> None:
    """STORE and REPLACE refuse malformed credentials; one of them is enough."""
    if credential != bytes(len(ONE)):
        assert_refused(as_decoder(Opcode.STORE), name(CCACHE) + credential)
        assert_refused(CREDENTIALS.read, blobs([ONE, credential]))
        assert_refused(CREDENTIALS.read, blobs([credential, ONE]))
    else:
        # Nothing but zeros has two empty principals, and is one.
        assert_harmless(as_decoder(Opcode.STORE), name(CCACHE) + credential)


def test_principal_with_a_wrong_count_is_malformed() -> None:
    """INITIALIZE and REPLACE refuse a principal of more components than are accepted or present."""
    crowd = principal(REALM, *[b"x"] * 5000)
    for opcode, before in ((Opcode.INITIALIZE, b""), (Opcode.REPLACE, i32(0))):
        assert_refused(as_decoder(opcode), name(CCACHE) + before + crowd + u32(0))
        assert_refused_cheaply(
            as_decoder(opcode), name(CCACHE) + before + u32(1) + u32(2**32 - 1) + data(REALM)
        )


@given(st.sampled_from(sorted(REQUESTS)), st.data())
def test_damaged_request_raises_only_format_errors(opcode: Opcode, made_up: st.DataObject) -> None:
    """A request with any of its bytes replaced is understood or malformed."""
    packed = REQUESTS[opcode].packed
    begin = made_up.draw(st.integers(0, len(packed)))
    end = made_up.draw(st.integers(begin, len(packed)))
    assert_harmless(as_decoder(opcode), packed[:begin] + made_up.draw(blob) + packed[end:])


@given(st.binary(max_size=200))
def test_random_request_raises_only_format_errors(arguments: bytes) -> None:
    """Random bytes are understood or malformed, whatever the operation is."""
    for opcode in REQUESTS:
        assert_harmless(as_decoder(opcode), arguments)
        assert_harmless(as_decoder(opcode), name(CCACHE) + arguments)


@given(st.binary(max_size=200))
def test_random_reply_raises_only_format_errors(payload: bytes) -> None:
    """A client understands random bytes, or reports them as malformed."""
    for opcode in REPLIES:
        assert_harmless(payload_of(opcode).read, payload)


def test_arguments_begin_after_version_and_opcode() -> None:
    """The arguments begin after version and opcode."""
    assert HEADER_SIZE == 4
    assert read_arguments((PRINCIPAL,), b"\2\0\0\4" + ALICE) == [ALICES]
    with pytest.raises(FormatError):
        read_arguments((PRINCIPAL,), b"\2\0\0\4")
