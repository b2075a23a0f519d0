"""The requests backup and rekey."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec

from pykcm.control.calls import Call
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.logs import User
from pykcm.processes import describe_process
from pykcm.store.copies import Copied, Copies, StoreBusyError, UnsupportedError

log = logging.getLogger(__name__)

# In seconds. Meanwhile no other backup or rekey can start, and the write-ahead log grows.
_PATIENCE_WITH_A_READER = 60.0


class BackupArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request has no arguments."""


async def backup(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield the size, then the bytes of an encrypted copy of the database. It is checked before the end."""
    call.check_unconfined()
    call.patience = _PATIENCE_WITH_A_READER
    copies = _copies(call, "there is nothing to back up")
    with _refusals():
        async with copies.backup() as copy:
            yield {"size": copy.size}
            slowed: tuple[int, ...] = ()
            async with aclosing(copy.pieces()) as pieces:
                async for piece in pieces:
                    item: dict[str, Any] = {"data": piece}
                    if copy.slowed != slowed:
                        item["slowed"] = list(slowed := copy.slowed)
                    yield item
            call.summary = {
                "size": copy.size,
                "sha256": copy.sha256,
                "key": str(copy.key),
                "pending": copy.is_pending,
            }
    log.info(
        "a backup of the database in %s was made for %s: %d bytes, encrypted with the key in %s",
        *(call.administration.config.state_dir, _client(call), copy.size, copy.key),
    )


class RekeyArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key`: the new key, 32 bytes; None: the daemon generates one, if it can keep it."""

    key: bytes | None = None

    def __repr__(self) -> str:
        return "<a new key>"


async def rekey(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield the progress; the summary says where the new key is."""
    wanted: RekeyArguments = call.arguments
    call.check_unconfined()
    copies = _copies(call, "there is no key")
    with _refusals():
        async with aclosing(copies.rekey(wanted.key)) as steps:
            async for step in steps:
                if isinstance(step, Copied):
                    progress: dict[str, Any] = {"done": step.done, "size": step.size}
                    if step.slowed:
                        progress["slowed"] = list(step.slowed)
                    yield progress
                    continue
                call.summary = {
                    "key": str(step.key),
                    "place": str(step.place),
                    "credential": step.is_credential,
                    "pending": step.is_pending,
                    "pause": step.pause,
                }
                if step.is_shared:
                    call.summary["shared"] = True
                    log.info("all rows were sealed again with a new key, requested by %s", _client(call))
                    continue
                log.info(
                    "the database in %s has a new key, in %s, requested by %s; clients waited for %.0f ms",
                    *(call.administration.config.state_dir, step.key, _client(call), step.pause * 1000),
                )


def _client(call: Call) -> str:
    return f"{describe_process(call.peer.pid)} of {User(call.peer.uid)}"


def _copies(call: Call, consequence: str) -> Copies:
    """Raises ControlError if the store has none."""
    copies = call.administration.copies
    if copies is None:
        raise ControlError(
            ErrorCode.UNSUPPORTED, f'the tickets are only in memory (store = "memory"): {consequence}'
        )
    return copies


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except StoreBusyError as busy:
        raise ControlError(ErrorCode.BUSY, str(busy)) from None
    except UnsupportedError as unsupported:
        raise ControlError(ErrorCode.UNSUPPORTED, str(unsupported)) from None
