"""The statements of the shared store: each is one round trip, and takes effect as a whole or not at all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pykcm.store.postgresql.rows import RowChanges
from pykcm.store.postgresql.sealing import NIL, Place, Sealer

# Rows of one entry have consecutive positions.
_POSITIONS_OF_A_VERSION = 1 << 20

LOAD = """
    SELECT c.version, s.ccache, s.item, s.sealed, s.expires
    FROM pykcm.collections c LEFT JOIN pykcm.secrets s ON s.uid = c.uid
    WHERE c.uid = %s ORDER BY s.position
"""

LOAD_CREDENTIALS = """
    SELECT item, sealed FROM pykcm.secrets
    WHERE uid = %(uid)s AND ccache = %(ccache)s AND item <> %(nil)s ORDER BY position
"""

VERSIONS = "SELECT uid, version FROM pykcm.collections WHERE uid = ANY(%s)"

# The condition is the one of the index.
_IS_CCACHE = """item = '\\x00000000000000000000000000000000'
    AND ccache <> '\\x00000000000000000000000000000000'"""

UIDS = f"SELECT DISTINCT uid FROM pykcm.secrets WHERE {_IS_CCACHE} ORDER BY uid"  # noqa: S608
COUNT = f"SELECT count(*) FROM pykcm.secrets WHERE {_IS_CCACHE}"  # noqa: S608
EXPIRED = f"""
    SELECT expires, ccache, uid, sealed FROM pykcm.secrets
    WHERE {_IS_CCACHE} AND expires <= %s AND (expires, ccache) > (%s, %s)
    ORDER BY expires, ccache LIMIT %s
"""  # noqa: S608
WITHOUT_EXPIRY = f"""
    SELECT DISTINCT uid FROM pykcm.secrets WHERE {_IS_CCACHE} AND expires IS NULL AND uid > %s
    ORDER BY uid LIMIT %s
"""  # noqa: S608

# A version guards all that follows: an entry whose base is not the newest version changes nothing.
# Rows are locked in order: two hosts never wait for each other.
_ENTRIES = """
    WITH entries AS MATERIALIZED (
        SELECT e.uid, e.base, e.id
        FROM unnest(%(uids)s::bigint[], %(bases)s::bigint[], %(ids)s::bytea[]) AS e (uid, base, id)
        WHERE EXISTS (SELECT FROM pykcm.keys WHERE keys.id = %(key)s AND may_seal)
    ), locked AS MATERIALIZED (
        SELECT c.uid FROM pykcm.collections c JOIN entries e ON c.uid = e.uid AND c.version = e.base
        ORDER BY c.uid FOR UPDATE OF c
    ), increased AS (
        UPDATE pykcm.collections c SET version = c.version + 1
        FROM entries e JOIN locked l ON l.uid = e.uid
        WHERE c.uid = e.uid AND c.version = e.base RETURNING c.uid
    ), created AS (
        INSERT INTO pykcm.collections (uid, version) SELECT uid, 1 FROM entries WHERE base = 0 ORDER BY uid
        ON CONFLICT (uid) DO NOTHING RETURNING uid
    ), done AS (
        SELECT uid FROM increased UNION ALL SELECT uid FROM created
    ), noted AS (
        INSERT INTO pykcm.commits (id, made)
        SELECT DISTINCT e.id, true FROM entries e JOIN done d ON d.uid = e.uid
    )"""
_DELETED = """, deleted AS (
        DELETE FROM pykcm.secrets s
        USING unnest(%(d_uids)s::bigint[], %(d_ccaches)s::bytea[], %(d_items)s::bytea[])
            AS p (uid, ccache, item)
            JOIN done d ON d.uid = p.uid
        WHERE s.uid = p.uid AND s.ccache = p.ccache AND s.item = p.item
    )"""
# A statement cannot delete a row and write it.
_CLEARED = """, cleared AS (
        DELETE FROM pykcm.secrets s
        USING unnest(%(c_uids)s::bigint[], %(c_ccaches)s::bytea[]) AS p (uid, ccache)
            JOIN done d ON d.uid = p.uid
        WHERE s.uid = p.uid AND s.ccache = p.ccache AND s.item <> %(nil)s
            AND (s.uid, s.ccache, s.item) NOT IN (SELECT w.uid, w.ccache, w.item FROM rows w)
    )"""
_CLEARED_CCACHES = """, cleared_ccaches AS (
        DELETE FROM pykcm.secrets s
        USING unnest(%(cc_uids)s::bigint[]) AS p (uid) JOIN done d ON d.uid = p.uid
        WHERE s.uid = p.uid AND s.item = %(nil)s AND s.ccache <> %(nil)s
            AND (s.uid, s.ccache, s.item) NOT IN (SELECT w.uid, w.ccache, w.item FROM rows w)
    )"""
_ROWS = """, rows AS MATERIALIZED (
        SELECT w.* FROM unnest(%(w_uids)s::bigint[], %(w_ccaches)s::bytea[], %(w_items)s::bytea[],
            %(w_positions)s::bigint[], %(w_last)s::boolean[], %(w_expires)s::bigint[], %(w_sealed)s::bytea[])
            AS w (uid, ccache, item, position, is_last, expires, sealed)
        JOIN done d ON d.uid = w.uid
    )"""
_WRITTEN = """, written AS (
        INSERT INTO pykcm.secrets AS s (uid, ccache, item, position, expires, sealed)
        SELECT uid, ccache, item, position, expires, sealed FROM rows
        ON CONFLICT (uid, ccache, item) DO UPDATE SET expires = excluded.expires, sealed = excluded.sealed,
            position = CASE WHEN excluded.position IN (SELECT position FROM rows WHERE is_last)
                THEN excluded.position ELSE s.position END
    )"""
# NULL tells that this host's key may not seal.
_UNLESS_KEY = """
    UNION ALL SELECT NULL WHERE NOT EXISTS (SELECT FROM pykcm.keys WHERE keys.id = %(key)s AND may_seal)
"""
_END = f" SELECT uid FROM done {_UNLESS_KEY}"
# An entry of several UIDs: where one of them has another version, the division ends the statement.
_END_ALL_OR_NONE = f"""
    SELECT uid / (CASE WHEN (SELECT count(*) FROM done) = %(number)s THEN 1 ELSE 0 END) FROM done
    {_UNLESS_KEY}
"""  # noqa: S608

# After this the commit of this id is either made, or never will be: the row is in its way.
SETTLE = "INSERT INTO pykcm.commits (id, made) VALUES (%s, false) ON CONFLICT (id) DO NOTHING"
IS_MADE = "SELECT made FROM pykcm.commits WHERE id = %s"


class Sealed(NamedTuple):
    """An entry as the statement takes it: the base version of each of its UIDs, and its rows."""

    id: bytes
    bases: dict[int, int]
    changes: RowChanges


def commit_statement(entries: Sequence[Sealed], sealer: Sealer) -> tuple[str, dict[str, Any]]:
    """The statement that commits entries, and its parameters; it gives the UIDs that were changed.

    The entries have no UID in common. Each is committed or not by itself.
    """
    parameters: dict[str, Any] = {
        "uids": [uid for entry in entries for uid in entry.bases],
        "bases": [base for entry in entries for base in entry.bases.values()],
        "ids": [entry.id for entry in entries for _ in entry.bases],
        "key": sealer.key.id,
        "nil": NIL,
    }
    statement = _ENTRIES
    written = _rows(entries, sealer)
    parameters |= written
    statement += _ROWS
    deleted = [
        place for entry in entries for place in entry.changes.deleted if place not in entry.changes.written
    ]
    cleared = [container for entry in entries for container in entry.changes.cleared]
    deleted += [
        Place(each.uid)
        for entry in entries
        for each in entry.changes.cleared
        if each.is_default and Place(each.uid) not in entry.changes.written
    ]
    if deleted:
        statement += _DELETED
        parameters |= _columns("d", ("uids", "ccaches", "items"), deleted)
    if credentials := [(each.uid, each.ccache) for each in cleared if each.ccache != NIL]:
        statement += _CLEARED
        parameters |= _columns("c", ("uids", "ccaches"), credentials)
    if ccaches := [each.uid for each in cleared if each.ccache == NIL and not each.is_default]:
        statement += _CLEARED_CCACHES
        parameters["cc_uids"] = ccaches
    if written["w_uids"]:
        statement += _WRITTEN
    if any(len(entry.bases) > 1 for entry in entries):
        parameters["number"] = len(parameters["uids"])
        return statement + _END_ALL_OR_NONE, parameters
    return statement + _END, parameters


def _rows(entries: Sequence[Sealed], sealer: Sealer) -> dict[str, Any]:
    rows = []
    for entry in entries:
        for number, (place, row) in enumerate(entry.changes.written.items()):
            position = (entry.bases[place.uid] + 1) * _POSITIONS_OF_A_VERSION + number
            sealed = sealer.seal(place, row.value, row.expires)
            rows.append((*place, position, row.is_last, row.expires, sealed))
    return _columns("w", ("uids", "ccaches", "items", "positions", "last", "expires", "sealed"), rows)


def _columns(prefix: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Parameters for unnest: a list for each column."""
    return {f"{prefix}_{name}": [row[index] for row in rows] for index, name in enumerate(names)}
