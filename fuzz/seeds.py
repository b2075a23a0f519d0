"""Makes the corpus's first entries out of the recorded exchanges: `python -m fuzz.seeds`.

What is there stays; the recorded entries are named `seed-…`.
"""

from itertools import chain

from fuzz.state import CCACHE, PEERS, PLACES, SECRET
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

# In bytes; what is longer teaches nothing more.
_LONGEST = 4000
_ENTRIES = 12


def _pick(inputs: list[bytes]) -> list[bytes]:
    """A handful of different ones, spread over all."""
    different = sorted({data for data in inputs if len(data) <= _LONGEST}, key=len)
    return different[:: -(-len(different) // _ENTRIES)]


def _seeds() -> dict[str, list[bytes]]:
    stock = load_all()
    exchanges = list(chain.from_iterable(stocked.exchanges for stocked in stock))
    streams = [b"".join(exchange.request for exchange in stocked.exchanges) for stocked in stock]
    decoded = [
        (exchange, read_arguments(ARGUMENTS[Opcode[exchange.opcode]], exchange.request[4:]))
        for exchange in exchanges
        if Opcode[exchange.opcode] in ARGUMENTS
    ]
    given = [value for _, values in decoded for value in values]
    blobs = [value.blob for value in given if isinstance(value, Credential)]
    principals = [value for value in given if isinstance(value, Principal)]
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
            U32.pack(match_flags) + values[2].pack() + pack_blobs(blobs[at : at + 3])
            for at, (exchange, values) in enumerate(decoded)
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
            *(place.encode() for place in PLACES),
            *(tree.ccache_name(bytes(16), name).encode() for name in (b"1000", b"1000:\xff/%", b"")),
        ],
        "restore": [
            _secret(0, CCACHE.rpartition("/")[2], ccaches[number])
            + b"".join(_secret(1, f"{at:032x}", blob) for at, blob in enumerate(some))
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
    """Write them."""
    for name, inputs in _seeds().items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = inputs if name == "requests" else _pick(inputs)
        for number, data in enumerate(chosen):
            TARGETS[name].attempt(data)
            (folder / f"seed-{number:02}").write_bytes(data)


if __name__ == "__main__":
    main()
