"""Checks of the shared store: the schema, the role and its privileges, the keys, the server and its clock."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import errors

from pykcm.store.postgresql.schema import PRIVILEGES, VERSION, VERSION_OF_SCHEMA, way_out_of

# In seconds: hosts that differ more from the database's clock remove ccaches at the wrong time.
_MOST_CLOCK_DIFFERENCE = 10.0

SERVER = "server"
CLOCK = "clock"

_GRANT_AGAIN = "run the GRANTs of `pykcmctl store init --sql --role NAME`"

# By the name of a lease: what no host does without its row.
_LEASES = {
    "reaper": "removes expired ccaches",
    "commits": "removes the records of old commits",
    "renewals": "renews TGTs",
}


class Finding(NamedTuple):
    """A result of a check. `way_out` is empty where all is right. `is_fatal`: a daemon cannot work."""

    subject: str
    state: str
    way_out: str = ""
    is_fatal: bool = False


def findings(
    connection: psycopg.Connection[Any], key_ids: Sequence[bytes], clock: Callable[[], float]
) -> Iterator[Finding]:
    """Check everything that a daemon needs. `key_ids`: of this host's present key and its next one."""
    schema = _schema(connection)
    yield schema
    if schema.is_fatal:
        return
    privileges = _privileges(connection)
    yield privileges
    yield from _role(connection)
    if not privileges.is_fatal:
        yield from _keys(connection, key_ids)
        yield from _leases(connection)
    yield from _settings(connection)
    yield _clock(connection, clock)


def _schema(connection: psycopg.Connection[Any]) -> Finding:
    try:
        row = connection.execute(VERSION_OF_SCHEMA).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return Finding("schema", "there is none", "run `pykcmctl store init`", is_fatal=True)
    except errors.InsufficientPrivilege:
        name = _one(connection, "SELECT current_user")
        return Finding("schema", f"the role {name} may not read it", _GRANT_AGAIN, is_fatal=True)
    version = row[0] if row else None
    if version is None:
        return Finding("schema", "its version is missing", "restore pykcm.schema", is_fatal=True)
    if version == VERSION:
        return _tables(connection, f"version {version}")
    state = f"version {version}; this pykcm knows {VERSION}"
    return Finding("schema", state, way_out_of(version), is_fatal=True)


def _tables(connection: psycopg.Connection[Any], state: str) -> Finding:
    missing = [
        table for table, _ in PRIVILEGES if _one(connection, "SELECT to_regclass(%s)", (table,)) is None
    ]
    if missing:
        state = f"{state}, without {', '.join(missing)}"
        way_out = "restore a backup; or drop the schema and all tickets, and run `pykcmctl store init`"
        return Finding("schema", state, way_out, is_fatal=True)
    return Finding("schema", state)


def _privileges(connection: psycopg.Connection[Any]) -> Finding:
    missing = [
        f"{privilege} on {table}"
        for table, privileges in PRIVILEGES
        for privilege in privileges.split(", ")
        if not _has_privilege(connection, table, privilege)
    ]
    if missing:
        return Finding("privileges", f"missing: {', '.join(missing)}", _GRANT_AGAIN, is_fatal=True)
    return Finding("privileges", "complete")


def _has_privilege(connection: psycopg.Connection[Any], table: str, privilege: str) -> bool:
    """`privilege`: of the table, or as `UPDATE (COLUMN)` of one column."""
    name, _, column = privilege.removesuffix(")").partition(" (")
    if column:
        return bool(_one(connection, "SELECT has_column_privilege(%s, %s, %s)", (table, column, name)))
    return bool(_one(connection, "SELECT has_table_privilege(%s, %s)", (table, name)))


def _role(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    name = _one(connection, "SELECT current_user")
    if _one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        yield Finding(
            "role",
            f"{name} is a superuser, and pykcm never works as one",
            "give the daemons another role, with the GRANTs of `pykcmctl store init --role NAME` alone",
            is_fatal=True,
        )
    else:
        yield Finding("role", f"{name}, no superuser")


def _keys(connection: psycopg.Connection[Any], key_ids: Sequence[bytes]) -> Iterator[Finding]:
    known = dict(connection.execute("SELECT id, may_seal FROM pykcm.keys").fetchall())
    present, *following = key_ids
    sealing = [key_id for key_id, may_seal in known.items() if may_seal]
    others = _names(sealing)
    if not known:
        yield Finding(
            "key",
            f"{present.hex()}; pykcm.keys is empty",
            "if all rows are sealed with this key, run the INSERT of it in `pykcmctl store init --sql`",
            is_fatal=True,
        )
    elif known.get(present):
        yield Finding("key", f"{present.hex()}, as the other hosts'")
    elif any(known.get(each) for each in following):
        way_out = "" if present in known else "put it in the place of the old key"
        yield Finding("key", f"the next key {others} seals, as on the other hosts", way_out)
    elif present in known:
        yield Finding(
            "key",
            f"{present.hex()} was replaced by {others}",
            "give this host the new key as its next key (KEY_FILE.next)",
            is_fatal=True,
        )
    else:
        yield Finding(
            "key",
            f"{present.hex()}; the other hosts have {others}",
            "give all hosts the same key",
            is_fatal=True,
        )
    for each in following:
        if each not in known:
            yield Finding("next key", f"{each.hex()}: this host is ready for `pykcmctl rekey`")
    old = [key_id for key_id, may_seal in known.items() if not may_seal]
    if old and sealing:
        missing = [key_id for key_id in old if key_id not in key_ids]
        yield Finding(
            "rekey",
            f"under way from {_names(old)} to {others}"
            + (", and this host lacks the old key" if missing else ""),
            "if it was interrupted, run `pykcmctl rekey` again on a host with both keys",
            is_fatal=bool(missing),
        )


def _leases(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    there = {name for (name,) in connection.execute("SELECT name FROM pykcm.leases")}
    for name, work in _LEASES.items():
        if name not in there:
            yield Finding(
                "leases",
                f"without the row {name} no host {work}",
                "run the INSERT INTO pykcm.leases of `pykcmctl store init --sql` for this row",
            )


def _settings(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    if _one(connection, "SELECT pg_is_in_recovery()"):
        yield Finding(
            SERVER,
            "a standby, which only reads",
            "name all servers in `postgresql`, with target_session_attrs=read-write",
            is_fatal=True,
        )
    elif _one(connection, "SHOW transaction_read_only") == "on":
        yield Finding(SERVER, "it only reads", "set default_transaction_read_only = off", is_fatal=True)
    else:
        yield Finding(SERVER, str(_one(connection, "SHOW server_version")))
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if _one(connection, f"SHOW {name}") == "off":
            yield Finding(name, "off: a crash loses tickets that were stored", f"set {name} = on")


def _clock(connection: psycopg.Connection[Any], clock: Callable[[], float]) -> Finding:
    begun = clock()
    time = float(_one(connection, "SELECT extract(epoch FROM clock_timestamp())"))
    # The answer may take long: any time from the question to the answer agrees.
    difference = time - min(max(time, begun), clock())
    state = f"the database's differs by {difference:+.1f} s"
    if abs(difference) > _MOST_CLOCK_DIFFERENCE:
        return Finding(CLOCK, state, "synchronize the clocks of the database and of this host")
    return Finding(CLOCK, state)


def _names(key_ids: Sequence[bytes]) -> str:
    return ", ".join(key_id.hex() for key_id in key_ids) or "none"


def _one(connection: psycopg.Connection[Any], query: str, parameters: Sequence[object] = ()) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0]
