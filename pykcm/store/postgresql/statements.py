"""The statements of the shared store: each is one round trip, and takes effect as a whole or not at all."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pykcm.store.postgresql.prepared import Statement
from pykcm.store.postgresql.rows import RowChanges
from pykcm.store.postgresql.schema import VERSION
from pykcm.store.postgresql.sealing import NIL, Place, Sealer

# Rows of one entry have consecutive positions.
_POSITIONS_OF_A_VERSION = 1 << 20

# This host's key, if it is the one that seals, and if this pykcm knows the schema. A host with only the old
# key, or under which the schema was upgraded, serves nothing.
_SEALING_KEY = f"""
        SELECT keys.id FROM pykcm.keys WHERE keys.id = %(key)s AND may_seal
            AND EXISTS (SELECT FROM pykcm.schema WHERE version = {VERSION})
    """  # noqa: S608
_MAY_SEAL = f"EXISTS ({_SEALING_KEY})"

# There is always a row; its version is NULL for a UID of which nothing was ever stored.
LOAD = f"""
    SELECT c.version, s.ccache, s.item, s.sealed, s.expires, k.may_seal
    FROM (SELECT {_MAY_SEAL} AS may_seal) k LEFT JOIN pykcm.collections c ON c.uid = %(uid)s
        LEFT JOIN pykcm.secrets s ON s.uid = c.uid
    ORDER BY s.position
"""  # noqa: S608

LOAD_CREDENTIALS = """
    SELECT item, sealed FROM pykcm.secrets
    WHERE uid = %(uid)s AND ccache = %(ccache)s AND item <> %(nil)s ORDER BY position
"""

# The row of NO_UID tells that this host may not serve with its key.
VERSIONS = f"""
    SELECT uid, version FROM pykcm.collections WHERE uid = ANY(%(uids)s)
    UNION ALL SELECT -1, 0 WHERE NOT {_MAY_SEAL}
"""  # noqa: S608
NO_UID = -1

VERSIONS_AFTER = "SELECT uid, version FROM pykcm.collections WHERE uid > %s ORDER BY uid LIMIT %s"

KEYS = "SELECT id, may_seal FROM pykcm.keys"

# One host reaps for all. A version conflict alone would make the removals right, but each of a thousand hosts
# would read every collection with an expired ccache.
TAKE_LEASE = """
    UPDATE pykcm.leases SET until = now() + %(seconds)s * interval '1 second'
    WHERE name = %(name)s AND until <= now() RETURNING name
"""

# One host renews TGTs for all, as long as it asks again in time.
KEEP_RENEWALS = """
    UPDATE pykcm.leases SET until = now() + %(seconds)s * interval '1 second', holder = %(holder)s
    WHERE name = 'renewals' AND (until <= now() OR holder = %(holder)s) RETURNING name
"""
END_RENEWALS = """
    UPDATE pykcm.leases SET until = '-infinity' WHERE name = 'renewals' AND holder = %(holder)s RETURNING name
"""

COMMITS_OF_TGTS = """
    SELECT id, uids FROM pykcm.commits
    WHERE at > now() - %(seconds)s * interval '1 second' AND made AND uids IS NOT NULL
"""

# The engine asks for the outcome of a commit within minutes. One host at a time removes its id.
REMOVE_COMMITS = """
    WITH lease AS (
        UPDATE pykcm.leases SET until = now() + interval '1 second'
        WHERE name = 'commits' AND until <= now() RETURNING name
    )
    DELETE FROM pykcm.commits WHERE EXISTS (SELECT FROM lease) AND id IN (
        SELECT id FROM pykcm.commits WHERE at < now() - interval '6 hours' ORDER BY at LIMIT %s
    )
"""

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

# Some host listens for notifications.
_LISTENED = "(SELECT coalesce(bool_or(listened_until > now()), false) FROM pykcm.schema)"

# A commit is one transaction, sent at once. Its first statement increases the versions of all entries that
# are based on the newest one, and notes their ids; the others change rows of entries whose id was noted.
# Rows are locked in order, and nobody waits for a lock: an entry whose rows another transaction has locked is
# blocked, if its versions are still the newest ones. NULL tells that this host's key may not seal.
# Where only some UIDs of one entry have the right version, the statement fails, and with it all of them.
_BEGIN = f"""
    WITH known AS MATERIALIZED (
{_SEALING_KEY}    ), entries AS MATERIALIZED (
        SELECT e.uid, e.base, e.id, e.is_noted
        FROM unnest(%(uids)s::bigint[], %(bases)s::bigint[], %(ids)s::bytea[], %(are_noted)s::boolean[])
            AS e (uid, base, id, is_noted)
        WHERE EXISTS (SELECT FROM known)
    ), locked AS MATERIALIZED (
        SELECT c.uid FROM pykcm.collections c JOIN entries e ON c.uid = e.uid AND c.version = e.base
        ORDER BY c.uid FOR UPDATE OF c SKIP LOCKED
    ), increased AS (
        UPDATE pykcm.collections c SET version = c.version + 1
        FROM entries e JOIN locked l ON l.uid = e.uid
        WHERE c.uid = e.uid AND c.version = e.base RETURNING e.id
    ), created AS (
        INSERT INTO pykcm.collections (uid, version) SELECT uid, 1 FROM entries WHERE base = 0 ORDER BY uid
        ON CONFLICT (uid) DO NOTHING RETURNING uid
    ), done AS (
        SELECT id FROM increased
        UNION ALL SELECT e.id FROM entries e JOIN created c ON c.uid = e.uid AND e.base = 0
    ), noted AS (
        INSERT INTO pykcm.commits (id, made, uids)
        SELECT e.id, true, array_agg(e.uid) FILTER (WHERE e.is_noted) FROM entries e
        WHERE e.id IN (SELECT id FROM done) GROUP BY e.id
    )
    SELECT id, 1 / (
        CASE WHEN count(*) = (SELECT count(*) FROM entries e WHERE e.id = d.id) THEN 1 ELSE 0 END
    ), {_LISTENED}
    FROM done d GROUP BY id
    UNION ALL SELECT e.id, 0, false FROM entries e JOIN pykcm.collections c ON c.uid = e.uid
    WHERE e.id NOT IN (SELECT id FROM done) GROUP BY e.id HAVING bool_and(c.version = e.base)
    UNION ALL SELECT NULL, 1, false WHERE NOT EXISTS (SELECT FROM known)
"""  # noqa: S608
# The same for one entry that adds ccaches, if their number is limited. Transactions at one time do not see
# each other's: the number may exceed the limit by as many as run at once.
_HAS_ROOM = f"""WHERE EXISTS (SELECT FROM known) AND %(added)s + (
            SELECT count(*) FROM (SELECT FROM pykcm.secrets WHERE {_IS_CCACHE} LIMIT %(most)s) c
        ) <= %(most)s
"""  # noqa: S608
_BEGIN_LIMITED = _BEGIN.replace("WHERE EXISTS (SELECT FROM known)\n", _HAS_ROOM, 1)
# The same for the usual entry, of one UID that is known.
_BEGIN_ONE = f"""
    WITH known AS MATERIALIZED (
{_SEALING_KEY}    ), locked AS MATERIALIZED (
        SELECT uid FROM pykcm.collections
        WHERE uid = %(uid)s AND version = %(base)s AND EXISTS (SELECT FROM known) FOR UPDATE SKIP LOCKED
    ), increased AS (
        UPDATE pykcm.collections c SET version = version + 1 FROM locked l
        WHERE c.uid = l.uid AND c.version = %(base)s RETURNING c.uid
    ), noted AS (
        INSERT INTO pykcm.commits (id, made, uids)
        SELECT %(id)s, true, CASE WHEN %(is_noted)s THEN ARRAY[uid] END FROM increased RETURNING id
    )
    SELECT id, 1, {_LISTENED} FROM noted
    UNION ALL SELECT %(id)s, 0, false FROM pykcm.collections
    WHERE uid = %(uid)s AND version = %(base)s AND NOT EXISTS (SELECT FROM noted)
    UNION ALL SELECT NULL, 1, false WHERE NOT EXISTS (SELECT FROM known)
"""  # noqa: S608
_DELETE = """
    DELETE FROM pykcm.secrets s
    USING unnest(%(ids)s::bytea[], %(uids)s::bigint[], %(ccaches)s::bytea[], %(items)s::bytea[])
        AS p (id, uid, ccache, item) JOIN pykcm.commits k ON k.id = p.id
    WHERE s.uid = p.uid AND s.ccache = p.ccache AND s.item = p.item
"""
_CLEAR_CREDENTIALS = """
    DELETE FROM pykcm.secrets s
    USING unnest(%(ids)s::bytea[], %(uids)s::bigint[], %(ccaches)s::bytea[]) AS p (id, uid, ccache)
        JOIN pykcm.commits k ON k.id = p.id
    WHERE s.uid = p.uid AND s.ccache = p.ccache AND s.item <> %(nil)s
"""
# A row under another id is none of pykcm's: no ccache is shown for it, and none that is removed can be it.
_CLEAR_CCACHES = """
    DELETE FROM pykcm.secrets s
    USING unnest(%(ids)s::bytea[], %(uids)s::bigint[]) AS p (id, uid) JOIN pykcm.commits k ON k.id = p.id
    WHERE s.uid = p.uid AND s.item = %(nil)s AND s.ccache <> %(nil)s AND octet_length(s.ccache) = 16
"""
_WRITE = """
    INSERT INTO pykcm.secrets (uid, ccache, item, position, expires, sealed)
    SELECT w.uid, w.ccache, w.item, w.position, w.expires, w.sealed
    FROM unnest(%(ids)s::bytea[], %(uids)s::bigint[], %(ccaches)s::bytea[], %(items)s::bytea[],
        %(positions)s::bigint[], %(expires)s::bigint[], %(sealed)s::bytea[])
        AS w (id, uid, ccache, item, position, expires, sealed) JOIN pykcm.commits k ON k.id = w.id
    ON CONFLICT (uid, ccache, item) DO UPDATE SET expires = excluded.expires, sealed = excluded.sealed
"""
# The same for one row.
_WRITE_ONE = """
    INSERT INTO pykcm.secrets (uid, ccache, item, position, expires, sealed)
    SELECT %(uid)s, %(ccache)s, %(item)s, %(position)s, %(expires)s::bigint, %(sealed)s
    FROM pykcm.commits WHERE id = %(id)s
    ON CONFLICT (uid, ccache, item) DO UPDATE SET expires = excluded.expires, sealed = excluded.sealed
"""

_NOTIFY = """
    SELECT pg_notify('pykcm', c.uid || ' ' || c.version)
    FROM unnest(%(ids)s::bytea[], %(uids)s::bigint[]) AS p (id, uid)
        JOIN pykcm.commits k ON k.id = p.id JOIN pykcm.collections c ON c.uid = p.uid
"""

# The same for one UID.
_NOTIFY_ONE = """
    SELECT pg_notify('pykcm', %(uid)s::bigint || ' ' || %(version)s::bigint)
    FROM pykcm.commits WHERE id = %(id)s
"""

# After this the commit of this id is either made, or never will be: the row is in its way. It also writes
# where there is a row: after a crash the server shows commits that its standby does not have yet. The answer
# comes when the standby has this change, and all before it.
SETTLE = """
    INSERT INTO pykcm.commits AS c (id, made) VALUES (%s, false)
    ON CONFLICT (id) DO UPDATE SET made = c.made RETURNING made
"""


class Sealed(NamedTuple):
    """An entry as the statements take it: the base version of each of its UIDs, and its rows."""

    id: bytes
    bases: dict[int, int]
    changes: RowChanges
    added: int = 0
    most_ccaches: int = 0
    changes_tgts: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether it depends on the number of all ccaches; it is committed alone."""
        return self.most_ccaches > 0 and self.added > 0


def commit_statements(entries: Sequence[Sealed], sealer: Sealer) -> list[Statement]:
    """The statements of the transaction that commits entries.

    The first one gives a row for each entry that is done or blocked: its id, 1 or 0, and whether some host
    listens for notifications. Entries without a row are based on an old version.
    The entries have no UID in common. Each is committed or not by itself.
    """
    statements = [_begin(entries, sealer)]
    deleted, credentials, ccaches = [], [], []
    for entry in entries:
        places = entry.changes.deleted | {
            place for place, row in entry.changes.written.items() if row.is_last
        }
        for container in entry.changes.cleared:
            if container.is_default:
                places.add(Place(container.uid))
            elif container.ccache == NIL:
                ccaches.append((entry.id, container.uid))
            else:
                credentials.append((entry.id, container.uid, container.ccache))
        deleted += [(entry.id, *place) for place in places]
    if credentials:
        statements.append((_CLEAR_CREDENTIALS, {"nil": NIL, **_columns("ids uids ccaches", credentials)}))
    if ccaches:
        statements.append((_CLEAR_CCACHES, {"nil": NIL, **_columns("ids uids", ccaches)}))
    if deleted:
        statements.append((_DELETE, _columns("ids uids ccaches items", deleted)))
    rows = [row for entry in entries for row in _sealed_rows(entry, sealer)]
    if len(rows) == 1:
        statements.append(
            (
                _WRITE_ONE,
                dict(
                    zip(
                        ("id", "uid", "ccache", "item", "position", "expires", "sealed"), rows[0], strict=True
                    )
                ),
            )
        )
    elif rows:
        statements.append((_WRITE, _columns("ids uids ccaches items positions expires sealed", rows)))
    return statements


def notification(entries: Sequence[Sealed]) -> Statement:
    """The statement that notifies the new versions of those entries that were committed."""
    if len(entries) == 1 and len(entries[0].bases) == 1:
        [(uid, base)] = entries[0].bases.items()
        return _NOTIFY_ONE, {"uid": uid, "version": base + 1, "id": entries[0].id}
    return _NOTIFY, _columns("ids uids", [(entry.id, uid) for entry in entries for uid in entry.bases])


def _begin(entries: Sequence[Sealed], sealer: Sealer) -> Statement:
    is_limited = entries[0].is_limited
    if len(entries) == 1 and len(entries[0].bases) == 1 and not is_limited:
        [(uid, base)] = entries[0].bases.items()
        if base:
            entry = entries[0]
            one = {"uid": uid, "base": base, "id": entry.id, "is_noted": entry.changes_tgts}
            return _BEGIN_ONE, one | {"key": sealer.key.id}
    bases = [
        (uid, base, entry.id, entry.changes_tgts) for entry in entries for uid, base in entry.bases.items()
    ]
    parameters = {"key": sealer.key.id, **_columns("uids bases ids are_noted", bases)}
    if is_limited:
        return _BEGIN_LIMITED, parameters | {"added": entries[0].added, "most": entries[0].most_ccaches}
    return _BEGIN, parameters


def _sealed_rows(entry: Sealed, sealer: Sealer) -> Iterator[tuple[Any, ...]]:
    for number, (place, row) in enumerate(entry.changes.written.items()):
        position = (entry.bases[place.uid] + 1) * _POSITIONS_OF_A_VERSION + number
        yield (entry.id, *place, position, row.expires, sealer.seal(place, row.value, row.expires))


def _columns(names: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Parameters for unnest: a list for each column."""
    return {name: [row[index] for row in rows] for index, name in enumerate(names.split())}
