"""Peers of the control socket that ask for due TGTs and fail: they answer late, or for others."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pykcm.cli.client import ControlClient
from pykcm.control.frames import encode
from pykcm.control.messages import ControlError
from pykcm.protocol.credential import parse_credential
from tests.builders import BOB, credential_bytes

from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd, memory_in
from .test_renewal_requests import DUE, NAME, UID, hand_back, renewing, store, stored, tgt
from .waiting import wait_until

# pykcmd with attempts that end after a second without a result, instead of after a minute. While the file
# `patient` exists in its folder, attempts do not end.
_IMPATIENT = """
import os, sys
from pykcm.engine import renewal_attempts, renewals
renewal_attempts._PATIENCE = 0.0
give_up = renewals.Renewals._give_up
renewals.Renewals._give_up = lambda self, id_: os.path.exists("patient") or give_up(self, id_)
from pykcm.daemon import main
sys.exit(main())
"""

CCACHE = f"KCM:{UID}"


@pytest.fixture
def impatient(stopped_pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A daemon whose attempts end soon, until `make_patient`."""
    stopped_pykcmd.command = (sys.executable, "-c", _IMPATIENT)
    stopped_pykcmd.configure("krb5_auth_timeout = 1\n")
    stopped_pykcmd.start()
    yield stopped_pykcmd
    assert stopped_pykcmd.stop() == 0


def make_patient(daemon: Pykcmd) -> None:
    """Let attempts go on from here: a loaded machine may take longer than a second for a result."""
    (daemon.folder / "patient").touch()


def ask_and_read_nothing(path: Path) -> socket.socket:
    """A connection that has made the request `renewals`."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    peer.sendall(encode({"version": 1, "request": "renewals"}))
    return peer


def memory_of(daemon: Pykcmd) -> int:
    """Its memory in bytes."""
    return memory_in(Path(f"/proc/{daemon.pid}/status"), "VmRSS")


def renewals(ctl: Pykcmctl) -> dict[str, Any]:
    """What `stats` says about renewals."""
    found: dict[str, Any] = ctl.json("stats")["renewals"]
    return found


def test_client_that_never_answers_is_replaced(impatient: Pykcmd) -> None:
    """Its attempt ends as lost, as list and show say; the TGT is due again, and another client renews it."""
    ctl = Pykcmctl(impatient.control_path)
    store(impatient, tgt(*DUE))
    with renewing(impatient.control_path) as (_, items):
        lost = next(items)["tgt"]
        wait_until(lambda: ctl.json("list")[0]["renewal"]["last_result"] == "lost")
        state = ctl.json("show", CCACHE)["renewal"]
        assert state["last_message"] == "pykcm-renew gave no result in time"
        assert state["failures"] >= 1
        assert "lost: pykcm-renew gave no result in time" in " ".join(ctl.run("show", CCACHE).output.split())
        make_patient(impatient)
        with renewing(impatient.control_path) as (_, others):
            offer = next(others)["tgt"]
            late = hand_back(impatient.control_path, {"id": lost["id"], "credential": tgt(0, 5000).blob})
            assert late[0]["result"] == "unknown"
            new = tgt(0, 6000, b"renewed")
            done = hand_back(impatient.control_path, {"id": offer["id"], "credential": new.blob})
            assert done[0]["result"] == "renewed"
            with pytest.raises(ControlError) as ended:
                list(items)
            assert ended.value.code == "busy"
            assert ctl.json("show", CCACHE)["renewal"]["last_result"] == "renewed"
            assert (renewals(ctl)["client"], renewals(ctl)["trying"]) == (True, 0)
        assert stored(impatient) == [new]


def test_client_that_reads_nothing_is_replaced(impatient: Pykcmd) -> None:
    """Its stream is full of large offers, which are lost in time; another client renews the TGTs."""
    ctl = Pykcmctl(impatient.control_path)
    for number in range(16):
        large = tgt(*DUE, ticket=os.urandom(400 * 1024))
        store(impatient, large, name=NAME + b":%d" % number)
    with ask_and_read_nothing(impatient.control_path):
        wait_until(lambda: renewals(ctl)["failures"].get("lost", 0) >= 4)
        make_patient(impatient)
        before = memory_of(impatient)
        with renewing(impatient.control_path) as (_, items):
            offer = next(items)["tgt"]
            result = {"id": offer["id"], "credential": tgt(0, 5000).blob}
            assert hand_back(impatient.control_path, result)[0]["result"] == "renewed"
        assert memory_of(impatient) - before < 16 * 1024 * 1024


def test_many_streams_are_refused(pykcmd: Pykcmd, ctl: Pykcmctl) -> None:
    """Of many clients one is served; the others are refused, hold nothing, and hinder nobody."""
    store(pykcmd, tgt(*DUE))
    with renewing(pykcmd.control_path) as (_, items), ExitStack() as stack:
        offer = next(items)["tgt"]
        peers = [stack.enter_context(ask_and_read_nothing(pykcmd.control_path)) for _ in range(40)]
        assert ctl.json("list")[0]["name"] == CCACHE
        for peer in peers:
            peer.settimeout(LIMIT)
            assert b"busy" in peer.recv(4096)
        result = {"id": offer["id"], "credential": tgt(0, 5000).blob}
        assert hand_back(pykcmd.control_path, result)[0]["result"] == "renewed"


def test_results_for_what_was_not_given_change_nothing(pykcmd: Pykcmd) -> None:
    """Neither an unknown attempt nor the TGT of another ccache in answer to an attempt changes a ccache."""
    bobs = parse_credential(
        credential_bytes(client=BOB, times=(int(time.time()),) * 2 + (int(time.time()) + 5000, 2**31 - 1))
    )
    old = tgt(*DUE)
    store(pykcmd, old)
    with renewing(pykcmd.control_path) as (_, items):
        offer = next(items)["tgt"]
        guesses = [{"id": os.urandom(16), "credential": tgt(0, 5000).blob} for _ in range(200)]
        answers = hand_back(pykcmd.control_path, *guesses)
        assert [each["result"] for each in answers] == ["unknown"] * 200
        answers = hand_back(pykcmd.control_path, {"id": offer["id"], "credential": bobs.blob})
        assert answers[0]["result"] == "refused"
        assert stored(pykcmd) == [old]
        assert next(items)["tgt"]["credential"] == old.blob


def test_unfinished_results_hinder_nobody(pykcmd: Pykcmd) -> None:
    """Clients that stop in the middle of a result, or are gone then: other results are taken meanwhile."""
    store(pykcmd, tgt(*DUE))
    with renewing(pykcmd.control_path) as (_, items), ExitStack() as stack:
        offer = next(items)["tgt"]
        result = encode({"id": offer["id"], "credential": tgt(0, 5000).blob})
        for number in range(12):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(pykcmd.control_path))
            peer.sendall(encode({"version": 1, "request": "renewed"}) + result[: len(result) - 1 - number])
            if number % 2:
                peer.close()
        done = hand_back(pykcmd.control_path, {"id": offer["id"], "credential": tgt(0, 5000).blob})
        assert done[0]["result"] == "renewed"
    assert not list(ControlClient(pykcmd.control_path, patience=LIMIT).ask("renewed", frames=[]))
