"""Secrets as rows: where each one has its row, and the rows that an entry's changes write and delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pykcm.store.postgresql.sealing import NIL, Place
from pykcm.store.tree import (
    DEFAULT,
    Delete,
    DeleteContainer,
    Put,
    RenameContainer,
    Secret,
    SecretChange,
    ccache_name,
    ccaches_container,
    credential_uuid,
    split_ccache_name,
    uid_container,
    uid_of_container,
)

# Between the name of a ccache's secret and its value; the name is percent-encoded.
_END_OF_NAME = b"\0"


class Row(NamedTuple):
    """A row before it is sealed. `is_last`: it goes to the end, also where there is one in its place."""

    value: bytes
    expires: int | None = None
    is_last: bool = False


class Container(NamedTuple):
    """The rows of a container: the credentials of `ccache`; NIL: the ccaches, or the default alone."""

    uid: int
    ccache: bytes
    is_default: bool = False


@dataclass(slots=True)
class RowChanges:
    """The rows to delete, and then the ones to write."""

    cleared: set[Container] = field(default_factory=set)
    deleted: set[Place] = field(default_factory=set)
    written: dict[Place, Row] = field(default_factory=dict)

    def is_gone(self, place: Place) -> bool:
        """Whether a row that the database has is deleted."""
        return place in self.deleted or container_of(place) in self.cleared


def container_of(place: Place) -> Container:
    if place.item != NIL:
        return Container(place.uid, place.ccache)
    return Container(place.uid, NIL, is_default=place.ccache == NIL)


def parse_container(path: str) -> Container:
    """The container of a path of `tree`; raises ValueError."""
    uid = uid_of_container(path)
    if uid is None:
        raise ValueError("a container of no UID")
    if path == uid_container(uid):
        return Container(uid, NIL, is_default=True)
    ccaches = ccaches_container(uid)
    if path == ccaches:
        return Container(uid, NIL)
    return Container(uid, split_ccache_name(path[len(ccaches) + 1 :])[0])


def place_of(container: str, name: str) -> Place:
    """The row of a secret; raises ValueError."""
    uid, ccache, is_default = parse_container(container)
    if is_default:
        if name != DEFAULT:
            raise ValueError("a secret without a row")
        return Place(uid)
    return (
        Place(uid, split_ccache_name(name)[0]) if ccache == NIL else Place(uid, ccache, credential_uuid(name))
    )


def sources_of_renames(changes: Iterable[SecretChange]) -> list[Container]:
    """The containers whose rows have to be known: a row that moves is sealed for its new place."""
    return [parse_container(change.container) for change in changes if type(change) is RenameContainer]


def row_changes(changes: Sequence[SecretChange], renamed: dict[Container, dict[bytes, Row]]) -> RowChanges:
    """The effect of all changes together.

    `renamed`: the rows by item, in their order, of each container that `sources_of_renames` names.
    """
    effect = RowChanges()
    for change in changes:
        match change:
            case Put(container, name, value, expires):
                place = place_of(container, name)
                if container_of(place).ccache == NIL and place.ccache != NIL:
                    value = name.encode() + _END_OF_NAME + value
                # In the place of an earlier one of the same changes: dictionaries keep the order.
                earlier = effect.written.get(place)
                is_last = earlier.is_last if earlier else effect.is_gone(place)
                effect.written[place] = Row(value, expires, is_last)
            case Delete(container, name):
                _delete(effect, place_of(container, name))
            case DeleteContainer(container):
                _clear(effect, parse_container(container))
            case RenameContainer(container, path):
                _rename(effect, parse_container(container), parse_container(path), renamed)
    return effect


def _delete(effect: RowChanges, place: Place) -> None:
    effect.written.pop(place, None)
    effect.deleted.add(place)


def _clear(effect: RowChanges, container: Container) -> None:
    for place in [place for place in effect.written if container_of(place) == container]:
        del effect.written[place]
    effect.cleared.add(container)


def _rename(
    effect: RowChanges, source: Container, target: Container, renamed: dict[Container, dict[bytes, Row]]
) -> None:
    rows = {
        item: row
        for item, row in renamed.get(source, {}).items()
        if not effect.is_gone(Place(source.uid, source.ccache, item))
    }
    for place, row in effect.written.items():
        if container_of(place) == source:
            if row.is_last:
                rows.pop(place.item, None)
            rows[place.item] = row
    _clear(effect, source)
    for item, row in rows.items():
        effect.written[Place(target.uid, target.ccache, item)] = row._replace(is_last=True)


class StoredRow(NamedTuple):
    """A row as the database has it, unsealed."""

    place: Place
    value: bytes
    expires: int | None
    damage: str = ""


def secrets_of(rows: Iterable[StoredRow]) -> list[Secret]:
    """The secrets of one UID's rows, in the same order. Credentials of no ccache are left out."""
    rows = list(rows)
    names = {row.place.ccache: _secret_name(row) for row in rows if _is_ccache(row.place)}
    secrets = []
    for (uid, ccache, item), value, expires, damage in rows:
        if ccache == NIL:
            secrets.append(Secret(uid_container(uid), DEFAULT, value, None, damage))
        elif item == NIL:
            text = value.partition(_END_OF_NAME)[2]
            secrets.append(Secret(ccaches_container(uid), names[ccache], text, expires, damage))
        elif ccache in names:
            container = f"{ccaches_container(uid)}/{names[ccache]}"
            secrets.append(Secret(container, item.hex(), value, None, damage))
    return secrets


def _is_ccache(place: Place) -> bool:
    return place.item == NIL and place.ccache != NIL


def _secret_name(row: StoredRow) -> str:
    """The name of a ccache's secret. A damaged row gets another name, because its own is sealed with it."""
    uid, ccache, _ = row.place
    if row.damage:
        return ccache_name(ccache, b"%d:damaged-%s" % (uid, ccache.hex().encode()))
    return row.value.partition(_END_OF_NAME)[0].decode("ascii", "replace")
