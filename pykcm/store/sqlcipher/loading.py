"""Reading a UID's secrets from the database: an ordinary collection at once, a large one in slices.

Between two slices other tasks commit, and rekey may even replace the database by its copy. Therefore no
cursor is open then. Ids stay the same.
"""

from collections.abc import Callable
from typing import Any

from pykcm.store.interface import Pause
from pykcm.store.tree import Secret, uid_container

# Secrets and bytes that are read in one slice: 2 to 3 ms.
_SECRETS_AT_ONCE = 256
_BYTES_AT_ONCE = 512 * 1024

# Reading only ids is faster, because they are in the index.
_IDS_AT_ONCE = 4096

# In bytes: longer values are read one by one.
_SHORT = 8 * 1024

_BELOW = "(path = ?1 OR path > ?1 || '/' AND path < ?1 || '0')"  # '0' is the character after '/'
_SHORT_VALUE = f"CASE WHEN length(value) <= {_SHORT} THEN value END"

_FIRST = f"""
    SELECT secrets.id, path, name, {_SHORT_VALUE}, expires
    FROM containers CROSS JOIN secrets ON secrets.container = containers.id
    WHERE {_BELOW} LIMIT {_SECRETS_AT_ONCE + 1}
"""
_CONTAINERS = f"SELECT id, path FROM containers WHERE {_BELOW}"
_IDS = f"SELECT name, id FROM secrets WHERE container = ? AND name > ? ORDER BY name LIMIT {_IDS_AT_ONCE}"
_SECRETS = f"""
    SELECT id, container, name, {_SHORT_VALUE}, expires FROM secrets
    WHERE id IN ({", ".join("?" * _SECRETS_AT_ONCE)}) ORDER BY id
"""
_VALUE = "SELECT value FROM secrets WHERE id = ?"

Query = Callable[[str, tuple[Any, ...]], list[Any]]


async def _no_pause() -> None:
    pass


async def load(query: Query, uid: int, pause: Pause | None) -> list[Secret]:
    """Load as Store does; `query` returns all rows of a statement."""
    container = uid_container(uid)
    rows = query(_FIRST, (container,))
    if len(rows) <= _SECRETS_AT_ONCE and all(row[3] is not None for row in rows):
        rows.sort()
        return [Secret(*row[1:]) for row in rows]
    return await _load_in_slices(query, container, pause or _no_pause)


async def _load_in_slices(query: Query, container: str, pause: Pause) -> list[Secret]:
    await pause()
    paths = dict(query(_CONTAINERS, (container,)))
    ids = await _ids(query, paths, pause)
    loaded: list[Secret] = []
    size = 0
    for begin in range(0, len(ids), _SECRETS_AT_ONCE):
        await pause()
        some = ids[begin : begin + _SECRETS_AT_ONCE]
        for id_, container_id, name, value, expires in query(_SECRETS, _filled_up(some)):
            if value is None:
                if size > _BYTES_AT_ONCE:
                    size = 0
                    await pause()
                [(value,)] = query(_VALUE, (id_,))  # noqa: PLW2901
                size += len(value)
            loaded.append(Secret(paths[container_id], name, value, expires))
    return loaded


async def _ids(query: Query, paths: dict[int, str], pause: Pause) -> list[int]:
    """Return the ids of all secrets in these containers, in stored order."""
    ids: list[int] = []
    read = 0
    for container in paths:
        last = ""
        while True:
            rows = query(_IDS, (container, last))
            ids += [id_ for _, id_ in rows]
            read += 1 + len(rows)
            if read >= _IDS_AT_ONCE:
                read = 0
                await pause()
            if len(rows) < _IDS_AT_ONCE:
                break
            last = rows[-1][0]
    ids.sort()
    return ids


def _filled_up(ids: list[int]) -> tuple[int, ...]:
    # One statement serves any number of ids, and is prepared once.
    return (*ids, *[ids[-1]] * (_SECRETS_AT_ONCE - len(ids)))
