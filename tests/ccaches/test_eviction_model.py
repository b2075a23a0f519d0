"""Evictions in any sequence of changes, compared with a simple model."""

import errno
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pykcm.ccaches.collection import Collection
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.principal import Principal
from tests.builders import ALICE, Clock, principal, principal_bytes, service, tag_for, ticket

pytestmark = pytest.mark.usefixtures("bytes_alone")

P = len(principal_bytes(ALICE))
MINUTE = 60


class Entry(NamedTuple):
    """A credential as the model knows it: `kind` is "tgt", "service" or "configuration"."""

    kind: str
    number: int
    issued: int
    ends: int
    size: int

    @property
    def credential(self) -> Credential:
        server = {
            "tgt": principal(f"krbtgt/R{self.number}"),
            "service": service(self.number),
            "configuration": Principal(0, b"X-CACHECONF:", (b"krb5_ccache_conf_data", b"%d" % self.number)),
        }[self.kind]
        return ticket(server, issued=self.issued, ends=self.ends, size=self.size)


def tickets_of(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.kind != "configuration"]


class Model:
    """Ccaches as lists; each question is answered by looking at everything."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.ccaches: dict[bytes, list[Entry]] = {}
        # When those without tickets were created or lost their last one.
        self.empty_since: dict[bytes, int] = {}
        self.now = 0

    def fits(self, written: bytes, *, may_be_larger: bool, may_have_more: bool, may_be_more: bool) -> bool:
        sizes = {name: P + sum(entry.size for entry in entries) for name, entries in self.ccaches.items()}
        limits = [
            (self.quotas.max_ccaches, 0 if may_be_more else len(sizes)),
            (self.quotas.max_uid_ccaches, 0 if may_be_more else len(sizes)),
            (self.quotas.max_ccache_size, 0 if may_be_larger else sizes[written]),
            (self.quotas.max_uid_size, 0 if may_be_larger else sum(sizes.values())),
            (self.quotas.max_ccache_credentials, 0 if may_have_more else len(self.ccaches[written])),
            (self.quotas.max_uid_credentials, 0 if may_have_more else self.credentials()),
        ]
        return all(used <= limit for limit, used in limits if limit)

    def size(self) -> int:
        return sum(P + sum(entry.size for entry in entries) for entries in self.ccaches.values())

    def credentials(self) -> int:
        return sum(map(len, self.ccaches.values()))

    def change(self, name: bytes, entries: list[Entry], spared: Entry | None) -> bool:
        """Make the ccache these entries, with room for it; `spared`: it is a STORE of this one."""
        before = dict(self.ccaches)
        size = self.size()
        credentials = self.credentials()
        is_new = name not in before
        self.ccaches[name] = list(entries)
        only_grown = {
            "may_be_larger": self.size() <= size,
            "may_have_more": self.credentials() <= credentials,
            "may_be_more": not is_new,
        }
        if spared is not None:
            ccache_alone = Model(
                Quotas(
                    max_ccache_size=self.quotas.max_ccache_size,
                    max_ccache_credentials=self.quotas.max_ccache_credentials,
                )
            )
            ccache_alone.ccaches = {name: self.ccaches[name]}
            while not ccache_alone.fits(name, **only_grown) and self._drop_ticket(name, spared):
                pass
        while not self.fits(name, **only_grown) and self._drop_ccache(name):
            pass
        while spared is not None and not self.fits(name, **only_grown) and self._drop_ticket(name, spared):
            pass
        if self.fits(name, **only_grown):
            self.note_empty(name, before, is_replaced=spared is None)
            return True
        self.ccaches = before
        return False

    def note_empty(self, name: bytes, before: dict[bytes, list[Entry]], *, is_replaced: bool) -> None:
        if not tickets_of(self.ccaches[name]) and (is_replaced or tickets_of(before[name])):
            self.empty_since[name] = self.now

    def _drop_ccache(self, written: bytes) -> bool:
        others = {name: tickets_of(entries) for name, entries in self.ccaches.items() if name != written}
        expired = [
            (max(entry.ends for entry in tickets), name)
            for name, tickets in others.items()
            if tickets and all(0 < entry.ends <= self.now for entry in tickets)
        ]
        abandoned = [
            (self.empty_since[name], name)
            for name, tickets in others.items()
            if not tickets and self.now - self.empty_since[name] > MINUTE
        ]
        removable = expired or abandoned
        if removable:
            first = min(time for time, _ in removable)
            del self.ccaches[next(name for time, name in removable if time == first)]
        return bool(removable)

    def _drop_ticket(self, written: bytes, spared: Entry) -> bool:
        entries = self.ccaches[written]
        droppable = [entry for entry in entries if entry.kind == "service" and entry is not spared]
        if droppable:
            entries.remove(min(droppable, key=lambda entry: entry.issued))
        return bool(droppable)


NAMES = [b"1000", b"1000:a", b"1000:b", b"1000:c"]
entries = st.builds(
    Entry,
    st.sampled_from(["tgt", "configuration", *["service"] * 6]),
    st.integers(0, 9),
    st.integers(1, 3),
    st.sampled_from([0, *range(1, 30), *range(30, 200, 10)]),
    st.sampled_from([200, 250, 300, 700]),
)
one_entry = entries.map(lambda entry: [entry])
store = st.tuples(st.just("store"), st.sampled_from(NAMES), one_entry)
remove = st.tuples(st.just("remove"), st.sampled_from(NAMES), one_entry)
replace = st.tuples(
    st.just("replace"),
    st.sampled_from(NAMES),
    st.lists(entries, max_size=3, unique_by=lambda entry: (entry.kind, entry.number)),
)
wait: st.SearchStrategy[tuple[str, bytes, list[Entry]]] = st.just(("wait", b"", []))
wait_long: st.SearchStrategy[tuple[str, bytes, list[Entry]]] = st.just(("wait long", b"", []))
# Most end full, and go on from there.
steps = st.one_of(*[store] * 6, *[replace] * 3, wait, wait_long, remove)
limits = st.builds(
    Quotas,
    st.sampled_from([0, 0, 2, 3]),
    st.sampled_from([0, 2, 3]),
    st.sampled_from([0, 700, 900, 1200]),
    st.sampled_from([0, 1200, 1500, 2000]),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([0, 0, 4, 6]),
)


@settings(max_examples=120)
@given(limits, st.lists(steps, min_size=20, max_size=30))
def test_evictions_agree_with_a_model(quotas: Quotas, sequence: list[tuple[str, bytes, list[Entry]]]) -> None:
    """After each change the collection has what the model has, and the counters are right."""
    clock = Clock(0)
    ccache_count = CCacheCount(0)
    collection = Collection(1000, clock, quotas, ccache_count)
    model = Model(quotas)
    for what, name, given_entries in sequence:
        if what.startswith("wait"):
            seconds = 3 if what == "wait" else MINUTE // 2
            model.now += seconds
            clock.now += seconds
        elif what == "replace":
            taken = model.change(name, given_entries, None)
            credentials = [entry.credential for entry in given_entries]
            assert taken == _is_taken(collection.replace, name, ALICE, 0, credentials, None)
        elif (ccache := collection.get(name)) is not None:
            (entry,) = given_entries
            mine = model.ccaches[name]
            at = next((n for n, old in enumerate(mine) if old[:2] == entry[:2]), None)
            if what == "remove":
                collection.remove_credentials(ccache, tag_for(entry.credential.server), 0)
                before = dict(model.ccaches)
                model.ccaches[name] = [old for old in mine if old[:2] != entry[:2]]
                model.note_empty(name, before, is_replaced=False)
            else:
                after = [*mine, entry] if at is None else [*mine[:at], entry, *mine[at + 1 :]]
                taken = model.change(name, after, entry)
                assert taken == _is_taken(collection.store, ccache, entry.credential)
        there = {ccache.name: [c.blob for c in ccache.credentials] for ccache in collection}
        assert there == {
            name: [entry.credential.blob for entry in mine] for name, mine in model.ccaches.items()
        }
        assert collection.use.size == model.size()
        assert ccache_count.total == len(there)


def _is_taken(change: Callable[..., object], *arguments: object) -> bool:
    try:
        change(*arguments)
    except KcmError as error:
        if error.code == errno.EDQUOT:
            return False
        raise
    return True
