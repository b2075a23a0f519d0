"""The daemon's own authentication to the database: passwords, and Kerberos tickets in its memory."""

import os
from collections.abc import Mapping
from pathlib import Path

import psycopg

from pykcm.config import Config
from pykcm.store.disk import CREDENTIAL
from pykcm.store.interface import StoreUnusableError

# A systemd credential, as libpq's pgpass file.
_PASSWORDS = "pykcm.pgpass"

_MOST_PASSWORDS = 1024 * 1024

# Never this daemon's own ccaches: it would wait for an answer of its own.
_TICKETS = "MEMORY:pykcm"

# libpq's error about a connection string quotes it, which may hold a password.
_UNREADABLE = (
    "option postgresql: libpq cannot read this connection string (it is not shown: it may hold a password); "
    'see "Connection Strings" in the documentation of PostgreSQL'
)


def connection_string(config: Config) -> str:
    """The configured connection string, with the passwords of the systemd credential.

    Raises StoreUnusableError.
    """
    parameters = _parameters(config)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and _lacks_password(parameters):
        passwords = _private_copy(Path(folder, _PASSWORDS))
        if passwords is not None:
            parameters["passfile"] = passwords
    parameters.setdefault("application_name", "pykcm")
    return _with_text(parameters)


def credential_names(config: Config) -> list[str]:
    """The systemd credentials that the daemon uses where it has them; raises StoreUnusableError."""
    return [CREDENTIAL, *([_PASSWORDS] if _lacks_password(_parameters(config)) else [])]


def database_of(config: Config) -> str | None:
    """The name of the daemons' database; None if the connection string does not say it.

    Raises StoreUnusableError.
    """
    parameters = _parameters(config)
    # A service is a section of a file, which may have a dbname.
    by_user = None if "service" in parameters else parameters.get("user")
    return parameters.get("dbname") or by_user


def _parameters(config: Config) -> dict[str, str]:
    if config.postgresql is None:
        raise StoreUnusableError('option postgresql: it is missing, and store = "postgresql" needs it')
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(config.postgresql)
    except psycopg.Error:
        raise StoreUnusableError(_UNREADABLE) from None
    return {name: str(value) for name, value in parameters.items()}


def _lacks_password(parameters: Mapping[str, str]) -> bool:
    return not {"passfile", "password"} & parameters.keys()


def _with_text(parameters: Mapping[str, str]) -> str:
    """The connection string. With the encoding SQL_ASCII, psycopg would return bytes for text."""
    return psycopg.conninfo.make_conninfo(**{**parameters, "client_encoding": "utf8"})


def _private_copy(credential: Path) -> str | None:
    """The path of a copy in memory that nobody else can read; None: there is no such credential.

    libpq ignores a file with permissions for a group, which systemd's files have where an ACL lets the
    service's user read them.
    """
    try:
        with credential.open("rb") as file:
            content = file.read(_MOST_PASSWORDS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusableError(f"credential {_PASSWORDS}: it cannot be read: {error.strerror}") from None
    # Open until the process ends, because each connection reads it.
    copy = os.memfd_create(_PASSWORDS)
    os.fchmod(copy, 0o600)
    while content:
        content = content[os.write(copy, content) :]
    return f"/proc/self/fd/{copy}"


def use_own_tickets(config: Config) -> None:
    """Let libpq authenticate with tickets of `client_keytab`, or with none. Raises StoreUnusableError.

    libkrb5 requests them when a connection needs them, and again after half of their lifetime.
    """
    os.environ["KRB5CCNAME"] = _TICKETS
    if config.client_keytab is None:
        return
    try:
        with Path(config.client_keytab).open("rb"):
            pass
    except OSError as error:
        raise StoreUnusableError(
            f"option client_keytab: {config.client_keytab} cannot be read: {error.strerror}"
        ) from None
    os.environ["KRB5_CLIENT_KTNAME"] = f"FILE:{config.client_keytab}"


def admin_string(conninfo: str) -> str:
    """The administrator's connection string of a command line; raises StoreUnusableError."""
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.Error:
        raise StoreUnusableError("option --admin: libpq cannot read this connection string") from None
    if "password" in parameters:
        raise StoreUnusableError(
            "option --admin: other users can see a password on the command line: "
            "put it in ~/.pgpass or in the variable PGPASSWORD"
        )
    return _with_text({name: str(value) for name, value in parameters.items()})
