"""A disk that fails under the running daemon: clients get the errno, reads work, no restart is needed."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code
from pykcm.protocol.opcodes import Opcode
from tests.builders import ALICE, BOB, HTTP, credential_bytes, service, tag_for
from tests.disk.faults import Call, Faults, File

from .conftest import OTHER, USER
from .crashes import Crashes, code_of, contents_of
from .daemon import Pykcmd
from .raw import request

UID = os.geteuid()
NAME = b"%d:used" % UID
UNREAD = b"%d:unread" % (OTHER if UID == 0 else UID)
TICKETS = tuple(credential_bytes(service(number)) for number in range(3))


def full(faults: Faults) -> None:
    faults.fail(Call.WRITE, errno.ENOSPC)


def read_only(faults: Faults) -> None:
    faults.fail_all(errno.EROFS)


def no_writes(faults: Faults) -> None:
    faults.fail(Call.WRITE, errno.EIO)


def no_syncs(faults: Faults) -> None:
    faults.fail(Call.SYNC, errno.EIO)


def no_room_at_the_sync(faults: Faults) -> None:
    faults.fail(Call.SYNC, errno.ENOSPC)


FAULTS = [
    (full, errno.ENOSPC),
    (no_room_at_the_sync, errno.ENOSPC),
    (read_only, errno.EROFS),
    (no_writes, errno.EIO),
    (no_syncs, errno.EIO),
]

CHANGES: list[Callable[[KcmClient], None]] = [
    lambda kcm: kcm.initialize(NAME, BOB),
    lambda kcm: kcm.initialize(NAME + b"2", BOB),
    lambda kcm: kcm.store(NAME, credential_bytes(HTTP)),
    lambda kcm: kcm.store(NAME, credential_bytes(service(0), ticket=b"renewed")),
    lambda kcm: kcm.remove_cred(NAME, 0, tag_for(service(0))),
    lambda kcm: kcm.replace(NAME, 5, BOB, [credential_bytes(HTTP)]),
    lambda kcm: kcm.set_kdc_offset(NAME, 77),
    lambda kcm: kcm.set_default_cache(NAME + b"2"),
    lambda kcm: kcm.move_cache(NAME, NAME + b"2"),
    lambda kcm: kcm.destroy(NAME),
]


@pytest.fixture
def faults(stopped_pykcmd: Pykcmd, faults_library: Path) -> Faults:
    """Faults of the state folder; none are active yet."""
    return Faults(faults_library, stopped_pykcmd.state_dir, stopped_pykcmd.folder / "faults")


def state(kcm: KcmClient) -> object:
    """Everything that a client can read."""
    names = [kcm.get_cache_by_uuid(uuid) for uuid in kcm.get_cache_uuid_list()]
    each = [
        (name, kcm.get_principal(name), kcm.get_kdc_offset(name), contents_of(kcm, name)) for name in names
    ]
    return kcm.get_default_cache(), each, contents_of(kcm, UNREAD)


def codes_of(kcm: KcmClient, changes: list[Callable[[KcmClient], None]]) -> list[int]:
    return [code_of(partial(change, kcm)) for change in changes]


@pytest.mark.parametrize(("fault", "code"), FAULTS)
def test_failed_change_returns_errno_and_changes_nothing(
    stopped_pykcmd: Pykcmd, faults: Faults, fault: Callable[[Faults], None], code: int
) -> None:
    """Reads continue, and changes work again when the disk does."""
    daemon = stopped_pykcmd
    daemon.start(environment=faults.environment)
    with KcmClient(daemon.socket_path) as kcm:
        for name in (NAME, UNREAD):
            kcm.replace(name, 3, ALICE, TICKETS)
        before = state(kcm)
    # The daemon has nothing in memory after a restart.
    daemon.kill()
    daemon.start(environment=faults.environment)
    with KcmClient(daemon.socket_path) as kcm:
        fault(faults)
        assert codes_of(kcm, CHANGES) == [code] * len(CHANGES)
        assert state(kcm) == before
        faults.mend()
        kcm.store(NAME, credential_bytes(service(9)))
        after = state(kcm)
        assert after != before
        fault(faults)
        assert codes_of(kcm, CHANGES) == [code] * len(CHANGES)
    daemon.kill()
    faults.mend()
    daemon.start(environment=faults.environment)
    with KcmClient(daemon.socket_path) as kcm:
        assert state(kcm) == after
        assert codes_of(kcm, CHANGES[:-1]) == [0] * (len(CHANGES) - 1)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("is_one_uid", [True, False], ids=["one UID", "several UIDs"])
@pytest.mark.parametrize("times", range(1, 12, 2))
def test_failed_group_commit_answers_each_change(
    stopped_pykcmd: Pykcmd, faults: Faults, times: int, is_one_uid: bool, code: int
) -> None:
    """If the common sync of several changes fails, each answer agrees with the stored state."""
    daemon = stopped_pykcmd
    daemon.start(environment=faults.environment)
    assert daemon.process is not None
    names = [b"%d:one%d" % (UID or USER + number * (not is_one_uid), number) for number in range(8)]
    clients = [KcmClient(daemon.socket_path) for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.initialize(name, ALICE)
    faults.fail(Call.SYNC, code, File.WAL, times=times)
    daemon.process.send_signal(signal.SIGSTOP)
    for client, name in zip(clients, names, strict=True):
        client._socket.sendall(request(Opcode.STORE, name + b"\0" + TICKETS[0]))
    daemon.process.send_signal(signal.SIGCONT)
    codes = []
    for client in clients:
        codes.append(int.from_bytes(client._receive(12)[8:], "big", signed=True))
        client.close()
    # A disk that takes the next bytes was not full: the errno of a sync alone is not believed.
    assert set(codes) <= {0, errno.EIO, code}
    assert faults.hits(Call.SYNC) == times
    daemon.kill()
    faults.mend()
    daemon.start(environment=faults.environment)
    with KcmClient(daemon.socket_path) as kcm:
        assert [contents_of(kcm, name) for name in names] == [() if code else TICKETS[:1] for code in codes]


STORMS = [
    (Call.WRITE, errno.ENOSPC, File.ANY),
    (Call.WRITE, errno.EIO, File.WAL),
    (Call.WRITE, errno.EIO, File.DATABASE),
    (Call.SYNC, errno.EIO, File.WAL),
    (Call.SYNC, errno.EIO, File.DATABASE),
]
ROUNDS = 4


@pytest.mark.parametrize(("call", "code", "file"), STORMS)
def test_intermittent_faults_lose_nothing(
    stopped_pykcmd: Pykcmd, faults: Faults, call: Call, code: int, file: File
) -> None:
    """After faults under load and a kill, exactly the acknowledged changes are found."""
    owners = {b"%d:written%d" % (UID, number): UID for number in range(3)}
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # noqa: T201
    crashes = Crashes(stopped_pykcmd, faults, owners, random.Random(seed))
    crashes.start()
    for _ in range(ROUNDS):
        writers = crashes.write()
        for _ in range(5):
            faults.fail(call, code, file, skip=crashes.rng.randrange(100), times=crashes.rng.randrange(1, 20))
            time.sleep(crashes.rng.uniform(0, 0.03))
        crashes.daemon.kill()
        crashes.end(writers)
        faults.mend()
        crashes.start()
        crashes.check()
    assert crashes.refusals <= {code, Code.FCC_NOFILE}
