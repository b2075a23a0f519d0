"""The current default: the chosen ccache, or the one that takes its place."""

import pytest

from pykcm.ccaches.changes import DefaultChanged
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import Quotas
from pykcm.protocol.credential import Credential
from tests.builders import ALICE, HTTP, TGS, Clock, configuration, principal, tag_for, tgs, ticket
from tests.ccaches.contents import existing

C1 = "s0:c1"


@pytest.fixture
def collection() -> Collection:
    return Collection(1000, Clock())


def fill(collection: Collection, name: bytes, *credentials: Credential, kdc_offset: int = 0) -> None:
    collection.replace(name, ALICE, kdc_offset, credentials, None)


def test_chosen_default_that_exists_is_the_default(collection: Collection) -> None:
    """A ccache of the chosen name is the default, however soon its ticket ends; else `<uid>` is."""
    fill(collection, b"1000", ticket(ends=1600))
    fill(collection, b"1000:a", ticket(ends=9000))
    assert collection.shared_default() == b"1000"
    fill(collection, b"1000:b")
    collection.set_default(b"1000:b")
    assert collection.shared_default() == b"1000:b"


def test_empty_collection_keeps_the_chosen_name(collection: Collection) -> None:
    """Without any ccache the chosen name is the default, also after its ccache was destroyed."""
    assert collection.shared_default() == b"1000"
    fill(collection, b"1000:a")
    collection.set_default(b"1000:a")
    collection.destroy(b"1000:a")
    assert collection.shared_default() == b"1000:a"


def test_sole_ccache_is_the_default_without_a_choice(collection: Collection) -> None:
    """The only ccache of a collection is the default, whatever its name is."""
    fill(collection, b"1000:x")
    assert collection.shared_default() == b"1000:x"


def test_own_name_stays_the_default(collection: Collection) -> None:
    """A ccache `<uid>` stays the default, even if the TGT of another one ends later."""
    fill(collection, b"1000", ticket(ends=1600))
    fill(collection, b"1000:x", ticket(ends=9000))
    assert collection.shared_default() == b"1000"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ([ticket(ends=2001)], [ticket(ends=2000)]),
        ([ticket(ends=2000)], [ticket(ends=1900), ticket(HTTP, ends=9000)]),
        ([ticket(ends=2000)], [ticket(HTTP, ends=9000)]),
        ([ticket(ends=2000), ticket(tgs(1), ends=1000)], [ticket(ends=1999), ticket(tgs(1), ends=1999)]),
        ([ticket(ends=2000)], [ticket(ends=1400)]),
        ([ticket(ends=1400)], []),
        ([ticket(ends=1400)], [configuration(b"pa_type", b"2")]),
        ([ticket(HTTP, ends=1600)], []),
        ([ticket(HTTP, ends=1600)], [ticket(HTTP, ends=1599)]),
        ([ticket(tgs(1), ends=1600)], [ticket(HTTP, ends=9000)]),
        ([ticket(ends=0)], [ticket(ends=2**32 - 1)]),
    ],
    ids=[
        "later",
        "the TGT's end and no service ticket's",
        "any TGT before service tickets",
        "the latest TGT",
        "valid before expired",
        "expired before empty",
        "a configuration entry is no ticket",
        "a ticket before none",
        "the later service ticket",
        "a TGT of another realm",
        "one without an end",
    ],
)
def test_latest_tgt_takes_the_defaults_place(better: list[Credential], worse: list[Credential]) -> None:
    """The ccache whose TGT ends last takes the default's place, whatever their order and names are."""
    for order in ((b"1000:a", b"1000:b"), (b"1000:b", b"1000:a")):
        collection = Collection(1000, Clock())
        for name in order:
            fill(collection, name, *(better if name == b"1000:b" else worse))
        assert collection.shared_default() == b"1000:b"


def test_ties_go_to_the_own_name_and_then_to_the_first(collection: Collection) -> None:
    """Of ccaches whose TGTs end together, `<uid>` takes the default's place, then the first one."""
    collection.set_default(b"1000:gone")
    fill(collection, b"1000:a", ticket(ends=2000))
    fill(collection, b"1000:b", ticket(ends=2000), ticket(HTTP, ends=3000))
    assert collection.shared_default() == b"1000:a"
    fill(collection, b"1000", ticket(ends=2000))
    assert collection.shared_default() == b"1000"


def test_kdc_offset_does_not_count(collection: Collection) -> None:
    """Ends are compared by the KDC's clock: the offset of a client that was wrong does not count."""
    fill(collection, b"1000:a", ticket(ends=2000), kdc_offset=-10_000)
    fill(collection, b"1000:b", ticket(ends=2001), kdc_offset=10_000)
    fill(collection, b"1000:c", ticket(ends=1999))
    assert collection.shared_default() == b"1000:b"


def test_default_follows_every_change_of_a_tgt(collection: Collection) -> None:
    """A TGT that is renewed, replaced, removed or moved changes which one ends last."""
    fill(collection, b"1000:a", ticket(ends=2000))
    fill(collection, b"1000:b", ticket(ends=2001))
    assert collection.shared_default() == b"1000:b"
    collection.store(existing(collection, b"1000:a"), ticket(ends=3000))
    assert collection.shared_default() == b"1000:a"
    collection.store(existing(collection, b"1000:a"), ticket(ends=1700))
    assert collection.shared_default() == b"1000:b"
    collection.store(existing(collection, b"1000:b"), ticket(tgs(1), ends=1800))
    collection.remove_credentials(existing(collection, b"1000:b"), tag_for(TGS), 0)
    assert collection.shared_default() == b"1000:b"
    collection.remove_credentials(existing(collection, b"1000:b"), tag_for(tgs(1)), 0)
    assert collection.shared_default() == b"1000:a"
    move(collection, b"1000:a", collection, b"1000:c")
    assert collection.shared_default() == b"1000:c"
    fill(collection, b"1000:c")
    assert collection.shared_default() == b"1000:b"


def test_overwritten_tgt_does_not_count(collection: Collection) -> None:
    """An overwritten ccache does not count for the TGT that it had."""
    fill(collection, b"1000:a", ticket(ends=9000))
    fill(collection, b"1000:b", ticket(ends=2000))
    fill(collection, b"1000:a", ticket(HTTP, ends=9000))
    assert collection.shared_default() == b"1000:b"
    credentials = existing(collection, b"1000:b").credentials
    (uuid,) = credentials.uuids()
    credentials.put(uuid, ticket(principal("krbtgt/PYKCM.TEST"), ends=2500))
    assert credentials.tgt_end == 2500


def test_remaining_ccache_takes_the_place_of_a_removed_default(collection: Collection) -> None:
    """However the chosen default is removed, the remaining ccache takes its place."""
    limited = Collection(1000, Clock(), Quotas(max_uid_ccaches=2))
    for each in (collection, limited):
        fill(each, b"1000:a", ticket(ends=1400))
        fill(each, b"1000:b", ticket(ends=3000))
        each.set_default(b"1000:a")
    uuid = existing(collection, b"1000:a").uuid
    collection.remove_expired([uuid], 1500)
    assert collection.shared_default() == b"1000:b"
    limited.initialize(b"1000:c", ALICE, None)
    assert limited.shared_default() == b"1000:b"
    assert collection.default_name == limited.default_name == b"1000:a"


def test_chosen_ccache_created_again_is_the_default(collection: Collection) -> None:
    """The choice outlives the ccache: created again under that name, it is the default."""
    fill(collection, b"1000:a", ticket(ends=1600))
    fill(collection, b"1000", ticket(ends=3000))
    collection.set_default(b"1000:a")
    collection.destroy(b"1000:a")
    assert collection.shared_default() == b"1000"
    fill(collection, b"1000:a")
    assert collection.shared_default() == b"1000:a"


def test_only_usable_ccaches_are_defaults(collection: Collection) -> None:
    """A ccache with a label that may not be used neither is the default nor takes its place."""
    for name, label, ends in (
        (b"1000", "hidden", 9000),
        (b"1000:a", "mine", 1600),
        (b"1000:b", "hidden", 9000),
    ):
        collection.replace(name, ALICE, 0, [ticket(ends=ends)], label)
    assert collection.current_default(b"1000", None, lambda label: label == "mine") == b"1000:a"
    assert collection.default_substitute(lambda _label: False) is None
    assert collection.current_default(b"1000:gone", None, lambda _label: False) == b"1000:gone"


def test_a_damaged_default_is_still_the_default(collection: Collection) -> None:
    """A ccache whose secrets cannot be read stays the default, so that its user gets an error."""
    fill(collection, b"1000:a", ticket())
    collection.unavailable[b"1000"] = bytes(16)
    assert collection.shared_default() == b"1000"
    collection.destroy(b"1000")
    assert collection.shared_default() == b"1000:a"


# A default that its user has destroyed


@pytest.fixture
def destroyed(collection: Collection) -> Collection:
    """One with two ccaches left, whose default `1000:x` its user has destroyed."""
    for name in (b"1000", b"1000:a", b"1000:x"):
        fill(collection, name, ticket())
    collection.set_default(b"1000:x")
    collection.destroy(b"1000:x")
    collection.keep_destroyed(None)
    collection.take_changes()
    return collection


def test_nothing_takes_the_place_of_a_destroyed_default(destroyed: Collection) -> None:
    """After a plain kdestroy no ccache takes the default's place, not even a new or longer-lived one."""
    assert destroyed.shared_default() == b"1000:x"
    fill(destroyed, b"1000:b", ticket(ends=9000))
    destroyed.destroy(b"1000:a")
    assert destroyed.shared_default() == b"1000:x"


@pytest.mark.parametrize("way", ["filled", "moved", "chosen", "chosen again", "emptied"])
def test_mark_of_a_destroyed_default_ends(destroyed: Collection, way: str) -> None:
    """The mark is removed when its ccache is created, a default is chosen, or the collection is empty."""
    if way == "filled":
        fill(destroyed, b"1000:x")
    elif way == "moved":
        move(destroyed, b"1000:a", destroyed, b"1000:x")
    elif way == "chosen":
        destroyed.set_default(b"1000:a")
    elif way == "chosen again":
        destroyed.set_default(b"1000:x")
    else:
        destroyed.destroy(b"1000")
        destroyed.destroy(b"1000:a")
        assert destroyed.shared_default() == b"1000:x"
        fill(destroyed, b"1000:new")
        assert destroyed.shared_default() == b"1000:new"
    assert not destroyed.is_destroyed(None)
    changes = [each for each in destroyed.take_changes() if isinstance(each, DefaultChanged)]
    assert not changes[-1].defaults.destroyed


def test_destroyed_default_of_a_range_affects_no_other(collection: Collection) -> None:
    """The shared default and that of a range are marked as destroyed independently."""
    fill(collection, b"1000:a", ticket())
    collection.set_default(b"1000:x", C1)
    collection.keep_destroyed(C1)
    assert collection.current_default(b"1000:x", C1, lambda _label: True) == b"1000:x"
    assert collection.shared_default() == b"1000:a"
    fill(collection, b"1000:x")
    assert not collection.is_destroyed(C1)


def test_renaming_the_only_ccache_keeps_the_marks(collection: Collection) -> None:
    """A rename in a collection of one ccache keeps the marks of destroyed defaults."""
    fill(collection, b"1000:a", ticket())
    collection.set_default(b"1000:x", C1)
    collection.keep_destroyed(C1)
    move(collection, b"1000:a", collection, b"1000:b")
    assert collection.is_destroyed(C1)


def test_marks_are_forgotten_with_their_ranges(collection: Collection) -> None:
    """The mark of a destroyed default is forgotten with the default of its range."""
    for number in range(100):
        collection.set_default(b"1000:x", f"s0:c{number}")
        collection.keep_destroyed(f"s0:c{number}")
    last = [each for each in collection.take_changes() if isinstance(each, DefaultChanged)][-1]
    assert {range_ for range_, _ in last.defaults.by_range} == last.defaults.destroyed
