"""The checker: histories of a register, a list and of collections that it must accept or refuse."""

import itertools
import random
from dataclasses import dataclass, field

import pytest

from .linearizability import Answer, Call, NotLinearizableError, check


@dataclass(frozen=True)
class Items:
    """A state: the items that were added, in order."""

    items: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> tuple[int, ...]:
        return self.items


@dataclass(frozen=True)
class Add:
    """Adds an item at the end; fails if it is there."""

    item: int
    only_reads: bool = False
    surely_changes: bool = True

    def run(self, state: Items) -> tuple[Answer, Items]:
        if self.item in state.items:
            return Answer(1, b""), state
        return Answer(0, b""), Items((*state.items, self.item))

    def is_right(self, _: Items, expected: Answer, answer: Answer) -> bool:
        return expected == answer


@dataclass(frozen=True)
class Set(Add):
    """Replaces all items by two of one kind."""

    def run(self, _: Items) -> tuple[Answer, Items]:
        return Answer(0, b""), Items((self.item, self.item))


@dataclass(frozen=True)
class Append(Add):
    """Adds an item, also where it is there."""

    def run(self, state: Items) -> tuple[Answer, Items]:
        return Answer(0, b""), Items((*state.items, self.item))


@dataclass(frozen=True)
class Read:
    """Gives all items."""

    only_reads: bool = True
    surely_changes: bool = False

    def run(self, state: Items) -> tuple[Answer, Items]:
        return Answer(0, bytes(state.items)), state

    def is_right(self, _: Items, expected: Answer, answer: Answer) -> bool:
        return expected == answer


DONE = Answer(0, b"")
_CLIENTS = itertools.count()


def call(begin: int, end: int, operation: Add | Read, answer: Answer | None = DONE) -> Call[Items]:
    return Call(next(_CLIENTS), begin, end, operation, answer)


def read(begin: int, end: int, *items: int) -> Call[Items]:
    return call(begin, end, Read(), Answer(0, bytes(items)))


ACCEPTED = {
    "in order": [call(0, 1, Add(1)), read(2, 3, 1), call(4, 5, Add(2)), read(6, 7, 1, 2)],
    "overlapping read before the write": [call(0, 9, Add(1)), read(1, 2), read(3, 4, 1)],
    "overlapping writes in the other order": [call(0, 9, Add(1)), call(1, 8, Add(2)), read(10, 11, 2, 1)],
    "refused write changes nothing": [
        call(0, 1, Add(1)),
        call(2, 3, Add(1), Answer(1, b"")),
        read(4, 5, 1),
    ],
    "unknown write took effect": [call(0, 1, Add(1), None), read(2, 3, 1)],
    "unknown write took no effect": [call(0, 1, Add(1), None), read(2, 3), call(4, 5, Add(2)), read(6, 7, 2)],
    "unknown write took effect later": [call(0, 1, Add(1), None), read(2, 3), read(4, 5, 1)],
    "unknown write took effect during a later one": [
        call(0, 1, Add(1), None),
        read(2, 3),
        call(4, 9, Add(2)),
        read(10, 11, 1, 2),
    ],
    "unknown read": [call(0, 1, Read(), None), read(2, 3)],
    "many unknown writes of which some took effect": [
        *(call(0, 1, Add(number), None) for number in range(1, 9)),
        read(2, 3, 4, 2),
        read(4, 5, 4, 2, 7),
    ],
}

REFUSED = {
    "stale read": [call(0, 1, Add(1)), read(2, 3)],
    "read that goes back": [call(0, 9, Add(1)), read(1, 2, 1), read(3, 4)],
    "lost write": [call(0, 1, Add(1)), call(2, 3, Add(2)), read(4, 5, 2)],
    "write lost after it was seen": [call(0, 1, Add(1), None), read(2, 3, 1), read(4, 5)],
    "double effect": [call(0, 1, Append(1)), read(2, 3, 1, 1)],
    "double effect of an unknown write": [call(0, 1, Append(1), None), read(2, 3, 1, 1)],
    "unknown write that was done again": [
        call(0, 1, Append(1), None),
        read(2, 3, 1),
        call(4, 5, Append(2)),
        read(6, 7, 1, 2, 1),
    ],
    "unknown write after a later acknowledged one": [
        call(0, 1, Append(1), None),
        call(2, 3, Append(2)),
        read(4, 5, 2),
        read(6, 7, 2, 1),
    ],
    "mixture": [call(0, 9, Set(1)), call(0, 9, Set(2)), read(10, 11, 1, 2)],
    "refused write that had an effect": [
        call(0, 1, Add(1)),
        call(2, 3, Add(1), Answer(1, b"")),
        read(4, 5, 1, 1),
    ],
    "acknowledged write that must have failed": [call(0, 1, Add(1)), call(2, 3, Add(1))],
    "order that two readers see differently": [
        call(0, 20, Add(1)),
        call(0, 20, Add(2)),
        read(1, 2, 1),
        read(3, 4, 2),
    ],
    "write before its begin": [read(0, 1, 1), call(2, 3, Add(1))],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_linearizable_history_is_accepted(name: str) -> None:
    """An order that explains all answers is found."""
    check(Items(), ACCEPTED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_history_that_is_not_linearizable_is_refused(name: str) -> None:
    """A stale read, a lost write, a double effect and a mixture are found, each by itself."""
    with pytest.raises(NotLinearizableError, match="no order explains"):
        check(Items(), REFUSED[name])


def test_refused_history_names_the_call_and_the_answer_that_was_right() -> None:
    """The message has the wrong call, the answer of each possible state, and the calls before."""
    with pytest.raises(NotLinearizableError) as refused:
        check(Items(), [call(0, 1, Add(97)), read(2, 3)])
    message = str(refused.value)
    assert "no order explains client" in message
    assert "expected in a possible state: 0 a\n" in message
    assert "0 to 1: Add(item=97" in message


@dataclass
class Simulated:
    """Clients of one list whose calls overlap; each takes effect at a random moment, or is never made."""

    seed: int
    items: list[int] = field(default_factory=list)

    def history(self, calls: int) -> list[Call[Items]]:
        rng = random.Random(self.seed)
        history: list[Call[Items]] = []
        free_at = [0] * 4
        moments: list[tuple[int, int, int, int, bool]] = []
        for number in range(calls):
            client = rng.randrange(len(free_at))
            begin = free_at[client] + rng.randrange(1, 9)
            end = begin + rng.randrange(2, 9)
            free_at[client] = end
            moments.append((rng.randrange(begin + 1, end), begin, end, number, rng.random() < 0.4))
        for _, begin, end, number, is_write in sorted(moments):
            if not is_write:
                history.append(call(begin, end, Read(), Answer(0, bytes(self.items[-3:]))))
                continue
            is_known, is_made = rng.random() < 0.7, rng.random() < 0.5
            if is_known or is_made:
                self.items = [*self.items, number % 251][-3:]
            history.append(call(begin, end, Keep(number % 251), DONE if is_known else None))
        return history


@dataclass(frozen=True)
class Keep(Add):
    """Adds an item; of all, the last three are kept."""

    def run(self, state: Items) -> tuple[Answer, Items]:
        return Answer(0, b""), Items((*state.items, self.item)[-3:])


@pytest.mark.parametrize("seed", range(20))
def test_simulated_history_is_accepted_and_a_changed_answer_is_refused(seed: int) -> None:
    """A correct run with unknown outcomes is linearizable; with an answer of much earlier it is not."""
    history = Simulated(seed).history(200)
    check(Items(), history)
    reads = [number for number, each in enumerate(history) if each.operation.only_reads]
    early = next(number for number in reads if len(history[number].answer.payload) == 3)  # type: ignore[union-attr]
    late = reads[-1]
    assert history[early].answer != history[late].answer
    history[late] = history[late]._replace(answer=history[early].answer)
    with pytest.raises(NotLinearizableError):
        check(Items(), history)
