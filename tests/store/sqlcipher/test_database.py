"""Files that are refused as a database, without a change to any byte."""

import os
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlcipher

from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.database import SCHEMA_VERSION
from tests.store.sqlcipher.databases import PAGE, Database


def test_wrong_key_is_refused(either: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The message names database and key; SQLCipher itself does not write to stderr."""
    message = either.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert str(either.path) in message
    assert str(tmp_path / "another.key") in message
    assert capfd.readouterr().err == ""


def test_damaged_header_is_refused(either: Database) -> None:
    """A database with damaged first bytes is refused."""
    either.overwrite(0)
    assert str(either.path) in either.refusal()


def test_damaged_first_page_is_refused(either: Database) -> None:
    """A database whose first page is damaged after the header is refused."""
    either.overwrite(2000)
    assert str(either.path) in either.refusal()


def test_one_damaged_byte_is_refused(filled: Database) -> None:
    """A database with one damaged byte in the middle is refused, and the message says where."""
    pages = filled.path.stat().st_size // PAGE
    assert pages > 4
    filled.overwrite(pages // 2 * PAGE + 1000, 1)
    message = filled.refusal()
    assert str(filled.path) in message
    assert "damaged" in message
    assert str(pages // 2 + 1) in message


def test_damaged_page_that_is_not_in_the_log_is_refused(filled: Database) -> None:
    """A damaged page that is not in the log is refused after a crash as well."""
    # There are so many pages that the new ones in the write-ahead log are not in the middle.
    filled.write(*range(10, 100))
    filled.write_and_die(100)
    pages = filled.path.stat().st_size // PAGE
    filled.overwrite(pages // 2 * PAGE + 1000, 1)
    assert str(filled.path) in filled.refusal()


def test_newer_schema_is_refused(filled: Database) -> None:
    """The message names both versions."""
    filled.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 41}")
    message = filled.refusal()
    assert str(filled.path) in message
    assert str(SCHEMA_VERSION + 41) in message


def test_newer_schema_beside_a_log_is_refused(filled: Database) -> None:
    """A database of a newer pykcm that was killed is refused."""
    filled.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    filled.execute_and_die("CREATE TABLE newer (id INTEGER PRIMARY KEY)")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


def test_newer_schema_in_the_log_is_refused(filled: Database) -> None:
    """A newer version that only the log has is refused: that pykcm was killed at its first start."""
    filled.execute_and_die(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


def test_newer_schema_in_the_log_of_a_large_database_is_refused(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version is found although the database is not checked completely."""
    monkeypatch.setattr("pykcm.store.sqlcipher.database._CHECKED_AT_START", 0)
    filled.execute_and_die(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert str(SCHEMA_VERSION + 1) in filled.refusal()


@pytest.mark.parametrize("cut", [1, PAGE // 2, PAGE, 2 * PAGE])
def test_truncated_database_is_refused(filled: Database, cut: int) -> None:
    """A database without its last bytes or pages is refused."""
    os.truncate(filled.path, filled.path.stat().st_size - cut)
    message = filled.refusal()
    assert str(filled.path) in message
    assert str(filled.key.source) not in message, "the key is right"


def test_truncated_database_is_refused_if_the_log_lacks_pages(filled: Database) -> None:
    """A truncated database is refused if its log does not have all missing pages."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, filled.path.stat().st_size - 2 * PAGE)
    assert str(filled.path) in filled.refusal()


@pytest.mark.parametrize("cut", [1, PAGE])
def test_truncated_database_is_read_if_the_log_has_all_pages(filled: Database, cut: int) -> None:
    """A truncated database is read completely if its log has all missing pages."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, filled.path.stat().st_size - cut)
    assert filled.read() == list(range(12))


@pytest.mark.parametrize("left", [PAGE, PAGE // 2, 100])
def test_beginning_of_a_database_is_refused(either: Database, left: int) -> None:
    """A database of which only the beginning is left is refused."""
    os.truncate(either.path, left)
    assert str(either.path) in either.refusal()


def test_empty_database_beside_a_log_is_refused(filled: Database) -> None:
    """An empty database beside a log with tickets is not a first start."""
    filled.write_and_die(10, 11)
    os.truncate(filled.path, 0)
    assert str(filled.path) in filled.refusal()


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + bytes(PAGE), bytes(2 * PAGE)])
def test_another_file_is_refused(database: Database, content: bytes) -> None:
    """A file with other contents is refused."""
    database.path.write_bytes(content)
    assert str(database.path) in database.refusal()


def test_plain_database_is_refused(database: Database) -> None:
    """An unencrypted database is refused."""
    plain = sqlcipher.connect(str(database.path))
    plain.execute("CREATE TABLE secrets (id INTEGER PRIMARY KEY)")
    plain.close()
    assert str(database.path) in database.refusal()


def test_folder_in_place_of_the_database_is_refused(database: Database) -> None:
    """A folder with the database's name is refused."""
    database.path.mkdir()
    with pytest.raises(StoreUnusableError) as caught:
        database.open()
    assert str(database.path) in str(caught.value)


def test_missing_folder_is_refused(database: Database) -> None:
    """A database in a missing folder is refused."""
    database.folder.rmdir()
    with pytest.raises(StoreUnusableError) as caught:
        database.open()
    assert str(database.path) in str(caught.value)


def test_refusal_does_no_harm(either: Database, tmp_path: Path) -> None:
    """After a refusal everything is there with the right key."""
    either.refusal(Key(bytes(32), tmp_path / "another.key"))
    assert either.read()[:10] == list(range(10))
