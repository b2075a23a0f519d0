"""Defaults beside the shared one: kept by range, moved along, bounded."""

import pytest

from pykcm.ccaches.changes import DefaultChanged
from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.defaults import MAX_RANGES, NOTHING_CHOSEN, Defaults
from tests.builders import ALICE, Clock

C1, C2 = "s0:c1", "s0:c2"


@pytest.fixture
def collection() -> Collection:
    return Collection(1000, Clock())


def test_by_range(collection: Collection) -> None:
    """Each range has a default of its own, beside the shared one; setting one moves no other."""
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


def test_setting_the_same_is_no_change(collection: Collection) -> None:
    """A default of a range that already is what is asked for is not written again."""
    collection.set_default(b"1000", C1)
    assert collection.take_changes() == [DefaultChanged(Defaults(None, ((C1, b"1000"),)), NOTHING_CHOSEN)]
    collection.set_default(b"1000", C1)
    assert collection.take_changes() == []


@pytest.mark.parametrize("others", [[], [b"1000:other"]])
def test_moved_along(collection: Collection, others: list[bytes]) -> None:
    """MOVE_CACHE takes along every default that named the old name, and no other."""
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


def test_those_that_follow(collection: Collection) -> None:
    """Of the defaults that named the old name those stay that do not follow."""
    collection.initialize(b"1000", ALICE, None)
    for whose in (C1, C2):
        collection.set_default(b"1000", whose)
    move(collection, b"1000", collection, b"1000:new", lambda whose: whose == C2)
    assert collection.default_name == b"1000"
    assert collection.defaults.by_range == ((C1, b"1000"), (C2, b"1000:new"))
    move(collection, b"1000:new", collection, b"1000", lambda whose: whose is None)
    assert collection.defaults.by_range == ((C1, b"1000"), (C2, b"1000:new"))


def test_kept_after_the_last_ccache(collection: Collection) -> None:
    """They stay chosen when the last ccache goes."""
    collection.initialize(b"1000:a", ALICE, None)
    collection.initialize(b"1000:b", ALICE, None)
    collection.set_default(b"1000:a", C1)
    collection.destroy(b"1000:a")
    collection.destroy(b"1000:b")
    assert collection.defaults.of_range(C1) == b"1000:a"


def test_unused_name_is_no_default(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new name is nobody's default either."""
    drawn = iter(["one", "two", "free"])
    monkeypatch.setattr("pykcm.ccaches.collection.secrets.token_hex", lambda _size: next(drawn))
    collection.set_default(b"1000:one", C1)
    collection.set_default(b"1000:two", C2)
    assert collection.unused_name() == b"1000:free"


def test_bounded(collection: Collection) -> None:
    """Of too many, the oldest goes that names no ccache; where all do, the oldest."""
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


def test_they_count(collection: Collection) -> None:
    """Defaults of their own count towards the memory that a collection takes up."""
    before = collection.footprint
    collection.set_default(b"1000:" + b"x" * 1000, C1)
    assert collection.footprint - before > 1000
