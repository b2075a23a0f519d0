"""The requests renewals and renewed: TGTs that are due go to pykcm-renew, and come back renewed."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec

from pykcm.control.calls import Call
from pykcm.control.frames import FrameError, FrameType, FrameTypeError
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.control.records import principal_text
from pykcm.engine.renewal_attempts import ID_SIZE, BusyError, Failure, Offer
from pykcm.engine.renewals import Renewals

# In bytes: the largest frame with the result of a renewal.
LARGEST_RESULT = 1024 * 1024

# Results that are written at the same time; each has at most LARGEST_RESULT bytes in memory.
_MOST_AT_A_TIME = 16

# In seconds: a client that reads nothing of its offers for so long has failed.
_PATIENCE_WITH_A_READER = 60.0

# In seconds: the end of a client that was killed is noticed within a second.
_PATIENCE = 2.0


class RenewalsArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments."""


class RenewedArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments. Its results follow as frames."""


class FailureRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an attempt failed; `code` of libkrb5; not `again`: this TGT can never be renewed."""

    reason: Literal[
        "unreachable",
        "timeout",
        "clock",
        "locked",
        "revoked",
        "not-renewable",
        "expired",
        "kdc",
        "internal",
    ]
    code: int = 0
    message: Annotated[str, msgspec.Meta(max_length=512)] = ""
    again: bool = True


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of the attempt `id`: either a credential or a failure."""

    id: Annotated[bytes, msgspec.Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
    credential: bytes | None = None
    failure: FailureRecord | None = None


_RESULT = FrameType(Result, LARGEST_RESULT)


async def offer_renewals(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield each TGT when it is due, until the client closes the connection or the daemon ends."""
    config = call.administration.config
    if not config.tgt_renewal:
        raise ControlError(ErrorCode.UNSUPPORTED, "TGTs are not renewed here (tgt_renewal = false)")
    renewals = call.administration.renewals.start()
    access = call.administration.access
    call.patience = _PATIENCE_WITH_A_READER
    await renewals.wait_until_free(_PATIENCE)
    try:
        with renewals.connected(lambda label: access.may_use(call.peer, label)) as offers:
            yield {
                "renewals": {
                    "max_renewals": config.max_renewals,
                    "max_realm_renewals": config.max_realm_renewals,
                }
            }
            async for offer in offers:
                yield {"tgt": _item(offer)}
    except BusyError:
        raise ControlError(ErrorCode.BUSY, "another client renews TGTs already") from None
    call.summary = {"next_due": renewals.next_due}


def _item(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.id,
        "uid": offer.uid,
        "ccache": offer.ccache,
        "client": principal_text(offer.credential.client),
        "server": principal_text(offer.credential.server),
        "realm": offer.realm,
        "credential": offer.credential.blob,
        "kdc_offset": offer.kdc_offset,
        "due": offer.due,
        "end": offer.end,
        "renew_until": offer.renew_until,
    }


async def take_renewed(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield what became of each result that the client sends behind its request, in the same order.

    Results are written together where they come together: each one alone would wait for a sync of the disk.
    """
    renewals = call.administration.renewals.start()
    receiving: asyncio.Task[bytes | None] | None = asyncio.create_task(_receive(call))
    writing: deque[asyncio.Task[dict[str, Any]]] = deque()
    error: ControlError | None = None
    try:
        while receiving is not None or writing:
            takes_more = receiving is not None and len(writing) < _MOST_AT_A_TIME
            waited = [*([receiving] if takes_more else ()), *list(writing)[:1]]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if writing and writing[0].done():
                yield await writing.popleft()
            elif receiving is not None and receiving.done():
                try:
                    frame = await receiving
                    result = None if frame is None else _read(frame)
                except ControlError as refused:
                    # The results before this one are answered first.
                    result, error = None, refused
                receiving = None
                if result is not None:
                    writing.append(asyncio.create_task(_hand_back(renewals, result)))
                    receiving = asyncio.create_task(_receive(call))
    finally:
        tasks = [*([] if receiving is None else [receiving]), *writing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if error is not None:
        raise error


async def _receive(call: Call) -> bytes | None:
    return await call.receive()


async def _hand_back(renewals: Renewals, result: Result) -> dict[str, Any]:
    given: bytes | Failure
    if result.failure is None:
        assert result.credential is not None
        given = result.credential
    else:
        failure = result.failure
        given = Failure(failure.reason, failure.message, failure.code, failure.again)
    handed_back = await renewals.hand_back(result.id, given)
    return {
        "renewed": {
            "id": result.id,
            "result": handed_back.result,
            "next_attempt": handed_back.next_attempt,
        }
    }


def _read(frame: bytes) -> Result:
    """Raises ControlError."""
    try:
        result = _RESULT.decode(frame)
    except FrameTypeError as error:
        raise ControlError(ErrorCode.ARGUMENTS, f"not a valid result: {error}") from None
    except FrameError as error:
        raise ControlError(ErrorCode.MALFORMED, str(error)) from None
    if (result.credential is None) == (result.failure is None):
        raise ControlError(ErrorCode.ARGUMENTS, "a result has either a credential or a failure")
    return result
