"""A collection: the order of its ccaches, its default, and its recorded changes."""

import errno
from collections.abc import Callable

import pytest

from pykcm.ccaches.ccache import UNKNOWN_LABEL, uid_in
from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheRemoved,
    CCacheReplaced,
    CredentialsCleared,
    DefaultChanged,
)
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults
from pykcm.protocol.codes import Code
from tests.builders import ALICE, BOB, HTTP, TGS, Clock, credential, refused
from tests.ccaches.contents import blobs, contents, create, existing, names

# Ccaches


def test_initialize_creates_an_empty_ccache(collection: Collection) -> None:
    """INITIALIZE of a missing ccache creates it empty, with KDC offset 0 and its creator's label."""
    ccache = collection.initialize(b"1000", ALICE, "a:b:c:s0:c1")
    assert collection.get(b"1000") is ccache
    assert (ccache.principal, ccache.kdc_offset, ccache.label) == (ALICE, 0, "a:b:c:s0:c1")
    assert len(ccache.credentials) == 0
    assert collection.take_changes() == [CCacheCreated(ccache)]


def test_initialize_empties_a_ccache(collection: Collection) -> None:
    """INITIALIZE of an existing ccache empties it under its new principal, and keeps UUID and place."""
    create(collection, b"1000", b"1000:other")
    before = existing(collection, b"1000")
    collection.store(before, credential())
    collection.set_kdc_offset(before, 7)
    collection.take_changes()

    after = collection.initialize(b"1000", BOB, None)
    assert names(collection) == [b"1000", b"1000:other"]
    assert (after.uuid, after.principal, after.kdc_offset, len(after.credentials)) == (before.uuid, BOB, 0, 0)
    assert collection.by_uuid(before.uuid) is after
    assert collection.take_changes() == [CCacheReplaced(after, before), CredentialsCleared(after)]


def test_ccache_keeps_its_creators_label(collection: Collection) -> None:
    """A ccache keeps its creator's label, whoever initialises or replaces it later."""
    collection.initialize(b"1000", ALICE, "creator")
    assert collection.initialize(b"1000", ALICE, "another").label == "creator"
    assert collection.replace(b"1000", ALICE, 0, (), "another").label == "creator"


def test_uuid_contains_the_uid(collection: Collection) -> None:
    """Every ccache has its own UUID, and the UID can be read from it."""
    create(collection, b"1000", b"1000:a", b"1000:b")
    uuids = [ccache.uuid for ccache in collection]
    assert len(set(uuids)) == 3
    assert {len(uuid) for uuid in uuids} == {16}
    assert {uid_in(uuid) for uuid in uuids} == {1000}
    assert uid_in(Collection(2**32 - 2, Clock()).initialize(b"4294967294", ALICE, None).uuid) == 2**32 - 2


def test_ccaches_are_in_order_of_creation(collection: Collection) -> None:
    """Ccaches are in the order of their creation; one that is destroyed and created again is the last."""
    create(collection, b"1000:b", b"1000", b"1000:a")
    assert names(collection) == [b"1000:b", b"1000", b"1000:a"]
    collection.destroy(b"1000:b")
    create(collection, b"1000:b")
    assert names(collection) == [b"1000", b"1000:a", b"1000:b"]


def test_destroyed_ccache_has_neither_name_nor_uuid(collection: Collection) -> None:
    """After DESTROY neither name nor UUID finds the ccache. A new one of that name has another UUID."""
    create(collection, b"1000", b"1000:a")
    ccache = existing(collection, b"1000:a")
    uuid = ccache.uuid
    collection.take_changes()
    collection.destroy(b"1000:a")
    assert collection.get(b"1000:a") is None
    assert collection.by_uuid(uuid) is None
    assert collection.take_changes() == [CCacheRemoved(uuid, b"1000:a", False, ccache, None)]
    create(collection, b"1000:a")
    assert existing(collection, b"1000:a").uuid != uuid


def test_unused_name_creates_nothing(collection: Collection) -> None:
    """A new name is under the UID, differs each time, and creates no ccache."""
    given = {collection.unused_name() for _ in range(50)}
    assert len(given) == 50
    assert all(name.startswith(b"1000:") and len(name) > len(b"1000:") for name in given)
    assert len(collection) == 0
    assert collection.take_changes() == []


def test_unused_name_is_no_ccaches_and_no_defaults(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name is not that of a ccache, readable or not, nor of a default."""
    drawn = iter([b"taken", b"chosen", b"broken", b"free"])
    monkeypatch.setattr("pykcm.ccaches.lookup._random_suffix", lambda: next(drawn))
    create(collection, b"1000:taken")
    collection.set_default(b"1000:chosen")
    collection.unavailable[b"1000:broken"] = bytes(16)
    assert collection.unused_name() == b"1000:free"


# The default


def test_default_is_the_uids_own_name(collection: Collection) -> None:
    """The default of a new collection is `<uid>`, which then only has to be created."""
    assert collection.default_name == b"1000"
    create(collection, b"1000")
    assert collection.default_name == b"1000"


def test_initialize_never_moves_the_default(collection: Collection) -> None:
    """INITIALIZE and REPLACE do not change the default, even while it names no ccache."""
    create(collection, b"1000:a")
    assert collection.default_name == b"1000"
    collection.replace(b"1000:b", ALICE, 0, (), None)
    assert collection.default_name == b"1000"


def test_set_default_accepts_a_name_without_a_ccache(collection: Collection) -> None:
    """SET_DEFAULT_CACHE accepts a name that no ccache has; nothing is created."""
    collection.set_default(b"1000:later")
    assert collection.default_name == b"1000:later"
    assert len(collection) == 0
    assert collection.get(b"1000:later") is None
    assert collection.take_changes() == [DefaultChanged(Defaults(b"1000:later"), NOTHING_CHOSEN)]


def test_sshds_order_of_calls_creates_the_default(collection: Collection) -> None:
    """GEN_NEW, SET_DEFAULT_CACHE, INITIALIZE and STORE create a ccache that is the default."""
    name = collection.unused_name()
    collection.set_default(name)
    ccache = collection.initialize(name, ALICE, None)
    collection.store(ccache, credential())
    assert collection.default_name == name
    assert names(collection) == [name]


def test_destroying_the_default_keeps_the_chosen_name(collection: Collection) -> None:
    """The name of the destroyed ccache stays chosen, and no change of the default is recorded."""
    create(collection, b"1000", b"1000:a", b"1000:b")
    collection.set_default(b"1000:a")
    collection.take_changes()
    collection.destroy(b"1000:a")
    assert collection.default_name == b"1000:a"
    assert collection.get(b"1000:a") is None
    assert not any(isinstance(change, DefaultChanged) for change in collection.take_changes())


def test_destroying_the_last_ccache_keeps_the_chosen_name(collection: Collection) -> None:
    """When the last ccache is destroyed, the chosen name stays."""
    create(collection, b"1000:a", b"1000:b")
    collection.set_default(b"1000:b")
    collection.destroy(b"1000:b")
    assert collection.default_name == b"1000:b"
    collection.take_changes()
    ccache = existing(collection, b"1000:a")
    collection.destroy(b"1000:a")
    assert collection.default_name == b"1000:b"
    assert collection.take_changes() == [CCacheRemoved(ccache.uuid, b"1000:a", True, ccache, None)]


def test_collection_with_an_unreadable_ccache_is_not_empty(collection: Collection) -> None:
    """The collection is not empty while it has a ccache whose secrets cannot be read."""
    create(collection, b"1000:a")
    collection.unavailable[b"1000:b"] = bytes(16)
    collection.destroy(b"1000:a")
    collection.destroy(b"1000:b")
    removed = [change for change in collection.take_changes() if isinstance(change, CCacheRemoved)]
    assert [change.was_last for change in removed] == [False, True]


def test_setting_the_same_default_is_no_change(collection: Collection) -> None:
    """Setting the default to its present name records no change."""
    collection.set_default(b"1000")
    assert collection.take_changes() == []
    collection.set_default(b"1000:a")
    collection.set_default(b"1000:a")
    assert collection.take_changes() == [DefaultChanged(Defaults(b"1000:a"), NOTHING_CHOSEN)]
    collection.set_default(b"1000")
    assert collection.take_changes() == [DefaultChanged(NOTHING_CHOSEN, Defaults(b"1000:a"))]


# Ccaches whose secrets cannot be read


@pytest.fixture
def with_unavailable(collection: Collection) -> Collection:
    """A collection of one good ccache, `1000`, and one that cannot be read, `1000:broken`."""
    collection.replace(b"1000", ALICE, 0, [credential()], None)
    collection.unavailable[b"1000:broken"] = b"\7" * 16
    collection.take_changes()
    return collection


def test_unavailable_ccache_is_not_listed(with_unavailable: Collection) -> None:
    """A ccache that cannot be read is not listed, and its UUID finds nothing; others are unaffected."""
    assert names(with_unavailable) == [b"1000"]
    assert with_unavailable.by_uuid(b"\7" * 16) is None
    assert blobs(existing(with_unavailable, b"1000")) == [credential().blob]


def test_label_of_an_unavailable_ccache(with_unavailable: Collection) -> None:
    """A ccache that cannot be read has the label that is known of it, else the unknown label."""
    assert with_unavailable.has(b"1000:broken")
    assert with_unavailable.label_of(b"1000:broken") == UNKNOWN_LABEL
    with_unavailable.unavailable_labels[b"1000:broken"] = "a:b:c:s0"
    assert with_unavailable.label_of(b"1000:broken") == "a:b:c:s0"
    with_unavailable.destroy(b"1000:broken")
    assert not with_unavailable.has(b"1000:broken")
    assert with_unavailable.unavailable_labels == {}


def test_unavailable_ccache_can_only_be_destroyed(with_unavailable: Collection) -> None:
    """DESTROY removes a ccache that cannot be read; then its name is free again."""
    with_unavailable.destroy(b"1000:broken")
    assert with_unavailable.take_changes() == [
        CCacheRemoved(b"\7" * 16, b"1000:broken", False, None, UNKNOWN_LABEL)
    ]
    assert with_unavailable.get(b"1000:broken") is None
    with_unavailable.initialize(b"1000:broken", ALICE, None)
    assert names(with_unavailable) == [b"1000", b"1000:broken"]


def other() -> Collection:
    """Another UID's collection with one ccache."""
    collection = Collection(2000, Clock())
    create(collection, b"2000")
    return collection


@pytest.mark.parametrize(
    ("code", "attempt"),
    [
        (errno.EIO, lambda c: c.get(b"1000:broken")),
        (errno.EIO, lambda c: c.initialize(b"1000:broken", ALICE, None)),
        (errno.EIO, lambda c: c.replace(b"1000:broken", ALICE, 0, [credential()], None)),
        (errno.EIO, lambda c: move(c, b"1000:broken", c, b"1000")),
        (errno.EIO, lambda c: move(c, b"1000:broken", c, b"1000:new")),
        (errno.EIO, lambda c: move(c, b"1000", c, b"1000:broken")),
        (errno.EIO, lambda c: move(other(), b"2000", c, b"1000:broken")),
        (Code.FCC_NOFILE, lambda c: c.destroy(b"1000:missing")),
    ],
    ids=["get", "initialize", "replace", "move-from", "move-away", "move-onto", "move-across", "destroy"],
)
def test_failed_method_changes_nothing(
    with_unavailable: Collection, code: Code, attempt: Callable[[Collection], object]
) -> None:
    """A method that raises has changed nothing and recorded nothing."""
    before = contents(with_unavailable)
    with refused(code):
        attempt(with_unavailable)
    assert contents(with_unavailable) == before
    assert with_unavailable.take_changes() == []


# Restoring


def test_restore_records_nothing(collection: Collection) -> None:
    """Restored ccaches are in stored order, and no change is recorded."""
    create(collection, b"1000:a", b"1000")
    collection.set_default(b"1000:a")
    restored = Collection(1000, Clock())
    restored.restore(list(collection), Defaults(b"1000:a"))
    assert contents(restored) == contents(collection)
    assert restored.take_changes() == []


def test_changes_are_taken_once(collection: Collection) -> None:
    """Changes that were taken are not returned again."""
    create(collection, b"1000")
    assert len(collection.take_changes()) == 1
    assert collection.take_changes() == []


def test_copy_is_independent(collection: Collection) -> None:
    """Changes of a copy neither affect the collection nor are recorded in it, and the other way round."""
    create(collection, b"1000", b"1000:other")
    collection.store(existing(collection, b"1000"), credential(TGS))
    collection.set_default(b"1000:other")
    collection.unavailable[b"1000:bad"] = bytes(16)
    collection.take_changes()
    copied = collection.copy()
    assert contents(copied) == contents(collection)
    assert (copied.default_name, copied.use, copied.footprint) == (
        collection.default_name,
        collection.use,
        collection.footprint,
    )
    assert copied.take_changes() == []
    before = contents(collection)
    copied.store(existing(copied, b"1000"), credential(HTTP))
    copied.destroy(b"1000:other")
    copied.destroy(b"1000:bad")
    copied.set_default(b"1000")
    copied.initialize(b"1000:new", BOB, None)
    assert contents(collection) == before
    assert collection.default_name == b"1000:other"
    assert collection.has(b"1000:bad")
    assert collection.take_changes() == []
    collection.destroy(b"1000")
    assert copied.has(b"1000")
