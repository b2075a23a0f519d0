"""An endless sequence of changes of one ccache. Each credential has its own number."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from pykcm.client import KcmClient
from pykcm.protocol.opcodes import Opcode
from tests.builders import ALICE, credential_bytes, service

# Fewer credentials than a ccache may have by default.
_MOST = 1500


class Change(NamedTuple):
    """A request: its opcode, the number of its first credential, and the count of credentials."""

    opcode: int
    first: int
    size: int

    def blobs(self, owner: int) -> tuple[bytes, ...]:
        """The credentials. No other owner and no other change has the same ones."""
        return tuple(_blob(owner, number) for number in range(self.first, self.first + self.size))

    def send(self, kcm: KcmClient, name: bytes, owner: int) -> None:
        """Make the change; raises KcmError, OSError."""
        match self.opcode:
            case Opcode.INITIALIZE:
                kcm.initialize(name, ALICE)
            case Opcode.DESTROY:
                kcm.destroy(name)
            case Opcode.STORE:
                kcm.store(name, *self.blobs(owner))
            case Opcode.REPLACE:
                kcm.replace(name, 0, ALICE, self.blobs(owner))


def changes(seed: int, first: int, *, is_there: bool) -> Iterator[Change]:
    """Yield changes, mostly STOREs, with numbers from `first` on. `is_there`: the ccache exists already."""
    rng = random.Random(seed)
    number = first
    stored = _MOST
    while True:
        if not is_there:
            opcode, count = rng.choice([(Opcode.INITIALIZE, 0), (Opcode.REPLACE, 1)])
        elif stored >= _MOST:
            opcode, count = Opcode.REPLACE, rng.randrange(60)
        else:
            opcode, count = rng.choices(
                [(Opcode.STORE, 1), (Opcode.REPLACE, rng.randrange(60)), (Opcode.INITIALIZE, 0),
                 (Opcode.DESTROY, 0)],
                [80, 15, 3, 2],
            )[0]  # fmt: skip
        is_there = opcode is not Opcode.DESTROY
        stored = stored + 1 if opcode is Opcode.STORE else count
        yield Change(opcode, number, count)
        number += count


def _blob(owner: int, number: int) -> bytes:
    return credential_bytes(service(number), ticket=b"ticket %d of %d " % (number, owner) * 60)
