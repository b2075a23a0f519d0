"""Stores that a command opens instead of the daemon, with the daemon's locks."""

import os
from contextlib import ExitStack
from pathlib import Path

from pykcm.config import Config
from pykcm.store.disk import DATABASE, KEY
from pykcm.store.folder import StateFolder
from pykcm.store.interface import Store, StoreUnusableError
from pykcm.store.keys import load_key


def become_owner(configs: list[Config]) -> None:
    """As root, take the identity of the user whom the state folders belong to; raises StoreUnusableError.

    Files that root makes there would keep the daemon from starting.
    """
    owners = {(each.st_uid, each.st_gid) for config in configs if (each := _status(config)) is not None}
    if os.geteuid() != 0 or not owners:
        return
    if len(owners) > 1:
        raise StoreUnusableError("the two state folders belong to different users: copy as one user")
    [(uid, gid)] = owners
    if uid != 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _status(config: Config) -> os.stat_result | None:
    try:
        return Path(config.state_dir).stat()
    except FileNotFoundError:
        return None


class OfflineStores:
    """Opens stores, and locks each state folder once: a daemon must not run meanwhile."""

    def __init__(self, at_end: ExitStack) -> None:
        self._at_end = at_end
        self._folders: dict[Path, StateFolder] = {}

    def open(self, config: Config, *, may_create: bool) -> Store:
        """The store of a configuration. `may_create`: an embedded one may be new.

        Raises StoreUnusableError.
        """
        store: Store
        if config.store == "memory":
            raise StoreUnusableError('store = "memory" keeps nothing that could be copied')
        if config.store == "postgresql":
            self._lock(Path(config.state_dir))
            from pykcm.store.postgresql.opening import open_store  # noqa: PLC0415 - an optional part

            store = open_store(config)
        else:
            store = self._open_database(config, may_create=may_create)
        self._at_end.callback(store.close)
        return store

    def _open_database(self, config: Config, *, may_create: bool) -> Store:
        from pykcm.store.sqlcipher.database import has_tickets  # noqa: PLC0415 - rarely needed
        from pykcm.store.sqlcipher.store import SQLCipherStore  # noqa: PLC0415

        path = Path(config.state_dir, DATABASE)
        if not may_create and not path.exists():
            raise StoreUnusableError(f"{path}: there is no database to copy")
        folder = self._lock(Path(config.state_dir))
        key_file = Path(config.key_file) if config.key_file else folder.path / KEY
        key = load_key(key_file, may_create=may_create and not has_tickets(path))
        return SQLCipherStore(path, key, config.durability)

    def _lock(self, path: Path) -> StateFolder:
        folder = self._folders.get(path.absolute())
        if folder is None:
            folder = self._folders[path.absolute()] = StateFolder(path)
            self._at_end.callback(folder.close)
        return folder
