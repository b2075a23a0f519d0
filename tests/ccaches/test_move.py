"""MOVE_CACHE: the contents, the defaults and the recorded changes."""

import pytest

from pykcm.ccaches.ccache import uid_in
from pykcm.ccaches.collection import Collection, move
from pykcm.protocol.codes import Code
from tests.builders import ALICE, BOB, HTTP, TGS, Clock, credential, refused, service
from tests.ccaches.contents import blobs, contents, create, existing, names


def test_move_of_a_missing_ccache_fails(collection: Collection) -> None:
    """MOVE_CACHE of a missing ccache is FCC_NOFILE, also onto itself, and changes nothing."""
    create(collection, b"1000:target")
    collection.take_changes()
    before = contents(collection)
    for new in (b"1000:target", b"1000:other", b"1000:missing"):
        with refused(Code.FCC_NOFILE):
            move(collection, b"1000:missing", collection, new)
    assert contents(collection) == before
    assert collection.take_changes() == []


def test_move_onto_itself_changes_nothing(collection: Collection) -> None:
    """MOVE_CACHE of a ccache onto itself succeeds and changes nothing."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, credential())
    collection.take_changes()
    before = contents(collection)
    move(collection, b"1000", collection, b"1000")
    assert contents(collection) == before
    assert collection.take_changes() == []


def test_move_to_a_free_name(collection: Collection) -> None:
    """MOVE_CACHE to a free name creates a ccache with the contents of the old one, which is removed."""
    collection.replace(b"1000:tmp", BOB, 5, [credential(TGS), credential(HTTP)], "label")
    move(collection, b"1000:tmp", collection, b"1000")
    assert names(collection) == [b"1000"]
    moved = existing(collection, b"1000")
    assert (moved.principal, moved.kdc_offset, moved.label) == (BOB, 5, "label")
    assert blobs(moved) == [credential(TGS).blob, credential(HTTP).blob]
    assert collection.get(b"1000:tmp") is None


def test_move_overwrites_an_existing_ccache(collection: Collection) -> None:
    """MOVE_CACHE onto an existing ccache removes its contents; each UUID finds the right ccache."""
    target = collection.replace(b"1000", ALICE, 1, [credential(HTTP)], None)
    source = collection.replace(b"1000:tmp", BOB, 2, [credential(TGS)], None)
    move(collection, b"1000:tmp", collection, b"1000")
    assert names(collection) == [b"1000"]
    moved = existing(collection, b"1000")
    assert (moved.principal, moved.kdc_offset, blobs(moved)) == (BOB, 2, [credential(TGS).blob])
    assert collection.by_uuid(target.uuid) is moved
    assert collection.by_uuid(source.uuid) is None


def test_move_records_few_changes(collection: Collection) -> None:
    """MOVE_CACHE records as many changes for a ccache of many credentials as for an empty one."""
    collection.replace(b"1000:tmp", ALICE, 0, [credential(service(number)) for number in range(100)], None)
    credentials = existing(collection, b"1000:tmp").credentials
    collection.take_changes()
    move(collection, b"1000:tmp", collection, b"1000")
    assert existing(collection, b"1000").credentials is credentials
    assert len(collection.take_changes()) == 2
    size = existing(collection, b"1000").size
    assert collection.use.size == size


@pytest.mark.parametrize("others", [[], [b"1000:other"]], ids=["alone", "beside-others"])
@pytest.mark.parametrize(
    ("default", "old", "new", "wanted"),
    [
        (b"1000:tmp", b"1000:tmp", b"1000", b"1000"),
        (b"1000", b"1000", b"1000:a", b"1000:a"),
        (b"1000:tmp", b"1000:tmp", b"1000:a", b"1000:a"),
        (b"1000", b"1000:tmp", b"1000", b"1000"),
        (b"1000", b"1000:tmp", b"1000:a", b"1000"),
        (b"1000:later", b"1000:tmp", b"1000", b"1000:later"),
    ],
)
def test_move_takes_the_default_along(
    collection: Collection, others: list[bytes], default: bytes, old: bytes, new: bytes, wanted: bytes
) -> None:
    """MOVE_CACHE moves a default that named the old ccache, and no other."""
    create(collection, old, *others)
    collection.set_default(default)
    move(collection, old, collection, new)
    assert collection.default_name == wanted


def test_move_to_another_uid_leaves_the_default(collection: Collection) -> None:
    """MOVE_CACHE into another UID's collection takes everything along except the default."""
    other = Collection(2000, Clock())
    collection.replace(b"1000", ALICE, 3, [credential()], "label")
    create(collection, b"1000:a")
    move(collection, b"1000", other, b"2000:x")
    assert names(collection) == [b"1000:a"]
    assert names(other) == [b"2000:x"]
    moved = existing(other, b"2000:x")
    assert (moved.principal, moved.kdc_offset, moved.label, uid_in(moved.uuid)) == (ALICE, 3, "label", 2000)
    assert blobs(moved) == [credential().blob]
    assert (collection.default_name, other.default_name) == (b"1000", b"2000")
    assert collection.take_changes()
    assert other.take_changes()


def test_move_of_the_last_ccache_keeps_the_default(collection: Collection) -> None:
    """A collection that MOVE_CACHE leaves empty keeps its chosen default."""
    create(collection, b"1000:a")
    collection.set_default(b"1000:a")
    move(collection, b"1000:a", Collection(2000, Clock()), b"2000")
    assert len(collection) == 0
    assert collection.default_name == b"1000:a"
