"""The requests export and import: complete ccaches, in order, in bounded commits."""

import asyncio
import errno
from typing import Any

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.control import transfer
from pykcm.store.interface import Store, StoreError
from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential_bytes
from tests.control.controlling import Controlling
from tests.control.transferring import OLD, contents, exported, outcomes, reason, record, tgt
from tests.server.asking import Asking, Server
from tests.server.programs import listed


def test_import_restores_an_export(server: Server, control: Controlling, alice: Asking) -> None:
    """An import of an export restores order, names, KDC offsets and the default."""
    entry = configuration(b"pa_type", b"2").blob
    alice.replace(b"1000:x", -5, ALICE, [entry, tgt(), credential_bytes(HTTP)])
    alice.replace(b"1000", 0, BOB, [])
    alice.set_default_cache(b"1000:x")
    server.ask_as(0).replace(b"backup", 0, BOB, [tgt()])
    items = exported(control)
    assert [each["name"] for each in items] == [b"backup", b"1000:x", b"1000"]
    for uid in (0, 1000):
        control.ask("destroy", uid=uid)
    answers = [each["ccache"] for each in control.ask("import", *items)]
    assert [(each["result"], each["default"]) for each in answers] == [
        ("imported", False),
        ("imported", True),
        ("imported", False),
    ]
    assert control.summary == {"imported": 3}
    fresh = server.restarted().ask_as(1000)
    assert listed(fresh) == [b"1000:x", b"1000"]
    assert fresh.get_default_cache() == b"1000:x"
    assert fresh.get_kdc_offset(b"1000:x") == -5
    assert contents(fresh, b"1000:x") == [entry, tgt(), credential_bytes(HTTP)]
    assert exported(control) == items


def test_repeated_import_changes_nothing(server: Server, control: Controlling) -> None:
    """An equal ccache is unchanged, and nothing is written."""
    assert outcomes(control, record()) == ["imported"]
    commits = len(server.store.commits)
    assert outcomes(control, record()) == ["unchanged"]
    assert len(server.store.commits) == commits


def test_dry_run_answers_like_the_import(server: Server, control: Controlling, alice: Asking) -> None:
    """A dry run answers like the import, also for several ccaches of one UID, and changes nothing."""
    alice.replace(b"1000", 0, ALICE, [tgt(OLD)])
    items = [record(), record(), record(name=None, principal=BOB), record(uid=2000, name=None)]
    before = exported(control)
    commits = len(server.store.commits)
    expected = ["replaced", "unchanged", "imported", "imported"]
    assert outcomes(control, *items, dry_run=True) == expected
    assert exported(control) == before
    assert len(server.store.commits) == commits
    assert outcomes(control, *items) == expected


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("quotas", [Quotas(max_ccaches=3), Quotas(max_uid_ccaches=2)])
def test_quotas_refuse_single_ccaches(
    runner: asyncio.Runner, store: Store, quotas: Quotas, *, dry_run: bool
) -> None:
    """A ccache beyond a quota is refused with the quota's name, also in a dry run; others are imported."""
    control = Controlling(Server(runner, store, quotas=quotas))
    items = [record(uid=uid, name=b"%d:%d" % (uid, number)) for uid in (1, 2) for number in range(3)]
    answers = [each["ccache"] for each in control.ask("import", *items, dry_run=dry_run)]
    results = [each["result"] for each in answers]
    if quotas.max_uid_ccaches:
        assert results == ["imported", "imported", "refused"] * 2
    else:
        # The UID whose collection is loaded first has all that there is.
        assert sorted([results[:3], results[3:]]) == [["imported"] * 3, ["refused"] * 3]
    assert {each["reason"].split()[0] for each in answers if each["reason"]} == {
        name for name, value in quotas._asdict().items() if value
    }


def test_failed_commit_refuses_its_ccaches(server: Server, control: Controlling, alice: Asking) -> None:
    """Ccaches whose commit fails are refused; those of other UIDs are imported."""

    def refusal(changes: list[Any]) -> Exception | None:
        return StoreError("disk full", errno.ENOSPC) if "/1000/" in str(changes) else None

    server.store.refusal = refusal
    items = [record(), record(uid=2000, name=b"2000"), record(name=b"1000:b")]
    # One by one: ccaches of one import are committed together.
    assert [outcomes(control, item) for item in items] == [["refused"], ["imported"], ["refused"]]
    assert listed(alice) == []
    assert listed(server.ask_as(2000)) == [b"2000"]


def test_answers_are_in_the_order_of_the_ccaches(
    control: Controlling, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers are in the order of the ccaches, in batches of any size."""
    monkeypatch.setattr(transfer, "_TOGETHER", 7)
    items = [record(uid=number % 5, name=b"%d:%d" % (number % 5, number)) for number in range(40)]
    for dry_run in (True, False):
        answers = [each["ccache"] for each in control.ask("import", *items, dry_run=dry_run)]
        assert [each["name"] for each in answers] == [each["name"] for each in items]
        assert {each["result"] for each in answers} == {"imported"}
    monkeypatch.setattr(transfer, "_TOGETHER_SIZE", 1)
    assert outcomes(control, *items) == ["unchanged"] * 40


def test_wrong_frame_spoils_one_ccache(control: Controlling) -> None:
    """A stray credential, one too many, or text in its place: each spoils one ccache."""
    stray = [b"a", tgt(), record(), tgt(), record(uid=5, name=b"5"), "text", record(uid=6, name=b"6")]
    assert outcomes(control, *stray) == ["refused", "refused", "imported", "refused", "imported"]
    answers = [
        each["ccache"] for each in control.ask("import", record() | {"credentials": 1}, b"short", tgt())
    ]
    assert [(each["result"], each["uid"], each["name"]) for each in answers] == [("refused", 1000, b"1000")]
    assert "credential 1 is invalid" in answers[0]["reason"]


@pytest.mark.parametrize(("number", "ticket", "commits"), [(20, 10, 2), (3, 700_000, 3), (2, 100_000, 1)])
def test_import_of_one_uid_takes_several_commits(
    server: Server, control: Controlling, number: int, ticket: int, commits: int
) -> None:
    """Many or large ccaches of one UID are imported in several commits: others are served in between."""
    items = [
        record(name=b"1000:%d" % each, credentials=[credential_bytes(TGS, ticket=bytes(ticket))])
        for each in range(number)
    ]
    before = len(server.store.commits)
    assert outcomes(control, *items, dry_run=True) == ["imported"] * number
    assert len(server.store.commits) == before
    assert outcomes(control, *items) == ["imported"] * number
    assert len(server.store.commits) - before == commits


def test_overwritten_bytes_count_for_a_commit(server: Server, control: Controlling, alice: Asking) -> None:
    """A commit that deletes much takes as long as one that writes much."""
    for number in range(4):
        alice.replace(b"1000:%d" % number, 0, ALICE, [credential_bytes(HTTP, ticket=bytes(400_000))])
    before = len(server.store.commits)
    items = [record(name=b"1000:%d" % number) for number in range(4)]
    assert outcomes(control, *items, replace=True) == ["replaced"] * 4
    assert len(server.store.commits) - before == 2


def test_damaged_ccache_is_left_out_and_not_overwritten(
    server: Server, control: Controlling, alice: Asking
) -> None:
    """A damaged ccache is reported as left out of an export, and an import does not overwrite it."""
    alice.replace(b"1000", 0, ALICE, [tgt()])
    alice.replace(b"1000:x", 0, ALICE, [tgt()])
    server.runner.run(server.change(1000, lambda each: each.unavailable.update({b"1000:bad": bytes(16)})))
    head, *items = control.ask("export")
    assert head == {"count": 2}
    assert items[2] == {
        "left_out": {"uid": 1000, "name": b"1000:bad", "reason": "its secrets cannot be read"}
    }
    assert control.summary == {"exported": 2, "left_out": 1}
    assert "cannot be read" in reason(control, record(name=b"1000:bad"), replace=True)
