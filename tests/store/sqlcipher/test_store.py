"""The SQLCipher store: its files, kills, and errors of commits and reads."""

import asyncio
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import COVER
from pykcm.store.sqlcipher.statements import Applier
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, SecretChange, uid_container
from tests.processes import in_child
from tests.store.sqlcipher.databases import (
    FRAME_HEADER,
    MARK,
    PAGE,
    WAL_HEADER,
    Database,
    change,
    numbers_in,
    put,
)
from tests.storing import commit_changes, secrets_of


def test_first_start_creates_one_file(database: Database) -> None:
    """The first start creates the database, which is one file when it is closed."""
    database.write()
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == []


def test_empty_file_becomes_a_database(database: Database) -> None:
    """A file of no bytes, which an interrupted first start may leave, becomes a database."""
    database.path.touch()
    database.write(1)
    assert database.read() == [1]


def test_unfinished_database_is_created_again(database: Database) -> None:
    """An unfinished database of an interrupted first start is created again."""
    for ending in ("", "-journal", "-wal"):
        (database.folder / f"pykcm.db.new{ending}").write_bytes(bytes(PAGE))
    database.write(1)
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == [1]


def test_kill_at_the_first_start_leaves_key_and_version(database: Database, tmp_path: Path) -> None:
    """From the first start on, the database's file alone shows key and version."""
    in_child(database.open)
    database.log.unlink(missing_ok=True)
    assert str(database.path) in database.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert database.read() == []


def test_kill_loses_no_commit(database: Database) -> None:
    """All commits are there after each of several kills, from the first start on."""
    database.write_and_die(1)
    database.write_and_die(2, 3)
    assert database.read() == [1, 2, 3]
    database.write_and_die(4)
    assert database.read() == [1, 2, 3, 4]


def test_kill_within_a_commit_changes_nothing(filled: Database) -> None:
    """A commit that was not finished has changed nothing."""

    def die_within() -> SQLCipherStore:
        store = filled.open()
        store._db.execute("BEGIN IMMEDIATE")
        for number in range(100, 110):
            store._writer._applier.apply(change(number))
        return store

    in_child(die_within)
    assert filled.read() == list(range(10))


def test_damaged_pages_that_are_in_the_log_do_no_harm(filled: Database) -> None:
    """Damaged pages of the database do no harm if the write-ahead log has them."""
    filled.write_and_die(*range(10, 30))
    log = filled.log.read_bytes()
    frames = range(WAL_HEADER, len(log) - FRAME_HEADER, FRAME_HEADER + PAGE)
    pages = {struct.unpack_from(">I", log, frame)[0] for frame in frames}
    in_database = [page for page in pages if 0 < page * PAGE <= filled.path.stat().st_size]
    assert in_database
    for page in in_database:
        filled.overwrite((page - 1) * PAGE + 100)
    assert filled.read() == list(range(30))


def test_damaged_first_page_that_is_in_the_log_does_no_harm(filled: Database) -> None:
    """A damaged first page, which identifies the file, does no harm if the log has it."""
    filled.execute_and_die("CREATE TABLE something (id INTEGER PRIMARY KEY)")
    filled.overwrite(100)
    assert filled.read() == list(range(10))
    assert filled.read() == list(range(10))


def test_complete_commits_of_a_truncated_log_count(filled: Database) -> None:
    """Of a log that ends within a commit, the complete commits count."""
    filled.write_and_die(10, 11)
    os.truncate(filled.log, filled.log.stat().st_size - 100)
    assert filled.read() == list(range(11))


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_durability_sets_synchronous(database: Database, durability: str) -> None:
    """The database has the requested durability, a write-ahead log, and no plain file beside it."""
    store = SQLCipherStore(database.path, database.key, durability)
    [(synchronous,)] = store._db.execute("PRAGMA synchronous").fetchall()
    assert synchronous == {"normal": 1, "full": 2}[durability]
    for pragma, wanted in [("journal_mode", "wal"), ("secure_delete", 1)]:
        assert store._db.execute(f"PRAGMA {pragma}").fetchall() == [(wanted,)]
    assert set(database.files) == {"pykcm.db", "pykcm.db-wal"}
    store.close()


def test_files_show_no_secret(filled: Database) -> None:
    """Neither the database nor its log shows a secret, a path, or that it is an SQLite database."""
    filled.write_and_die(10, 11)
    assert set(filled.files) == {"pykcm.db", "pykcm.db-wal"}
    for content in filled.files.values():
        for plain in (MARK, b"persistent", b"SQLite", b"CREATE TABLE"):
            assert plain not in content


def test_path_may_have_characters_of_a_uri(tmp_path: Path, key: Key) -> None:
    """The folder's name may have characters that mean something in a URI."""
    database = Database(tmp_path / "a?mode=memory&x=%41#b", key)
    database.write(1)
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == [1]


def test_commit_is_all_or_nothing(filled: Database) -> None:
    """One change that fails undoes those before it."""
    store = filled.open()
    impossible: Any = object()
    with pytest.raises(StoreError):
        asyncio.run(
            commit_changes(store, [change(10), Put(uid_container(1000), "x", impossible), change(11)])
        )
    assert numbers_in(store) == list(range(10))
    put(store, 12)
    store.close()
    assert filled.read() == [*range(10), 12]


def test_failing_iterable_undoes_the_changes(filled: Database) -> None:
    """Changes whose source fails are undone, and the store goes on."""

    def changes() -> Iterator[SecretChange]:
        yield change(10)
        raise ZeroDivisionError

    store = filled.open()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(commit_changes(store, changes()))
    assert numbers_in(store) == list(range(10))
    put(store, 11)
    store.close()
    assert filled.read() == [*range(10), 11]


class FailingConnection:
    """A connection whose statements fail from the moment that the test says so."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.fails: Callable[[str], Exception | None] = lambda _: None

    def execute(self, statement: str, *parameters: Any) -> Any:
        error = self.fails(statement)
        if error is not None:
            raise error
        return self.real.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def failing(filled: Database) -> Iterator[tuple[SQLCipherStore, FailingConnection]]:
    """An open store and the connection that can be made to fail."""
    store = filled.open()
    connection = FailingConnection(store._db)
    store._db = store._writer._db = connection
    store._writer._applier = Applier(connection)
    yield store, connection
    store.close()


def database_error(name: str) -> Exception:
    error: Exception = sqlcipher.OperationalError("injected")
    error.sqlite_errorname = name  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SQLITE_FULL", errno.ENOSPC),
        ("SQLITE_READONLY", errno.EROFS),
        ("SQLITE_READONLY_DBMOVED", errno.EROFS),
        ("SQLITE_NOMEM", errno.ENOMEM),
        ("SQLITE_CANTOPEN", errno.EIO),
        ("SQLITE_IOERR_FSYNC", errno.EIO),
        ("SQLITE_CORRUPT", errno.EIO),
        ("SQLITE_NOTADB", errno.EIO),
    ],
)
@pytest.mark.parametrize("at", ["BEGIN", "INSERT", "COMMIT"])
def test_failed_commit_changes_nothing(
    failing: tuple[SQLCipherStore, FailingConnection], at: str, name: str, code: int
) -> None:
    """A commit that fails anywhere answers a system errno, changes nothing, and the store goes on."""
    store, connection = failing
    connection.fails = lambda statement: database_error(name) if statement.strip().startswith(at) else None
    with pytest.raises(StoreError) as caught:
        put(store, 10)
    assert caught.value.code == code
    assert name in caught.value.reason
    assert caught.value.reason.startswith(f"{store.path}: ")
    connection.fails = lambda _: None
    assert numbers_in(store) == list(range(10))
    put(store, 11)
    assert numbers_in(store) == [*range(10), 11]


def test_failed_transaction_of_one_statement_changes_nothing(
    failing: tuple[SQLCipherStore, FailingConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is fast, a statement syncs by itself. After a failed sync the log is overwritten."""
    store, connection = failing
    monkeypatch.setattr("pykcm.store.sqlcipher.writer._FAST", 3600.0)
    for _ in range(16):
        put(store, 1)
    executed: list[str] = []

    def fail(statement: str) -> Exception | None:
        executed.append(statement.split(maxsplit=1)[0])
        return database_error("SQLITE_IOERR_FSYNC") if executed[-1] == "INSERT" else None

    connection.fails = fail
    with pytest.raises(StoreError) as caught:
        put(store, 10)
    assert caught.value.code == errno.EIO
    assert [each for each in executed if each != "SELECT"] == ["INSERT", COVER.split()[0]]
    connection.fails = lambda _: None
    assert numbers_in(store) == list(range(10))


def test_failed_read_raises_store_error(failing: tuple[SQLCipherStore, FailingConnection]) -> None:
    """A failed read raises StoreError and nothing else."""
    store, connection = failing
    connection.fails = lambda _: database_error("SQLITE_IOERR_READ")
    for reading in (secrets_of(store, 1000), store.uids(), store.count_ccaches()):
        with pytest.raises(StoreError) as caught:
            asyncio.run(reading)
        assert caught.value.code == errno.EIO


def test_database_that_may_not_grow_answers_enospc(filled: Database) -> None:
    """It keeps its secrets, and accepts more as soon as it may grow."""
    store = filled.open()
    [(pages,)] = store._db.execute("PRAGMA page_count").fetchall()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError) as caught:
        put(store, *range(10, 100))
    assert caught.value.code == errno.ENOSPC
    assert numbers_in(store) == list(range(10))
    store._db.execute("PRAGMA max_page_count = 100000")
    put(store, *range(10, 100))
    store.close()
    assert filled.read() == list(range(100))


def test_read_only_database_answers_erofs(filled: Database) -> None:
    """A database that became read-only answers EROFS, and can still be read."""
    store = filled.open()
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError) as caught:
        put(store, 10)
    assert caught.value.code == errno.EROFS
    assert numbers_in(store) == list(range(10))
    store.close()


@pytest.mark.parametrize("killed", [False, True])
def test_damaged_page_of_a_large_database_answers_eio(
    filled: Database, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """A damaged page of a database that is not checked completely answers EIO when it is read."""
    monkeypatch.setattr("pykcm.store.sqlcipher.database._CHECKED_AT_START", 0)
    filled.write(*range(10, 100))
    if killed:
        filled.write_and_die(100)
    filled.overwrite(filled.path.stat().st_size // PAGE // 2 * PAGE + 1000, 1)
    store = filled.open()
    with pytest.raises(StoreError) as caught:
        numbers_in(store)
    assert caught.value.code == errno.EIO
    store.close()


def test_page_damaged_while_open_answers_eio(filled: Database) -> None:
    """A page that cannot be read any more answers EIO, and not the damaged contents."""
    filled.write(*range(10, 300))
    store = filled.open()
    for page in range(3, filled.path.stat().st_size // PAGE):
        filled.overwrite(page * PAGE + 1000)
    with pytest.raises(StoreError) as caught:
        numbers_in(store)
    assert caught.value.code == errno.EIO
    store.close()


def test_full_disk_answers_enospc(mount_disk: Callable[[int], Path], key: Key) -> None:
    """No acknowledged secret is lost, and commits go on when there is room."""
    disk = mount_disk(256)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    database = Database(disk / "state", key)
    store = database.open()
    written = 0
    with pytest.raises(StoreError) as caught:  # noqa: PT012 - one of them is the one too many
        for number in range(10_000):
            put(store, number)
            written += 1
    assert caught.value.code == errno.ENOSPC
    assert written > 0
    assert numbers_in(store) == list(range(written))
    ballast.unlink()
    put(store, written)
    store.close()
    assert database.read() == list(range(written + 1))
