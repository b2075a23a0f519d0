"""A host whose clock goes wrong by days: no valid ccache is removed, by a daemon under libfaketime."""

import shutil
from pathlib import Path

import pytest

from .activation import launch_with, listening
from .clients import Listed, MitClient
from .conftest import USER, started
from .control import Pykcmctl
from .daemon import Pykcmd
from .kdc import REALM, find_libfaketime, other_clock
from .waiting import wait_until

pytestmark = pytest.mark.skipif(find_libfaketime() is None, reason="libfaketime is missing")

DAY = 86400
AHEAD = 3 * DAY
ALICES = Listed(f"KCM:{USER}", f"alice@{REALM}", [f"krbtgt/{REALM}"])
AT_ONCE = "expired_retention = 0\nreap_interval = 1\n"
MOVED = "the clock moved forward by 3.0 days"


def _reap(daemon: Pykcmd, *options: str) -> tuple[str, str]:
    """Run `pykcmctl reap`; returns its output and its messages."""
    said = Pykcmctl(daemon.control_path).run("reap", *options)
    assert said.status == 0, said
    return said.output, said.errors


def test_start_with_clock_ahead_removes_nothing(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """Neither the first nor a later start removes a valid ccache, and the log has one line for each."""
    daemon = stopped_pykcmd
    daemon.configure(AT_ONCE)
    with started(daemon):
        mit.kinit("alice")
        wait_until((daemon.state_dir / "clock").exists)
        daemon.kill()
        for end in (daemon.kill, daemon.stop):
            logged = len(daemon.log)
            daemon.start(environment=other_clock(AHEAD))
            output, errors = _reap(daemon)
            assert output == "0 expired ccaches removed\n"
            assert errors.startswith(f"{MOVED}: for another 60 min a ccache counts as expired only if ")
            assert mit.klist() == ALICES
            end()
            assert daemon.log[logged:].count(MOVED) == 1
        logged = len(daemon.log)
        daemon.start()
        assert _reap(daemon) == ("0 expired ccaches removed\n", "")
        assert mit.klist() == ALICES
        assert "the clock" not in daemon.log[logged:]


def test_trusted_clock_removes_expired_ccaches(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """After days without the daemon, `reap --trust-clock` removes expired ccaches, also at the next start."""
    daemon = stopped_pykcmd
    daemon.configure("expired_retention = 0\nreap_interval = 0\n")
    with started(daemon):
        mit.kinit("alice")
        assert daemon.stop() == 0
        daemon.start(environment=other_clock(AHEAD))
        assert _reap(daemon, "--trust-clock") == ("1 expired ccache removed\n", "")
        assert mit.klist_all() == []
        daemon.kill()
        logged = len(daemon.log)
        daemon.start(environment=other_clock(AHEAD))
        assert _reap(daemon) == ("0 expired ccaches removed\n", "")
        assert MOVED not in daemon.log[logged:]


def test_clock_set_forward_while_running_removes_nothing(
    stopped_pykcmd: Pykcmd, mit: MitClient, folder: Path
) -> None:
    """Neither the reaper nor a quota removes a ccache that was valid before."""
    daemon = stopped_pykcmd
    daemon.configure(f"{AT_ONCE}max_uid_ccaches = 1\n")
    clock = folder / "faketime"
    clock.write_text("+0d\n")
    environment = other_clock(0)
    del environment["FAKETIME"]
    daemon.start(environment={**environment, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"})
    mit.kinit("alice")
    for setting in ("+3d\n", "+6d\n"):
        clock.write_text(setting)
        output, errors = _reap(daemon)
        assert output == "0 expired ccaches removed\n"
        assert "--trust-clock" in errors
        full = mit.run("kinit", "-k", "-t", str(mit.keytab), "bob", ccache=f"KCM:{USER}:full")
        assert "quota" in full.output.lower()
        assert mit.klist_all() == [ALICES]
    assert daemon.log.count(MOVED) == 1
    clock.write_text("+0d\n")
    assert _reap(daemon) == ("0 expired ccaches removed\n", "")
    assert "the clock was set right again" in daemon.log
    assert mit.klist_all() == [ALICES]
    assert daemon.stop() == 0


def test_clock_is_compared_with_the_last_change_of_an_older_database(
    stopped_pykcmd: Pykcmd, mit: MitClient
) -> None:
    """Without a stored reading of the clock, the daemon uses the time of the database's last change."""
    daemon = stopped_pykcmd
    daemon.configure(AT_ONCE)
    with started(daemon):
        mit.kinit("alice")
        assert daemon.stop() == 0
        (daemon.state_dir / "clock").unlink()
        daemon.start(environment=other_clock(AHEAD))
        output, errors = _reap(daemon)
        assert output == "0 expired ccaches removed\n"
        assert errors.startswith(MOVED)
        assert mit.klist() == ALICES
        assert daemon.stop() == 0
        daemon.start()
        assert _reap(daemon) == ("0 expired ccaches removed\n", "")


def test_unwritable_clock_file_stops_nothing(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """Tickets are served and reaped, and the log names the file once."""
    daemon = stopped_pykcmd
    daemon.configure(AT_ONCE)
    with started(daemon):
        mit.kinit("alice")
        # The daemon cannot replace a folder by its file.
        in_the_way = daemon.state_dir / "clock"
        assert daemon.stop() == 0
        in_the_way.unlink()
        in_the_way.mkdir()
        shutil.copy("/dev/null", in_the_way / "full")
        daemon.start()
        _reap(daemon, "--trust-clock")
        mit.kinit("bob", "-l", "1s", ccache=f"KCM:{USER}:short")
        wait_until(lambda: f"expired ccache KCM:{USER}:short removed" in daemon.log)
        assert mit.klist() == ALICES
        assert daemon.stop() == 0
        assert daemon.log.count(f"{in_the_way}: not written: ") == 1


def test_daemon_that_doubts_the_clock_does_not_end_when_idle(
    stopped_pykcmd: Pykcmd, mit: MitClient, folder: Path
) -> None:
    """It ends when idle as soon as it trusts the clock; short runs would never come to that."""
    daemon = stopped_pykcmd
    daemon.configure("responder_idle_timeout = 1\n")
    daemon.start()
    mit.kinit("alice")
    assert daemon.stop() == 0
    with listening(daemon.socket_path) as kcm, listening(daemon.control_path) as control:
        daemon.control_path.chmod(0o600)
        environment = {"LISTEN_FDNAMES": "kcm:control", **other_clock(AHEAD)}
        launch_with(daemon, [kcm, control], environment=environment)
        wait_until(lambda: daemon.log.count("idle, but the clock is in doubt") >= 2)
        assert daemon.running
        _reap(daemon, "--trust-clock")
        assert daemon.wait() == 0
    assert "stopping: idle for 1 s" in daemon.log
