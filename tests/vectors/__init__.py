"""The stock of wire vectors: exchanges between a KCM client and a server, byte for byte, as data files.

Each `.toml` file is one exchange set: one command of one client, and what went over its connections, in
order. `record.py` made all of them but `hand-made.toml`, which has what no client at hand sends, laid out
from the protocol's description. The realm and its keys were thrown away: the tickets are good for nothing.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Exchange:
    """A request and its reply, both with their frames; `opcode` is the operation's name."""

    opcode: str
    request: bytes
    reply: bytes


@dataclass(frozen=True)
class ExchangeSet:
    """What one command of one client said and was answered.

    `uid` is the client's; `name` the file's, without its suffix.
    """

    name: str
    client: str
    command: str
    uid: int
    exchanges: tuple[Exchange, ...]


def load(path: Path) -> ExchangeSet:
    with path.open("rb") as file:
        content = tomllib.load(file)
    return ExchangeSet(
        path.stem,
        content["client"],
        content["command"],
        content["uid"],
        tuple(
            # fromhex() skips the line ends.
            Exchange(entry["opcode"], bytes.fromhex(entry["request"]), bytes.fromhex(entry["reply"]))
            for entry in content["exchange"]
        ),
    )


def load_all() -> list[ExchangeSet]:
    """The whole stock, in the order of the names: for each client that is the order of recording."""
    return [load(path) for path in sorted(FOLDER.glob("*.toml"))]
