"""Memory: an operation frees what it used, and a connection needs little."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.framing import pack_request
from pykcm.protocol.opcodes import Opcode
from tests.builders import ALICE, BOB, TGS, credential_bytes, service, tag_for

from .conftest import started
from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid
from .exports import AgeKey

# After the first ones, the users have about as many tickets as they will ever have in this test.
SETTLED = 20_000
OPERATIONS = 60_000
UIDS = range(2_000_001, 2_000_101)
OPEN_AT_ONCE = 40
CALLS_OF_A_CONNECTION = 25  # on average

TICKETS = [credential_bytes(server, ticket=bytes(400)) for server in (TGS, *map(service, range(3)))]

# Missing entries and invalid requests are included, and tickets for which the KDC offset matters.
EXPECTED = {Code.FCC_NOFILE, Code.CC_NOTFOUND, Code.CC_END, Code.FCC_INTERNAL, Code.CC_FORMAT, Code.CC_NOSUPP}


@contextlib.contextmanager
def _refusals_expected() -> Iterator[None]:
    try:
        yield
    except KcmError as error:
        if error.code not in EXPECTED:
            raise


def _names(uid: int) -> list[bytes]:
    return [b"%d" % uid, b"%d:other" % uid]


def _uuids(kcm: KcmClient, name: bytes) -> None:
    for uuid in kcm.get_cred_uuid_list(name):
        kcm.get_cred_by_uuid(name, uuid)


def _by_uuid(kcm: KcmClient) -> None:
    for uuid in kcm.get_cache_uuid_list():
        kcm.get_cache_by_uuid(uuid)


def _move(kcm: KcmClient, name: bytes) -> None:
    kcm.move_cache(name, name + b":moved")
    kcm.destroy(name + b":moved")


# Each operation with its weight: changes are slow, and rarer than in practice.
KINDS: list[tuple[int, Callable[[KcmClient, bytes, random.Random], object]]] = [
    (3, lambda kcm, name, _: kcm.initialize(name, ALICE)),
    (12, lambda kcm, name, chance: kcm.store(name, chance.choice(TICKETS))),
    (3, lambda kcm, name, chance: kcm.replace(name, 7, BOB, chance.sample(TICKETS, 3))),
    (2, lambda kcm, name, _: kcm.destroy(name)),
    (2, lambda kcm, name, chance: kcm.remove_cred(name, 0, tag_for(service(chance.randrange(3))))),
    (1, lambda kcm, name, _: _move(kcm, name)),
    (2, lambda kcm, name, _: kcm.set_default_cache(name)),
    (1, lambda kcm, name, chance: kcm.set_kdc_offset(name, chance.randrange(100))),
    (20, lambda kcm, name, chance: kcm.retrieve(name, 0, tag_for(service(chance.randrange(4))))),
    (15, lambda kcm, name, _: kcm.get_principal(name)),
    (10, lambda kcm, name, _: kcm.get_cred_list(name)),
    (3, lambda kcm, name, _: _uuids(kcm, name)),
    (3, lambda kcm, _, __: _by_uuid(kcm)),
    (8, lambda kcm, _, __: kcm.get_default_cache()),
    (4, lambda kcm, name, _: kcm.get_kdc_offset(name)),
    (3, lambda kcm, name, _: kcm.get_name(name)),
    (2, lambda kcm, name, _: kcm.resolve(name)),
    (2, lambda kcm, _, __: kcm.gen_new()),
    (1, lambda kcm, name, _: kcm.set_flags(name, 0)),
    (1, lambda kcm, _, __: kcm.noop()),
    (1, lambda kcm, _, __: kcm.call(99)),
    (1, lambda kcm, name, _: kcm.call(7, name)),
]


def _operate(daemon: Pykcmd, count: int, chance: random.Random) -> None:
    """Do this many operations of all kinds, on connections that are opened and closed meanwhile."""
    weights, kinds = zip(*KINDS, strict=True)
    with contextlib.ExitStack() as at_end:
        clients: list[tuple[int, KcmClient]] = []
        for _ in range(count):
            if len(clients) < OPEN_AT_ONCE or chance.random() < 1 / CALLS_OF_A_CONNECTION:
                if len(clients) == OPEN_AT_ONCE:
                    clients.pop(chance.randrange(OPEN_AT_ONCE))[1].close()
                uid = chance.choice(UIDS)
                with effective_uid(uid):
                    clients.append((uid, at_end.enter_context(KcmClient(daemon.socket_path))))
            uid, kcm = chance.choice(clients)
            (kind,) = chance.choices(kinds, weights)
            with _refusals_expected():
                kind(kcm, chance.choice(_names(uid)), chance)


@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_operations(several_uids: None, stopped_pykcmd: Pykcmd) -> None:
    """After 60,000 operations for 100 UIDs the daemon is hardly larger than after 20,000.

    The limit is about three times the measured growth. A leak of 24 bytes for each operation exceeds it.
    """
    stopped_pykcmd.configure('durability = "normal"\n')
    # At debug level, each operation would write a line.
    stopped_pykcmd.start("--log-level", "warning")
    chance = random.Random(20_000)
    _operate(stopped_pykcmd, SETTLED, chance)
    settled = stopped_pykcmd.resident_size
    _operate(stopped_pykcmd, OPERATIONS - SETTLED, chance)
    grown = stopped_pykcmd.resident_size
    assert grown <= settled * 1.04, f"{settled} bytes after {SETTLED} operations, {grown} at the end"
    assert stopped_pykcmd.stop() == 0, stopped_pykcmd.log


def _half_a_request(connection: socket.socket) -> None:
    connection.sendall(pack_request(Opcode.GET_DEFAULT_CACHE, b"")[:6])


def _a_request(connection: socket.socket) -> None:
    connection.sendall(pack_request(Opcode.GET_DEFAULT_CACHE, b""))
    assert connection.recv(100)


@pytest.mark.parametrize("use", [_a_request, _half_a_request], ids=["idle", "half open"])
def test_connection_needs_little_memory(
    several_uids: None, stopped_pykcmd: Pykcmd, use: Callable[[socket.socket], None]
) -> None:
    """An idle connection, or one with half a request, needs less than 4 KiB."""
    each, uids = 250, UIDS[:3]
    with started(stopped_pykcmd), contextlib.ExitStack() as at_end:

        def connect(count: int) -> None:
            for uid in uids:
                for _ in range(count):
                    connection = at_end.enter_context(socket.socket(socket.AF_UNIX))
                    with effective_uid(uid):
                        connection.connect(str(stopped_pykcmd.socket_path))
                    use(connection)
            assert stopped_pykcmd.answers()  # then it has also read the earlier data

        connect(6)  # allocate everything that is allocated once
        before = stopped_pykcmd.resident_size
        connect(each - 6)
        grown = stopped_pykcmd.resident_size - before
        assert grown < 4096 * (each - 6) * len(uids)
        assert stopped_pykcmd.descriptors > each * len(uids), "they are not open"


def test_export_and_import_need_little_memory(
    several_uids: None, stopped_pykcmd: Pykcmd, folder: Path
) -> None:
    """Neither side holds all of 1,000 ccaches and 20 MB in memory."""
    age_key = AgeKey(folder)
    stopped_pykcmd.configure('durability = "normal"\ncollection_cache_size = 4\n')
    stopped_pykcmd.start("--log-level", "warning")
    tickets = [credential_bytes(server, ticket=bytes(9500)) for server in (TGS, service(1))]
    uids = range(3_000_000, 3_001_000)
    for uid in uids:
        with effective_uid(uid), KcmClient(stopped_pykcmd.socket_path) as kcm:
            kcm.replace(b"%d" % uid, 0, ALICE, tickets)
    # After a restart, the memory used for these requests does not count.
    assert stopped_pykcmd.stop() == 0
    stopped_pykcmd.start("--log-level", "warning")
    ctl = Pykcmctl(stopped_pykcmd.control_path)
    at_rest = stopped_pykcmd.peak_size
    seal = ("--recipient", age_key.recipient)
    nothing = ctl.peak(folder, "export", "--uid", "0", *seal, str(folder / "nothing"))
    file = folder / "export"
    assert ctl.peak(folder, "export", *seal, str(file)) - nothing < 6_000_000
    assert file.stat().st_size > 19_000_000
    ctl.ok("destroy", "--yes", "--uid", str(uids[0]))
    assert ctl.peak(folder, "import", "--identity", str(age_key.path), str(file)) - nothing < 10_000_000
    assert stopped_pykcmd.peak_size - at_rest < 20_000_000
