"""Key changes in their own processes, which can be killed and whose calls can fail.

    python -m tests.disk.rekeying

reads the paths of state folders, one a line. For each it forks a process that changes the key of the store,
and commits secrets while the copy is made. Then it prints the process's exit status. The file `acknowledged`
next to the database has a byte for each acknowledged secret, in order. With PREPARE in the environment, the
process creates the store first.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from pykcm.store.copies import Rekeyed
from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key, load_key
from pykcm.store.sqlcipher import rekey as module
from pykcm.store.sqlcipher.online_copy import copy_file
from pykcm.store.sqlcipher.rekey import rekey as change_key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, uid_container
from tests.disk.storing import ROOT
from tests.storing import commit_changes, secrets_of

UID = 1000
DATABASE = "pykcm.db"

# The numbers of secrets committed before and during the key change: more than one turn copies again.
BEFORE = 8
DURING = 130


def open_store(folder: Path) -> SQLCipherStore:
    key = load_key(folder / "key", may_create=not (folder / DATABASE).exists())
    return SQLCipherStore(folder / DATABASE, key)


def put(number: int) -> Put:
    """Secret `number`; one of the first ones has more than a page."""
    return Put(uid_container(UID), f"{number}", b"%d " % number * (1500 if number < BEFORE else 20))


async def prepare(folder: Path) -> None:
    """Create a store with the first secrets."""
    store = open_store(folder)
    await commit_changes(store, [put(number) for number in range(BEFORE)])
    (folder / "acknowledged").write_bytes(bytes(BEFORE))
    store.close()


async def secrets(folder: Path) -> list[int]:
    """The secrets that a start finds, which must be complete; the store must accept another one."""
    store = open_store(folder)
    try:
        found = [int(secret.name) for secret in await secrets_of(store, UID)]
        assert {put(number) for number in found} == {
            Put(uid_container(UID), each.name, each.value) for each in await secrets_of(store, UID)
        }
        await commit_changes(store, [Put(uid_container(UID + 1), "another", b"value")])
        assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        store.close()
    return found


async def rekey(folder: Path, raw: bytes | None = None) -> Rekeyed:
    """Change the key of the store in `folder`, and commit while its copy is made."""
    store = open_store(folder)
    loop = asyncio.get_running_loop()
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY)

    async def commit_meanwhile() -> None:
        # A few large commits, because each one takes time.
        for first in range(BEFORE, BEFORE + DURING, 26):
            numbers = range(first, first + 26)
            await commit_changes(store, [put(number) for number in numbers])
            os.pwrite(acknowledged, bytes(len(numbers)), first)

    def copy(*arguments: object) -> None:
        # In the thread of the copy, which waits, so that each run is the same.
        copy_file(*arguments)  # type: ignore[arg-type]
        asyncio.run_coroutine_threadsafe(commit_meanwhile(), loop).result()

    try:
        with patch.object(module, "copy_file", copy):
            return await change(store, raw)
    finally:
        os.close(acknowledged)
        store.close()


async def change(store: SQLCipherStore, raw: bytes | None = None) -> Rekeyed:
    """Change the key of an open store."""
    *_, rekeyed = [step async for step in change_key(store, raw)]
    assert isinstance(rekeyed, Rekeyed)
    return rekeyed


async def refusal(store: SQLCipherStore, kind: type[Exception], raw: bytes | None = None) -> str:
    """Return the message with which a change of keys is refused."""
    with pytest.raises(kind) as caught:
        await change(store, raw)
    return str(caught.value)


def files(folder: Path) -> set[str]:
    """The names of the store's files."""
    return {path.name for path in folder.iterdir()} - {"acknowledged"}


def opens(database: Path, raw: bytes) -> bool:
    """Whether this key opens the database."""
    try:
        SQLCipherStore(database, Key(raw, database.with_name("some"))).close()
    except StoreUnusableError:
        return False
    return True


class Rekeying:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, folder: Path) -> int:
        """Change the key of the store in this folder; returns the exit status, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(folder, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def rekeying(environment: Mapping[str, str], wrapper: Sequence[str] = ()) -> Iterator[Rekeying]:
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-m", "tests.disk.rekeying"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
    )
    with process:
        yield Rekeying(process)
        assert process.stdin is not None
        process.stdin.close()


def _run_child(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if "PREPARE" in os.environ:
                asyncio.run(prepare(folder))
            asyncio.run(rekey(folder))
            status = 0
        finally:
            os._exit(status)
    _, waited = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(waited)


if __name__ == "__main__":
    for line in sys.stdin:
        print(_run_child(Path(line.rstrip("\n"))), flush=True)  # noqa: T201
