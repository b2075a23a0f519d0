"""Compares a daemon's answers with a model's, also where requests of several connections overlap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pykcm.protocol.opcodes import Opcode

from .collections_model import Answer, Asker, Model
from .operations import Operation

_MOST_REPORTED = 5

# States by their fingerprints.
_States = dict[tuple[object, ...], Model]


class DivergenceError(Exception):
    """The daemon's answers are not the model's. The message holds no key and no ticket."""


@dataclass
class Sent:
    """The operations that one connection sent together, and the answers in the same order.

    There are fewer answers than operations if the daemon was killed meanwhile.
    """

    asker: Asker
    operations: Sequence[Operation]
    answers: list[Answer]

    @property
    def unanswered(self) -> int:
        return len(self.operations) - len(self.answers)


class _Wrong(NamedTuple):
    """An answer that a state does not have."""

    asker: Asker
    operation: Operation
    answer: Answer
    expected: Answer

    def __str__(self) -> str:
        return (
            f"UID {self.asker.uid}, connection {self.asker.connection}: {self.operation.description}: "
            f"{describe(self.operation, self.answer)} instead of {describe(self.operation, self.expected)}"
        )


class Comparison:
    """The states that the daemon can be in, given all answers so far: `states`, of which there is always one.

    Requests of one connection are carried out in order, one at a time: the next one begins after the reply to
    the one before it is sent. Those of several connections overlap in any order.
    """

    def __init__(self, model: Model) -> None:
        self.states = [model]

    def close(self, asker: Asker, *, is_last: bool) -> None:
        """The client closes a connection; `is_last`: its process has no other one."""
        for state in self.states:
            state.close(asker, is_last=is_last)
        self._merge()

    def restart(self, *, persists: bool) -> None:
        """The daemon has ended and started again; `persists`: with what its store had."""
        for state in self.states:
            state.restart(persists=persists)
        self._merge()

    def take(self, sent: Sequence[Sent]) -> None:
        """Compare the answers to requests that were pending together. Raises DivergenceError.

        Of each connection's unanswered operations, the first one may have taken effect and others have not.
        """
        if len(sent) == 1 and not sent[0].unanswered:
            self._take_in_order(sent[0])
        else:
            self._take_in_any_order(sent)

    def _take_in_order(self, sent: Sent) -> None:
        for operation, answer in zip(sent.operations, sent.answers, strict=True):
            right, wrong = [], []
            for state in self.states:
                fault = _fault(state, sent.asker, operation, answer)
                if fault is None:
                    right.append(state)
                else:
                    wrong.append(fault)
            if not right:
                raise _divergence(wrong)
            self.states = right
        self._merge()

    def _take_in_any_order(self, sent: Sequence[Sent]) -> None:
        answered = tuple([len(each.answers) for each in sent])
        ends = tuple([len(each.answers) + (each.unanswered > 0) for each in sent])
        # The states after so many operations of each connection.
        reached: dict[tuple[int, ...], _States] = {
            (0,) * len(sent): {each.fingerprint(): each for each in self.states}
        }
        final: _States = {}
        wrong: list[_Wrong] = []
        while reached:
            following: dict[tuple[int, ...], _States] = {}
            # Those of the last step count: every order failed before or there.
            wrong = []
            for progress, states in reached.items():
                if all(done >= least for done, least in zip(progress, answered, strict=True)):
                    final |= states
                for place in [place for place, done in enumerate(progress) if done < ends[place]]:
                    after = (*progress[:place], progress[place] + 1, *progress[place + 1 :])
                    wrong += _step(states, sent[place], progress[place], following.setdefault(after, {}))
            reached = {progress: states for progress, states in following.items() if states}
        if not final:
            raise _divergence(wrong)
        self.states = list(final.values())

    def _merge(self) -> None:
        if len(self.states) > 1:
            self.states = list({each.fingerprint(): each for each in self.states}.values())


def _step(states: _States, sent: Sent, place: int, after: _States) -> list[_Wrong]:
    """Carry out one operation in each state; add the states after it, and give the answers that are wrong."""
    wrong = []
    for state in states.values():
        changed = state.copy()
        if place == len(sent.answers):
            sent.operations[place].run(changed, sent.asker)
        elif fault := _fault(changed, sent.asker, sent.operations[place], sent.answers[place]):
            wrong.append(fault)
            continue
        after[changed.fingerprint()] = changed
    return wrong


def _fault(state: Model, asker: Asker, operation: Operation, answer: Answer) -> _Wrong | None:
    """Carry out the operation; gives the answer if it is wrong."""
    expected = operation.run(state, asker)
    is_right = expected == answer if operation.check is None else operation.check(state, asker, answer)
    return None if is_right else _Wrong(asker, operation, answer, expected)


def _divergence(wrong: list[_Wrong]) -> DivergenceError:
    reported = list(dict.fromkeys(map(str, wrong)))
    return DivergenceError("\n  or ".join(reported[:_MOST_REPORTED]))


_SECRET = {Opcode.RETRIEVE, Opcode.GET_CRED_LIST, Opcode.GET_CRED_BY_UUID}


def describe(operation: Operation, answer: Answer) -> str:
    """An answer without the secrets that it may hold."""
    code, payload = answer
    is_short = operation.opcode not in _SECRET and len(payload) <= 64
    return f"code {code} and " + (repr(payload) if is_short and payload else f"{len(payload)} bytes")
