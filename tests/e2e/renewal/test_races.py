"""Real clients act on a ccache during a renewal: the user's action wins, and nothing is mixed."""

import random
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.credential import Credential, parse_credential
from tests.e2e.clients import MitClient
from tests.e2e.conftest import USER
from tests.e2e.daemon import Pykcmd, effective_uid
from tests.e2e.kdc import Kdc
from tests.e2e.waiting import wait_until

from .conftest import PATIENT
from .program import PykcmRenew
from .slow_kdc import SlowKdc
from .tickets import load, new_tgt, store, with_times

ROUNDS = 200
CCACHE = f"{USER}:raced"
OTHER = f"{USER}:other"


class Race:
    """Rounds in which a client of the user's runs while the KDC's answer to a renewal is on its way."""

    def __init__(self, daemon: Pykcmd, program: PykcmRenew, proxy: SlowKdc, tgt: bytes) -> None:
        self.daemon = daemon
        self._program = program
        self._proxy = proxy
        self._tgt = tgt
        self._random = random.Random(1)
        self._rounds = 0

    def round(self, act: Callable[[], object]) -> Credential:
        """Run the client in a renewal; returns the TGT that was to be renewed, when the renewal has ended."""
        self._proxy.held.clear()
        self._proxy.gate.clear()
        old = with_times(self._tgt, -1000, 600)
        ended = self._ended()
        store(self.daemon, USER, CCACHE, old)
        assert self._proxy.held.wait(60)
        # Before, during and after the work of the client, which takes some 10 ms. The first two rounds make
        # sure of both orders, also on a machine where it takes longer.
        self._rounds += 1
        if self._rounds == 1:
            self._proxy.gate.set()
            wait_until(lambda: self._ended() > ended)
            act()
        elif self._rounds == 2:
            act()
            self._proxy.gate.set()
        else:
            opener = threading.Timer(self._random.uniform(0, 0.03), self._proxy.gate.set)
            opener.start()
            act()
            opener.join()
        wait_until(lambda: self._ended() > ended)
        return parse_credential(old)

    def results(self) -> set[str]:
        """The daemon's answers to the attempts."""
        return set(re.findall("the daemon's answer: ([a-z]+)", self._program.log))

    def _ended(self) -> int:
        return self._program.log.count("the daemon's answer: ")


@pytest.fixture
def race(pykcmd: Pykcmd, renew: PykcmRenew, proxy: SlowKdc, kdc: Kdc, folder: Path) -> Race:
    """A daemon and a pykcm-renew, and TGTs that are due."""
    # pykcm-renew reads it.
    pykcmd.configure(PATIENT)
    renew.start()
    return Race(pykcmd, renew, proxy, new_tgt(kdc, folder, "-l", "1h", "-r", "1d"))


@pytest.mark.timeout(600)
def test_kinit_wins(race: Race, mit: MitClient) -> None:
    """After kinit the ccache has what kinit has stored, whenever the renewed TGT came."""

    def kinit() -> None:
        mit.kinit("alice", "-l", "1h", "-r", "2d", ccache=f"KCM:{CCACHE}")

    kinit()
    servers = [each.server for each in load(race.daemon, USER, CCACHE)]
    for _ in range(ROUNDS):
        old = race.round(kinit)
        credentials = load(race.daemon, USER, CCACHE)
        assert [each.server for each in credentials] == servers
        (tgt,) = (each for each in credentials if each.server.components[0] == b"krbtgt")
        # A renewed TGT keeps the end of the renewable life.
        assert tgt.times.renew_till > old.times.renew_till + 3600
    assert race.results() == {"renewed", "changed"}


@pytest.mark.timeout(600)
def test_kdestroy_wins(race: Race, mit: MitClient) -> None:
    """After kdestroy there is no ccache, whenever the renewed TGT came."""
    for _ in range(ROUNDS):
        race.round(lambda: mit.ok("kdestroy", "-c", f"KCM:{CCACHE}"))
        with pytest.raises(KcmError):
            load(race.daemon, USER, CCACHE)
    assert race.results() == {"renewed", "changed"}


@pytest.mark.timeout(600)
def test_kswitch_and_the_renewed_tgt_both_stay(race: Race, mit: MitClient) -> None:
    """After kswitch its ccache is the default, and the TGT is the renewed one."""
    mit.kinit("bob", ccache=f"KCM:{OTHER}")
    others = load(race.daemon, USER, OTHER)
    for number in range(ROUNDS):
        chosen = (CCACHE, OTHER)[number % 2]
        old = race.round(lambda chosen=chosen: mit.ok("kswitch", "-c", f"KCM:{chosen}"))  # type: ignore[misc]
        with effective_uid(USER), KcmClient(race.daemon.socket_path) as kcm:
            assert kcm.get_default_cache() == chosen.encode()
        (tgt,) = load(race.daemon, USER, CCACHE)
        assert tgt.endtime > old.endtime + 1000
    assert load(race.daemon, USER, OTHER) == others
    assert race.results() == {"renewed"}
