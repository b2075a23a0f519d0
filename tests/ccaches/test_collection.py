"""A collection: the order of its ccaches, its default, its changes, and their records."""

import errno
from collections.abc import Callable

import pytest

from pykcm.ccaches.ccache import UNKNOWN_LABEL, uid_in
from pykcm.ccaches.changes import (
    CCacheCreated,
    CCacheRemoved,
    CCacheReplaced,
    CredentialRemoved,
    CredentialsCleared,
    CredentialStored,
    CredentialWritten,
    DefaultChanged,
    KdcOffsetChanged,
    OldCredentialRemoved,
)
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.defaults import NOTHING_CHOSEN, Defaults
from pykcm.protocol.codes import Code
from pykcm.protocol.tag import Match, Tag
from tests.builders import ALICE, BOB, HTTP, TGS, Clock, configuration, credential, refused, service, tag_for
from tests.ccaches.contents import blobs, contents, existing, names


@pytest.fixture
def collection() -> Collection:
    """UID 1000's, with nothing in it."""
    return Collection(1000, Clock())


def create(collection: Collection, *wanted: bytes) -> None:
    for name in wanted:
        collection.initialize(name, ALICE, None)


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


# Credentials


def test_store_replaces_an_equal_credential_in_place(collection: Collection) -> None:
    """STORE replaces an equal credential in its place, with its UUID; any other goes to the end."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, credential(TGS))
    collection.store(ccache, credential(HTTP))
    uuid, _ = ccache.credentials.uuids()
    renewed = credential(TGS, ticket=b"renewed")
    stored = ccache.credentials.get(uuid)
    collection.take_changes()

    collection.store(ccache, renewed)
    assert blobs(ccache) == [renewed.blob, credential(HTTP).blob]
    assert collection.take_changes() == [CredentialStored(ccache, uuid, renewed, stored)]

    # A ticket for S4U2Proxy, which differs in its second ticket alone.
    proxied = credential(TGS, second_ticket=b"evidence")
    collection.store(ccache, proxied)
    assert blobs(ccache) == [renewed.blob, credential(HTTP).blob, proxied.blob]


def test_remove_credentials_removes_every_match(collection: Collection) -> None:
    """REMOVE_CRED removes every match, returns their number, and keeps the order of the others."""
    ccache = collection.initialize(b"1000", ALICE, None)
    for each in (credential(HTTP), credential(TGS), credential(HTTP, BOB)):
        collection.store(ccache, each)
    (first, one), _, (third, three) = ccache.credentials.items()
    collection.take_changes()

    assert collection.remove_credentials(ccache, tag_for(HTTP), 0) == 2
    assert blobs(ccache) == [credential(TGS).blob]
    assert collection.take_changes() == [
        CredentialRemoved(ccache, first, one),
        CredentialRemoved(ccache, third, three),
    ]

    assert collection.remove_credentials(ccache, tag_for(HTTP), 0) == 0
    assert collection.take_changes() == []


def test_remove_spares_user_to_user_tickets(collection: Collection) -> None:
    """Without MATCH_IS_SKEY a user-to-user ticket is never removed by accident."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.store(ccache, credential(HTTP, is_skey=True))
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    assert len(ccache.credentials) == 1
    collection.remove_credentials(ccache, Tag(server=HTTP, is_skey=True), Match.IS_SKEY)
    assert len(ccache.credentials) == 0


def test_configuration_entry_is_replaced(collection: Collection) -> None:
    """libkrb5 sets a configuration entry by REMOVE_CRED and STORE: only the new entry is left."""
    ccache = collection.initialize(b"1000", ALICE, None)
    for value in (b"yes", b"no"):
        entry = configuration(b"fast_avail", value)
        collection.remove_credentials(ccache, tag_for(entry.server), 0)
        collection.store(ccache, entry)
    assert blobs(ccache) == [configuration(b"fast_avail", b"no").blob]


def test_same_kdc_offset_is_no_change(collection: Collection) -> None:
    """The KDC offset is kept; setting the same one again records no change."""
    ccache = collection.initialize(b"1000", ALICE, None)
    collection.take_changes()
    collection.set_kdc_offset(ccache, -120)
    assert ccache.kdc_offset == -120
    assert collection.take_changes() == [KdcOffsetChanged(ccache, 0)]
    collection.set_kdc_offset(ccache, -120)
    assert collection.take_changes() == []


# REPLACE


def test_replace_creates_a_ccache(collection: Collection) -> None:
    """REPLACE of a missing ccache creates it with all given credentials, in their order."""
    given = [credential(TGS), credential(HTTP)]
    ccache = collection.replace(b"1000", BOB, 42, given, "label")
    assert (ccache.principal, ccache.kdc_offset, ccache.label) == (BOB, 42, "label")
    assert list(ccache.credentials) == given
    first, second = ccache.credentials.uuids()
    assert collection.take_changes() == [
        CCacheCreated(ccache),
        CredentialWritten(ccache, first, given[0]),
        CredentialWritten(ccache, second, given[1]),
    ]


def test_replace_removes_the_old_contents(collection: Collection) -> None:
    """REPLACE of an existing ccache keeps name, UUID and place, and nothing of the old contents."""
    create(collection, b"1000", b"1000:other")
    before = existing(collection, b"1000")
    collection.store(before, credential(HTTP))
    after = collection.replace(b"1000", BOB, 1, [credential(TGS)], None)
    assert after.uuid == before.uuid
    assert names(collection) == [b"1000", b"1000:other"]
    assert blobs(after) == [credential(TGS).blob]


def test_replace_overwrites_stored_credentials(collection: Collection) -> None:
    """REPLACE overwrites the stored credentials one by one, and removes those that are left over."""
    three = [credential(server) for server in (TGS, HTTP, service(1))]
    ccache = collection.replace(b"1000", ALICE, 0, three, None)
    first, second, third = ccache.credentials.uuids()
    collection.take_changes()

    one = credential(service(2))
    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, [one], None)
    assert list(ccache.credentials.items()) == [(first, one)]
    assert collection.take_changes() == [
        CCacheReplaced(ccache, overwritten),
        CredentialWritten(ccache, first, one),
        OldCredentialRemoved(ccache, second),
        OldCredentialRemoved(ccache, third),
    ]

    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, three, None)
    again = list(ccache.credentials.uuids())
    assert again[0] == first
    assert len({first, second, third, *again}) == 5
    written = [CredentialWritten(ccache, uuid, each) for uuid, each in zip(again, three, strict=True)]
    assert collection.take_changes() == [CCacheReplaced(ccache, overwritten), *written]

    overwritten = ccache
    ccache = collection.replace(b"1000", ALICE, 0, [], None)
    assert collection.take_changes() == [CCacheReplaced(ccache, overwritten), CredentialsCleared(ccache)]


def test_replace_keeps_the_last_of_equal_credentials(collection: Collection) -> None:
    """Of credentials that equal each other the last one counts, in the place of the first."""
    renewed = credential(TGS, ticket=b"renewed")
    ccache = collection.replace(b"1000", ALICE, 0, [credential(TGS), credential(HTTP), renewed], None)
    assert list(ccache.credentials) == [renewed, credential(HTTP)]


# MOVE_CACHE


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
    assert collection.size == size


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
    assert (copied.default_name, copied.size, copied.footprint) == (
        collection.default_name,
        collection.size,
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
