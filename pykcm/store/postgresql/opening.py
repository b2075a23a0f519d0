"""Opening the shared store: the connection string, the credentials, and a look at the schema."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from math import ceil
from pathlib import Path
from time import time
from typing import Any

import psycopg

from pykcm.config import Config
from pykcm.store.disk import KEY
from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import load_key
from pykcm.store.postgresql.database import Database, name_of
from pykcm.store.postgresql.schema import Finding, findings
from pykcm.store.postgresql.sealing import Sealer, SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore

Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)

# A systemd credential, as libpq's pgpass file.
_PASSWORDS = "pykcm.pgpass"


def connection_string(config: Config) -> str:
    """The configured connection string, with the passwords of the systemd credential.

    Raises StoreUnusableError.
    """
    if config.postgresql is None:
        raise StoreUnusableError('option postgresql: it is missing, and store = "postgresql" needs it')
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(config.postgresql)
    except psycopg.Error as error:
        raise StoreUnusableError(f"option postgresql: {str(error).strip()}") from None
    if folder and "passfile" not in parameters and Path(folder, _PASSWORDS).exists():
        parameters["passfile"] = str(Path(folder, _PASSWORDS))
    parameters.setdefault("application_name", "pykcm")
    return psycopg.conninfo.make_conninfo(**{name: str(value) for name, value in parameters.items()})


def shared_key(config: Config) -> SharedKey:
    """The key that all hosts have, of the systemd credential or `key_file`; raises StoreUnusableError."""
    key_file = Path(config.key_file) if config.key_file else Path(config.state_dir, KEY)
    return SharedKey(load_key(key_file, may_create=False).raw)


@contextmanager
def connect(config: Config, conninfo: str | None = None) -> Iterator[Connection]:
    """A connection for a command, in autocommit mode; raises StoreUnusableError, also for errors within."""
    conninfo = conninfo or connection_string(config)
    name = name_of(conninfo)
    try:
        timeout = ceil(config.store_timeout)
        with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=timeout)) as connection:
            yield connection
    except psycopg.Error as error:
        raise StoreUnusableError(f"{name}: {str(error).strip()}") from None


def open_store(config: Config) -> PostgreSQLStore:
    """The store, after a look at the database; raises StoreUnusableError.

    Where the database cannot be reached now, the daemon starts all the same, and waits for it.
    """
    conninfo = connection_string(config)
    if config.client_keytab is not None:
        # libpq authenticates with tickets of its own. They are in memory: the daemon never asks itself.
        os.environ["KRB5_CLIENT_KTNAME"] = config.client_keytab
        os.environ["KRB5CCNAME"] = "MEMORY:"
    key = shared_key(config)
    database = Database(conninfo, config.store_timeout, config.stale_reads)
    try:
        timeout = ceil(config.store_timeout)
        with closing(psycopg.connect(conninfo, autocommit=True, connect_timeout=timeout)) as connection:
            _look(database.name, findings(connection, [key.id], time()))
    except psycopg.OperationalError as error:
        log.warning(
            "%s: the database cannot be reached: %s; requests are refused until it is back",
            *(database.name, str(error).strip()),
        )
    return PostgreSQLStore(database, Sealer([key]), listens=config.freshness == "notified")


def _look(name: str, found: Iterable[Finding]) -> None:
    for finding in found:
        if finding.is_fatal:
            raise StoreUnusableError(f"{name}: {finding.subject}: {finding.state}; {finding.way_out}")
        if finding.way_out:
            log.warning("%s: %s: %s; %s", name, *finding[:3])
