"""The request import of an ordinary user: ccaches into their own collection, over the KCM socket."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from pykcm.ccaches.collection import Collection
from pykcm.cli.names import format_user
from pykcm.cli.user_collection import read_collection, user_call
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.control.frames import FrameType, encode
from pykcm.control.import_policy import (
    CCacheReader,
    ImportedCCache,
    ImportPolicy,
    ImportRefusedError,
    Outcome,
    Result,
)
from pykcm.control.messages import largest_frame
from pykcm.control.records import CCacheHeader
from pykcm.control.transfer import ImportArguments
from pykcm.peer.labels import LabelError, parse_label
from pykcm.protocol.codes import KcmError
from pykcm.protocol.wire import U32

_LABEL = Path("/proc/self/attr/current")

_WRITTEN = {Outcome.IMPORTED, Outcome.REPLACED}


def import_frames(
    kcm: KcmClient, wanted: ImportArguments, frames: Iterable[Any], summary: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the result for each ccache in the frames, by the rules of the daemon's import."""
    collection = read_collection(kcm)
    policy = ImportPolicy(
        user_call(wanted, collection), replace=wanted.replace, skip_expired=wanted.skip_expired
    )
    totals: Counter[str] = Counter()
    for imported in _received(frames):
        if isinstance(imported, ImportRefusedError):
            result = imported.result
        else:
            result = _take(kcm, policy, collection, imported, is_trial=wanted.dry_run)
            if result.result in _WRITTEN and not wanted.dry_run:
                # The server may have removed other ccaches to make room.
                collection = read_collection(kcm)
        totals[result.result] += 1
        yield {"ccache": result.item()}
    summary.update(totals)


def _received(frames: Iterable[Any]) -> Iterator[ImportedCCache | ImportRefusedError]:
    """Yield each ccache when its last frame has come."""
    # The server has limits of its own.
    config = Config(max_ccache_size=0, max_ccache_credentials=0)
    blob_type = FrameType(bytes, largest_frame(config))
    reader: CCacheReader | None = None
    for frame in frames:
        body = encode(frame)[U32.size :]
        if isinstance(frame, CCacheHeader):
            if reader is not None:
                yield reader.result()
            reader = CCacheReader(body, config, blob_type)
        elif reader is not None:
            reader.add(body)
    if reader is not None:
        yield reader.result()


def _take(
    kcm: KcmClient,
    policy: ImportPolicy,
    collection: Collection,
    imported: ImportedCCache,
    *,
    is_trial: bool,
) -> Result:
    """Import one ccache, into `collection` and, unless it is a trial, into the server."""
    reason = _refusal(imported.record, collection.uid)
    if reason is not None:
        return imported.become(Outcome.REFUSED, reason)
    # The server gives a ccache the label of the process that stores it.
    imported.ccache.label = None
    imported = imported._replace(record=msgspec.structs.replace(imported.record, label=None, default_of=[]))
    default = collection.default_name
    result = policy.take(collection, imported)
    if is_trial or result.name is None:
        return result
    try:
        if result.result in _WRITTEN:
            blobs = [each.blob for each in imported.ccache.credentials]
            kcm.replace(result.name, imported.ccache.kdc_offset, imported.ccache.principal, blobs)
        if collection.default_name != default:
            kcm.set_default_cache(collection.default_name)
    except KcmError as error:
        return imported.become(Outcome.REFUSED, error.reason or f"the server answers {error}", result.name)
    return result


def _refusal(record: CCacheHeader, uid: int) -> str | None:
    """Why a user may not import this ccache, or None."""
    if record.uid != uid:
        return f"it belongs to {format_user(record.uid)}: only root may import it"
    if record.label is not None and (range_ := _range_of_process()) is not None:
        try:
            level = parse_label(record.label).range
        except LabelError as error:
            return f"its SELinux label is {error}"
        if level != range_:
            return f"its SELinux level is {level}: import it at this level, or as root"
    return None


def _range_of_process() -> str | None:
    """The SELinux range of this process, or None without SELinux."""
    try:
        return parse_label(_LABEL.read_text().rstrip("\0\n")).range
    except (OSError, LabelError):
        return None
