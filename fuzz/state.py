"""The targets with a state: a collection restored from secrets, and a dispatcher that answers requests."""

import asyncio
import errno
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Any

from fuzz.frames import all_frames
from pykcm.ccaches.changes import CCacheCreated, Change, CredentialWritten, DefaultChanged
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults
from pykcm.ccaches.quotas import Quotas
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.engine.persistence import restore, secret_changes
from pykcm.peer.access import Access
from pykcm.peer.identity import Peer
from pykcm.peer.names import MAX_NAME
from pykcm.protocol.codes import KcmError
from pykcm.protocol.framing import FrameReader, FramingError, Sendable
from pykcm.protocol.messages import PAYLOAD
from pykcm.protocol.opcodes import Opcode
from pykcm.protocol.wire import UUID_SIZE, Reader
from pykcm.server.dispatcher import Dispatcher
from pykcm.store import tree
from pykcm.store.memory import MemoryStore

UID = 1000
PEERS = (Peer(UID, UID, 4711, None), Peer(0, 0, 4712, None), Peer(2000, 2000, 4713, None))

_LARGEST_FRAME = 4096
_QUOTAS = Quotas(max_ccaches=8, max_uid_ccaches=4, max_ccache_size=4096, max_uid_size=8192)

# The head of a secret: the number of its container, and the lengths of its name and value.
SECRET = Struct(">BBH")
_REPLY = Struct(">IIi")

CCACHE = tree.ccache_container(UID, bytes(UUID_SIZE), b"1000")
CONTAINERS = (
    tree.ccaches_container(UID),
    CCACHE,
    tree.uid_container(UID),
    tree.uid_container(UID) + "/else",
)


def restore_secrets(data: bytes) -> None:
    """Any sequence of secrets must give a consistent collection."""
    collection = Collection(UID, time.time)
    with _strict_logging():
        restore(collection, _secrets(data))
    listed = list(collection)
    assert {id(collection.get(ccache.name)) for ccache in listed} == set(map(id, listed))
    assert all(collection.by_uuid(ccache.uuid) is ccache for ccache in listed)
    assert collection.use.size == sum(ccache.size for ccache in listed)
    assert not collection.take_changes()
    # The collection is written and restored again.
    changes: list[Change] = [DefaultChanged(Defaults(collection.default_name), NOTHING_CHOSEN)]
    for ccache in listed:
        changes.append(CCacheCreated(ccache))
        changes += [CredentialWritten(ccache, *item) for item in ccache.credentials.items()]
    again = Collection(UID, time.time)
    puts = [change for change in secret_changes(UID, changes) if isinstance(change, tree.Put)]
    restore(again, [tree.Secret(*put) for put in puts])
    assert _contents(again) == _contents(collection)
    # Every credential can be removed.
    for ccache in listed:
        for uuid in list(ccache.credentials.uuids()):
            ccache.credentials.remove(uuid)
        assert ccache.credentials.size == 0
    for name in [ccache.name for ccache in listed] + list(collection.unavailable):
        collection.destroy(name)


def _secrets(data: bytes) -> list[tree.Secret]:
    # Names are unique within a container.
    secrets: dict[tuple[str, str], tree.Secret] = {}
    offset = 0
    while offset + SECRET.size <= len(data):
        number, name_size, size = SECRET.unpack_from(data, offset)
        begin = offset + SECRET.size
        offset = begin + name_size + size
        name = data[begin : begin + name_size].decode("utf-8", "replace")
        container = CONTAINERS[number % len(CONTAINERS)]
        secrets[container, name] = tree.Secret(container, name, data[begin + name_size : offset])
    return list(secrets.values())


def _contents(collection: Collection) -> list[Any]:
    return [
        collection.default_name,
        *(
            (ccache.uuid, ccache.name, ccache.principal, ccache.kdc_offset, list(ccache.credentials.items()))
            for ccache in collection
        ),
    ]


def run_service(data: bytes) -> None:
    """Each request of a stream must get a valid reply; the first byte selects the client."""
    if not data:
        return
    peer = PEERS[(data[0] & 0x7F) % len(PEERS)]
    try:
        requests = all_frames(FrameReader(_LARGEST_FRAME), data[1:])
    except FramingError:
        return
    store = MemoryStore()
    collection_cache = CollectionCache(store, _QUOTAS)
    with _strict_logging(), asyncio.Runner() as runner:
        engine = Engine(store, collection_cache)
        dispatcher = Dispatcher(engine, Access(root_lists_all=bool(data[0] & 0x80)))
        for frame in requests:
            reply = dispatcher.answer(peer, frame)
            if isinstance(reply, Coroutine):
                reply = runner.run(reply)
            _check_reply(frame.opcode, reply)
        for uid in runner.run(store.uids()):
            present = collection_cache.present(uid)
            assert present is not None
            read = Collection(uid, time.time)
            restore(read, runner.run(store.load(uid)).secrets)
            assert _contents(read) == _contents(present)
            assert all(len(ccache.name) <= MAX_NAME for ccache in present)


def _check_reply(opcode: int, reply: Sendable) -> None:
    whole = reply if isinstance(reply, bytes) else b"".join(reply.pieces)
    length, status, code = _REPLY.unpack_from(whole)
    payload = whole[_REPLY.size :]
    assert (length, status) == (4 + len(payload), 0)
    assert code != errno.EIO, "an error in pykcm: the memory store has none"
    field = PAYLOAD.get(opcode)
    if code or field is None:
        assert not payload
        return
    try:
        assert field.pack(field.read(Reader(payload))) == payload, Opcode(opcode).name
    except KcmError as error:
        raise AssertionError("the reply cannot be read") from error


class _Strict(logging.Handler):
    """Log handler that formats each line, and raises the exception of a line that has one."""

    def emit(self, record: logging.LogRecord) -> None:
        assert record.getMessage().isprintable()
        if record.exc_info and record.exc_info[1] is not None:
            raise record.exc_info[1]


@contextmanager
def _strict_logging() -> Iterator[None]:
    logger = logging.getLogger("pykcm")
    before = logger.level, logger.propagate, logger.handlers[:]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers[:] = [_Strict()]
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers[:] = before[2]
