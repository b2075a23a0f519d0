"""The requests export and import: complete ccaches out of the daemon and into it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import CCacheCount
from pykcm.control.calls import Call
from pykcm.control.frames import FrameType
from pykcm.control.import_policy import (
    CCacheReader,
    ImportedCCache,
    ImportPolicy,
    ImportRefusedError,
    Outcome,
    Result,
)
from pykcm.control.messages import largest_frame
from pykcm.control.records import LARGEST_RECORD, CCacheHeader, PrincipalRecord, Uid, is_credential
from pykcm.control.snapshots import CCacheSnapshot, take_snapshot
from pykcm.protocol.codes import KcmError

# Ccaches are read up to this number, or this many bytes of memory, before they are imported.
_TOGETHER = 64
_TOGETHER_SIZE = 4 * 1024 * 1024

# One change imports at most this many ccaches of one UID, or this many bytes written and overwritten. Other
# requests would wait for a larger change.
_IN_ONE_CHANGE = 16
_SIZE_OF_ONE_CHANGE = 1024 * 1024

# Bytes around a credential in a record, at most.
_AROUND_EACH = 9


class ExportArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`uid`: only this UID's ccaches."""

    uid: Uid | None = None


async def export_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield the number of ccaches, then each ccache with its credentials; those of one UID as of one moment.

    A ccache that cannot be exported is reported as left out.
    """
    wanted: ExportArguments = call.arguments
    read = call.read
    uids = await call.administration.store.uids() if wanted.uid is None else [wanted.uid]
    count = 0
    for uid in uids:
        count += await read(uid, lambda each: sum(call.sees(ccache.label) for ccache in each))
        await asyncio.sleep(0)
    yield {"count": count}
    exported = left_out = 0
    for uid in uids:
        snapshot = await read(uid, partial(take_snapshot, call=call))
        for ccache in snapshot.ccaches:
            size = sum(len(credential.blob) + _AROUND_EACH for _, credential in ccache.credentials)
            if size > LARGEST_RECORD:
                left_out += 1
                yield _left_out(uid, ccache.name, f"too large: {size} bytes")
                continue
            exported += 1
            yield {"ccache": _header(ccache)}
            for _, credential in ccache.credentials:
                yield {"credential": credential.blob}
        for damaged in snapshot.damaged:
            left_out += 1
            yield _left_out(uid, damaged.name, "its secrets cannot be read")
    call.summary = {"exported": exported, "left_out": left_out}


def _left_out(uid: int, name: bytes, reason: str) -> dict[str, Any]:
    return {"left_out": {"uid": uid, "name": name, "reason": reason}}


def _header(ccache: CCacheSnapshot) -> CCacheHeader:
    return CCacheHeader(
        uid=ccache.uid,
        principal=PrincipalRecord.of(ccache.principal),
        credentials=len(ccache.credentials),
        name=ccache.name,
        kdc_offset=ccache.kdc_offset,
        label=ccache.label,
        default=ccache.is_shared_default,
        default_of=ccache.default_of,
    )


class ImportArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options for ccaches that exist already, and for those whose tickets have all expired.

    `dry_run`: change nothing, but answer as if; `replace`: overwrite also ccaches that are not older;
    `skip_expired`: leave out the expired ones.
    """

    dry_run: bool = False
    replace: bool = False
    skip_expired: bool = False


async def import_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """Yield the result for each ccache that the client sends behind its request, in order.

    Each is stored completely or not at all, whatever the results of the others are.
    """
    importer = _Importer(call)
    async for batch in _batches(call):
        for result in await importer.take(batch):
            yield {"ccache": result}
    call.summary = dict(importer.totals)


async def _batches(call: Call) -> AsyncIterator[list[ImportedCCache | ImportRefusedError]]:
    batch: list[ImportedCCache | ImportRefusedError] = []
    size = 0
    async for imported in _received(call):
        batch.append(imported)
        size += 0 if isinstance(imported, ImportRefusedError) else imported.ccache.size
        if len(batch) >= _TOGETHER or size >= _TOGETHER_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _received(call: Call) -> AsyncIterator[ImportedCCache | ImportRefusedError]:
    """Yield each ccache when the next one, or the end of the stream, has come."""
    config = call.administration.config
    blob_type = FrameType(bytes, largest_frame(config))
    frame = await call.receive()
    while frame is not None:
        reader = CCacheReader(frame, config, blob_type)
        while (frame := await call.receive()) is not None and is_credential(frame):
            reader.add(frame)
        yield reader.result()


class _Importer:
    """Imports ccaches batch by batch; in a dry run, into copies of the collections."""

    def __init__(self, call: Call) -> None:
        self.totals: Counter[str] = Counter()
        self._call = call
        self._arguments: ImportArguments = call.arguments
        self._policy = ImportPolicy(
            call, replace=self._arguments.replace, skip_expired=self._arguments.skip_expired
        )
        # Copies of the collections of the last batch's UIDs, for a dry run, and their common count.
        self._trials: dict[int, Collection] = {}
        self._ccache_count: CCacheCount | None = None

    async def take(self, batch: Sequence[ImportedCCache | ImportRefusedError]) -> list[dict[str, Any]]:
        results: list[Result | None] = [None] * len(batch)
        by_uid: dict[int, list[_Numbered]] = {}
        for number, imported in enumerate(batch):
            if isinstance(imported, ImportRefusedError):
                results[number] = imported.result
            else:
                by_uid.setdefault(imported.record.uid, []).append(_Numbered(number, imported))
        self._trials = {uid: trial for uid, trial in self._trials.items() if uid in by_uid}
        async with asyncio.TaskGroup() as tasks:
            for uid, numbered in by_uid.items():
                tasks.create_task(self._take_of(uid, numbered, results))
        answers = []
        for result in results:
            assert result is not None
            self.totals[result.result] += 1
            answers.append(result.item())
        return answers

    async def _take_of(self, uid: int, numbered: list["_Numbered"], results: list[Result | None]) -> None:
        """Take the ccaches of one UID, in several changes where they are many or large."""
        while numbered:
            take_some = partial(self._take_some, numbered=numbered)
            try:
                taken = await self._call.change(uid, take_some)
            except KcmError as error:
                taken = [each.imported.become(Outcome.REFUSED, str(error)) for each in numbered]
            for each, result in zip(numbered, taken, strict=False):
                results[each.number] = result
            numbered = numbered[len(taken) :]

    def _take_some(self, collection: Collection, numbered: list["_Numbered"]) -> list[Result]:
        """Import the first ccache, and more of them as long as the change stays small."""
        target = self._trial(collection) if self._arguments.dry_run else collection
        results: list[Result] = []
        size = 0
        for each in numbered[:_IN_ONE_CHANGE]:
            size += self._policy.weight(target, each.imported)
            if results and size > _SIZE_OF_ONE_CHANGE:
                break
            results.append(self._policy.take(target, each.imported))
        return results

    def _trial(self, collection: Collection) -> Collection:
        trial = self._trials.get(collection.uid)
        if trial is None:
            trial = self._trials[collection.uid] = collection.copy(self._ccache_count)
            self._ccache_count = trial.ccache_count
        return trial


class _Numbered(NamedTuple):
    number: int
    imported: ImportedCCache
