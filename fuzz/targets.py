"""What is fuzzed: functions of bytes, and the exceptions that they may raise; any other one is a crash.

A target checks more than that nothing breaks: what it accepts must survive being written and read again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzz.frames import all_frames
from fuzz.state import restore_secrets, run_service
from pykcm.ccaches.credentials import Credentials
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.framing import HEADER_SIZE, Frame, FrameReader, FramingError
from pykcm.protocol.messages import ARGUMENTS, CREDENTIALS, FLAGS, TAG, pack_arguments, read_arguments
from pykcm.protocol.principal import Principal, read_principal
from pykcm.protocol.tag import Tag, read_tag
from pykcm.protocol.text import escape
from pykcm.protocol.wire import U32, UUID_SIZE, FormatError, Reader
from pykcm.store import documents, tree
from pykcm.store.documents import UnreadableSecretError

CORPUS = Path(__file__).parent / "corpus"

# In bytes: small, so that what the state of a stream depends on comes often.
_LARGEST_FRAME = 4096

_OPCODES = sorted(ARGUMENTS)


class Target(NamedTuple):
    """`run` may raise `allowed` and nothing else."""

    run: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...] = ()

    def attempt(self, data: bytes) -> bool:
        """Whether the bytes are accepted; what is a crash is raised."""
        try:
            self.run(data)
        except self.allowed:
            return False
        return True


def frames(data: bytes) -> None:
    """The first byte says how the rest is cut into pieces: the same frames must come out, or none."""
    step, stream = data[0] + 1 if data else 1, data[1:]
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    try:
        found = all_frames(FrameReader(_LARGEST_FRAME), stream)
    except FramingError:
        _feed(pieces)
        raise AssertionError("refused in one piece, accepted in several") from None
    assert _feed(pieces) == found
    read = b"".join([U32.pack(len(frame.message)) + frame.message for frame in found])
    assert stream.startswith(read)
    assert all(frame.opcode == int.from_bytes(frame.message[2:HEADER_SIZE]) for frame in found)


def _feed(pieces: list[bytes]) -> list[Frame]:
    reader = FrameReader(_LARGEST_FRAME)
    found = [frame for piece in pieces for frame in all_frames(reader, piece)]
    size = sum(len(frame.message) + U32.size for frame in found)
    assert reader.size == sum(map(len, pieces)) - size
    return found


def requests(data: bytes) -> None:
    """A message with its header; the operation's number counts modulo the known ones, to waste no input."""
    opcode = int.from_bytes(data[2:HEADER_SIZE])
    if opcode not in ARGUMENTS:
        opcode = _OPCODES[opcode % len(_OPCODES)]
    fields = ARGUMENTS[opcode]
    message = data[:HEADER_SIZE].ljust(HEADER_SIZE) + data[HEADER_SIZE:]
    arguments = read_arguments(fields, message)
    packed = pack_arguments(fields, tuple(map(_as_given, arguments)))
    if TAG in fields:
        # A tag's key, ticket and addresses are not kept.
        assert read_arguments(fields, message[:HEADER_SIZE] + packed) == arguments
    else:
        # Bytes behind the last field are left unread.
        assert message[HEADER_SIZE:].startswith(packed)


def _as_given(value: object) -> object:
    if isinstance(value, Credential):
        return value.blob
    if isinstance(value, list):
        return [_as_given(each) for each in value]
    return value


def credentials(data: bytes) -> None:
    """A credential: its fields can be read, and its text can be shown."""
    credential = parse_credential(data)
    assert credential.blob == data
    assert credential == parse_credential(bytes(bytearray(data)))
    reader = Reader(data)
    assert (read_principal(reader), read_principal(reader)) == (credential.client, credential.server)
    assert credential.client.identity == credential.equality.client
    assert credential.server.identity == credential.equality.server
    assert all(0 <= field < 2**32 for field in (*credential.times, credential.flags))
    assert credential.authdata in data
    assert credential.second_ticket in data
    assert repr(credential).isprintable()


def tags(data: bytes) -> None:
    """A flag word, a tag, and credentials to look among: an index must not change what is found."""
    reader = Reader(data)
    match_flags, tag, among = (field.read(reader) for field in (FLAGS, TAG, CREDENTIALS))
    packed: bytes = tag.pack()
    assert read_tag(Reader(packed)) == tag
    stored = Credentials()
    for number, credential in enumerate(among):
        stored.put(stored.uuid_of_equal(credential) or number.to_bytes(UUID_SIZE), credential)
    matching = [uuid for uuid, credential in stored.items() if tag.matches(credential, match_flags)]
    assert stored.find_all(tag, match_flags) == matching
    assert stored.find(tag, match_flags) == (stored.get(matching[0]) if matching else None)
    assert all(Tag().matches(credential, 0) != credential.is_skey for credential in stored)
    for uuid in matching:
        stored.remove(uuid)
    assert stored.find(tag, match_flags) is None
    assert stored.size == sum(credential.size for credential in stored)


def ccache_documents(data: bytes) -> None:
    """The JSON of a ccache."""
    document = documents.read_ccache(data)
    assert documents.read_ccache(documents.encode(document)) == document
    principal = documents.from_principal_document(document.principal)
    again = documents.from_principal_document(documents.to_principal_document(principal))
    assert again == principal
    assert _packed_and_read(principal) == principal


def _packed_and_read(principal: Principal) -> Principal | None:
    try:
        return read_principal(Reader(principal.pack()))
    except FormatError:
        return principal  # more components than a client may send


def default_documents(data: bytes) -> None:
    """The JSON of a default."""
    document = documents.read_default(data)
    assert documents.read_default(documents.encode(document)) == document
    name = documents.from_text(document.name)
    assert documents.from_text(documents.to_text(name)) == name
    assert escape(name).isprintable()


def names(data: bytes) -> None:
    """Secrets' names and containers' paths, as text."""
    text = data.decode("utf-8")
    uid = tree.uid_of_container(text)
    if uid is not None:
        assert text.startswith(tree.uid_container(uid))
    uuid, name = tree.split_ccache_name(text)
    assert tree.ccache_name(uuid, name) == text


TARGETS = {
    "frames": Target(frames, (FramingError,)),
    "requests": Target(requests, (FormatError,)),
    "credentials": Target(credentials, (FormatError,)),
    "tags": Target(tags, (FormatError,)),
    "ccache_documents": Target(ccache_documents, (UnreadableSecretError,)),
    "default_documents": Target(default_documents, (UnreadableSecretError,)),
    "names": Target(names, (ValueError,)),
    "restore": Target(restore_secrets),
    "service": Target(run_service),
}
