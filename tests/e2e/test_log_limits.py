"""A user who causes many log lines: few are written, and all are counted."""

import time

from pykcm.client import KcmClient
from tests.builders import ALICE, credential_bytes

from .conftest import OTHER, USER
from .control import Pykcmctl
from .daemon import Pykcmd, effective_uid
from .following import Followed

TIMES = 60


def _store_expired(daemon: Pykcmd, uid: int, times: int) -> None:
    """Create this many ccaches with an expired ticket, each under a new name."""
    # Expired within expired_retention: the reaper, which begins a second after the start, leaves them alone.
    began = int(time.time()) - 200
    with effective_uid(uid), KcmClient(daemon.socket_path) as kcm:
        for number in range(times):
            name = b"%d:%d" % (uid, number)
            kcm.initialize(name, ALICE)
            kcm.store(name, credential_bytes(times=(began, began, began + 100, began + 100)))


def test_removals_at_a_quota_do_not_flood_the_log(several_uids: None, stopped_pykcmd: Pykcmd) -> None:
    """Expired ccaches at the quota cause few lines and a summary; events and statistics have each."""
    stopped_pykcmd.configure("max_uid_ccaches = 1\n")
    stopped_pykcmd.start("--log-level", "info")
    pykcmctl = Pykcmctl(stopped_pykcmd.control_path)
    with Followed(pykcmctl, "watch", "--json") as watch:
        _store_expired(stopped_pykcmd, USER, TIMES)
        _store_expired(stopped_pykcmd, OTHER, 2)
        events = watch.until(event="evicted", uid=OTHER)
    gone = TIMES - 1
    assert sum(each["event"] == "evicted" and each["uid"] == USER for each in events) == gone
    stats = pykcmctl.json("stats")
    assert stats["removed_ccaches"] == {"max_uid_ccaches": gone + 1}
    lines = [line for line in stopped_pykcmd.log.splitlines() if "(max_uid_ccaches)" in line]
    assert sum(f"UID {USER}:" in line for line in lines) == 30
    # The other user's line is written, however many lines the first user has caused.
    assert sum(f"UID {OTHER}:" in line for line in lines) == 1
    assert stopped_pykcmd.stop() == 0
    (summary,) = (line for line in stopped_pykcmd.log.splitlines() if "were left out" in line)
    assert f"UID {USER}: {gone - 30} further lines like it" in summary
    assert "max_uid_ccaches" in summary
