"""The configured store, opened for the daemon."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pykcm.config import Config
from pykcm.engine.clock import ClockKeeper, open_clock
from pykcm.store.copies import Backup, Copied, Copies, Rekeyed
from pykcm.store.interface import Store, StoreUnusableError

if TYPE_CHECKING:
    from pykcm.store.sqlcipher.store import SQLCipherStore

log = logging.getLogger(__name__)


def open_store(config: Config, at_end: ExitStack) -> tuple[Store, Copies | None, ClockKeeper]:
    """Open the store and the clock; raises StoreUnusableError."""
    if config.postgresql is not None and config.store != "postgresql":
        log.warning(
            'option postgresql is not used with store = "%s": to share ccaches with other hosts, set '
            'store = "postgresql"',
            config.store,
        )
    store: Store
    copies = None
    if config.store == "memory":
        from pykcm.store.memory import MemoryStore  # noqa: PLC0415 - other stores do not need it

        store = MemoryStore()
        clock_keeper = open_clock()
    elif config.store == "postgresql":
        store, copies, clock_keeper = _open_shared_store(config, at_end)
    else:
        # Imported here, because the memory store needs neither the library nor the folder.
        from pykcm.store.disk import DATABASE, KEY  # noqa: PLC0415
        from pykcm.store.folder import StateFolder  # noqa: PLC0415
        from pykcm.store.keys import load_key  # noqa: PLC0415
        from pykcm.store.sqlcipher.database import has_tickets  # noqa: PLC0415
        from pykcm.store.sqlcipher.store import SQLCipherStore  # noqa: PLC0415

        folder = StateFolder(Path(config.state_dir))
        at_end.callback(folder.close)
        database = folder.path / DATABASE
        key_file = Path(config.key_file) if config.key_file else folder.path / KEY
        is_new = not has_tickets(database)
        key = load_key(key_file, may_create=is_new)
        # Before the store writes to its files, whose times can show when the clock was last read.
        clock_keeper = open_clock(folder.path, is_new=is_new)
        store = database_store = SQLCipherStore(database, key, config.durability)
        copies = _copies(database_store)
    at_end.callback(store.close)
    return store, copies, clock_keeper


def _open_shared_store(config: Config, at_end: ExitStack) -> tuple[Store, Copies, ClockKeeper]:
    from pykcm.store.folder import StateFolder  # noqa: PLC0415

    try:
        from pykcm.store.postgresql.opening import copies_of, open_store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise StoreUnusableError(
            f'store = "postgresql" needs {error.name}: pip install "pykcm[postgresql]"'
        ) from None
    folder = StateFolder(Path(config.state_dir))
    at_end.callback(folder.close)
    store = open_store(config)
    # A clock that agrees with the database's is right, also at the first start of a host.
    return store, copies_of(store, config), open_clock(folder.path, is_new=store.clock_agrees)


def _copies(store: "SQLCipherStore") -> Copies:
    """Imports what makes the copies when an administrator asks for one."""

    def backup() -> AbstractAsyncContextManager[Backup]:
        from pykcm.store.sqlcipher.backup import backup  # noqa: PLC0415

        return backup(store)

    def rekey(raw: bytes | None) -> AsyncGenerator[Copied | Rekeyed, None]:
        from pykcm.store.sqlcipher.rekey import rekey  # noqa: PLC0415

        return rekey(store, raw)

    return Copies(backup, rekey)
