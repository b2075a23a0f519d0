"""The possible contents of a ccache, after the requests of a client and the answers."""

from pykcm.protocol.opcodes import Opcode

# The credentials in stored order; None without such a ccache.
Contents = tuple[bytes, ...] | None


class History:
    """One ccache, changed by one client that waits for each answer."""

    def __init__(self) -> None:
        self.acknowledged: Contents = None
        # All earlier contents: with normal durability, acknowledged changes may be lost.
        self.earlier: list[Contents] = [None]
        self._asked: tuple[Contents, ...] = ()

    def ask(self, opcode: int, blobs: tuple[bytes, ...]) -> None:
        """Add a request that was sent, with its credentials."""
        assert not self._asked
        self._asked = (_after(self.acknowledged, opcode, blobs),)

    def acknowledge(self) -> None:
        """The answer was 0: the change must stay."""
        (self.acknowledged,) = self._asked
        self.earlier.append(self.acknowledged)
        self._asked = ()

    def refuse(self) -> None:
        """The answer was an error: the change must never be seen."""
        self._asked = ()

    @property
    def possible(self) -> tuple[Contents, ...]:
        """The acknowledged contents, and those with the change that was not answered."""
        return (self.acknowledged, *self._asked)

    def settle(self, found: Contents) -> None:
        """Continue with the contents found after a crash, which must be possible."""
        assert found in self.possible, _difference(found, self.possible)
        self.acknowledged = found
        self._asked = ()


def _after(before: Contents, opcode: int, blobs: tuple[bytes, ...]) -> Contents:
    """The contents after a change. A STORE always stores a new credential."""
    match opcode:
        case Opcode.INITIALIZE | Opcode.REPLACE:
            return blobs
        case Opcode.STORE:
            return None if before is None else (*before, *blobs)
        case Opcode.DESTROY:
            return None
    raise AssertionError(opcode)


def _difference(found: Contents, possible: tuple[Contents, ...]) -> str:
    def size(contents: Contents) -> str:
        return "no ccache" if contents is None else f"{len(contents)} credentials"

    return f"found {size(found)}; possible are {', '.join(map(size, possible))}"
