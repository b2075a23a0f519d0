"""What a ccache may hold, by what was asked of the server and what it answered."""

from pykcm.protocol.opcodes import Opcode

# The credentials in stored order; None: there is no such ccache.
Contents = tuple[bytes, ...] | None


class History:
    """One ccache, changed by one client that waits for each answer."""

    def __init__(self) -> None:
        self.acknowledged: Contents = None
        # All that it ever was, for where what was acknowledged may be lost.
        self.earlier: list[Contents] = [None]
        self._asked: tuple[Contents, ...] = ()

    def ask(self, opcode: int, blobs: tuple[bytes, ...]) -> None:
        """A request was sent, with these credentials."""
        assert not self._asked
        self._asked = (_after(self.acknowledged, opcode, blobs),)

    def acknowledge(self) -> None:
        """It was answered with 0: the change is there for good."""
        (self.acknowledged,) = self._asked
        self.earlier.append(self.acknowledged)
        self._asked = ()

    def refuse(self) -> None:
        """It was answered with an error: the change must never be seen."""
        self._asked = ()

    @property
    def possible(self) -> tuple[Contents, ...]:
        """What may be found: what was acknowledged, or that with the one change that was asked for."""
        return (self.acknowledged, *self._asked)

    def settle(self, found: Contents) -> None:
        """Go on from what was found after a crash."""
        assert found in self.possible, _difference(found, self.possible)
        self.acknowledged = found
        self._asked = ()


def _after(before: Contents, opcode: int, blobs: tuple[bytes, ...]) -> Contents:
    """The contents after a change; a STORE is of a credential that was not there."""
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
