"""Clients that change their ccaches while the daemon fails, and the check of the result."""

import random
import shutil
from collections.abc import Callable

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError
from tests.disk.faults import Faults
from tests.disk.history import Contents, History
from tests.disk.numbered import changes
from tests.disk.writer import Writer

from .daemon import Pykcmd, effective_uid
from .database import open_database


class Crashes:
    """A daemon that is killed, its clients, and the changes that were acknowledged to them.

    `owners`: the owner of each ccache, by name. `refusals`: the codes of all answers except 0.
    """

    def __init__(self, daemon: Pykcmd, faults: Faults, owners: dict[bytes, int], rng: random.Random) -> None:
        self.daemon = daemon
        self.faults = faults
        self.rng = rng
        self.histories = {name: History() for name in owners}
        self.acknowledged = 0
        self.refusals: set[int] = set()
        self._owners = owners
        self._free = 0

    def start(self) -> None:
        self.daemon.start("--log-level", "info", environment=self.faults.environment)

    def write(self) -> list[Writer]:
        """Start the clients."""
        writers = []
        for name, owner in self._owners.items():
            is_there = self.histories[name].acknowledged is not None
            stream = changes(self.rng.getrandbits(32), self._free, is_there=is_there)
            writers.append(Writer(self.daemon.socket_path, name, owner, stream))
        return writers

    def end(self, writers: list[Writer]) -> None:
        """After the daemon has ended, collect the clients' results."""
        for writer, history in zip(writers, self.histories.values(), strict=True):
            known = len(history.earlier)
            free, refusals = writer.end(history)
            self._free = max(self._free, free)
            self.refusals |= refusals
            self.acknowledged += len(history.earlier) - known

    def check(self) -> None:
        """All acknowledged changes are there; each other request was executed completely or not at all."""
        for name, owner in self._owners.items():
            with effective_uid(owner), KcmClient(self.daemon.socket_path) as kcm:
                found = contents_of(kcm, name)
                assert (name in names_of(kcm)) == (found is not None)
            self.histories[name].settle(found)


def code_of(change: Callable[[], object]) -> int:
    """The code that answers the change."""
    try:
        change()
    except KcmError as error:
        return error.code
    return 0


def contents_of(kcm: KcmClient, name: bytes) -> Contents:
    try:
        return tuple(kcm.get_cred_list(name))
    except KcmError as error:
        if error.code == Code.FCC_NOFILE:
            return None
        raise


def names_of(kcm: KcmClient) -> list[bytes]:
    return [kcm.get_cache_by_uuid(uuid) for uuid in kcm.get_cache_uuid_list()]


def look_into(daemon: Pykcmd) -> None:
    """A copy of the files that the killed daemon left must be a sound database."""
    copy = daemon.folder / "copy"
    shutil.copytree(daemon.state_dir, copy)
    with open_database(copy) as database:
        # Checkpoint the write-ahead log; then every page of the database is checked.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA cipher_integrity_check").fetchall() == []
    shutil.rmtree(copy)
