"""Opening the shared store: the connection string, the credentials, and a look at the schema."""

import logging
import os
from contextlib import closing
from math import ceil
from pathlib import Path
from time import time

import psycopg

from pykcm.config import Config
from pykcm.store.interface import StoreUnusableError
from pykcm.store.keys import Key
from pykcm.store.postgresql.database import Database
from pykcm.store.postgresql.schema import findings
from pykcm.store.postgresql.sealing import Sealer, SharedKey
from pykcm.store.postgresql.store import PostgreSQLStore

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


def open_store(config: Config, key: Key) -> PostgreSQLStore:
    """The store, after a look at the database; raises StoreUnusableError.

    Where the database cannot be reached now, the daemon starts all the same, and waits for it.
    """
    conninfo = connection_string(config)
    if config.client_keytab is not None:
        # libpq authenticates with tickets of its own. They are in memory: the daemon never asks itself.
        os.environ["KRB5_CLIENT_KTNAME"] = config.client_keytab
        os.environ["KRB5CCNAME"] = "MEMORY:"
    shared_key = SharedKey(key.raw)
    database = Database(conninfo, config.store_timeout, config.stale_reads)
    try:
        with closing(psycopg.connect(conninfo, connect_timeout=ceil(config.store_timeout))) as connection:
            for finding in findings(connection, [shared_key.id], time()):
                if finding.is_fatal:
                    raise StoreUnusableError(
                        f"{database.name}: {finding.subject}: {finding.state}; {finding.way_out}"
                    )
                if finding.way_out:
                    log.warning("%s: %s: %s; %s", database.name, *finding[:3])
    except psycopg.OperationalError as error:
        log.warning(
            "%s: the database cannot be reached: %s; requests are refused until it is back",
            *(database.name, str(error).strip()),
        )
    return PostgreSQLStore(database, Sealer([shared_key]))
