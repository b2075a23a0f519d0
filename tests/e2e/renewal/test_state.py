"""pykcmctl shows how the last renewal of a ccache ended, and when the next attempt is."""

from pathlib import Path
from typing import Any

from tests.e2e.conftest import USER
from tests.e2e.control import Pykcmctl
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import REALM, Kdc
from tests.e2e.waiting import wait_until

from .conftest import renewal_conf, watched_program
from .program import PykcmRenew
from .tickets import as_renewable, new_tgt, store, with_times

CCACHE = f"KCM:{USER}"


def renewal_state(ctl: Pykcmctl) -> dict[str, Any]:
    """The state of renewal, which list and show agree about."""
    (listed,) = ctl.json("list")
    assert ctl.json("show", CCACHE)["renewal"].keys() == listed["renewal"].keys()
    state: dict[str, Any] = listed["renewal"]
    return state


def test_state_of_a_ccache_is_shown(pykcmd: Pykcmd, ctl: Pykcmctl, folder: Path) -> None:
    """A failure is shown with the KDC's words and the next attempt, if there is one; then the renewal."""
    with Kdc() as kdc, watched_program(PykcmRenew(pykcmd, renewal_conf(kdc, folder))) as program:
        tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
        not_renewable = as_renewable(new_tgt(kdc, folder, "-l", "1h"))
        program.start()

        store(pykcmd, USER, f"{USER}", not_renewable)
        wait_until(lambda: renewal_state(ctl)["last_result"] == "not-renewable")
        state = renewal_state(ctl)
        assert (state["last_message"], state["next_attempt"]) == ("KDC can't fulfill requested option", None)

        kdc.stop()
        store(pykcmd, USER, f"{USER}", with_times(tgt, -1000, 600))
        wait_until(lambda: renewal_state(ctl)["last_result"] == "unreachable")
        assert renewal_state(ctl)["last_message"] == f"Cannot contact any KDC for realm '{REALM}'"
        assert "Cannot contact any KDC" in ctl.run("show", CCACHE).output

        kdc.start()
        wait_until(lambda: renewal_state(ctl)["last_result"] == "renewed")
        assert renewal_state(ctl)["next_attempt"]
        counted = ctl.json("stats")["renewals"]
        assert (counted["renewed"], counted["failures"]["not-renewable"]) == (1, 1)
        assert counted["failures"]["unreachable"] >= 1
