"""Deleted secrets are in no page of the database, when its pages are decrypted and searched.

They are decrypted by openssl, so that the free ones are seen, too, which SQLite itself does not show.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from pykcm.store.keys import Key
from pykcm.store.sqlcipher.store import SQLCipherStore
from pykcm.store.tree import Delete, DeleteContainer, Put, SecretChange
from tests.storing import commit_changes

PAGE = 4096
SALT = 16
# At the end of each page: the initialisation vector and the HMAC.
VECTOR, HMAC = 16, 32

CONTAINER = "/kcm/persistent/1000"
MARK = b"SESSION-KEY-TO-BE-DELETED"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")

# Of less than a page, of several pages, and as an end that a shorter value leaves behind.
SIZES = [200, 10_000]


def decrypted(path: Path, key: Key) -> bytes:
    content = path.read_bytes()
    assert content
    assert len(content) % PAGE == 0
    return b"".join(_page(content[at : at + PAGE], at == 0, key) for at in range(0, len(content), PAGE))


def _page(page: bytes, is_first: bool, key: Key) -> bytes:
    end = PAGE - VECTOR - HMAC
    vector = page[end : end + VECTOR]
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-nopad", "-K", key.raw.hex(), "-iv", vector.hex()]
    return subprocess.run(
        command, input=page[SALT if is_first else 0 : end], capture_output=True, check=True
    ).stdout


async def commit(store: SQLCipherStore, *changes: SecretChange) -> None:
    await commit_changes(store, changes)


def secret(number: int, size: int) -> Put:
    """One of several; a mark at its beginning and one at its end."""
    return Put(CONTAINER, f"secret-{number}", MARK.ljust(size - len(MARK), b".") + MARK)


REMOVALS: dict[str, list[SecretChange]] = {
    "deleted": [Delete(CONTAINER, f"secret-{number}") for number in range(5)],
    "deleted with its container": [DeleteContainer(CONTAINER)],
    "overwritten": [Put(CONTAINER, f"secret-{number}", b"short") for number in range(5)],
}


async def left_behind(store: SQLCipherStore, path: Path, key: Key, match_flags: str, size: int) -> int:
    """How many marks are left of secrets that were removed so."""
    await commit(
        store, Put(CONTAINER + "/more", "kept", b"KEPT" * 500), *(secret(number, size) for number in range(5))
    )
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert decrypted(path, key).count(MARK) >= 5
    await commit(store, *REMOVALS[match_flags])
    store.close()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    pages = decrypted(path, key)
    assert b"KEPT" in pages
    return pages.count(MARK)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("match_flags", REMOVALS)
async def test_removed_secret_is_in_no_page(tmp_path: Path, key: Key, match_flags: str, size: int) -> None:
    """No byte of a removed secret is in any page of the database, also in free ones."""
    path = tmp_path / "state" / "pykcm.db"
    path.parent.mkdir()
    store = SQLCipherStore(path, key)
    assert store._db.execute("PRAGMA secure_delete").fetchall() == [(1,)]
    assert await left_behind(store, path, key, match_flags, size) == 0


@pytest.mark.parametrize("match_flags", REMOVALS)
async def test_removed_secret_stays_without_secure_delete(tmp_path: Path, key: Key, match_flags: str) -> None:
    """Without secure_delete it would be there: the test above proves something."""
    path = tmp_path / "state" / "pykcm.db"
    path.parent.mkdir()
    store = SQLCipherStore(path, key)
    store._db.execute("PRAGMA secure_delete = OFF")
    assert await left_behind(store, path, key, match_flags, 10_000) > 0
