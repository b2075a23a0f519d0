"""The schema of the shared store: made and upgraded, and its statements for a database administrator."""

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import errors, sql

from pykcm.store.interface import StoreUnusableError

VERSION = 1

# By version: the statements that lead to the next one. Version 1 is the first. Hosts look at the version in
# the first statement of each commit: a step first locks the tables that commits write.
_UPGRADES: dict[int, str] = {}

# The version of the schema, for statements and for `way_out_of`.
VERSION_OF_SCHEMA = "SELECT version FROM pykcm.schema"

# (table, privileges) that the daemon needs.
PRIVILEGES = [
    ("pykcm.schema", "SELECT, UPDATE (listened_until)"),
    ("pykcm.keys", "SELECT, INSERT, UPDATE, DELETE"),
    ("pykcm.leases", "SELECT, UPDATE"),
    ("pykcm.collections", "SELECT, INSERT, UPDATE"),
    ("pykcm.secrets", "SELECT, INSERT, UPDATE, DELETE"),
    ("pykcm.commits", "SELECT, INSERT, UPDATE, DELETE"),
]


def creation(key_id: bytes, role: str | None) -> str:
    """The statements that make the schema for hosts with this key; `role` is the daemons' role."""
    statements = files("pykcm.store.postgresql").joinpath("schema.sql").read_text()
    # The id is hexadecimal.
    statements += f"INSERT INTO pykcm.keys (id, may_seal) VALUES ('\\x{key_id.hex()}', true);\n"  # noqa: S608
    if role is not None:
        statements += grants(role)
    return statements


def grants(role: str) -> str:
    """The privileges that the daemons' role needs, and no others."""
    name = sql.Identifier(role).as_string(None)
    lines = [f"GRANT {privileges} ON {table} TO {name};" for table, privileges in PRIVILEGES]
    return "\n".join([f"GRANT USAGE ON SCHEMA pykcm TO {name};", *lines, ""])


def way_out_of(version: int) -> str:
    """The way out for a schema of this version, which is another one than VERSION."""
    if version < VERSION:
        return "run `pykcmctl store upgrade`"
    return "install the newer pykcm that has made it"


class SchemaError(StoreUnusableError):
    """The schema cannot be made or upgraded; the message says why, and what to do."""


def create(connection: psycopg.Connection[Any], key_id: bytes, role: str | None) -> None:
    """Make the schema, or nothing; raises SchemaError, psycopg.Error."""
    # PostgreSQL looks for the privilege first.
    if connection.execute("SELECT FROM pg_namespace WHERE nspname = 'pykcm'").fetchone() is not None:
        raise SchemaError("there is a schema already: `pykcmctl store check` looks at it")
    try:
        with connection.transaction():
            connection.execute(creation(key_id, role).encode())
    except errors.DuplicateSchema:
        raise SchemaError("there is a schema already: `pykcmctl store check` looks at it") from None
    except errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"{error.diag.message_primary}: connect with --admin as a role that may create a schema in this "
            "database, or let its administrator run the statements of --sql"
        ) from None


def check_role(connection: psycopg.Connection[Any], role: str | None) -> None:
    """The daemons' role must be there, and is never a superuser's; raises SchemaError."""
    current = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    if role is None:
        if current and current[0]:
            raise SchemaError("a superuser makes the schema for the daemons' role: add --role NAME")
        return
    row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    name = sql.Identifier(role).as_string(None)
    if row is None:
        raise SchemaError(f"there is no role {role}: CREATE ROLE {name} LOGIN")
    if row[0]:
        raise SchemaError(f"{role} is a superuser, and pykcm never works as one: CREATE ROLE pykcm LOGIN")


def upgrade(connection: psycopg.Connection[Any]) -> int:
    """Bring the schema to the newest version, as a whole; returns the one before.

    Raises SchemaError, psycopg.Error.
    """
    try:
        with connection.transaction():
            return _upgrade(connection)
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        raise SchemaError("there is no schema: run `pykcmctl store init`") from None
    except errors.InsufficientPrivilege as error:
        reason = error.diag.message_primary
        raise SchemaError(f"{reason}: connect with --admin as the schema's owner") from None


def _upgrade(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT version FROM pykcm.schema FOR UPDATE").fetchone()
    version = row[0] if row else 0
    if version > VERSION:
        raise SchemaError(f"version {version}; this pykcm knows {VERSION}: use the newer pykcm")
    for step in range(version, VERSION):
        statements = _UPGRADES.get(step)
        if statements is None:
            raise SchemaError(f"it has version {version}, from which no way leads to {VERSION}: run init")
        connection.execute(statements.encode())
    connection.execute("UPDATE pykcm.schema SET version = %s", (VERSION,))
    return int(version)
