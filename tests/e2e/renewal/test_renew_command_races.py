"""`pykcmctl renew` while the user runs kinit: the kinit wins, whenever it comes."""

import os
import random
import threading
import time
from collections.abc import Callable

import pytest

from pykcm.cli.renewing import renew_tgt
from pykcm.client import KcmClient
from pykcm.control.messages import ControlError
from pykcm.protocol.credential import parse_credential
from tests.e2e.clients import MitClient
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import SYSTEM_PATH, Kdc

from .tickets import load, new_tgt, store, with_times

ROUNDS = 200
# The command runs kinit as the tests' own user: libkrb5 reads no environment of a process with two UIDs.
USER = os.geteuid()
CCACHE = f"{USER}"
NAME = CCACHE.encode()
DAY = 86400


@pytest.fixture
def mit(mit_as: Callable[[int], MitClient]) -> MitClient:
    """The clients of the tests' own user."""
    return mit_as(USER)


@pytest.fixture
def due(kdc: Kdc, mit: MitClient, pykcmd: Pykcmd, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A TGT that kinit -R renews; the command runs in this process, with the user's libkrb5."""
    monkeypatch.setenv("PATH", SYSTEM_PATH)
    monkeypatch.setenv("KRB5_CONFIG", str(mit.environment["KRB5_CONFIG"]))
    return with_times(new_tgt(kdc, pykcmd.folder, "-l", "1h", "-r", "1d"), -1000, 600)


def run_command(daemon: Pykcmd) -> str:
    """Run the command; returns its message."""
    try:
        with KcmClient(daemon.socket_path) as kcm:
            renew_tgt(kcm, NAME)
    except ControlError as error:
        return error.message
    return "renewed"


@pytest.mark.timeout(600)
def test_kinit_beside_the_command_wins(pykcmd: Pykcmd, mit: MitClient, due: bytes) -> None:
    """After kinit the ccache has its TGT, and never the one that the command has renewed."""
    chance = random.Random(1)
    results = set()

    def kinit(pause: float) -> None:
        time.sleep(pause)
        mit.kinit("alice", "-l", "1h", "-r", "2d", ccache=f"KCM:{CCACHE}")

    renew_till = parse_credential(due).times.renew_till
    for number in range(ROUNDS):
        store(pykcmd, USER, CCACHE, due)
        thread = threading.Thread(target=kinit, args=(chance.uniform(0, 0.05),))
        if number == 0:
            # One kinit comes after the command for certain, also on a machine where the command takes longer.
            results.add(run_command(pykcmd))
            thread.start()
        else:
            thread.start()
            results.add(run_command(pykcmd))
        thread.join()
        (tgt,) = (each for each in load(pykcmd, USER, CCACHE) if each.server.components[0] == b"krbtgt")
        assert tgt.times.renew_till > renew_till + DAY / 2
    assert {"renewed", "its TGT was replaced meanwhile, and stays"} <= results


def test_kinit_right_before_the_hand_back_wins(
    pykcmd: Pykcmd, due: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kinit that comes when the TGT is renewed already, and not yet handed back, is not undone."""
    newer = with_times(due, -500, 600)
    renew = KcmClient.renew

    def renew_later(kcm: KcmClient, name: bytes, present: bytes, renewed: bytes) -> None:
        kcm.replace(name, 0, parse_credential(newer).client, [newer])
        renew(kcm, name, present, renewed)

    monkeypatch.setattr(KcmClient, "renew", renew_later)
    store(pykcmd, USER, CCACHE, due)
    assert run_command(pykcmd) == "its TGT was replaced meanwhile, and stays"
    assert [each.blob for each in load(pykcmd, USER, CCACHE)] == [newer]
