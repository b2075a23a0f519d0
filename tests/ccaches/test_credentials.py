"""The credentials of one ccache: equality, order and look-up."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pykcm.ccaches.credentials import Credentials
from pykcm.protocol.credential import Credential, parse_credential
from pykcm.protocol.messages import pack_blobs
from pykcm.protocol.principal import Principal
from pykcm.protocol.tag import Match, Tag
from tests.builders import (
    ALICE,
    BOB,
    HTTP,
    REALM,
    TGS,
    changed,
    credential,
    credential_bytes,
    principal,
    tag_for,
)

pytestmark = pytest.mark.usefixtures("bytes_alone")

FIRST, SECOND, THIRD = b"\1" * 16, b"\2" * 16, b"\3" * 16


def filled(*credentials: Credential) -> Credentials:
    """These credentials, with UUIDs counted from 1."""
    result = Credentials()
    for number, each in enumerate(credentials, 1):
        result.put(bytes([number]) * 16, each)
    return result


@pytest.mark.parametrize(
    "other",
    [
        {"client": BOB},
        {"client": changed(ALICE, realm=b"OTHER.TEST")},
        {"client": changed(ALICE, components=(b"alice", b"admin"))},
        {"server": HTTP},
        {"server": changed(TGS, realm=b"OTHER.TEST")},
        {"is_skey": True},
        {"enctype": 17},
        {"enctype": -18},
        {"authdata": [(1, b"")]},
        {"second_ticket": b"another's TGT"},
    ],
    ids="-".join,
)
def test_each_field_of_the_equality_counts(other: dict[str, Any]) -> None:
    """A credential that differs in any field of the equality is another one."""
    stored = filled(credential())
    assert stored.uuid_of_equal(parse_credential(credential_bytes(**other))) is None


@pytest.mark.parametrize(
    "other",
    [
        {"client": changed(ALICE, name_type=10)},
        {"server": changed(TGS, name_type=0)},
        {"key": b"a new session key"},
        {"times": (1, 2, 3, 4)},
        {"flags": 0},
        {"addresses": [(2, b"\x7f\0\0\1")]},
        {"ticket": b"a new ticket"},
    ],
    ids="-".join,
)
def test_other_fields_do_not_count(other: dict[str, Any]) -> None:
    """A credential that differs only in other fields is the same one, renewed."""
    stored = filled(credential())
    assert stored.uuid_of_equal(parse_credential(credential_bytes(**other))) == FIRST


def test_components_are_compared_one_by_one() -> None:
    """`a/b` of two components is not the single component `a/b`."""
    stored = filled(credential(Principal(1, REALM, (b"a", b"b"))))
    assert stored.uuid_of_equal(credential(Principal(1, REALM, (b"a/b",)))) is None


def test_replaced_credential_keeps_its_place() -> None:
    """A credential that replaces its equal has its place, and only the new size counts."""
    stored = filled(credential(TGS), credential(HTTP))
    renewed = credential(TGS, ticket=b"renewed, and longer")
    stored.put(FIRST, renewed)
    assert list(stored.items()) == [(FIRST, renewed), (SECOND, credential(HTTP))]
    assert stored.size == len(renewed.blob) + len(credential(HTTP).blob)


def test_credential_stored_again_is_the_last() -> None:
    """A credential that was removed and stored again is at the end."""
    stored = filled(credential(TGS), credential(HTTP))
    stored.remove(FIRST)
    stored.put(THIRD, credential(TGS))
    assert list(stored.uuids()) == [SECOND, THIRD]


def test_find_returns_the_first_match() -> None:
    """Of several matches the first in stored order is found, also after it was replaced."""
    first, second = credential(client=BOB), credential(client=ALICE)
    stored = filled(first, second)
    assert stored.find(tag_for(TGS), 0) is first
    renewed = credential(client=BOB, ticket=b"renewed")
    stored.put(FIRST, renewed)
    assert stored.find(tag_for(TGS), 0) is renewed
    assert stored.find_all(tag_for(TGS), 0) == [FIRST, SECOND]


def test_find_across_realms() -> None:
    """SRV_NAMEONLY finds the server in any realm, and the first match in stored order."""
    foreign = credential(changed(HTTP, realm=b"OTHER.TEST"))
    own = credential(HTTP)
    stored = filled(credential(TGS), foreign, own)
    assert stored.find(tag_for(HTTP), 0) is own
    assert stored.find(tag_for(HTTP), Match.SRV_NAMEONLY) is foreign
    assert stored.find_all(tag_for(HTTP), Match.DONT_MATCH_REALM) == [SECOND, THIRD]


def test_find_without_a_server() -> None:
    """A tag without a server is compared with every credential."""
    stored = filled(credential(TGS), credential(HTTP, BOB))
    assert stored.find_all(Tag(), 0) == [FIRST, SECOND]
    assert stored.find_all(Tag(client=BOB), 0) == [SECOND]
    assert stored.find(Tag(client=principal("carol")), 0) is None


CLIENTS = [ALICE, BOB, changed(ALICE, realm=b"OTHER.TEST"), changed(ALICE, name_type=10)]
SERVERS = [TGS, HTTP, changed(HTTP, realm=b"OTHER.TEST"), principal("HTTP")]

credentials = st.builds(
    credential,
    st.sampled_from(SERVERS),
    st.sampled_from(CLIENTS),
    is_skey=st.booleans(),
    ticket=st.sampled_from([b"", b"ticket", b"another"]),
    second_ticket=st.sampled_from([b"", b"second"]),
)
tags = st.builds(
    Tag,
    client=st.none() | st.sampled_from(CLIENTS),
    server=st.none() | st.sampled_from(SERVERS),
    is_skey=st.booleans(),
    second_ticket=st.sampled_from([b"", b"second"]),
)
match_flag_sets = st.sets(
    st.sampled_from([Match.IS_SKEY, Match.SECOND_TICKET, Match.SRV_NAMEONLY, Match.DONT_MATCH_REALM])
).map(sum)


def equal(one: Credential, other: Credential) -> bool:
    """Whether STORE of one replaces the other, as the protocol has it."""
    return (
        (one.client.realm, one.client.components) == (other.client.realm, other.client.components)
        and (one.server.realm, one.server.components) == (other.server.realm, other.server.components)
        and one.is_skey == other.is_skey
        and one.second_ticket == other.second_ticket
    )


def matches(stored: Credential, tag: Tag, match_flags: int) -> bool:
    """The matching rules, as far as these credentials differ, spelt out."""
    any_client_realm = match_flags & Match.DONT_MATCH_REALM
    any_server_realm = match_flags & (Match.DONT_MATCH_REALM | Match.SRV_NAMEONLY)
    for asked, there, any_realm in (
        (tag.client, stored.client, any_client_realm),
        (tag.server, stored.server, any_server_realm),
    ):
        if asked is not None and asked.components != there.components:
            return False
        if asked is not None and not any_realm and asked.realm != there.realm:
            return False
    if stored.is_skey != (tag.is_skey if match_flags & Match.IS_SKEY else False):
        return False
    return not match_flags & Match.SECOND_TICKET or stored.second_ticket == tag.second_ticket


class AgainstAList(RuleBasedStateMachine):
    """Credentials behave as a plain list of UUIDs and credentials does that is searched from its begin."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Credentials()
        self.model: list[tuple[bytes, Credential]] = []
        self.count = 0

    @rule(new=credentials)
    def put(self, new: Credential) -> None:
        place = next((at for at, (_, old) in enumerate(self.model) if equal(old, new)), None)
        uuid = self.real.uuid_of_equal(new)
        if place is None:
            assert uuid is None
            self.count += 1
            uuid = self.count.to_bytes(16)
            self.model.append((uuid, new))
        else:
            assert uuid == self.model[place][0]
            self.model[place] = (uuid, new)
        self.real.put(uuid, new)

    @precondition(lambda self: self.model)
    @rule(new=credentials, data=st.data())
    def put_over_any(self, new: Credential, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        uuid, _ = self.model[place]
        if any(equal(old, new) for at, (_, old) in enumerate(self.model) if at != place):
            with pytest.raises(ValueError, match="another UUID"):
                self.real.put(uuid, new)
        else:
            self.model[place] = (uuid, new)
            self.real.put(uuid, new)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        uuid, _ = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        self.real.remove(uuid)
        assert self.real.get(uuid) is None

    @rule(tag=tags, match_flags=match_flag_sets)
    def find(self, tag: Tag, match_flags: int) -> None:
        wanted = [(uuid, each) for uuid, each in self.model if matches(each, tag, match_flags)]
        assert self.real.find_all(tag, match_flags) == [uuid for uuid, _ in wanted]
        assert self.real.find(tag, match_flags) is (wanted[0][1] if wanted else None)

    @invariant()
    def same(self) -> None:
        assert list(self.real.items()) == self.model
        assert list(self.real.uuids()) == [uuid for uuid, _ in self.model]
        assert list(self.real) == [each for _, each in self.model]
        assert len(self.real) == len(self.model)
        assert self.real.size == sum(len(each.blob) for _, each in self.model)
        assert all(self.real.get(uuid) is each for uuid, each in self.model)
        assert b"".join(self.real.packed.pieces) == pack_blobs([each.blob for _, each in self.model])

    @invariant()
    def indexes_hold_nothing_else(self) -> None:
        assert self.real._uuid_of == {each.equality: uuid for uuid, each in self.model}
        by_server = list(self.real._by_server.values())
        assert all(by_server)
        assert sorted(uuid for same in by_server for uuid in same) == sorted(uuid for uuid, _ in self.model)

    @invariant()
    def service_tickets_are_in_order_of_issue(self) -> None:
        issued = {uuid: each.issued for uuid, each in self.model if each.server != TGS}
        assert list(self.real.service_tickets) == sorted(issued, key=lambda uuid: issued[uuid])


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(max_examples=40, stateful_step_count=30)
