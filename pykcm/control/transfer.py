"""export and import: whole ccaches out of the daemon, and into one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import CCacheCount
from pykcm.control.calls import Call
from pykcm.control.import_policy import (
    ImportedCCache,
    ImportPolicy,
    ImportRefusedError,
    Outcome,
    Result,
    read_imported,
)
from pykcm.control.records import LARGEST_RECORD, CCacheRecord, PrincipalRecord, Uid, to_item
from pykcm.protocol.codes import KcmError

# So many ccaches, or bytes of them, are taken in at a time: each UID's become durable together.
_TOGETHER = 64
_TOGETHER_SIZE = 4 * 1024 * 1024

# Bytes around a credential in a record, at most.
_AROUND_EACH = 9


class ExportArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`uid`: of this one alone."""

    uid: Uid | None = None


async def export_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """How many there are, then each with its keys and tickets; those of one UID as they are at one moment.

    What cannot be exported is told of in its place.
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
        for ccache in await read(uid, lambda each: _outgoing(each, call)):
            exported += "ccache" in ccache
            left_out += "left_out" in ccache
            yield ccache
    call.summary = {"exported": exported, "left_out": left_out}


def _outgoing(collection: Collection, call: Call) -> list[dict[str, Any]]:
    items = []
    for ccache in collection:
        if call.sees(ccache.label):
            if ccache.size + _AROUND_EACH * len(ccache.credentials) > LARGEST_RECORD:
                items.append(_left_out(collection.uid, ccache.name, f"too large: {ccache.size} bytes"))
            else:
                items.append({"ccache": to_item(_record(collection, ccache))})
    items += [
        _left_out(collection.uid, name, "its secrets cannot be read")
        for name in collection.unavailable
        if call.sees(collection.label_of(name))
    ]
    return items


def _left_out(uid: int, name: bytes, reason: str) -> dict[str, Any]:
    return {"left_out": {"uid": uid, "name": name, "reason": reason}}


def _record(collection: Collection, ccache: CCache) -> CCacheRecord:
    return CCacheRecord(
        uid=collection.uid,
        principal=PrincipalRecord.of(ccache.principal),
        credentials=[credential.blob for credential in ccache.credentials],
        name=ccache.name,
        kdc_offset=ccache.kdc_offset,
        label=ccache.label,
        default=ccache.name == collection.default_name,
        default_of=[range_ for range_, name in collection.defaults.by_range if name == ccache.name],
    )


class ImportArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done with ccaches that are there, and with those whose tickets have all expired.

    `dry_run`: change nothing, and tell what would happen; `replace`: what is there gives way even if it is
    not older; `skip_expired`: leave those out.
    """

    dry_run: bool = False
    replace: bool = False
    skip_expired: bool = False


async def import_ccaches(call: Call) -> AsyncIterator[dict[str, Any]]:
    """What has become of each ccache that the client sends behind its request, in that order.

    Each is taken whole or not at all, whatever becomes of the others.
    """
    importer = _Importer(call)
    async for batch in _batches(call):
        for result in await importer.take(batch):
            yield {"ccache": result}
    call.summary = dict(importer.totals)


async def _batches(call: Call) -> AsyncIterator[list[ImportedCCache | ImportRefusedError]]:
    batch: list[ImportedCCache | ImportRefusedError] = []
    size = 0
    async for item in call.received():
        imported = await _read(item)
        batch.append(imported)
        size += 0 if isinstance(imported, ImportRefusedError) else imported.record.size
        if len(batch) >= _TOGETHER or size >= _TOGETHER_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _read(item: Any) -> ImportedCCache | ImportRefusedError:
    try:
        return await read_imported(item)
    except ImportRefusedError as refused:
        return refused


class _Importer:
    """Takes ccaches in, batch by batch, or tries what would happen if they were."""

    def __init__(self, call: Call) -> None:
        self.totals: Counter[str] = Counter()
        self._call = call
        self._arguments: ImportArguments = call.arguments
        self._policy = ImportPolicy(
            call, replace=self._arguments.replace, skip_expired=self._arguments.skip_expired
        )
        # Collections to try on, of the UIDs that were in the last batch; and what all of them count in.
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
        """Those of one UID, in one change."""

        def take_all(collection: Collection) -> list[Result]:
            target = self._trial(collection) if self._arguments.dry_run else collection
            return [self._policy.take(target, each.imported) for each in numbered]

        try:
            taken = await self._call.change(uid, take_all)
        except KcmError as error:
            taken = [each.imported.become(Outcome.REFUSED, str(error)) for each in numbered]
        for each, result in zip(numbered, taken, strict=True):
            results[each.number] = result

    def _trial(self, collection: Collection) -> Collection:
        trial = self._trials.get(collection.uid)
        if trial is None:
            trial = self._trials[collection.uid] = collection.copy(self._ccache_count)
            self._ccache_count = trial.ccache_count
        return trial


class _Numbered(NamedTuple):
    number: int
    imported: ImportedCCache
