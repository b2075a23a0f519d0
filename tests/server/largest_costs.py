"""Counts what work costs in a collection that is as full as the default limits allow.

docs/reliability.md has tables of these costs. Calls of functions are counted, and instructions of
SQLite's machine: no clock and no other program disturbs that.
"""

import gc
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import Quotas
from pykcm.config import Config
from pykcm.protocol.credential import parse_credential
from pykcm.protocol.principal import Principal
from pykcm.store.sqlcipher.store import SQLCipherStore
from tests.builders import ALICE, LAST_SECOND, credential_bytes
from tests.server.asking import Server

CONFIG = Config()
QUOTAS = Quotas(
    max_uid_ccaches=CONFIG.max_uid_ccaches,
    max_ccache_size=CONFIG.max_ccache_size * 1024,
    max_uid_size=CONFIG.max_uid_size * 1024,
    max_ccache_credentials=CONFIG.max_ccache_credentials,
    max_uid_credentials=CONFIG.max_uid_credentials,
)
UID = 1000
# Ccaches with as many credentials as one may have: the UID may have no more of these.
FULL_CCACHES = CONFIG.max_uid_credentials // CONFIG.max_ccache_credentials
NOBODY = Principal(0, b"", ())

_TABLE = Path(__file__).parents[2] / "docs" / "reliability.md"
_INSTRUCTIONS = 100


def smallest(number: int, end: int = LAST_SECOND) -> bytes:
    """One of many service tickets of one server, as small as possible."""
    return credential_bytes(NOBODY, NOBODY, enctype=number - 2**15, key=b"", ticket=b"", times=(1, 1, end, 0))


def fill(server: Server, uid: int, ccaches: int, end: int = LAST_SECOND) -> None:
    """Give the UID as many credentials as it may have, which end then, and this number of ccaches."""
    credentials = [parse_credential(smallest(each, end)) for each in range(CONFIG.max_ccache_credentials)]

    def replace_all(collection: Collection) -> None:
        for number in range(ccaches):
            within = credentials if number < FULL_CCACHES else []
            collection.replace(b"%d:%d" % (uid, number), ALICE, 0, within, None)

    server.runner.run(server.change(uid, replace_all))


class Cost(NamedTuple):
    """`instructions`: of SQLite, in thousands."""

    calls: int
    instructions: int


def assert_documented(cost: Cost, documented: Cost) -> None:
    """The cost is at most the documented one, which is not much larger."""
    assert cost.calls <= documented.calls, cost
    assert cost.instructions <= documented.instructions, cost
    assert documented.calls <= 2 * cost.calls + 200, cost
    assert documented.instructions <= 2 * cost.instructions + 4, cost


def documented(names: str) -> dict[str, Cost]:
    """The table of docs/reliability.md whose rows have names of this pattern."""
    rows = re.compile(rf"^\| `({names})` \| [^|]+ \| ([\d,]+) \| ([\d,]+) \|", re.MULTILINE)
    return {
        name: Cost(*(int(number.replace(",", "")) for number in costs))
        for name, *costs in rows.findall(_TABLE.read_text())
    }


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Let no garbage collection begin in this context.

    Its calls would be counted: of functions that libraries add to `gc.callbacks`, as hypothesis does, and of
    finalizers of objects of earlier tests. Earlier tests also decide when a collection begins.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CostCounter:
    """Counts what is done in its context."""

    def __init__(self, store: SQLCipherStore) -> None:
        self._store = store
        self._calls = self._instructions = 0
        self._at_end = ExitStack()

    def __enter__(self) -> Self:
        self._at_end.enter_context(no_garbage_collection())
        self._store._db.set_progress_handler(self._count_instructions, _INSTRUCTIONS)
        sys.setprofile(self._count_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._store._db.set_progress_handler(None, _INSTRUCTIONS)
        self._at_end.close()

    def _count_call(self, frame: FrameType, event: str, _: object) -> None:
        self._calls += event in {"call", "c_call"}

    def _count_instructions(self) -> None:
        self._instructions += _INSTRUCTIONS

    @property
    def cost(self) -> Cost:
        return Cost(self._calls, self._instructions // 1000)
