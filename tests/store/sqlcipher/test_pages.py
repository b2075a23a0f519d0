"""The pages that one operation writes to the write-ahead log. Each commit has one sync."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pykcm.ccaches.ccache import CCache
from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import NO_LIMITS
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.store.keys import Key
from pykcm.store.sqlcipher.damage import find_commits
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, Clock, service, tgs, ticket

UID = 1000
NAME = b"1000"

# One leaf of secrets and one of their index.
STORE = 2

# A new leaf of secrets too, its parent, and the first page, which has the size of the database.
STORE_WITH_NEW_LEAF = 4

# One leaf of containers and one of their index, of secrets and their index, and of the index of expiries.
INITIALIZE = 5


class Counting:
    """An engine on a SQLCipher store with one UID."""

    def __init__(self, store: SQLCipherStore) -> None:
        self.store = store
        self._clock = Clock()
        self._engine = Engine(store, CollectionCache(store, NO_LIMITS, 1 << 30, self._clock))

    async def pages(self, *operations: Callable[[Collection], Any]) -> list[int]:
        """Make each operation a commit; gives the pages of each commit."""
        before = self._ends()
        for operation in operations:
            await self._engine.change(
                (UID,),
                lambda collections: operation(collections[UID]),  # noqa: B023 - called at once
                keep=True,
            )
        ends = self._ends()
        assert ends[: len(before)] == before
        begin = before[-1] if before else 0
        new = ends[len(before) :]
        return [end - start for start, end in zip([begin, *new], new, strict=False)]

    def _ends(self) -> list[int]:
        return find_commits(self.store.path).frames


@pytest.fixture
async def counting(tmp_path: Path, key: Key) -> AsyncIterator[Counting]:
    folder = tmp_path / "state"
    folder.mkdir()
    store = SQLCipherStore(folder / "pykcm.db", key)
    yield Counting(store)
    store.close()


def ccache_in(collection: Collection) -> CCache:
    ccache = collection.get(NAME)
    assert ccache is not None
    return ccache


def initialize(collection: Collection) -> None:
    collection.initialize(NAME, ALICE, None)


def store_ticket(number: int, ends: int = 2000) -> Callable[[Collection], None]:
    """A STORE of a ticket of 1,000 bytes: a page has room for three."""
    credential = ticket(service(number), ends=ends, size=1000)
    return lambda collection: collection.store(ccache_in(collection), credential)


def store_tgt(collection: Collection) -> None:
    collection.store(ccache_in(collection), ticket(ends=2000, size=1000))


async def test_store_writes_two_pages_or_four_with_a_new_leaf(counting: Counting) -> None:
    """Three tickets share a leaf: two of three STOREs write two pages, the third one four."""
    await counting.pages(initialize, store_tgt, *[store_ticket(number) for number in range(100, 105)])
    pages = await counting.pages(*[store_ticket(number) for number in range(30)])
    assert len(pages) == 30
    assert set(pages) == {STORE, STORE_WITH_NEW_LEAF}
    assert pages.count(STORE) == 20


async def test_kinit_writes_five_pages_and_three(counting: Counting) -> None:
    """INITIALIZE makes the container of the credentials, and the STORE of the TGT writes no page of those."""
    assert await counting.pages(initialize, store_tgt) == [INITIALIZE, 3]


async def test_kinit_into_a_ccache_with_tickets_writes_five_pages_and_three(counting: Counting) -> None:
    """INITIALIZE empties the container of the credentials, which stays for the next STORE."""
    await counting.pages(initialize, store_tgt)
    assert await counting.pages(initialize, store_tgt) == [INITIALIZE, 3]


async def test_equal_ccache_and_expiry_are_not_written(counting: Counting) -> None:
    """A STORE that changes neither a ccache nor its expiry writes the credential alone."""
    await counting.pages(initialize, store_tgt)
    assert await counting.pages(store_ticket(1, ends=2000)) == [STORE]
    assert await counting.pages(store_ticket(2, ends=1900)) == [STORE]


async def test_store_of_an_equal_credential_writes_one_page(counting: Counting) -> None:
    """A credential that replaces an equal one leaves the index as it is."""
    await counting.pages(initialize, store_tgt, store_ticket(1))
    again = ticket(service(1), ends=2000, issued=1001, size=1000)
    assert await counting.pages(lambda collection: collection.store(ccache_in(collection), again)) == [1]


async def test_replace_writes_its_leaves_once(counting: Counting) -> None:
    """A REPLACE of ten tickets by ten is one commit of the leaves that they have, without any index."""
    old = [tgs(number) for number in range(10)]
    await counting.pages(
        lambda collection: collection.replace(NAME, ALICE, 0, [ticket(each, size=1000) for each in old], None)
    )
    new = [ticket(each, size=1000, issued=1001) for each in old]
    [pages] = await counting.pages(lambda collection: collection.replace(NAME, ALICE, 0, new, None))
    assert pages == 4
