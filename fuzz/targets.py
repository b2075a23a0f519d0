"""The targets: functions of bytes, and the exceptions that they may raise. Any other exception is a crash.

Targets also check that values which they accept are the same after being written and read again.
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

# In bytes. It is small, so that the limits of the reader are reached often.
_LARGEST_FRAME = 4096

_OPCODES = sorted(ARGUMENTS)


class Target(NamedTuple):
    """`run` may raise `allowed` and nothing else."""

    run: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...] = ()

    def attempt(self, data: bytes) -> bool:
        """Run the target; returns whether it accepts the bytes, and raises the exception of a crash."""
        try:
            self.run(data)
        except self.allowed:
            return False
        return True


def frames(data: bytes) -> None:
    """The same stream must give the same frames in one piece and in several; the first byte is their size."""
    step, stream = data[0] + 1 if data else 1, data[1:]
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    try:
        found = all_frames(FrameReader(_LARGEST_FRAME), stream)
    except FramingError:
        _feed(pieces)
        raise AssertionError("the stream is refused in one piece, and accepted in several") from None
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
    """A request with its header. An unknown opcode stands for a known one, so that no input is wasted."""
    opcode = int.from_bytes(data[2:HEADER_SIZE])
    if opcode not in ARGUMENTS:
        opcode = _OPCODES[opcode % len(_OPCODES)]
    fields = ARGUMENTS[opcode]
    message = data[:HEADER_SIZE].ljust(HEADER_SIZE) + data[HEADER_SIZE:]
    arguments = read_arguments(fields, message)
    packed = pack_arguments(fields, tuple(map(_to_argument, arguments)))
    if TAG in fields:
        # The key, the ticket and the addresses of a tag are not kept.
        assert read_arguments(fields, message[:HEADER_SIZE] + packed) == arguments
    else:
        # Bytes after the last field are ignored.
        assert message[HEADER_SIZE:].startswith(packed)


def _to_argument(value: object) -> object:
    if isinstance(value, Credential):
        return value.blob
    if isinstance(value, list):
        return [_to_argument(each) for each in value]
    return value


def credentials(data: bytes) -> None:
    """All fields of an accepted credential can be read, and its representation is printable."""
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
    """The index must find the same credentials as a search; the bytes are flags, a tag, and credentials."""
    reader = Reader(data)
    match_flags, tag, candidates = (field.read(reader) for field in (FLAGS, TAG, CREDENTIALS))
    packed: bytes = tag.pack()
    assert read_tag(Reader(packed)) == tag
    stored = Credentials()
    for number, credential in enumerate(candidates):
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
    """An accepted ccache document is the same after being written and read again."""
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
        return principal  # it has more components than a client may send


def default_documents(data: bytes) -> None:
    """An accepted default document is the same after being written and read again."""
    document = documents.read_default(data)
    assert documents.read_default(documents.encode(document)) == document
    name = documents.from_text(document.name)
    assert documents.from_text(documents.to_text(name)) == name
    assert escape(name).isprintable()


def names(data: bytes) -> None:
    """Accepted names of secrets and paths of containers can be made again from their parts."""
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
