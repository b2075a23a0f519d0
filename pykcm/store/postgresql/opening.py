"""Opening the shared store: the connection string, the credentials, and a look at the schema."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from math import ceil
from pathlib import Path
from time import time
from typing import Any, NoReturn

import psycopg

from pykcm.config import Config
from pykcm.store.copies import Copies, UnsupportedError
from pykcm.store.disk import KEY
from pykcm.store.interface import StoreUnusableError
from pykcm.store.postgresql.checks import CLOCK, SERVER, Finding, findings
from pykcm.store.postgresql.credentials import (
    admin_string,
    connection_string,
    database_of,
    use_own_tickets,
)
from pykcm.store.postgresql.database import Database, name_of
from pykcm.store.postgresql.failures import connection_failure
from pykcm.store.postgresql.keyring import KeyFiles
from pykcm.store.postgresql.rekey import Rekeying
from pykcm.store.postgresql.sealing import Sealer
from pykcm.store.postgresql.store import PostgreSQLStore

Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)


def key_files(config: Config, *, is_command: bool = False) -> KeyFiles:
    """The keys of this host: systemd credentials, or `key_file`."""
    key_file = Path(config.key_file) if config.key_file else Path(config.state_dir, KEY)
    return KeyFiles(key_file, is_command=is_command)


@contextmanager
def connect(config: Config, conninfo: str | None = None) -> Iterator[Connection]:
    """A connection for a command, in autocommit mode; raises StoreUnusableError, also for errors within.

    `conninfo`: an administrator's, to the database of the daemons.
    """
    daemons = None
    if conninfo is None:
        conninfo = connection_string(config)
        use_own_tickets(config)
    else:
        conninfo = admin_string(conninfo)
        daemons = database_of(config)
    name = name_of(conninfo)
    try:
        timeout = ceil(config.store_timeout)
        with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=timeout)) as connection:
            if daemons not in (None, connection.info.dbname):
                raise StoreUnusableError(
                    f"option --admin leads to the database {connection.info.dbname}, and the daemons use "
                    f"{daemons}: add dbname={daemons}"
                )
            yield connection
    except psycopg.Error as error:
        raise StoreUnusableError(f"{name}: {connection_failure(error)}") from None


def open_store(config: Config) -> PostgreSQLStore:
    """The store, after a look at the database; raises StoreUnusableError.

    Where the database cannot be reached now, the daemon starts all the same, and waits for it.
    """
    conninfo = connection_string(config)
    use_own_tickets(config)
    source = key_files(config)
    keys = source.read()
    database = Database(conninfo, config.store_timeout, config.stale_reads)
    clock_agrees = False
    try:
        timeout = ceil(config.store_timeout)
        with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=timeout)) as connection:
            found = list(findings(connection, [key.id for key in keys], time))
        _look(database.name, found)
        clock_agrees = any(each.subject == CLOCK and not each.way_out for each in found)
    except psycopg.OperationalError as error:
        log.warning(
            "%s: the database cannot be reached: %s; requests are refused until it is",
            *(database.name, connection_failure(error)),
        )
    except psycopg.Error as error:
        raise StoreUnusableError(
            f"{database.name}: {connection_failure(error)}; see `pykcmctl store check`"
        ) from None
    store = PostgreSQLStore(database, Sealer(keys), source, listens=config.freshness == "notified")
    store.clock_agrees = clock_agrees
    return store


def copies_of(store: PostgreSQLStore, config: Config) -> Copies:
    """The change of keys for all hosts; backups are the database's."""
    rekeying = Rekeying(store.database, store.keyring, key_files(config))
    return Copies(_no_backup, rekeying.rekey)


def _no_backup() -> NoReturn:
    raise UnsupportedError(
        "the tickets are in PostgreSQL: use its own backups (pg_dump --schema=pykcm, or pg_basebackup). "
        "A backup holds no key: keep the hosts' key as well, in another place"
    )


def _look(name: str, found: Iterable[Finding]) -> None:
    for finding in found:
        # A standby may be promoted at any moment.
        if finding.is_fatal and finding.subject != SERVER:
            raise StoreUnusableError(f"{name}: {finding.subject}: {finding.state}; {finding.way_out}")
        if finding.way_out:
            log.warning("%s: %s: %s; %s", name, *finding[:3])
