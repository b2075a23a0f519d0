"""Copying all secrets from one store to another, while no daemon of this host uses them.

A UID's secrets are copied as one commit, or not at all, in their order. A UID that has other secrets in the
target is left as it is there, and one with a secret that the source cannot read is not copied. If the copy is
interrupted, it goes on when it is made again: UIDs that were copied are the same on both sides.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from pykcm.store.interface import Blocked, Committed, Entry, Loaded, Outcome, Store, StoreError, Unknown
from pykcm.store.tree import Put, Secret, ccaches_container

# UIDs that are copied together, and about how many bytes of them.
_UIDS = 64
_BYTES = 1024 * 1024

# A commit that another host's commit came before is made again, so many times at most.
_ATTEMPTS = 20


class Result(StrEnum):
    """The result for a UID."""

    COPIED = "copied"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    DAMAGED = "damaged"


class Moved(NamedTuple):
    """A UID, what was done with it, and the number of its ccaches in the source."""

    uid: int
    result: Result
    ccaches: int


async def copy_secrets(source: Store, target: Store, uids: Sequence[int]) -> AsyncIterator[Moved]:
    """Copy these UIDs, and yield each one when it is durable in the target and was compared.

    Raises StoreError; UIDs that were yielded before stay in the target.
    """
    batch: list[tuple[int, Loaded]] = []
    size = 0
    for uid in uids:
        loaded = await source.load(uid)
        if any(secret.damage for secret in loaded.secrets):
            yield Moved(uid, Result.DAMAGED, _number_of_ccaches(uid, loaded))
            continue
        batch.append((uid, loaded))
        size += _size(loaded.secrets)
        if len(batch) >= _UIDS or size >= _BYTES:
            for moved in await _copy(target, batch):
                yield moved
            batch, size = [], 0
    for moved in await _copy(target, batch):
        yield moved


async def _copy(target: Store, batch: Sequence[tuple[int, Loaded]]) -> list[Moved]:
    results: dict[int, Result] = {}
    left = dict(batch)
    for _ in range(_ATTEMPTS):
        entries = []
        present = await asyncio.gather(*(target.load(uid) for uid in left))
        for uid, there in zip(list(left), present, strict=True):
            if not there.secrets:
                entries.append(_entry(uid, there.version, left[uid].secrets))
            elif there.secrets == left[uid].secrets:
                results.setdefault(uid, Result.UNCHANGED)
                del left[uid]
            else:
                # Also where another host wrote after this copy.
                results.setdefault(uid, Result.SKIPPED)
                del left[uid]
        if not left:
            return [Moved(uid, results[uid], _number_of_ccaches(uid, loaded)) for uid, loaded in batch]
        outcomes = await target.commit(entries)
        for entry, outcome in zip(entries, outcomes, strict=True):
            [uid] = entry.bases
            if await _is_made(target, entry, outcome):
                # The next round compares it.
                results[uid] = Result.COPIED
    raise StoreError("other hosts change these ccaches all the time")


def _entry(uid: int, version: int, secrets: Sequence[Secret]) -> Entry:
    return Entry([Put(*secret[:4]) for secret in secrets], {uid: version}, _size(secrets), os.urandom(16))


async def _is_made(target: Store, entry: Entry, outcome: Outcome | Blocked) -> bool:
    """Whether the entry was committed; False: another attempt may succeed. Raises StoreError."""
    if type(outcome) is Unknown:
        return await target.outcome(entry) is not None
    if type(outcome) is Blocked:
        await asyncio.sleep(outcome.pause)
        return False
    error = getattr(outcome, "error", None)
    if isinstance(error, StoreError):
        raise error
    return type(outcome) is Committed


def _size(secrets: Sequence[Secret]) -> int:
    return sum(len(secret.value) for secret in secrets)


def _number_of_ccaches(uid: int, loaded: Loaded) -> int:
    container = ccaches_container(uid)
    return sum(secret.container == container for secret in loaded.secrets)
