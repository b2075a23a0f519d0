"""Realms whose KDCs do not answer do not hold up a realm whose KDC does."""

import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import USER, started
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import REALM, Kdc
from tests.e2e.waiting import wait_until

from .conftest import watched_program
from .program import PykcmRenew
from .tickets import load, new_tgt, store, with_times

SILENT = 24


def silent_realm(number: int) -> str:
    """A name as long as the real realm's, which replaces it in a TGT."""
    return f"SILENT{number:04}"


@pytest.mark.usefixtures("several_uids")
def test_silent_realms_do_not_hold_up_the_one_that_answers(
    kdc: Kdc, stopped_pykcmd: Pykcmd, folder: Path
) -> None:
    """A TGT is renewed at once while the TGTs of many users, which end first, wait for silent KDCs."""
    stopped_pykcmd.configure("max_renewals = 4\nkrb5_auth_timeout = 5\n")
    tgt = new_tgt(kdc, folder, "-l", "1h", "-r", "1d")
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1000) as listener,
        started(stopped_pykcmd) as daemon,
    ):
        krb5_conf = folder / "renew.conf"
        krb5_conf.write_text(conf_with_silent_realms(kdc, listener.getsockname()[1]))
        with watched_program(PykcmRenew(daemon, krb5_conf)) as program:

            def failures() -> int:
                return program.log.count("the daemon's answer: failed")

            def renew_good() -> None:
                due = with_times(tgt, -4000, 2000)
                store(daemon, USER, f"{USER}", due)
                wait_until(lambda: load(daemon, USER, f"{USER}")[0].blob != due)

            program.start()
            renew_good()
            for number in range(SILENT):
                silent = tgt.replace(REALM.encode(), silent_realm(number).encode())
                store(daemon, 21000 + number, f"{21000 + number}", with_times(silent, -4000, 1000))
            wait_until(lambda: failures() >= 3)
            before = failures()
            renew_good()
            # Without a place of its own it would come after all of the others.
            assert failures() - before < SILENT


def conf_with_silent_realms(kdc: Kdc, port: int) -> str:
    """The KDC at this port accepts connections, and says nothing."""
    body = f"{{\n        kdc = 127.0.0.1:{port}\n    }}\n"
    realms = "".join(f"    {silent_realm(number)} = {body}" for number in range(SILENT))
    return kdc.krb5_conf("udp_preference_limit = 1").replace("[realms]\n", f"[realms]\n{realms}")
