"""export and import, asked of a service: what is taken, what gives way, and what stays as it is."""

import asyncio
import errno
from collections.abc import Sequence
from typing import Any

import pytest

from pykcm.ccaches.quotas import Quotas
from pykcm.control import transfer
from pykcm.peer.selinux import Policy
from pykcm.protocol.principal import Principal
from pykcm.store.interface import Store, StoreError
from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential_bytes, service
from tests.control.controlling import Controlling
from tests.peer.mcs import CONTAINER_1, CONTAINER_2, HOST, HOST_LOW, Mcs
from tests.server.asking import Asking, Server
from tests.server.programs import listed

# The tests' clock stands at 1500.
NEW, OLD, EXPIRED = 9000, 5000, 1400


def tgt(end: int = NEW, *, client: Principal = ALICE) -> bytes:
    return credential_bytes(TGS, client, times=(1, 1, end, 0))


def record(
    uid: int = 1000,
    name: bytes | None = b"1000",
    credentials: Sequence[bytes] = (tgt(),),
    principal: Principal = ALICE,
    **more: Any,
) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": name,
        "principal": {
            "type": principal.name_type,
            "realm": principal.realm,
            "components": list(principal.components),
        },
        "credentials": list(credentials),
        **more,
    }


def outcomes(control: Controlling, *items: Any, label: str | None = None, **arguments: Any) -> list[str]:
    return [each["ccache"]["result"] for each in control.ask("import", *items, label=label, **arguments)]


def reason(control: Controlling, item: Any, **arguments: Any) -> str:
    """Why it was not taken."""
    (answer,) = control.ask("import", item, **arguments)
    assert answer["ccache"]["result"] in {"refused", "skipped"}
    text: str = answer["ccache"]["reason"]
    return text


def exported(control: Controlling, **arguments: Any) -> list[Any]:
    head, *items = control.ask("export", **arguments)
    assert head == {"count": sum("ccache" in item for item in items)}
    return [item["ccache"] for item in items if "ccache" in item]


def contents(client: Asking, name: bytes) -> list[bytes]:
    return client.get_cred_list(name)


@pytest.fixture
def user(server: Server) -> Asking:
    return server.ask_as(1000)


def test_there_and_back(server: Server, control: Controlling, user: Asking, runner: asyncio.Runner) -> None:
    """What is exported is imported as it was: order, names, KDC offset, the default."""
    entry = configuration(b"pa_type", b"2").blob
    user.replace(b"1000:x", -5, ALICE, [entry, tgt(), credential_bytes(HTTP)])
    user.replace(b"1000", 0, BOB, [])
    user.set_default_cache(b"1000:x")
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


def test_the_same_again(server: Server, control: Controlling) -> None:
    """What is there already is unchanged, and nothing is written."""
    assert outcomes(control, record()) == ["imported"]
    commits = len(server.store.commits)
    assert outcomes(control, record()) == ["unchanged"]
    assert len(server.store.commits) == commits


@pytest.mark.parametrize(
    ("there", "coming", "outcome"),
    [
        ([tgt(OLD)], [tgt(NEW)], "replaced"),
        ([tgt(NEW)], [tgt(OLD)], "skipped"),
        ([tgt(NEW), credential_bytes(HTTP)], [tgt(NEW)], "skipped"),
        ([tgt(EXPIRED)], [tgt(EXPIRED - 1)], "skipped"),
        ([tgt(0)], [tgt(NEW)], "skipped"),
        ([], [tgt(OLD)], "replaced"),
        ([configuration(b"k", b"v").blob], [tgt(EXPIRED)], "replaced"),
        ([tgt(OLD)], [], "skipped"),
    ],
)
def test_of_the_same_principal(
    control: Controlling, user: Asking, there: list[bytes], coming: list[bytes], outcome: str
) -> None:
    """A newer TGT takes the place of an older one, never the other way round, unless that is wanted."""
    user.replace(b"1000", 0, ALICE, there)
    assert outcomes(control, record(credentials=coming)) == [outcome]
    assert contents(user, b"1000") == (coming if outcome == "replaced" else there)
    expected = "unchanged" if outcome == "replaced" else "replaced"
    assert outcomes(control, record(credentials=coming), replace=True) == [expected]
    assert contents(user, b"1000") == coming


@pytest.mark.parametrize(
    ("there", "coming", "outcome"),
    [(OLD, NEW, "skipped"), (EXPIRED, OLD, "replaced"), (EXPIRED - 1, EXPIRED, "skipped")],
)
def test_of_another_principal(
    control: Controlling, user: Asking, there: int, coming: int, outcome: str
) -> None:
    """It takes the place of what has expired, if it has not expired itself."""
    user.replace(b"1000", 0, BOB, [tgt(there)])
    assert outcomes(control, record(credentials=[tgt(coming)])) == [outcome]
    assert user.get_principal(b"1000") == (ALICE if outcome == "replaced" else BOB)


def test_expired(control: Controlling, user: Asking) -> None:
    """One whose tickets have all expired is imported, unless it is to be left out."""
    assert outcomes(control, record(credentials=[tgt(EXPIRED)]), skip_expired=True) == ["expired"]
    assert listed(user) == []
    assert outcomes(control, record(credentials=[tgt(EXPIRED)])) == ["imported"]


def test_defaults(control: Controlling, user: Asking) -> None:
    """A default that names a ccache stays, one that names none moves; --replace moves it."""
    user.initialize(b"1000:mine", ALICE)
    user.set_default_cache(b"1000:mine")
    item = record(name=b"1000:x", default=True)
    assert [each["ccache"]["default"] for each in control.ask("import", item)] == [False]
    assert user.get_default_cache() == b"1000:mine"
    user.destroy(b"1000:mine")
    assert [each["ccache"]["default"] for each in control.ask("import", record(name=b"1000"), item)] == [
        False,
        True,
    ]
    user.initialize(b"1000:mine", ALICE)
    user.set_default_cache(b"1000:mine")
    assert outcomes(control, item, replace=True) == ["unchanged"]
    assert user.get_default_cache() == b"1000:x"


def test_without_a_name(control: Controlling, user: Asking) -> None:
    """It becomes the default where that is free, takes the place of its principal's, else gets a new name."""
    assert outcomes(control, record(name=None, credentials=[tgt(OLD)])) == ["imported"]
    assert listed(user) == [b"1000"]
    assert outcomes(control, record(name=None, credentials=[tgt(NEW)])) == ["replaced"]
    assert outcomes(control, record(name=None, principal=BOB)) == ["imported"]
    assert outcomes(control, record(name=None, principal=BOB)) == ["unchanged"]
    _, other = listed(user)
    assert other.startswith(b"1000:")
    assert user.get_principal(other) == BOB


def test_without_a_name_where_another_stands_in(control: Controlling, user: Asking) -> None:
    """A chosen name that was never filled is not taken: another ccache is the default, and stays it."""
    user.replace(b"1000", 0, ALICE, [tgt()])
    user.set_default_cache(b"1000:login")
    assert outcomes(control, record(name=None, principal=BOB)) == ["imported"]
    assert b"1000:login" not in listed(user)


def test_dry_run(server: Server, control: Controlling, user: Asking) -> None:
    """The answers are those of the import itself, over several ccaches of one UID, and nothing changes."""
    user.replace(b"1000", 0, ALICE, [tgt(OLD)])
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
def test_quotas(runner: asyncio.Runner, store: Store, quotas: Quotas, *, dry_run: bool) -> None:
    """Beyond a quota a ccache is refused with the limit's name, the others not; a dry run counts along."""
    control = Controlling(Server(runner, store, quotas=quotas))
    items = [record(uid=uid, name=b"%d:%d" % (uid, number)) for uid in (1, 2) for number in range(3)]
    answers = [each["ccache"] for each in control.ask("import", *items, dry_run=dry_run)]
    per_uid = ["imported", "imported", "refused"] * 2
    in_all = ["imported"] * 3 + ["refused"] * 3
    assert [each["result"] for each in answers] == (per_uid if quotas.max_uid_ccaches else in_all)
    assert {each["reason"].split()[0] for each in answers if each["reason"]} == {
        name for name, value in quotas._asdict().items() if value
    }


def test_a_store_that_fails(server: Server, control: Controlling, user: Asking) -> None:
    """Those whose commit fails are refused and not there; those of other UIDs are taken."""

    def refusal(changes: list[Any]) -> Exception | None:
        return StoreError("disk full", errno.ENOSPC) if "/1000/" in str(changes) else None

    server.store.refusal = refusal
    items = [record(), record(uid=2000, name=b"2000"), record(name=b"1000:b")]
    # One by one: what comes together is committed together.
    assert [outcomes(control, item) for item in items] == [["refused"], ["imported"], ["refused"]]
    assert listed(user) == []
    assert listed(server.ask_as(2000)) == [b"2000"]


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (None, "not a ccache's record"),
        ({"uid": 1000}, "not a ccache's record"),
        (record(uid=-1), "not a ccache's record"),
        (record(uid=2**32), "not a ccache's record"),
        (record(kdc_offset=2**31), "not a ccache's record"),
        (record(extra=1), "not a ccache's record"),
        (record(name=b""), "name"),
        (record(name=b"1000:\0"), "name"),
        (record(name=b"1000:" + bytes(1020)), "name"),
        (record(name=b"1001"), "does not belong to UID 1000"),
        (record(name=b"free"), "does not belong to UID 1000"),
        (record(uid=2**32 - 1, name=None), "UID"),
        (record(credentials=[tgt(), b"short"]), "credential 2"),
        (record() | {"name": "MTAwMA=="}, "not a ccache's record"),
        (record() | {"credentials": 2**15 + 1}, "not a ccache's record"),
        (record() | {"credentials": 1}, "1 credentials were announced, 0 were sent"),
        (record(credentials=[tgt()] * 2049), "max_ccache_credentials: 2049 needed, 2048 allowed"),
        (
            record(credentials=[credential_bytes(TGS, ticket=bytes(1 << 21))] * 3),
            "larger than a ccache may be",
        ),
        (record(label="no label"), "SELinux label"),
        (record(default_of=["s0:c1 c2"]), "SELinux label"),
        (record(default_of=["s0", ""]), "SELinux label"),
    ],
)
def test_what_is_no_ccache(server: Server, control: Controlling, item: Any, why: str) -> None:
    """It is refused with the reason, and the next one is taken."""
    answers = [each["ccache"] for each in control.ask("import", item, record(uid=5, name=b"5"))]
    assert [each["result"] for each in answers] == ["refused", "imported"]
    assert why in answers[0]["reason"]
    assert server.runner.run(server.store.uids()) == [5]


def test_many(control: Controlling, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are in the order of the ccaches, however they are taken together."""
    monkeypatch.setattr(transfer, "_TOGETHER", 7)
    items = [record(uid=number % 5, name=b"%d:%d" % (number % 5, number)) for number in range(40)]
    for dry_run in (True, False):
        answers = [each["ccache"] for each in control.ask("import", *items, dry_run=dry_run)]
        assert [each["name"] for each in answers] == [each["name"] for each in items]
        assert {each["result"] for each in answers} == {"imported"}
    monkeypatch.setattr(transfer, "_TOGETHER_SIZE", 1)
    assert outcomes(control, *items) == ["unchanged"] * 40


def test_wrong_frames_are_refused_until_the_next_ccache(control: Controlling) -> None:
    """A credential without its ccache, one too many, or text in the place of one: each spoils one ccache."""
    stray = [b"a", tgt(), record(), tgt(), record(uid=5, name=b"5"), "text", record(uid=6, name=b"6")]
    assert outcomes(control, *stray) == ["refused", "refused", "imported", "refused", "imported"]
    answers = [
        each["ccache"] for each in control.ask("import", record() | {"credentials": 1}, b"short", tgt())
    ]
    assert [(each["result"], each["uid"], each["name"]) for each in answers] == [("refused", 1000, b"1000")]
    assert "credential 1 is invalid" in answers[0]["reason"]


@pytest.mark.parametrize(("number", "ticket", "commits"), [(20, 10, 2), (3, 700_000, 3), (2, 100_000, 1)])
def test_import_commits_bounded_pieces(
    server: Server, control: Controlling, number: int, ticket: int, commits: int
) -> None:
    """Many or large ccaches of one UID are imported in several commits, so that others are served between."""
    items = [
        record(name=b"1000:%d" % each, credentials=[credential_bytes(TGS, ticket=bytes(ticket))])
        for each in range(number)
    ]
    before = len(server.store.commits)
    assert outcomes(control, *items, dry_run=True) == ["imported"] * number
    assert len(server.store.commits) == before
    assert outcomes(control, *items) == ["imported"] * number
    assert len(server.store.commits) - before == commits


def test_import_counts_what_it_overwrites(server: Server, control: Controlling, user: Asking) -> None:
    """A commit that deletes much is as long as one that writes much."""
    for number in range(4):
        user.replace(b"1000:%d" % number, 0, ALICE, [credential_bytes(HTTP, ticket=bytes(400_000))])
    before = len(server.store.commits)
    items = [record(name=b"1000:%d" % number) for number in range(4)]
    assert outcomes(control, *items, replace=True) == ["replaced"] * 4
    assert len(server.store.commits) - before == 2


def test_credentials_that_are_equal(control: Controlling, user: Asking) -> None:
    """Ccache files have the later one behind the earlier: the last one counts, and the order is kept."""
    again = credential_bytes(HTTP, ticket=b"later")
    items = [tgt(), credential_bytes(HTTP), credential_bytes(service(1)), again]
    assert outcomes(control, record(credentials=items)) == ["imported"]
    assert contents(user, b"1000") == [tgt(), again, credential_bytes(service(1))]
    assert outcomes(control, record(credentials=items)) == ["unchanged"]


def test_what_cannot_be_read(server: Server, control: Controlling, user: Asking) -> None:
    """A damaged ccache is left out of an export, told of, and not overwritten."""
    user.replace(b"1000", 0, ALICE, [tgt()])
    user.replace(b"1000:x", 0, ALICE, [tgt()])
    server.runner.run(server.change(1000, lambda each: each.unavailable.update({b"1000:bad": bytes(16)})))
    head, *items = control.ask("export")
    assert head == {"count": 2}
    assert items[2] == {
        "left_out": {"uid": 1000, "name": b"1000:bad", "reason": "its secrets cannot be read"}
    }
    assert control.summary == {"exported": 2, "left_out": 1}
    assert "cannot be read" in reason(control, record(name=b"1000:bad"), replace=True)


# SELinux


@pytest.fixture
def policy() -> Policy:
    return Mcs()


@pytest.fixture
def labelled(runner: asyncio.Runner, store: Store, policy: Policy) -> Server:
    return Server(runner, store, policy=policy)


def test_labels_are_kept(labelled: Server) -> None:
    """A ccache is of the same label afterwards, and the default of its range is too."""
    control = Controlling(labelled)
    inside = labelled.ask_as(1000, CONTAINER_1)
    inside.replace(b"1000:in", 0, ALICE, [tgt()])
    inside.set_default_cache(b"1000:in")
    labelled.ask_as(1000, HOST).replace(b"1000", 0, BOB, [tgt()])
    items = exported_as(control, HOST)
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
def test_a_trap(labelled: Server, name: bytes | None) -> None:
    """A container that waits with a ccache of the principal does not get what the host's root imports."""
    inside = labelled.ask_as(1000, CONTAINER_1)
    inside.initialize(b"1000:trap", ALICE)
    assert outcomes(Controlling(labelled), record(name=name), label=HOST) == ["replaced"]
    assert listed(inside) == []
    assert contents(labelled.ask_as(1000, HOST), b"1000:trap") == [tgt()]


def test_without_a_label(labelled: Server) -> None:
    """What has none, from elsewhere, is at the level of whoever brings it."""
    assert outcomes(Controlling(labelled), record(), label=HOST) == ["imported"]
    assert listed(labelled.ask_as(1000, CONTAINER_1)) == []
    assert listed(labelled.ask_as(1000, HOST)) == [b"1000"]


def test_defaults_of_others(labelled: Server) -> None:
    """A root at a level of its own moves neither the default that all share nor that of another level."""
    host = labelled.ask_as(1000, HOST)
    host.replace(b"1000:host", 0, BOB, [tgt(client=BOB)])
    host.set_default_cache(b"1000:host")
    mine = record(name=b"1000:in", label=CONTAINER_1, default=True, default_of=["s0:c3,c4"])
    assert outcomes(Controlling(labelled), mine, label=CONTAINER_1, replace=True) == ["imported"]
    assert host.get_default_cache() == b"1000:host"
    assert labelled.ask_as(1000, CONTAINER_2).get_default_cache() != b"1000:in"
    assert outcomes(Controlling(labelled), mine, label=HOST, replace=True) == ["unchanged"]
    assert host.get_default_cache() == b"1000:in"


def exported_as(control: Controlling, label: str) -> list[Any]:
    head, *items = control.ask("export", label=label)
    assert head == {"count": len(items)}
    return [item["ccache"] for item in items]


def test_labels_out_of_reach(labelled: Server) -> None:
    """Whoever may not read a ccache neither exports nor overwrites it, nor makes one at its level."""
    control = Controlling(labelled)
    labelled.ask_as(1000, CONTAINER_1).replace(b"1000", 0, ALICE, [tgt(OLD)])
    assert exported_as(control, HOST_LOW) == []
    assert "this peer may not change" in reason(control, record(), label=HOST_LOW, replace=True)
    other = record(name=b"1000:x", label=CONTAINER_1)
    assert "this peer may not change" in reason(control, other, label=HOST_LOW)
    assert outcomes(control, record(name=None), label=HOST_LOW) == ["imported"]
    assert contents(labelled.ask_as(1000, CONTAINER_1), b"1000") == [tgt(OLD)]


def test_labels_that_differ(labelled: Server) -> None:
    """What is stored at one level takes nothing from another: there, more could read it."""
    control = Controlling(labelled)
    labelled.ask_as(1000, HOST_LOW).replace(b"1000", 0, ALICE, [tgt(OLD)])
    assert "another SELinux level" in reason(control, record(label=CONTAINER_1), label=HOST, replace=True)
    assert contents(labelled.ask_as(1000, HOST_LOW), b"1000") == [tgt(OLD)]
    assert outcomes(control, record(label=CONTAINER_1, name=None), label=HOST) == ["imported"]
    assert len(listed(labelled.ask_as(1000, CONTAINER_1))) == 2
