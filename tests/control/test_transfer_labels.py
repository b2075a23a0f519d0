"""Export and import with SELinux labels."""

import asyncio

import pytest

from pykcm.store.interface import Store
from tests.builders import ALICE, BOB
from tests.control.controlling import Controlling
from tests.control.transferring import OLD, contents, exported, outcomes, reason, record, tgt
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Server
from tests.server.programs import listed


@pytest.fixture
def labelled(runner: asyncio.Runner, store: Store) -> Server:
    return Server(runner, store, policy=Mcs())


def test_labels_and_range_defaults_are_kept(labelled: Server) -> None:
    """An import restores labels and the defaults of SELinux ranges."""
    control = Controlling(labelled)
    inside = labelled.ask_as(1000, CONTAINER_1)
    inside.replace(b"1000:in", 0, ALICE, [tgt()])
    inside.set_default_cache(b"1000:in")
    labelled.ask_as(1000, HOST).replace(b"1000", 0, BOB, [tgt()])
    items = exported(control, label=HOST)
    assert [(each["label"], each["default_of"]) for each in items] == [
        (CONTAINER_1, ["s0:c1,c2"]),
        (HOST, []),
    ]
    control.ask("destroy", uid=1000, label=HOST)
    assert outcomes(control, *items, label=HOST) == ["imported"] * 2
    assert listed(labelled.ask_as(1000, CONTAINER_1)) == [b"1000:in"]
    assert labelled.ask_as(1000, CONTAINER_1).get_default_cache() == b"1000:in"
    assert listed(labelled.ask_as(1000, CONTAINER_2)) == []


@pytest.mark.parametrize("name", [None, b"1000:trap"])
def test_imported_ticket_is_hidden_from_waiting_container(labelled: Server, name: bytes | None) -> None:
    """A container with a ccache of the principal does not get the tickets that the host's root imports."""
    inside = labelled.ask_as(1000, CONTAINER_1)
    inside.initialize(b"1000:trap", ALICE)
    assert outcomes(Controlling(labelled), record(name=name), label=HOST) == ["replaced"]
    assert listed(inside) == []
    assert contents(labelled.ask_as(1000, HOST), b"1000:trap") == [tgt()]


def test_ccache_without_a_label_gets_the_peers(labelled: Server) -> None:
    """A ccache without a label gets that of the importing peer."""
    assert outcomes(Controlling(labelled), record(), label=HOST) == ["imported"]
    assert listed(labelled.ask_as(1000, CONTAINER_1)) == []
    assert listed(labelled.ask_as(1000, HOST)) == [b"1000"]


def test_confined_root_moves_no_default_of_others(labelled: Server) -> None:
    """Root at a level of its own moves neither the shared default nor another level's."""
    host = labelled.ask_as(1000, HOST)
    host.replace(b"1000:host", 0, BOB, [tgt(client=BOB)])
    host.set_default_cache(b"1000:host")
    mine = record(name=b"1000:in", label=CONTAINER_1, default=True, default_of=["s0:c3,c4"])
    assert outcomes(Controlling(labelled), mine, label=CONTAINER_1, replace=True) == ["imported"]
    assert host.get_default_cache() == b"1000:host"
    assert labelled.ask_as(1000, CONTAINER_2).get_default_cache() != b"1000:in"
    assert outcomes(Controlling(labelled), mine, label=HOST, replace=True) == ["unchanged"]
    assert host.get_default_cache() == b"1000:in"


def test_hidden_ccaches_are_neither_exported_nor_overwritten(labelled: Server) -> None:
    """A peer neither exports nor overwrites hidden ccaches, and creates none at their level."""
    control = Controlling(labelled)
    labelled.ask_as(1000, CONTAINER_1).replace(b"1000", 0, ALICE, [tgt(OLD)])
    assert exported(control, label=HOST_LOW) == []
    assert "this peer may not change" in reason(control, record(), label=HOST_LOW, replace=True)
    other = record(name=b"1000:x", label=CONTAINER_1)
    assert "this peer may not change" in reason(control, other, label=HOST_LOW)
    assert outcomes(control, record(name=None), label=HOST_LOW) == ["imported"]
    assert contents(labelled.ask_as(1000, CONTAINER_1), b"1000") == [tgt(OLD)]


def test_ccache_at_another_level_is_not_overwritten(labelled: Server) -> None:
    """An import does not overwrite a ccache at another level, where other peers could read it."""
    control = Controlling(labelled)
    labelled.ask_as(1000, HOST_LOW).replace(b"1000", 0, ALICE, [tgt(OLD)])
    assert "another SELinux level" in reason(control, record(label=CONTAINER_1), label=HOST, replace=True)
    assert contents(labelled.ask_as(1000, HOST_LOW), b"1000") == [tgt(OLD)]
    assert outcomes(control, record(label=CONTAINER_1, name=None), label=HOST) == ["imported"]
    assert len(listed(labelled.ask_as(1000, CONTAINER_1))) == 2
