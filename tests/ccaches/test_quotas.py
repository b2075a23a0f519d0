"""Quotas: the limit itself is allowed; one byte or ccache more is EDQUOT, and changes nothing."""

import pytest

from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.protocol.codes import KcmError
from pykcm.protocol.tag import Tag
from tests.builders import (
    ALICE,
    HTTP,
    Clock,
    credential,
    credential_of_size,
    principal,
    principal_bytes,
    tag_for,
    tgs,
)
from tests.ccaches.contents import (
    PRINCIPAL_SIZE,
    assert_refused,
    contents,
    existing,
    names,
)

pytestmark = pytest.mark.usefixtures("bytes_alone")


def collection_of_sizes(*sizes: int, quotas: Quotas, ccache_count: CCacheCount | None = None) -> Collection:
    """A collection with the ccache `1000` of one TGT for each size given: nothing that may go for room."""
    collection = Collection(1000, Clock(), quotas, ccache_count)
    given = [credential_of_size(size, tgs(number)) for number, size in enumerate(sizes)]
    collection.replace(b"1000", ALICE, 0, given, None)
    collection.take_changes()
    return collection


def test_size_of_a_ccache() -> None:
    """The size of a ccache is that of its credentials, its principal and the overhead."""
    collection = collection_of_sizes(200, 300, quotas=Quotas())
    assert existing(collection, b"1000").size == PRINCIPAL_SIZE + 500


def test_size_of_a_ccache_at_the_limit() -> None:
    """A ccache may be exactly as large as max_ccache_size."""
    collection = collection_of_sizes(200, quotas=Quotas(max_ccache_size=PRINCIPAL_SIZE + 500))
    ccache = existing(collection, b"1000")
    collection.store(ccache, credential_of_size(300, HTTP))
    collection.take_changes()
    assert_refused(
        collection, lambda: collection.store(ccache, credential_of_size(301, HTTP)), "max_ccache_size", "1000"
    )
    collection.remove_credentials(ccache, tag_for(HTTP), 0)
    collection.store(ccache, credential_of_size(300, HTTP))


def test_size_of_a_collection_at_the_limit() -> None:
    """All ccaches of a UID together may be exactly as large as max_uid_size."""
    quotas = Quotas(max_uid_size=2 * PRINCIPAL_SIZE + 500)
    collection = collection_of_sizes(200, quotas=quotas)
    other = collection.initialize(b"1000:other", ALICE, None)
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.store(other, credential_of_size(301)),
        "max_uid_size",
        "the owner of KCM:1000",
    )
    collection.store(other, credential_of_size(300))
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.initialize(b"1000:third", ALICE, None),
        "max_uid_size",
        "the owner of KCM:1000",
    )
    collection.destroy(b"1000")
    collection.store(other, credential_of_size(200, HTTP))


def test_longer_principal_counts() -> None:
    """An INITIALIZE for a longer principal counts the difference."""
    longer = principal("alice/x")
    size = len(principal_bytes(longer))
    collection = collection_of_sizes(quotas=Quotas(max_uid_size=size))
    collection.initialize(b"1000", longer, None)
    collection.initialize(b"1000", ALICE, None)
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.initialize(b"1000", principal("alice/xy"), None),
        "max_uid_size",
        "the owner of KCM:1000",
    )


def test_restored_ccaches_count() -> None:
    """After a restart the size of stored ccaches counts as before."""
    limit = PRINCIPAL_SIZE + 500
    collection = Collection(1000, Clock(), Quotas(max_uid_size=limit))
    collection.restore(list(collection_of_sizes(200, quotas=Quotas())))
    ccache = existing(collection, b"1000")
    assert_refused(
        collection,
        lambda: collection.store(ccache, credential_of_size(301)),
        "max_uid_size",
        "the owner of KCM:1000",
    )
    collection.store(ccache, credential_of_size(300))


def test_store_of_an_equal_credential_counts_the_difference() -> None:
    """STORE of an equal credential needs room only for the difference."""
    limit = PRINCIPAL_SIZE + 250
    collection = collection_of_sizes(200, quotas=Quotas(max_ccache_size=limit, max_uid_size=limit))
    ccache = existing(collection, b"1000")
    collection.store(ccache, credential_of_size(250, tgs(0)))
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.store(ccache, credential_of_size(251, tgs(0))),
        "max_ccache_size",
        "1000",
    )


def test_change_that_adds_nothing_is_always_allowed() -> None:
    """In a collection over its (lowered) limits every change is allowed that makes it no larger."""
    full = collection_of_sizes(200, 300, quotas=Quotas())
    lowered = Collection(1000, Clock(), Quotas(max_uid_ccaches=1, max_ccache_size=10, max_uid_size=10))
    lowered.restore(list(full))
    ccache = existing(lowered, b"1000")
    lowered.store(ccache, credential_of_size(199, tgs(0)))
    lowered.store(ccache, credential_of_size(199, tgs(0)))
    lowered.remove_credentials(ccache, tag_for(tgs(1)), 0)
    lowered.replace(b"1000", ALICE, 0, [credential_of_size(150)], None)
    lowered.initialize(b"1000", ALICE, None)
    lowered.destroy(b"1000")
    assert len(lowered) == 0


def test_removed_contents_free_their_room() -> None:
    """The bytes that REMOVE_CRED, INITIALIZE, REPLACE and DESTROY free can be used again, exactly."""
    limit = PRINCIPAL_SIZE + 500
    collection = collection_of_sizes(500, quotas=Quotas(max_ccache_size=limit, max_uid_size=limit))

    def remove() -> None:
        collection.remove_credentials(existing(collection, b"1000"), Tag(), 0)

    def begin_anew() -> None:
        collection.destroy(b"1000")
        collection.initialize(b"1000", ALICE, None)

    for empty in (
        remove,
        lambda: collection.initialize(b"1000", ALICE, None),
        lambda: collection.replace(b"1000", ALICE, 0, (), None),
        begin_anew,
        remove,
    ):
        empty()
        collection.store(existing(collection, b"1000"), credential_of_size(500))
        collection.take_changes()
        assert_refused(
            collection,
            lambda: collection.store(existing(collection, b"1000"), credential_of_size(150, HTTP)),
            "max_ccache_size",
            "1000",
        )


def test_replace_needs_room_for_the_difference() -> None:
    """REPLACE needs room only for the difference, in the ccache and in the collection."""
    limit = PRINCIPAL_SIZE + 500
    collection = collection_of_sizes(500, quotas=Quotas(max_ccache_size=limit, max_uid_size=limit))
    collection.replace(b"1000", ALICE, 0, [credential_of_size(250), credential_of_size(250, HTTP)], None)
    collection.take_changes()
    assert_refused(
        collection,
        lambda: collection.replace(
            b"1000", ALICE, 9, [credential_of_size(250), credential_of_size(251, HTTP)], None
        ),
        "max_ccache_size",
        "1000",
    )
    assert_refused(
        collection,
        lambda: collection.replace(b"1000:new", ALICE, 0, [credential_of_size(200)], None),
        "max_uid_size",
        "the owner of KCM:1000",
    )


def test_replace_counts_equal_credentials_once() -> None:
    """Of equal credentials only the one that is kept counts."""
    collection = collection_of_sizes(quotas=Quotas(max_ccache_size=PRINCIPAL_SIZE + 300))
    collection.replace(b"1000", ALICE, 0, [credential_of_size(200), credential_of_size(200)], None)
    assert existing(collection, b"1000").size == PRINCIPAL_SIZE + 200


def test_number_of_ccaches_of_a_uid_at_the_limit() -> None:
    """A UID may have exactly max_uid_ccaches; emptying or replacing one of them is still allowed."""
    collection = Collection(1000, Clock(), Quotas(max_uid_ccaches=2))
    collection.initialize(b"1000", ALICE, None)
    collection.initialize(b"1000:a", ALICE, None)
    collection.take_changes()
    for attempt in (
        lambda: collection.initialize(b"1000:b", ALICE, None),
        lambda: collection.replace(b"1000:b", ALICE, 0, [credential()], None),
    ):
        assert_refused(collection, attempt, "max_uid_ccaches", "the owner of KCM:1000")
    collection.initialize(b"1000:a", ALICE, None)
    collection.replace(b"1000:a", ALICE, 0, [credential()], None)
    collection.destroy(b"1000")
    collection.initialize(b"1000:b", ALICE, None)
    assert names(collection) == [b"1000:a", b"1000:b"]


def test_unavailable_ccaches_count() -> None:
    """A ccache that cannot be read counts until it is destroyed."""
    collection = Collection(1000, Clock(), Quotas(max_uid_ccaches=1))
    collection.unavailable[b"1000:broken"] = bytes(16)
    assert_refused(
        collection,
        lambda: collection.initialize(b"1000", ALICE, None),
        "max_uid_ccaches",
        "the owner of KCM:1000",
    )
    collection.destroy(b"1000:broken")
    collection.initialize(b"1000", ALICE, None)


def test_number_of_all_ccaches_at_the_limit() -> None:
    """All UIDs together may have exactly max_ccaches; a removed one makes room for one of any UID."""
    ccache_count = CCacheCount(0)
    mine, theirs = (Collection(uid, Clock(), Quotas(max_ccaches=2), ccache_count) for uid in (1000, 2000))
    mine.initialize(b"1000", ALICE, None)
    theirs.initialize(b"2000", ALICE, None)
    mine.initialize(b"1000", ALICE, None)
    assert ccache_count.total == 2
    mine.take_changes()
    assert_refused(mine, lambda: mine.initialize(b"1000:a", ALICE, None), "max_ccaches", "all users together")
    theirs.destroy(b"2000")
    mine.initialize(b"1000:a", ALICE, None)
    assert ccache_count.total == 2


def test_zero_is_no_limit() -> None:
    """0 means no limit."""
    collection = Collection(1000, Clock(), Quotas(), CCacheCount(10**9))
    for number in range(200):
        ccache = collection.initialize(b"1000:%d" % number, ALICE, None)
        collection.store(ccache, credential_of_size(100_000))
    assert len(collection) == 200


def test_rename_in_a_full_collection() -> None:
    """MOVE_CACHE within a full collection is a rename, and needs no room."""
    ccache_count = CCacheCount(0)
    limit = PRINCIPAL_SIZE + 200
    quotas = Quotas(max_ccaches=2, max_uid_ccaches=2, max_ccache_size=limit, max_uid_size=2 * limit)
    collection = collection_of_sizes(200, quotas=quotas, ccache_count=ccache_count)
    collection.replace(b"1000:a", ALICE, 0, [credential_of_size(200)], None)
    move(collection, b"1000", collection, b"1000:b")
    assert names(collection) == [b"1000:a", b"1000:b"]
    assert ccache_count.total == 2
    move(collection, b"1000:a", collection, b"1000:b")
    assert names(collection) == [b"1000:b"]
    assert ccache_count.total == 1


@pytest.mark.parametrize(
    "quotas",
    [Quotas(max_uid_ccaches=1), Quotas(max_ccaches=1), Quotas(max_ccache_size=100), Quotas(max_uid_size=100)],
    ids=["max_uid_ccaches", "max_ccaches", "max_ccache_size", "max_uid_size"],
)
def test_rename_in_a_collection_over_its_limits(quotas: Quotas) -> None:
    """A rename needs no room, so it is allowed even if the limits have been lowered."""
    full = collection_of_sizes(200, quotas=Quotas())
    full.initialize(b"1000:a", ALICE, None)
    collection = Collection(1000, Clock(), quotas, CCacheCount(2))
    collection.restore(list(full))
    before = contents(collection)
    try:
        move(collection, b"1000", collection, b"1000:b")
    except KcmError:
        assert contents(collection) == before, "a method that raises has changed nothing"
        raise
    assert names(collection) == [b"1000:a", b"1000:b"]


@pytest.mark.parametrize(
    ("option", "quotas"),
    [
        ("max_uid_ccaches", Quotas(max_uid_ccaches=1)),
        ("max_ccache_size", Quotas(max_ccache_size=PRINCIPAL_SIZE + 199)),
        ("max_uid_size", Quotas(max_uid_size=2 * PRINCIPAL_SIZE + 199)),
    ],
)
def test_move_to_another_uid_needs_room_there(option: str, quotas: Quotas) -> None:
    """MOVE_CACHE into another UID's collection needs room there; refused, it changes neither."""
    source = collection_of_sizes(200, quotas=Quotas())
    target = Collection(2000, Clock(), quotas)
    target.initialize(b"2000", ALICE, None)
    target.take_changes()
    before = contents(source)
    assert_refused(target, lambda: move(source, b"1000", target, b"2000:new"), option, "KCM:2000:new")
    assert contents(source) == before
    assert source.take_changes() == []


def test_move_to_another_uid_keeps_the_total() -> None:
    """MOVE_CACHE into another UID's collection creates no additional ccache, so max_ccaches allows it."""
    ccache_count = CCacheCount(0)
    source, target = (Collection(uid, Clock(), Quotas(max_ccaches=1), ccache_count) for uid in (1000, 2000))
    source.initialize(b"1000", ALICE, None)
    move(source, b"1000", target, b"2000")
    assert (names(source), names(target), ccache_count.total) == ([], [b"2000"], 1)


def test_collection_from_the_store_counts() -> None:
    """A collection that was read from the store counts towards max_uid_size."""
    full = collection_of_sizes(200, quotas=Quotas())
    collection = Collection(1000, Clock(), Quotas(max_uid_size=PRINCIPAL_SIZE + 400))
    collection.restore(list(full))
    (ccache,) = collection
    assert_refused(
        collection,
        lambda: collection.store(ccache, credential_of_size(201, HTTP)),
        "max_uid_size",
        "the owner of KCM:1000",
    )


KIB = 1024


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [
        (Quotas(max_uid_ccaches=1), r"max_uid_ccaches reached by the owner of KCM:1000:\xff: 1 of 1"),
        (Quotas(max_ccaches=7), "max_ccaches reached by all users together: 7 of 7"),
        (
            Quotas(max_ccache_size=4 * KIB),
            r"max_ccache_size reached by ccache KCM:1000:\xff: 6 KiB needed, 4 KiB allowed",
        ),
        (
            Quotas(max_uid_size=5 * KIB),
            r"max_uid_size reached by the owner of KCM:1000:\xff: 6 KiB needed, 5 KiB allowed",
        ),
    ],
)
def test_refusal_names_the_limit_and_the_amount(quotas: Quotas, reason: str) -> None:
    """A refusal names the option, the limit's owner, the needed amount, and the limit."""
    collection = Collection(1000, Clock(), quotas, CCacheCount(7))
    collection.restore(list(collection_of_sizes(quotas=Quotas())))
    with pytest.raises(KcmError) as caught:
        collection.replace(b"1000:\xff", ALICE, 0, [credential_of_size(5 * KIB + 100)], None)
    assert caught.value.reason == reason
