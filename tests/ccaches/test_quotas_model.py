"""Any sequence of changes under tight quotas: the amounts are those of the contents."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pykcm.ccaches.collection import Collection, move
from pykcm.ccaches.quotas import CCacheCount, Quotas
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential
from pykcm.protocol.tag import Tag
from tests.builders import (
    ALICE,
    HTTP,
    TGS,
    Clock,
    credential_of_size,
    tag_for,
)
from tests.ccaches.contents import PRINCIPAL_SIZE, Contents, contents

pytestmark = pytest.mark.usefixtures("bytes_alone")


NAMES = [b"1000", b"1000:a", b"1000:b", b"1000:c"]
CREDENTIALS = [credential_of_size(size, server) for size in (150, 200, 250) for server in (TGS, HTTP)]


class UnderTightQuotas(RuleBasedStateMachine):
    """A change that raises changes nothing, and the amounts are those of the contents."""

    collection: Collection
    ccache_count: CCacheCount

    @initialize(
        quotas=st.builds(
            Quotas,
            st.integers(0, 3),
            st.integers(0, 3),
            st.sampled_from([0, 300, 400, 500]),
            st.sampled_from([0, 500, 700, 1000]),
        )
    )
    def begin(self, quotas: Quotas) -> None:
        self.ccache_count = CCacheCount(0)
        self.collection = Collection(1000, Clock(), quotas, self.ccache_count)

    def attempt(self, change: Callable[[], object]) -> None:
        before: Contents = contents(self.collection)
        try:
            change()
        except KcmError:
            assert contents(self.collection) == before
            assert self.collection.take_changes() == []
        else:
            changed = bool(self.collection.take_changes())
            assert changed or contents(self.collection) == before

    @rule(name=st.sampled_from(NAMES))
    def initialize_one(self, name: bytes) -> None:
        self.attempt(lambda: self.collection.initialize(name, ALICE, None))

    @rule(name=st.sampled_from(NAMES), given=st.lists(st.sampled_from(CREDENTIALS), max_size=3))
    def replace(self, name: bytes, given: list[Credential]) -> None:
        self.attempt(lambda: self.collection.replace(name, ALICE, 1, given, None))

    @rule(name=st.sampled_from(NAMES), new=st.sampled_from(CREDENTIALS))
    def store(self, name: bytes, new: Credential) -> None:
        ccache = self.collection.get(name)
        if ccache is not None:
            self.attempt(lambda: self.collection.store(ccache, new))

    @rule(name=st.sampled_from(NAMES), tag=st.sampled_from([Tag(), tag_for(TGS), tag_for(HTTP)]))
    def remove(self, name: bytes, tag: Tag) -> None:
        ccache = self.collection.get(name)
        if ccache is not None:
            self.attempt(lambda: self.collection.remove_credentials(ccache, tag, 0))

    @rule(name=st.sampled_from(NAMES))
    def destroy(self, name: bytes) -> None:
        self.attempt(lambda: self.collection.destroy(name))

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def move(self, old: bytes, new: bytes) -> None:
        self.attempt(lambda: move(self.collection, old, self.collection, new))

    @rule(name=st.sampled_from(NAMES))
    def set_default(self, name: bytes) -> None:
        self.attempt(lambda: self.collection.set_default(name))

    @invariant()
    def tallies(self) -> None:
        ccaches = list(self.collection)
        sizes = [sum(len(c.blob) for c in ccache.credentials) + PRINCIPAL_SIZE for ccache in ccaches]
        assert [ccache.size for ccache in ccaches] == sizes
        assert self.collection.use.size == sum(sizes)
        assert self.collection._room.credentials == sum(len(ccache.credentials) for ccache in ccaches)
        assert self.collection._by_uuid == {ccache.uuid: ccache for ccache in ccaches}
        assert self.ccache_count.total == len(ccaches)

    @invariant()
    def within_the_limits(self) -> None:
        quotas = self.collection._room.quotas
        sizes = [ccache.size for ccache in self.collection]
        for limit, used in [
            (quotas.max_ccaches, len(sizes)),
            (quotas.max_uid_ccaches, len(sizes)),
            (quotas.max_ccache_size, max(sizes, default=0)),
            (quotas.max_uid_size, sum(sizes)),
        ]:
            assert not limit or used <= limit


TestUnderTightQuotas = UnderTightQuotas.TestCase
TestUnderTightQuotas.settings = settings(max_examples=60, stateful_step_count=30)
