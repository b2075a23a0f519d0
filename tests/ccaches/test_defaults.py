"""The defaults of SELinux ranges: they are kept, moved along, and bounded."""

import pytest

from pykcm.ccaches.changes import DefaultChanged
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.defaults import MAX_RANGES, NOTHING_CHOSEN, Defaults
from tests.builders import ALICE, Clock

C1, C2 = "s0:c1", "s0:c2"


@pytest.fixture
def collection() -> Collection:
    return Collection(1000, Clock())


def test_each_range_has_a_default(collection: Collection) -> None:
    """Each range has its own default in addition to the shared one; setting one moves no other."""
    collection.set_default(b"1000:one", C1)
    collection.set_default(b"1000:two", C2)
    collection.set_default(b"1000:all")
    collection.set_default(b"1000:one again", C1)
    assert collection.defaults.of_range(C1) == b"1000:one again"
    assert collection.defaults.of_range(C2) == b"1000:two"
    assert collection.defaults.of_range("s0:c3") is None
    assert collection.default_name == b"1000:all"
    assert collection.take_changes()[-1] == DefaultChanged(
        Defaults(b"1000:all", ((C1, b"1000:one again"), (C2, b"1000:two"))),
        Defaults(b"1000:all", ((C1, b"1000:one"), (C2, b"1000:two"))),
    )


def test_setting_the_same_default_of_a_range_is_no_change(collection: Collection) -> None:
    """Setting the default of a range to its present name records no change."""
    collection.set_default(b"1000", C1)
    assert collection.take_changes() == [DefaultChanged(Defaults(None, ((C1, b"1000"),)), NOTHING_CHOSEN)]
    collection.set_default(b"1000", C1)
    assert collection.take_changes() == []


@pytest.mark.parametrize("others", [[], [b"1000:other"]])
def test_move_takes_defaults_of_ranges_along(collection: Collection, others: list[bytes]) -> None:
    """MOVE_CACHE moves every default that named the old ccache, and no other."""
    for name in (b"1000:tmp", *others):
        collection.initialize(name, ALICE, None)
    collection.set_default(b"1000:tmp")
    collection.set_default(b"1000:tmp", C1)
    collection.set_default(b"1000:two", C2)
    move(collection, b"1000:tmp", collection, b"1000")
    assert collection.default_name == b"1000"
    assert collection.defaults.by_range == ((C1, b"1000"), (C2, b"1000:two"))
    assert collection.take_changes()[-1] == DefaultChanged(
        Defaults(None, collection.defaults.by_range),
        Defaults(b"1000:tmp", ((C1, b"1000:tmp"), (C2, b"1000:two"))),
    )


def test_only_following_defaults_move(collection: Collection) -> None:
    """A default that named the old ccache stays if it does not follow the move."""
    collection.initialize(b"1000", ALICE, None)
    for range_ in (C1, C2):
        collection.set_default(b"1000", range_)
    move(collection, b"1000", collection, b"1000:new", lambda range_: range_ == C2)
    assert collection.default_name == b"1000"
    assert collection.defaults.by_range == ((C1, b"1000"), (C2, b"1000:new"))
    move(collection, b"1000:new", collection, b"1000", lambda range_: range_ is None)
    assert collection.defaults.by_range == ((C1, b"1000"), (C2, b"1000:new"))


def test_defaults_of_ranges_outlive_the_last_ccache(collection: Collection) -> None:
    """The defaults of ranges stay chosen when the last ccache is removed."""
    collection.initialize(b"1000:a", ALICE, None)
    collection.initialize(b"1000:b", ALICE, None)
    collection.set_default(b"1000:a", C1)
    collection.destroy(b"1000:a")
    collection.destroy(b"1000:b")
    assert collection.defaults.of_range(C1) == b"1000:a"


def test_unused_name_is_no_default_of_a_range(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name is not the default of any range."""
    drawn = iter([b"one", b"two", b"free"])
    monkeypatch.setattr("pykcm.ccaches.lookup._random_suffix", lambda: next(drawn))
    collection.set_default(b"1000:one", C1)
    collection.set_default(b"1000:two", C2)
    assert collection.unused_name() == b"1000:free"


def test_number_of_ranges_is_bounded(collection: Collection) -> None:
    """Beyond the limit the oldest default that names no ccache is forgotten, else the oldest."""
    ranges = [f"s0:c{number}" for number in range(MAX_RANGES)]
    for range_ in ranges:
        name = b"1000:" + range_.encode()
        collection.set_default(name, range_)
        if range_ not in ranges[3:5]:
            collection.initialize(name, ALICE, None)
    # To set one again makes it no younger, and nothing goes for it.
    collection.set_default(b"1000:" + ranges[0].encode(), ranges[0])
    gone = [ranges[3], ranges[4]]
    for number, going in enumerate([*gone, ranges[0]]):
        collection.set_default(b"1000", f"s1:c{number}")
        collection.initialize(b"1000", ALICE, None)
        assert len(collection.defaults.by_range) == MAX_RANGES
        assert collection.defaults.of_range(going) is None
    assert {range_ for range_, _ in collection.defaults.by_range} == {*ranges[1:3], *ranges[5:]} | {
        "s1:c0",
        "s1:c1",
        "s1:c2",
    }


def test_defaults_of_ranges_count_as_memory(collection: Collection) -> None:
    """The defaults of ranges count towards the memory of the collection."""
    before = collection.footprint
    collection.set_default(b"1000:" + b"x" * 1000, C1)
    assert collection.footprint - before > 1000
