"""Changes and reads of a store, without versions and outcomes."""

from collections.abc import Iterable

from pykcm.store.interface import Committed, Entry, Pause, Refused, Store
from pykcm.store.tree import Secret, SecretChange


async def commit_changes(store: Store, changes: Iterable[SecretChange]) -> None:
    """Commit the changes as one entry; raises StoreError if the store refuses them."""
    (outcome,) = await store.commit([Entry(list(changes))])
    if isinstance(outcome, Refused):
        raise outcome.error
    assert isinstance(outcome, Committed), outcome


async def secrets_of(store: Store, uid: int, pause: Pause | None = None) -> list[Secret]:
    """All secrets of the UID."""
    return (await store.load(uid, pause)).secrets
