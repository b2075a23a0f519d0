"""Hosts that share a store renew each TGT once; when the host that does so dies, another one takes over."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.conftest import USER
from tests.e2e.kdc import Kdc
from tests.e2e.renewal.conftest import renewal_conf, watched_program
from tests.e2e.renewal.program import PykcmRenew
from tests.e2e.renewal.tickets import load, new_tgt, store, with_times
from tests.e2e.waiting import wait_until

from .hosts import Host

pytest.importorskip("krb5")

# In seconds: another host renews within this time.
TAKEOVER = 60
RENEWING = "this host renews the TGTs of all hosts"


@pytest.fixture
def programs(hosts: list[Host], kdc: Kdc) -> Iterator[list[PykcmRenew]]:
    """A pykcm-renew for each host, of which the first one's host renews."""
    with ExitStack() as stack:
        programs = []
        for host in hosts:
            program = PykcmRenew(host, renewal_conf(kdc, host.folder))
            programs.append(stack.enter_context(watched_program(program)))
            program.start()
            wait_until(lambda: RENEWING in hosts[0].log)
        yield programs


def renewed_by(programs: list[PykcmRenew]) -> list[int]:
    """How many TGTs each program has renewed."""
    return [program.log.count("is renewed") for program in programs]


def is_renewed(host: Host, name: str) -> bool:
    return load(host, USER, name)[0].endtime > time.time() + 1000


@pytest.mark.timeout(600)
def test_another_host_renews_when_one_is_killed(
    hosts: list[Host], programs: list[PykcmRenew], kdc: Kdc
) -> None:
    """One host renews the TGTs of all hosts; after its SIGKILL another one does, within a minute."""
    tgt = new_tgt(kdc, hosts[0].folder, "-l", "1h", "-r", "1d")
    for number, host in enumerate(hosts):
        name = f"{USER}:{number}"
        store(host, USER, name, with_times(tgt, -1000, 600))
        wait_until(lambda host=host, name=name: is_renewed(host, name))  # type: ignore[misc]
    wait_until(lambda: renewed_by(programs) == [3, 0, 0])

    hosts[0].kill()
    programs[0].kill()
    died = time.monotonic()
    store(hosts[2], USER, f"{USER}:later", with_times(tgt, -1000, 600))
    wait_until(lambda: is_renewed(hosts[2], f"{USER}:later"))
    assert time.monotonic() < died + TAKEOVER
    wait_until(lambda: sorted(renewed_by(programs)) == [0, 1, 3])
    assert sum(RENEWING in host.log for host in hosts[1:]) == 1

    hosts[0].start()
    programs[0].start()
    store(hosts[0], USER, f"{USER}:back", with_times(tgt, -1000, 600))
    wait_until(lambda: is_renewed(hosts[0], f"{USER}:back"))
    wait_until(lambda: sorted(renewed_by(programs)) == [0, 2, 3])


@pytest.mark.timeout(600)
def test_another_host_renews_at_once_when_one_is_stopped(
    hosts: list[Host], programs: list[PykcmRenew], kdc: Kdc
) -> None:
    """A host that stops in order leaves the renewals to the others, which wait for no lease to end."""
    tgt = new_tgt(kdc, hosts[0].folder, "-l", "1h", "-r", "1d")
    assert hosts[0].stop() == 0
    store(hosts[1], USER, f"{USER}", with_times(tgt, -1000, 600))
    wait_until(lambda: is_renewed(hosts[1], f"{USER}"))
