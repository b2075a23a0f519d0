"""Renewal goes on after the KDC, the daemon or pykcm-renew has stopped, or was killed."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import USER, started
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import Kdc
from tests.e2e.waiting import wait_until

from .conftest import renewal_conf, watched_program
from .program import PykcmRenew
from .slow_kdc import SlowKdc
from .tickets import as_renewable, load, new_tgt, store, with_times

CCACHE = f"{USER}:tested"


def is_renewed(daemon: Pykcmd, name: str = CCACHE) -> bool:
    return load(daemon, USER, name)[0].endtime > time.time() + 1000


def test_kdc_that_was_away(pykcmd: Pykcmd, folder: Path) -> None:
    """While no KDC runs, each failure is logged with libkrb5's words; then the TGT is renewed."""
    with Kdc() as kdc, watched_program(PykcmRenew(pykcmd, renewal_conf(kdc, folder))) as program:
        tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
        kdc.stop()
        program.start()
        store(pykcmd, USER, CCACHE, with_times(tgt, -1000, 600))
        wait_until(lambda: program.log.count("was not renewed (unreachable): Cannot contact any KDC") >= 2)
        assert "; the next attempt is at " in program.log
        kdc.start()
        wait_until(lambda: is_renewed(pykcmd))
        assert time.time() < load(pykcmd, USER, CCACHE)[0].endtime


def test_final_refusal_is_not_repeated(pykcmd: Pykcmd, kdc: Kdc, renew: PykcmRenew, folder: Path) -> None:
    """A ticket that the KDC cannot renew is tried once; the log has the KDC's words, and says so."""
    renew.start()
    store(pykcmd, USER, CCACHE, as_renewable(new_tgt(kdc, folder, "-l", "1h")))
    wait_until(lambda: "was not renewed" in renew.log)
    line = next(line for line in renew.log.splitlines() if "was not renewed" in line)
    assert "(not-renewable): KDC can't fulfill requested option (Kerberos error 13)" in line
    assert "; there is no further attempt, and it ends at " in line
    # Another one is renewed meanwhile, and the first one is not tried again.
    store(pykcmd, USER, f"{USER}:good", with_times(new_tgt(kdc, folder, "-l", "1h", "-r", "1d"), -1000, 600))
    wait_until(lambda: is_renewed(pykcmd, f"{USER}:good"))
    assert renew.log.count("was not renewed") == 1


Disturbance = Callable[[Pykcmd, PykcmRenew], None]


def restart_daemon(daemon: Pykcmd, program: PykcmRenew) -> None:
    daemon.restart()


def kill_daemon(daemon: Pykcmd, program: PykcmRenew) -> None:
    daemon.kill()
    daemon.start()


def restart_program(daemon: Pykcmd, program: PykcmRenew) -> None:
    assert program.stop() == 0
    program.start()


def kill_program(daemon: Pykcmd, program: PykcmRenew) -> None:
    program.kill()
    program.start()


def kill_workers(daemon: Pykcmd, program: PykcmRenew) -> None:
    """Kill the worker of the attempt in progress, whose parent is the spawner."""
    (spawner,) = children(program.pid)
    workers = children(spawner)
    assert workers
    subprocess.run(["kill", "-9", *map(str, workers)], check=True)


def kill_spawner(daemon: Pykcmd, program: PykcmRenew) -> None:
    """Without the process that forks workers the program ends, and its unit starts it again."""
    (spawner,) = children(program.pid)
    subprocess.run(["kill", "-9", str(spawner)], check=True)
    assert program.process is not None
    assert program.process.wait(60) == 1
    program.start()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "disturb",
    [restart_daemon, kill_daemon, restart_program, kill_program, kill_workers, kill_spawner],
    ids=lambda function: function.__name__,
)
def test_renewal_goes_on_after_a_restart(
    kdc: Kdc, stopped_pykcmd: Pykcmd, folder: Path, proxy: SlowKdc, disturb: Disturbance
) -> None:
    """Whatever ends while a TGT is being renewed: it is renewed later, and one that becomes due as well."""
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    with (
        started(stopped_pykcmd) as daemon,
        watched_program(PykcmRenew(daemon, renewal_conf(kdc, folder, proxy.port))) as program,
    ):
        program.start()
        proxy.gate.clear()
        store(daemon, USER, CCACHE, with_times(tgt, -1000, 600))
        assert proxy.held.wait(60)
        disturb(daemon, program)
        proxy.gate.set()
        wait_until(lambda: is_renewed(daemon))
        store(daemon, USER, f"{USER}:later", with_times(tgt, -1000, 600))
        wait_until(lambda: is_renewed(daemon, f"{USER}:later"))


def test_program_without_a_daemon(stopped_pykcmd: Pykcmd, kdc: Kdc, folder: Path, proxy: SlowKdc) -> None:
    """The program waits for a daemon that starts later, and ends with status 0 when it is told to."""
    with watched_program(PykcmRenew(stopped_pykcmd, renewal_conf(kdc, folder, proxy.port))) as program:
        program.launch()
        wait_until(lambda: "the daemon does not run" in program.log)
        with started(stopped_pykcmd) as daemon:
            store(daemon, USER, CCACHE, with_times(new_tgt(kdc, folder, "-r", "1d"), -1000, 600))
            wait_until(lambda: is_renewed(daemon))
        assert program.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_the_program_in_order(pykcmd: Pykcmd, renew: PykcmRenew, number: signal.Signals) -> None:
    """After a signal the program ends with status 0, names the sender, and another one can follow it."""
    renew.start()
    assert renew.process is not None
    renew.process.send_signal(number)
    assert renew.process.wait(60) == 0
    assert f"stopping: {number.name} from process" in renew.log
    renew.start()


def test_second_program_waits_for_the_first(
    pykcmd: Pykcmd, renew: PykcmRenew, kdc: Kdc, folder: Path, proxy: SlowKdc
) -> None:
    """Of two programs one renews; the other one says so once, and goes on when the first one ends."""
    renew.start()
    with watched_program(PykcmRenew(pykcmd, renew.krb5_conf)) as second:
        second.log_path = folder / "second.log"
        second.log_path.touch()
        second.launch()
        refusal = "no TGT is renewed meanwhile: busy: another client renews TGTs already"
        wait_until(lambda: refusal in second.log)
        renew.kill()
        wait_until(lambda: "ready:" in second.log)
        assert second.log.count(refusal) == 1
        store(pykcmd, USER, CCACHE, with_times(new_tgt(kdc, folder, "-l", "1h", "-r", "1d"), -1000, 600))
        wait_until(lambda: is_renewed(pykcmd))


def test_failing_kdc_is_not_flooded_after_a_restart(
    pykcmd: Pykcmd, renew: PykcmRenew, kdc: Kdc, folder: Path, proxy: SlowKdc
) -> None:
    """The daemon forgets failures when it ends; all TGTs are tried again then, few at a time."""
    pykcmd.stop()
    pykcmd.configure("max_realm_renewals = 3\nkrb5_auth_timeout = 0.3\n")
    pykcmd.start()
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    for number in range(30):
        store(pykcmd, USER, f"{USER}:{number}", with_times(tgt, -1000, 600))
    proxy.gate.clear()
    renew.start()
    (spawner,) = children(renew.pid)
    most = 0

    def have_failed(number: int) -> bool:
        nonlocal most
        most = max(most, len(children(spawner)))
        return renew.log.count("the daemon's answer: failed") >= number

    for _ in range(3):
        failures = renew.log.count("the daemon's answer: failed")
        wait_until(lambda: have_failed(failures + 6))  # noqa: B023
        pykcmd.restart()
    # Those of the daemon that has ended may not have been removed yet.
    assert 1 <= most <= 2 * 3
    # From here on an answer may take longer: a loaded machine would fail some attempts again.
    assert renew.stop() == 0
    pykcmd.stop()
    pykcmd.configure("max_realm_renewals = 3\n")
    pykcmd.start()
    proxy.gate.set()
    renew.start()
    wait_until(lambda: all(is_renewed(pykcmd, f"{USER}:{number}") for number in range(30)))


def test_no_process_stays(pykcmd: Pykcmd, renew: PykcmRenew, proxy: SlowKdc, kdc: Kdc, folder: Path) -> None:
    """When the program stops or is killed in an attempt, its spawner and workers end as well."""
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    pykcmd.configure("krb5_auth_timeout = 5\n")
    for end in (renew.stop, renew.kill):
        proxy.gate.clear()
        proxy.held.clear()
        renew.start()
        store(pykcmd, USER, CCACHE, with_times(tgt, -1000, 600))
        assert proxy.held.wait(60)
        (spawner,) = children(renew.pid)
        processes = [spawner, *children(spawner)]
        assert len(processes) == 2
        end()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))  # noqa: B023
        proxy.gate.set()
