"""Malformed requests and replies raise FormatError, and cost little."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykcm.protocol.framing import HEADER_SIZE
from pykcm.protocol.messages import (
    ARGUMENTS,
    BLOBS,
    CREDENTIALS,
    NAME,
    arguments_reader,
    read_arguments,
)
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.wire import FormatError
from tests.builders import data
from tests.protocol.bad_input import (
    assert_every_prefix_refused,
    assert_harmless,
    assert_refused,
    assert_refused_cheaply,
)
from tests.protocol.cases import (
    CCACHE,
    ONE,
    REPLIES,
    REQUESTS,
    TWO,
    as_decoder,
    every_request,
    payload_of,
)
from tests.protocol.layouts import (
    ALICE,
    HOST,
    REALM,
    CredentialFields,
    TagFields,
    blobs,
    i32,
    name,
    principal,
    u32,
)
from tests.protocol.strategies import blob


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
