"""The schema of the shared store: made, checked, and its statements for a database administrator."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql

VERSION = 1

# In seconds: hosts that differ more from the database's clock remove ccaches at the wrong time.
_MOST_CLOCK_DIFFERENCE = 10.0

_GRANTS = """
GRANT USAGE ON SCHEMA pykcm TO {role};
GRANT SELECT ON pykcm.schema, pykcm.keys TO {role};
GRANT UPDATE (listened_until) ON pykcm.schema TO {role};
GRANT SELECT, INSERT, UPDATE ON pykcm.collections TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON pykcm.secrets TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON pykcm.commits TO {role};
"""

# (table, privileges) that the daemon needs.
_PRIVILEGES = [
    ("pykcm.schema", "SELECT"),
    ("pykcm.keys", "SELECT"),
    ("pykcm.collections", "SELECT, INSERT, UPDATE"),
    ("pykcm.secrets", "SELECT, INSERT, UPDATE, DELETE"),
    ("pykcm.commits", "SELECT, INSERT, UPDATE, DELETE"),
]


class Finding(NamedTuple):
    """A result of a check. `way_out` is empty where all is right. `is_fatal`: a daemon cannot start."""

    subject: str
    state: str
    way_out: str = ""
    is_fatal: bool = False


def creation(key_id: bytes, role: str | None) -> str:
    """The statements that make the schema for hosts with this key; `role` is the daemons' role."""
    statements = files("pykcm.store.postgresql").joinpath("schema.sql").read_text()
    # The id is hexadecimal.
    statements += f"INSERT INTO pykcm.keys (id, may_seal) VALUES ('\\x{key_id.hex()}', true);\n"  # noqa: S608
    if role is not None:
        statements += _GRANTS.format(role=sql.Identifier(role).as_string(None))
    return statements


def create(connection: psycopg.Connection[Any], key_id: bytes, role: str | None) -> None:
    """Make the schema, or nothing; raises psycopg.Error."""
    with connection.transaction():
        connection.execute(creation(key_id, role).encode())


def upgrade(connection: psycopg.Connection[Any]) -> int:
    """Bring the schema to the newest version, as a whole; gives that version. Raises psycopg.Error."""
    # There is one version yet. A later one adds its steps here, each in the transaction.
    with connection.transaction():
        connection.execute("SELECT version FROM pykcm.schema FOR UPDATE")
    return VERSION


def findings(connection: psycopg.Connection[Any], key_ids: Sequence[bytes], now: float) -> Iterator[Finding]:
    """Check the schema, the privileges, the keys, the server's settings and its clock.

    `key_ids`: of this host's keys, the one that it seals with first.
    """
    try:
        row = connection.execute("SELECT version FROM pykcm.schema").fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        yield Finding("schema", "there is none", "run `pykcmctl store init`", is_fatal=True)
        return
    except errors.InsufficientPrivilege:
        yield Finding(
            "schema",
            "this role may not read it",
            "run the GRANTs of `pykcmctl store init --sql`",
            is_fatal=True,
        )
        return
    version = row[0] if row else None
    if version != VERSION:
        newer = version is not None and version > VERSION
        way_out = "use the newer pykcm" if newer else "run `pykcmctl store upgrade`"
        yield Finding("schema", f"version {version}; this pykcm knows {VERSION}", way_out, is_fatal=True)
        return
    yield Finding("schema", f"version {version}")
    yield from _privileges(connection)
    yield from _keys(connection, key_ids)
    yield from _settings(connection)
    yield _clock(connection, now)


def _privileges(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    missing = [
        f"{privilege} on {table}"
        for table, privileges in _PRIVILEGES
        for privilege in privileges.split(", ")
        if not _one(connection, "SELECT has_table_privilege(%s, %s)", (table, privilege))
    ]
    if missing:
        yield Finding(
            "privileges",
            f"missing: {', '.join(missing)}",
            "run the GRANTs of `pykcmctl store init --sql`",
            is_fatal=True,
        )
    else:
        yield Finding("privileges", "complete")
    if _one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        yield Finding("role", "a superuser", "give the daemons a role of their own with the GRANTs alone")


def _keys(connection: psycopg.Connection[Any], key_ids: Sequence[bytes]) -> Iterator[Finding]:
    known = dict(connection.execute("SELECT id, may_seal FROM pykcm.keys").fetchall())
    if known.get(key_ids[0]):
        yield Finding("key", f"{key_ids[0].hex()}, as the other hosts'")
    elif key_ids[0] in known:
        yield Finding("key", f"{key_ids[0].hex()} was replaced", "give this host the new key", is_fatal=True)
    else:
        others = ", ".join(key.hex() for key in known)
        yield Finding(
            "key",
            f"{key_ids[0].hex()}; the other hosts have {others}",
            "give all hosts the same key",
            is_fatal=True,
        )


def _settings(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    if _one(connection, "SELECT pg_is_in_recovery()"):
        yield Finding("server", "a standby, which only reads", "add target_session_attrs=read-write")
    else:
        yield Finding("server", str(_one(connection, "SHOW server_version")))
    for name in ("fsync", "synchronous_commit"):
        value = _one(connection, f"SHOW {name}")
        if value == "off":
            yield Finding(name, "off: a crash loses tickets that were stored", f"set {name} = on")


def _clock(connection: psycopg.Connection[Any], now: float) -> Finding:
    difference = float(_one(connection, "SELECT extract(epoch FROM clock_timestamp())")) - now
    state = f"the database's differs by {difference:+.1f} s"
    if abs(difference) > _MOST_CLOCK_DIFFERENCE:
        return Finding("clock", state, "synchronize the clocks of the database and of this host")
    return Finding("clock", state)


def _one(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object] = ()) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0]
