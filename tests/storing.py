"""Changes and reads of a store, without versions and outcomes."""

import os
from collections.abc import Iterable

import pytest

from pykcm.store.interface import Committed, Entry, Pause, Refused, Store
from pykcm.store.tree import Secret, SecretChange, uid_of_container

# Of tests that need secrets under any name, a store that answers without waiting, or one that is no database.
EMBEDDED_STORES = pytest.mark.parametrize("store", ["memory", "sqlcipher"], indirect=True)


async def commit_changes(store: Store, changes: Iterable[SecretChange]) -> None:
    """Commit the changes as one entry; raises StoreError if the store refuses them."""
    changes = list(changes)
    paths = [path for change in changes for path in (change.container, getattr(change, "path", ""))]
    uids = {uid for path in paths if (uid := uid_of_container(path)) is not None}
    bases = {uid: (await store.load(uid)).version for uid in uids}
    (outcome,) = await store.commit([Entry(changes, bases, id=os.urandom(16))])
    if isinstance(outcome, Refused):
        raise outcome.error
    assert isinstance(outcome, Committed), outcome


async def secrets_of(store: Store, uid: int, pause: Pause | None = None) -> list[Secret]:
    """All secrets of the UID."""
    return (await store.load(uid, pause)).secrets
