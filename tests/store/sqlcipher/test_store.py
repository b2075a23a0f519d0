"""The SQLCipher store: what a crash leaves, what cannot be opened, and what fails while it is open."""

import asyncio
import errno
import gc
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreError, StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import SCHEMA_VERSION, connect
from pykcm.store.sqlcipher.statements import Applier
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Put, SecretChange, uid_container
from tests.processes import in_child
from tests.storing import commit_changes, secrets_of

PAGE = 4096
WAL_HEADER, FRAME_HEADER = 32, 24

MARK = b"a ticket that must not be readable"


class Database:
    """A database in a folder of its own, and ways to spoil it. The secrets are numbered."""

    def __init__(self, folder: Path, key: Key) -> None:
        self.folder = folder
        self.key = key
        self.path = folder / "pykcm.db"
        self.journal = folder / "pykcm.db-wal"
        folder.mkdir()

    def open(self) -> SQLCipherStore:
        return SQLCipherStore(self.path, self.key)

    def write(self, *numbers: int) -> None:
        """Put these secrets and close in order: then there is no journal."""
        store = self.open()
        put(store, *numbers)
        store.close()
        assert not self.journal.exists()

    def write_and_die(self, *numbers: int) -> None:
        """Put these secrets in a process that ends at once: they are in the journal alone."""

        def write() -> SQLCipherStore:
            store = self.open()
            for number in numbers:
                put(store, number)
            return store

        in_child(write)
        assert self.journal.stat().st_size

    def execute_and_die(self, statement: str) -> None:
        """Run a statement in a process that ends at once: what it changed is in the journal alone."""

        def execute() -> Any:
            connection = connect(self.path, self.key, "rw")
            connection.execute(statement)
            return connection

        in_child(execute)
        assert self.journal.stat().st_size

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
        """Make each of these bytes another one."""
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


@pytest.fixture
def database(tmp_path: Path, key: Key) -> Database:
    """No database yet."""
    return Database(tmp_path / "state", key)


@pytest.fixture
def filled(database: Database) -> Database:
    """A database of ten secrets, closed in order."""
    database.write(*range(10))
    return database


@pytest.fixture(params=["closed in order", "killed"])
def either(filled: Database, request: pytest.FixtureRequest) -> Database:
    """A database that was closed in order, and one whose journal a killed process left behind."""
    if request.param == "killed":
        filled.write_and_die(10, 11)
    return filled


# What a crash leaves


def test_created_at_first_start(database: Database) -> None:
    """The database is made where it is missing, and is one file when it is closed."""
    database.write()
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == []


def test_an_empty_file_is_no_database(database: Database) -> None:
    """A file of no bytes, such as an interrupted first start leaves, becomes a database."""
    database.path.touch()
    database.write(1)
    assert database.read() == [1]


def test_what_an_interrupted_first_start_left(database: Database) -> None:
    """A database that was never finished is no database, whatever there is of it, and is made anew."""
    for ending in ("", "-journal", "-wal"):
        (database.folder / f"pykcm.db.new{ending}").write_bytes(bytes(PAGE))
    database.write(1)
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == [1]


def test_killed_at_the_first_start(database: Database, tmp_path: Path) -> None:
    """From the first start on the key and the version can be told from the database file alone."""
    in_child(database.open)
    database.journal.unlink(missing_ok=True)
    assert str(database.path) in database.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert database.read() == []


def test_killed(database: Database) -> None:
    """What was committed is there after the process was killed, from the first start on, again and again."""
    database.write_and_die(1)
    database.write_and_die(2, 3)
    assert database.read() == [1, 2, 3]
    database.write_and_die(4)
    assert database.read() == [1, 2, 3, 4]


def test_killed_within_a_commit(filled: Database) -> None:
    """A commit that was not finished has changed nothing."""

    def die_within() -> SQLCipherStore:
        store = filled.open()
        store._db.execute("BEGIN IMMEDIATE")
        for number in range(100, 110):
            store._writer._applier.apply(change(number))
        return store

    in_child(die_within)
    assert filled.read() == list(range(10))


def test_interrupted_checkpoint(filled: Database) -> None:
    """Pages of the database that are spoilt while the journal has them whole do no harm."""
    filled.write_and_die(*range(10, 30))
    journal = filled.journal.read_bytes()
    frames = range(WAL_HEADER, len(journal) - FRAME_HEADER, FRAME_HEADER + PAGE)
    pages = {struct.unpack_from(">I", journal, frame)[0] for frame in frames}
    in_database = [page for page in pages if page * PAGE <= filled.path.stat().st_size]
    assert in_database
    for page in in_database:
        filled.overwrite((page - 1) * PAGE + 100)
    assert filled.read() == list(range(30))


def test_interrupted_checkpoint_of_the_first_page(filled: Database) -> None:
    """Nor does a first page, which tells what the file is, if the journal has it whole."""
    filled.execute_and_die("CREATE TABLE something (id INTEGER PRIMARY KEY)")
    filled.overwrite(100)
    assert filled.read() == list(range(10))
    assert filled.read() == list(range(10))


def test_a_journal_cut_short(filled: Database) -> None:
    """Of a journal that was cut in the middle of a commit, the whole commits before it count."""
    filled.write_and_die(10, 11)
    os.truncate(filled.journal, filled.journal.stat().st_size - 100)
    assert filled.read() == list(range(11))


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_durability(database: Database, durability: str) -> None:
    """The durability asked for is the database's, with a write-ahead journal and nothing plain aside."""
    store = SQLCipherStore(database.path, database.key, durability)
    [(synchronous,)] = store._db.execute("PRAGMA synchronous").fetchall()
    assert synchronous == {"normal": 1, "full": 2}[durability]
    for pragma, wanted in [("journal_mode", "wal"), ("secure_delete", 1)]:
        assert store._db.execute(f"PRAGMA {pragma}").fetchall() == [(wanted,)]
    assert set(database.files) == {"pykcm.db", "pykcm.db-wal"}
    store.close()


def test_nothing_is_readable_on_disk(filled: Database) -> None:
    """Neither the database nor its journal shows a secret, a path or that it is a SQLite database."""
    filled.write_and_die(10, 11)
    assert set(filled.files) == {"pykcm.db", "pykcm.db-wal"}
    for content in filled.files.values():
        for plain in (MARK, b"persistent", b"SQLite", b"CREATE TABLE"):
            assert plain not in content


def test_any_path(tmp_path: Path, key: Key) -> None:
    """The folder may have a name that means something in a URI."""
    database = Database(tmp_path / "a?mode=memory&x=%41#b", key)
    database.write(1)
    assert list(database.files) == ["pykcm.db"]
    assert database.read() == [1]


# What cannot be opened


def test_wrong_key(either: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A wrong key is refused, naming database and key; SQLCipher itself does not write to stderr."""
    message = either.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert str(either.path) in message
    assert str(tmp_path / "another.key") in message
    assert capfd.readouterr().err == ""


def test_damaged_header(either: Database) -> None:
    """A database whose first bytes are spoilt is refused."""
    either.overwrite(0)
    assert str(either.path) in either.refusal()


def test_damaged_first_page(either: Database) -> None:
    """A database whose first page is spoilt behind the header is refused."""
    either.overwrite(2000)
    assert str(either.path) in either.refusal()


def test_damaged_page(filled: Database) -> None:
    """A database with one spoilt byte in the middle is refused, and the message says where."""
    pages = filled.path.stat().st_size // PAGE
    assert pages > 4
    filled.overwrite(pages // 2 * PAGE + 1000, 1)
    message = filled.refusal()
    assert str(filled.path) in message
    assert "damaged" in message
    assert str(pages // 2 + 1) in message


def test_damaged_page_beside_a_journal(filled: Database) -> None:
    """A page that is spoilt, and not in the journal, is refused after a crash as well."""
    # So many that what the journal has anew is not in the middle.
    filled.write(*range(10, 100))
    filled.write_and_die(100)
    pages = filled.path.stat().st_size // PAGE
    filled.overwrite(pages // 2 * PAGE + 1000, 1)
    assert str(filled.path) in filled.refusal()


def test_newer_schema(filled: Database) -> None:
    """A database of a newer pykcm is refused, and the message names both versions."""
    filled.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 41}")
    message = filled.refusal()
    assert str(filled.path) in message
    assert str(SCHEMA_VERSION + 41) in message


def test_newer_schema_beside_a_journal(filled: Database) -> None:
    """So is one of a newer pykcm that was killed, in the database."""
    filled.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    filled.execute_and_die("CREATE TABLE newer (id INTEGER PRIMARY KEY)")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


def test_newer_schema_in_the_journal(filled: Database) -> None:
    """So is one whose newer version is in the journal alone: that pykcm was killed at its first start."""
    filled.execute_and_die(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


def test_newer_schema_in_the_wal_of_a_large_database(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that is too large to be checked whole."""
    monkeypatch.setattr("pykcm.store.sqlcipher.database._CHECKED_AT_START", 0)
    filled.execute_and_die(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


@pytest.mark.parametrize("cut", [1, PAGE // 2, PAGE, 2 * PAGE])
def test_truncated(filled: Database, cut: int) -> None:
    """A database that lacks its last bytes or pages is refused."""
    os.truncate(filled.path, filled.path.stat().st_size - cut)
    message = filled.refusal()
    assert str(filled.path) in message
    assert str(filled.key.source) not in message, "the key is right"


def test_truncated_beside_a_journal(filled: Database) -> None:
    """So is one whose journal does not have all that is missing."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, filled.path.stat().st_size - 2 * PAGE)
    assert str(filled.path) in filled.refusal()


@pytest.mark.parametrize("cut", [1, PAGE])
def test_truncated_but_whole_in_the_journal(filled: Database, cut: int) -> None:
    """One whose journal has all that is missing is read whole."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, filled.path.stat().st_size - cut)
    assert filled.read() == list(range(12))


@pytest.mark.parametrize("left", [PAGE, PAGE // 2, 100])
def test_hardly_anything_left(either: Database, left: int) -> None:
    """A database of which only the begin is left is refused."""
    os.truncate(either.path, left)
    assert str(either.path) in either.refusal()


def test_nothing_left_beside_a_journal(filled: Database) -> None:
    """A database of no bytes beside a journal that has some is no first start: the journal has tickets."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, 0)
    assert str(filled.path) in filled.refusal()


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + bytes(PAGE), bytes(2 * PAGE)])
def test_no_database_at_all(database: Database, content: bytes) -> None:
    """Another file of that name is refused."""
    database.path.write_bytes(content)
    assert str(database.path) in database.refusal()


def test_a_plain_database(database: Database) -> None:
    """An unencrypted database is refused."""
    plain = sqlcipher.connect(str(database.path))
    plain.execute("CREATE TABLE secrets (id INTEGER PRIMARY KEY)")
    plain.close()
    assert str(database.path) in database.refusal()


def test_a_folder_in_its_place(database: Database) -> None:
    """A folder of that name is refused."""
    database.path.mkdir()
    with pytest.raises(StoreUnusableError) as caught:
        database.open()
    assert str(database.path) in str(caught.value)


def test_no_folder(database: Database) -> None:
    """A database in a folder that is not there is refused."""
    database.folder.rmdir()
    with pytest.raises(StoreUnusableError) as caught:
        database.open()
    assert str(database.path) in str(caught.value)


def test_refused_once_then_opened(either: Database, tmp_path: Path) -> None:
    """A refusal does no harm: with the right key everything is there."""
    either.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert either.read()[:10] == list(range(10))


# What fails while it is open


def test_a_failing_change_undoes_the_others(filled: Database) -> None:
    """A commit is all or nothing: one change that cannot be made undoes those before it."""
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


def test_a_failing_iterable_undoes_the_others(filled: Database) -> None:
    """Changes whose source fails half-way are undone, too; the store goes on."""

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
def test_errors_of_a_commit(
    failing: tuple[SQLCipherStore, FailingConnection], at: str, name: str, code: int
) -> None:
    """A commit that fails anywhere answers a system errno, has changed nothing, and the store goes on."""
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


def test_errors_of_reading(failing: tuple[SQLCipherStore, FailingConnection]) -> None:
    """Reading that fails raises StoreError and nothing else."""
    store, connection = failing
    connection.fails = lambda _: database_error("SQLITE_IOERR_READ")
    for reading in (secrets_of(store, 1000), store.uids(), store.count_ccaches()):
        with pytest.raises(StoreError) as caught:
            asyncio.run(reading)
        assert caught.value.code == errno.EIO


def test_a_full_database(filled: Database) -> None:
    """A database that may not grow answers ENOSPC, keeps what it had, and goes on when it may."""
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


def test_a_database_that_cannot_be_written(filled: Database) -> None:
    """A database that became read-only answers EROFS, and can still be read."""
    store = filled.open()
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError) as caught:
        put(store, 10)
    assert caught.value.code == errno.EROFS
    assert numbers_in(store) == list(range(10))
    store.close()


@pytest.mark.parametrize("killed", [False, True])
def test_a_damaged_page_of_a_large_database(
    filled: Database, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """In a database too large to be checked whole at start a spoilt page answers EIO when it is read."""
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


def test_a_page_damaged_while_open(filled: Database) -> None:
    """A page that cannot be read any more answers EIO, and not what was damaged."""
    filled.write(*range(10, 300))
    store = filled.open()
    for page in range(3, filled.path.stat().st_size // PAGE):
        filled.overwrite(page * PAGE + 1000)
    with pytest.raises(StoreError) as caught:
        numbers_in(store)
    assert caught.value.code == errno.EIO
    store.close()


def test_a_full_disk(mount_disk: Callable[[int], Path], key: Key) -> None:
    """A disk that is full answers ENOSPC; nothing acknowledged is lost, and it goes on when there is room."""
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
