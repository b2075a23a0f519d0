"""The rules of an import: which ccaches are valid, and which existing ones they overwrite."""

from typing import Any

import pytest

from tests.builders import ALICE, BOB, HTTP, TGS, configuration, credential_bytes, service
from tests.control.controlling import Controlling
from tests.control.transferring import EXPIRED, NEW, OLD, contents, outcomes, record, tgt
from tests.server.asking import Asking, Server
from tests.server.programs import listed


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
def test_newer_ccache_of_same_principal_overwrites(
    control: Controlling, alice: Asking, there: list[bytes], coming: list[bytes], outcome: str
) -> None:
    """A newer TGT overwrites an older one of its principal; the other way round only with `replace`."""
    alice.replace(b"1000", 0, ALICE, there)
    assert outcomes(control, record(credentials=coming)) == [outcome]
    assert contents(alice, b"1000") == (coming if outcome == "replaced" else there)
    expected = "unchanged" if outcome == "replaced" else "replaced"
    assert outcomes(control, record(credentials=coming), replace=True) == [expected]
    assert contents(alice, b"1000") == coming


@pytest.mark.parametrize(
    ("there", "coming", "outcome"),
    [(OLD, NEW, "skipped"), (EXPIRED, OLD, "replaced"), (EXPIRED - 1, EXPIRED, "skipped")],
)
def test_other_principal_overwrites_only_an_expired_ccache(
    control: Controlling, alice: Asking, there: int, coming: int, outcome: str
) -> None:
    """A valid ccache overwrites an expired one of another principal, and no valid one."""
    alice.replace(b"1000", 0, BOB, [tgt(there)])
    assert outcomes(control, record(credentials=[tgt(coming)])) == [outcome]
    assert alice.get_principal(b"1000") == (ALICE if outcome == "replaced" else BOB)


def test_expired_ccache_is_imported_unless_skipped(control: Controlling, alice: Asking) -> None:
    """An expired ccache is imported, except with `skip_expired`."""
    assert outcomes(control, record(credentials=[tgt(EXPIRED)]), skip_expired=True) == ["expired"]
    assert listed(alice) == []
    assert outcomes(control, record(credentials=[tgt(EXPIRED)])) == ["imported"]


def test_existing_default_is_kept(control: Controlling, alice: Asking) -> None:
    """A default that names a ccache is kept, another one moves; with `replace` either moves."""
    alice.initialize(b"1000:mine", ALICE)
    alice.set_default_cache(b"1000:mine")
    item = record(name=b"1000:x", default=True)
    assert [each["ccache"]["default"] for each in control.ask("import", item)] == [False]
    assert alice.get_default_cache() == b"1000:mine"
    alice.destroy(b"1000:mine")
    assert [each["ccache"]["default"] for each in control.ask("import", record(name=b"1000"), item)] == [
        False,
        True,
    ]
    alice.initialize(b"1000:mine", ALICE)
    alice.set_default_cache(b"1000:mine")
    assert outcomes(control, item, replace=True) == ["unchanged"]
    assert alice.get_default_cache() == b"1000:x"


def test_ccache_without_a_name_gets_one(control: Controlling, alice: Asking) -> None:
    """It gets the name of its principal's ccache, else the free default name, else a new one."""
    assert outcomes(control, record(name=None, credentials=[tgt(OLD)])) == ["imported"]
    assert listed(alice) == [b"1000"]
    assert outcomes(control, record(name=None, credentials=[tgt(NEW)])) == ["replaced"]
    assert outcomes(control, record(name=None, principal=BOB)) == ["imported"]
    assert outcomes(control, record(name=None, principal=BOB)) == ["unchanged"]
    _, other = listed(alice)
    assert other.startswith(b"1000:")
    assert alice.get_principal(other) == BOB


def test_chosen_default_without_a_ccache_is_not_filled(control: Controlling, alice: Asking) -> None:
    """A chosen default name that has no ccache is not given to the import."""
    alice.replace(b"1000", 0, ALICE, [tgt()])
    alice.set_default_cache(b"1000:login")
    assert outcomes(control, record(name=None, principal=BOB)) == ["imported"]
    assert b"1000:login" not in listed(alice)


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
def test_invalid_ccache_is_refused_with_the_reason(
    server: Server, control: Controlling, item: Any, why: str
) -> None:
    """An invalid ccache is refused with the reason, and the next one is imported."""
    answers = [each["ccache"] for each in control.ask("import", item, record(uid=5, name=b"5"))]
    assert [each["result"] for each in answers] == ["refused", "imported"]
    assert why in answers[0]["reason"]
    assert server.runner.run(server.store.uids()) == [5]


def test_last_of_equal_credentials_counts(control: Controlling, alice: Asking) -> None:
    """Of equal credentials the last one counts, in the place of the first."""
    again = credential_bytes(HTTP, ticket=b"later")
    items = [tgt(), credential_bytes(HTTP), credential_bytes(service(1)), again]
    assert outcomes(control, record(credentials=items)) == ["imported"]
    assert contents(alice, b"1000") == [tgt(), again, credential_bytes(service(1))]
    assert outcomes(control, record(credentials=items)) == ["unchanged"]
