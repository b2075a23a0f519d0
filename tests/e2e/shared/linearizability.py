"""Decides whether a history of overlapping calls is linearizable: whether some order explains all answers.

In that order each call takes effect at one moment between its begin and its end. The checker goes through the
history by time. It keeps every situation that the answers allow: a state, and the open calls that have taken
effect in it already (Wing and Gong's search, with Lowe's just-in-time linearization).

A call without an answer may have taken effect or not, and may do so after its caller has given up. It names
the version that it was made on: once a later change of the same object has been acknowledged, it has taken
effect already, or never will.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

# Calls before the wrong one that a failure shows.
_SHOWN = 20


class State(Protocol):
    """A state of the model. It never changes."""

    @property
    def fingerprint(self) -> Hashable:
        """Equal for states that answer the same for ever."""


class Answer(NamedTuple):
    """The code and the payload of a reply."""

    code: int
    payload: bytes

    def __str__(self) -> str:
        # Only what people can read of it.
        return f"{self.code} {' '.join(each.decode() for each in re.findall(rb'[!-~]+', self.payload))}"


S = TypeVar("S", bound=State)


class Operation(Protocol[S]):
    """The request of a call. `only_reads`: it changes nothing. `surely_changes`: it does if it succeeds."""

    @property
    def only_reads(self) -> bool: ...

    @property
    def surely_changes(self) -> bool: ...

    def run(self, state: S) -> tuple[Answer, S]:
        """The model's answer, and the state after it."""

    def is_right(self, state: S, expected: Answer, answer: Answer) -> bool:
        """Whether the answer is right in the state before the operation; `expected`: the model's."""


class Call(NamedTuple, Generic[S]):
    """One operation of a client, from `begin` to `end`; `answer` None: its outcome is not known."""

    client: int
    begin: int
    end: int
    operation: Operation[S]
    answer: Answer | None

    @property
    def is_acknowledged_change(self) -> bool:
        return self.answer is not None and self.answer.code == 0 and self.operation.surely_changes

    @property
    def has_no_effect(self) -> bool:
        return self.operation.only_reads or (self.answer is not None and self.answer.code != 0)

    def __str__(self) -> str:
        answer = "outcome unknown" if self.answer is None else str(self.answer)
        return f"client {self.client}, {self.begin} to {self.end}: {self.operation}: {answer}"


class NotLinearizableError(Exception):
    """No order of the calls explains the answers."""


class _Situation(NamedTuple, Generic[S]):
    """A possible state, and the numbers of the open calls that have taken effect."""

    state: S
    done: frozenset[int]

    @property
    def key(self) -> tuple[Hashable, frozenset[int]]:
        return self.state.fingerprint, self.done


def check(initial: S, calls: Iterable[Call[S]]) -> S:
    """Return a state that is possible at the end; raises NotLinearizableError.

    The state is the only one if the last calls have read everything.
    """
    return _Search(initial, [call for call in calls if call.answer or not call.operation.only_reads]).run()


class _Search(Generic[S]):
    def __init__(self, initial: S, calls: Sequence[Call[S]]) -> None:
        self._calls = calls
        self._open: dict[int, Call[S]] = {}
        self._situations = [_Situation(initial, frozenset[int]())]
        self._answers: dict[tuple[Hashable, int], S | None] = {}

    def run(self) -> S:
        for number, is_end in self._events():
            if not is_end:
                self._open[number] = self._calls[number]
                self._situations = self._distinct(map(self._with_reads, self._situations))
            else:
                if self._calls[number].answer is not None:
                    self._end(number)
                del self._open[number]
                self._situations = self._distinct(
                    _Situation(state, done - {number}) for state, done in self._situations
                )
                self._answers = {key: value for key, value in self._answers.items() if key[1] in self._open}
        return self._situations[0].state

    def _events(self) -> Iterator[tuple[int, bool]]:
        """The begins and ends by time. A call without an answer ends where it can no longer take effect."""
        events = [(call.begin, False, number) for number, call in enumerate(self._calls)]
        changes = sorted(
            (call for call in self._calls if call.is_acknowledged_change), key=lambda call: call.begin
        )
        for number, call in enumerate(self._calls):
            if call.answer is not None:
                events.append((call.end, True, number))
            elif later := [change.end for change in changes if change.begin > call.end]:
                # After the change's own end, at the same time.
                events.append((min(later), True, len(self._calls) + number))
        for _, is_end, number in sorted(events):
            yield number % len(self._calls), is_end

    def _end(self, number: int) -> None:
        """Keep the situations in which the call has taken effect, and those that follow where it does now."""
        found: list[_Situation[S]] = []
        seen = set()
        following = list(self._situations)
        while following:
            situation = following.pop()
            if situation.key in seen:
                continue
            seen.add(situation.key)
            if number in situation.done:
                found.append(situation)
            else:
                following += self._successors(situation)
        if not found:
            raise NotLinearizableError(self._explain(number))
        self._situations = self._distinct(found)

    def _successors(self, situation: _Situation[S]) -> Iterator[_Situation[S]]:
        """The situations after one more open call."""
        for number in self._open:
            if number not in situation.done:
                state = self._after(situation.state, number)
                if state is not None:
                    yield self._with_reads(_Situation(state, situation.done | {number}))

    def _with_reads(self, situation: _Situation[S]) -> _Situation[S]:
        """The situation after all calls that change nothing, and whose answer is right now."""
        state, done = situation
        more = [
            number
            for number, call in self._open.items()
            if number not in done and call.has_no_effect and self._after(state, number) is not None
        ]
        return _Situation(state, done.union(more)) if more else situation

    def _after(self, state: S, number: int) -> S | None:
        """The state after the call; None: its answer would be another one."""
        key = state.fingerprint, number
        if key not in self._answers:
            call = self._open[number]
            expected, after = call.operation.run(state)
            is_right = call.answer is None or call.operation.is_right(state, expected, call.answer)
            self._answers[key] = after if is_right else None
        return self._answers[key]

    def _distinct(self, situations: Iterable[_Situation[S]]) -> list[_Situation[S]]:
        """The situations, except those that allow nothing that another one does not allow.

        A call without an answer need not take effect: of two situations with one state, the one in which
        fewer of these calls have taken effect allows more. A call that changes nothing does not matter to the
        others: the situation in which more of these calls have taken effect allows more.
        """
        groups: dict[Hashable, list[tuple[frozenset[int], frozenset[int], _Situation[S]]]] = {}
        for situation in situations:
            in_progress = [(number, self._open[number]) for number in situation.done if number in self._open]
            unknown = frozenset(number for number, call in in_progress if call.answer is None)
            quiet = frozenset(number for number, call in in_progress if call.has_no_effect) - unknown
            key = situation.state.fingerprint, situation.done - unknown - quiet
            groups.setdefault(key, []).append((unknown, quiet, situation))
        kept = []
        for group in groups.values():
            best: list[tuple[frozenset[int], frozenset[int]]] = []
            for unknown, quiet, situation in sorted(group, key=lambda each: (len(each[0]), -len(each[1]))):
                if not any(fewer <= unknown and more >= quiet for fewer, more in best):
                    best.append((unknown, quiet))
                    kept.append(situation)
        return kept

    def _explain(self, number: int) -> str:
        wrong = self._calls[number]
        expected = {str(wrong.operation.run(situation.state)[0]) for situation in self._situations}
        before = sorted(
            (call for call in self._calls if call.begin < wrong.end and call != wrong),
            key=lambda call: call.end,
        )
        return "\n".join(
            [
                f"no order explains {wrong}",
                *("expected in a possible state: " + each for each in sorted(expected)),
                "the calls before it:",
                *map(str, before[-_SHOWN:]),
            ]
        )
