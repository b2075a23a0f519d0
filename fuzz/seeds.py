"""Makes the seeds of the corpus from the recorded exchanges: `python -m fuzz.seeds`.

The seeds are named `seed-…`. Other entries of the corpus are kept.
"""

from itertools import chain

from fuzz.state import CCACHE, CONTAINERS, PEERS, SECRET
from fuzz.targets import CORPUS, TARGETS
from pykcm.protocol.codes import Code
from pykcm.protocol.credential import Credential
from pykcm.protocol.framing import HEADER_SIZE
from pykcm.protocol.messages import ARGUMENTS, pack_blobs, read_arguments
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match
from pykcm.protocol.wire import U32
from pykcm.store import documents, tree
from tests.vectors import Exchange, load_all

# In bytes; longer inputs reach no further code.
_LONGEST = 4000
_ENTRIES = 12


def _pick(inputs: list[bytes]) -> list[bytes]:
    """Return at most _ENTRIES different inputs of different sizes."""
    different = sorted({data for data in inputs if len(data) <= _LONGEST}, key=len)
    return different[:: -(-len(different) // _ENTRIES)]


def _seeds() -> dict[str, list[bytes]]:
    recordings = load_all()
    exchanges = list(chain.from_iterable(recording.exchanges for recording in recordings))
    streams = [b"".join(exchange.request for exchange in recording.exchanges) for recording in recordings]
    decoded = [
        (exchange, read_arguments(ARGUMENTS[Opcode[exchange.opcode]], exchange.request[4:]))
        for exchange in exchanges
        if Opcode[exchange.opcode] in ARGUMENTS
    ]
    arguments = [value for _, values in decoded for value in values]
    blobs = [value.blob for value in arguments if isinstance(value, Credential)]
    principals = [value for value in arguments if isinstance(value, Principal)]
    ccaches = [
        documents.encode(documents.CCacheDocument(1, offset, documents.to_principal_document(each), label))
        for each, offset, label in zip(
            principals, (0, -5, 2**31 - 1) * 99, (None, "label") * 99, strict=False
        )
    ]
    defaults = [
        documents.encode(documents.DefaultDocument(1, documents.to_text(name)))
        for name in (b"1000", b"1000:x", b"\xff", "1000:é".encode())
    ]
    return {
        "frames": [bytes([len(stream) % 251]) + stream for stream in streams],
        "requests": _of_each_operation(exchanges),
        "credentials": blobs,
        "tags": [
            U32.pack(match_flags) + values[2].pack() + pack_blobs(blobs[number : number + 3])
            for number, (exchange, values) in enumerate(decoded)
            if exchange.opcode in {"RETRIEVE", "REMOVE_CRED"}
            for match_flags in (
                values[1],
                Match.TIMES | Match.FLAGS,
                Match.IS_SKEY | Match.AUTHDATA | Match.KEYTYPE,
            )
        ],
        "ccache_documents": ccaches,
        "default_documents": defaults,
        "names": [
            *(container.encode() for container in CONTAINERS),
            *(tree.ccache_name(bytes(16), name).encode() for name in (b"1000", b"1000:\xff/%", b"")),
        ],
        "restore": [
            _secret(0, CCACHE.rpartition("/")[2], ccaches[number])
            + b"".join(_secret(1, f"{uuid:032x}", blob) for uuid, blob in enumerate(some))
            + _secret(2, tree.DEFAULT, default)
            for number, default in enumerate(defaults)
            for some in (blobs[:1], blobs[1:3], [blobs[0][:-1]])
        ],
        "service": [bytes([peer]) + stream for stream in streams for peer in (*range(len(PEERS)), 0x81)],
    }


def _of_each_operation(exchanges: list[Exchange]) -> list[bytes]:
    found = {exchange.opcode: exchange.request[4:] for exchange in exchanges if _is_answered(exchange)}
    return [message for message in found.values() if HEADER_SIZE < len(message) <= _LONGEST]


def _is_answered(exchange: Exchange) -> bool:
    return int.from_bytes(exchange.reply[8:12], signed=True) == Code.OK


def _secret(place: int, name: str, value: bytes) -> bytes:
    return SECRET.pack(place, len(name), len(value)) + name.encode() + value


def main() -> None:
    """Write the seeds of all targets."""
    for name, inputs in _seeds().items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = inputs if name == "requests" else _pick(inputs)
        for number, data in enumerate(chosen):
            TARGETS[name].attempt(data)
            (folder / f"seed-{number:02}").write_bytes(data)


if __name__ == "__main__":
    main()
