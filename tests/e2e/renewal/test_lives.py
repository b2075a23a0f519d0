"""Ccaches stay fresh until their renewable lives end, while nobody touches them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import MitClient
from tests.e2e.conftest import USER, client_files, public_folder, started, watched
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import SERVICES, Kdc
from tests.e2e.waiting import wait_until

from .conftest import PATIENT, renewal_conf, watched_program
from .program import PykcmRenew
from .slow_kdc import SlowKdc
from .tickets import load, new_tgt, store, with_times

# In seconds.
LIFE, RENEWABLE_LIFE = 20, 80


@contextmanager
def user_of(kdc: Kdc) -> Iterator[tuple[MitClient, PykcmRenew]]:
    """A user, a daemon and a pykcm-renew for this KDC."""
    with public_folder() as folder, watched(Pykcmd(folder)) as daemon, started(daemon):
        user = MitClient(USER, daemon.socket_path, *_arguments(kdc, folder))
        with watched_program(PykcmRenew(daemon, renewal_conf(kdc, folder))) as program:
            program.start()
            yield user, program
            assert program.stop() == 0


def _arguments(kdc: Kdc, folder: Path) -> tuple[Path, Path, Path]:
    krb5_conf, trace = client_files(kdc, folder)
    return krb5_conf, kdc.keytab, trace


@pytest.mark.timeout(600)
def test_ccaches_live_until_the_end_of_their_renewable_lives(kdc: Kdc, heimdal_kdc: Kdc) -> None:
    """A TGT of 20 s is valid until renew-until (80 s), with both KDCs, and kvno gets a ticket with it."""
    with ExitStack() as stack:
        users = [stack.enter_context(user_of(each)) for each in (kdc, heimdal_kdc)]
        began = time.monotonic()
        for user, _ in users:
            user.kinit("alice", "-l", f"{LIFE}s", "-r", f"{RENEWABLE_LIFE}s")
        time.sleep(began + RENEWABLE_LIFE - LIFE - time.monotonic())
        for user, program in users:
            assert user.run("klist", "-s").code == 0, program.log
            user.kvno(SERVICES[0])
            assert program.log.count("is renewed") >= RENEWABLE_LIFE / LIFE
        assert time.monotonic() - began < RENEWABLE_LIFE


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("several_uids")
def test_many_ccaches_with_a_slow_kdc(kdc: Kdc, stopped_pykcmd: Pykcmd, folder: Path, proxy: SlowKdc) -> None:
    """500 ccaches of 100 users are all renewed before they end, although each answer takes 2 s."""
    stopped_pykcmd.configure(f"max_renewals = 100\nmax_realm_renewals = 100\n{PATIENT}")
    proxy.delay = 2.0
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    places = [(20000 + number // 5, f"{20000 + number // 5}:{number % 5}") for number in range(500)]
    with started(stopped_pykcmd) as daemon:
        end = time.time() + 300
        for uid, name in places:
            store(daemon, uid, name, with_times(tgt, -600, end - time.time()))
        with watched_program(PykcmRenew(daemon, renewal_conf(kdc, folder, proxy.port))) as program:
            # Held until half of the attempts are in progress, however long it takes to start workers.
            proxy.gate.clear()
            program.start()
            wait_until(lambda: proxy.most > 50)
            proxy.gate.set()
            # The last one alone first: a look at all of them takes long.
            wait_until(lambda: load(daemon, *places[-1])[0].endtime > end + 600)
            wait_until(lambda: all(load(daemon, *place)[0].endtime > end + 600 for place in places))
            assert time.time() < end
            assert proxy.most <= 100


def test_ticket_that_ends_first_is_renewed_first(
    kdc: Kdc, stopped_pykcmd: Pykcmd, folder: Path, proxy: SlowKdc
) -> None:
    """Of the TGTs that are due, the one that ends first is next, whenever it came."""
    stopped_pykcmd.configure(f"max_renewals = 1\n{PATIENT}")
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    proxy.gate.clear()
    ends = [500, 200, 400, 100, 300]
    with (
        started(stopped_pykcmd) as daemon,
        watched_program(PykcmRenew(daemon, renewal_conf(kdc, folder, proxy.port))) as program,
    ):
        program.start()
        store(daemon, USER, f"{USER}:first", with_times(tgt, -2000, 1000))
        assert proxy.held.wait(60)
        for end in ends:
            store(daemon, USER, f"{USER}:{end}", with_times(tgt, -2000, end))
        proxy.gate.set()
        wait_until(lambda: program.log.count("is renewed") == 1 + len(ends))
        places = [program.log.index(f"KCM:{USER}:{end} ") for end in sorted(ends)]
        assert places == sorted(places)
