"""A database in a folder of its own, ways to damage it, and numbered secrets."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import connect
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, SecretChange, uid_container
from tests.processes import in_child
from tests.storing import commit_changes, secrets_of

PAGE = 4096
WAL_HEADER, FRAME_HEADER = 32, 24


MARK = b"a ticket that must not be readable"


class Database:
    """A database in a folder of its own, and ways to damage it. The secrets are numbered."""

    def __init__(self, folder: Path, key: Key) -> None:
        self.folder = folder
        self.key = key
        self.path = folder / "pykcm.db"
        self.log = folder / "pykcm.db-wal"
        folder.mkdir()

    def open(self) -> SQLCipherStore:
        return SQLCipherStore(self.path, self.key)

    def write(self, *numbers: int) -> None:
        """Put these secrets and close in order: then there is no write-ahead log."""
        store = self.open()
        put(store, *numbers)
        store.close()
        assert not self.log.exists()

    def write_and_die(self, *numbers: int) -> None:
        """Put these secrets in a process that ends at once: they are only in the write-ahead log."""

        def write() -> SQLCipherStore:
            store = self.open()
            for number in numbers:
                put(store, number)
            return store

        in_child(write)
        assert self.log.stat().st_size

    def execute_and_die(self, statement: str) -> None:
        """Run a statement in a process that ends at once: what it changed is only in the write-ahead log."""

        def execute() -> Any:
            connection = connect(self.path, self.key, "rw")
            connection.execute(statement)
            return connection

        in_child(execute)
        assert self.log.stat().st_size

    def execute(self, statement: str) -> None:
        connection = connect(self.path, self.key, "rw")
        connection.execute(statement)
        connection.close()

    def read(self) -> list[int]:
        """The numbers of the secrets that are there, in order."""
        store = self.open()
        secrets = asyncio.run(secrets_of(store, 1000))
        store.close()
        assert all(secret.value == value_of(int(secret.name)) for secret in secrets)
        return [int(secret.name) for secret in secrets]

    def overwrite(self, offset: int, size: int = 16) -> None:
        """Change each of these bytes."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            spoilt = bytes(byte ^ 0xA5 for byte in file.read(size))
            file.seek(offset)
            file.write(spoilt)

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def refusal(self, key: Key | None = None) -> str:
        """Why the store cannot be opened; every file must be left byte for byte as it was."""
        before = self.files
        with pytest.raises(StoreUnusableError) as caught:
            SQLCipherStore(self.path, key or self.key).close()
        message = str(caught.value)
        # A connection that was left open writes when it goes.
        del caught
        gc.collect()
        assert self.files == before
        return message


def value_of(number: int) -> bytes:
    return MARK + b"%d" % number * 500


def change(number: int) -> SecretChange:
    return Put(uid_container(1000), str(number), value_of(number))


def put(store: SQLCipherStore, *numbers: int) -> None:
    asyncio.run(commit_changes(store, [change(number) for number in numbers]))


def numbers_in(store: SQLCipherStore) -> list[int]:
    return [int(secret.name) for secret in asyncio.run(secrets_of(store, 1000))]
