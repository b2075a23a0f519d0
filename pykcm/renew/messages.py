"""The messages between the pool and its worker processes, which are frames as on the control socket."""

import msgspec

from pykcm.control.frames import FrameType
from pykcm.control.messages import LARGEST_FRAME
from pykcm.renew.failures import RenewalError

# In bytes: a TGT is seldom larger than 64 KiB.
LARGEST = LARGEST_FRAME


class Job(msgspec.Struct, frozen=True):
    """A TGT to renew; see exchange.renew()."""

    credential: bytes
    kdc_offset: int

    def __repr__(self) -> str:
        return "<Job>"


class Outcome(msgspec.Struct, frozen=True):
    """The renewed TGT, or the reason for which there is none."""

    credential: bytes | None = None
    reason: str = ""
    code: int = 0
    message: str = ""
    again: bool = True

    def __repr__(self) -> str:
        return f"<Outcome {self.reason or 'renewed'}>"


JOB = FrameType(Job, LARGEST)
OUTCOME = FrameType(Outcome, LARGEST)


def outcome_of(error: RenewalError) -> Outcome:
    return Outcome(None, error.reason, error.code, error.message, error.again)


def error_of(outcome: Outcome) -> RenewalError:
    return RenewalError(outcome.reason, outcome.code, outcome.message, again=outcome.again)
