"""pykcmctl doctor with a real systemd and SELinux: its findings, and its remedies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kdc import Kdc

from . import machine
from .machine import doctor

# Where packages have their units: one in /etc cannot be masked.
_SSSD = Path("/usr/lib/systemd/system/sssd-kcm.socket")


def outcomes(checks: dict[str, dict[str, Any]]) -> dict[str, str]:
    # The machine is slow, its users have no accounts, and its sshd is not part of pykcm.
    others = {"time to answer", "accounts", "logins"}
    return {name: each["outcome"] for name, each in checks.items() if name not in others}


def mend(check: dict[str, Any]) -> None:
    assert check["outcome"] in {"failed", "warning"}
    for command in check["remedy"]:
        machine.shell(command)


@pytest.fixture
def sssd_kcm() -> Iterator[None]:
    """A socket unit named as sssd-kcm's, at the same path."""
    _SSSD.write_text(
        f"[Socket]\nListenStream={machine.SOCKET}\nService=pykcm.service\n[Install]\nWantedBy=sockets.target\n"
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "enable", _SSSD.name)
    yield
    machine.shell(f"systemctl unmask {_SSSD.name}; systemctl disable --now {_SSSD.name}; rm -f {_SSSD}")
    machine.run("systemctl", "daemon-reload")


def test_installation_is_good(kdc: Kdc, pykcm: None) -> None:
    """After the installation all checks are good, and labels are used."""
    checks = doctor()
    assert "systemd listens for pykcm.socket" in checks["socket"]["text"]
    # Its round trip has started the daemon.
    checks = doctor()
    assert f"process {machine.main_pid()} (pykcmd)" in checks["socket"]["text"]
    found = outcomes(checks)
    for name in ("shared store", "renewal"):
        assert found.pop(name) == "skipped"
    assert set(found.values()) == {"ok"}, checks
    assert checks["SELinux"]["text"].startswith("enforcing")
    assert checks["default_ccache_name"]["text"].startswith("KCM: (/etc/krb5.conf.d/pykcm_default_ccache:")


def test_ordinary_user_skips_checks_for_root(kdc: Kdc, pykcm: None) -> None:
    """For an ordinary user no check fails, and those that need root are skipped."""
    doctor()
    checks = doctor("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    assert checks["round trip"]["outcome"] == "ok"
    for name in ("control socket", "key"):
        assert checks[name]["outcome"] == "skipped"
        assert checks[name]["text"].startswith("needs root")
    assert set(outcomes(checks).values()) == {"ok", "skipped"}, checks


def test_stopped_socket_is_remedied(kdc: Kdc, pykcm: None) -> None:
    """The remedy for a stopped and disabled socket starts and enables it."""
    machine.run("systemctl", "disable", "--now", machine.SOCKET_UNIT)
    machine.run("systemctl", "stop", machine.SERVICE)
    checks = doctor()
    assert outcomes(checks)["socket unit"] == "failed"
    assert outcomes(checks)["socket"] == "failed"
    mend(checks["socket unit"])
    checks = doctor()
    assert outcomes(checks)["socket unit"] == "ok"
    assert outcomes(checks)["socket"] == "ok"


def test_other_server_is_remedied(kdc: Kdc, pykcm: None, sssd_kcm: None) -> None:
    """An enabled sssd-kcm.socket is a warning, a running one a failure; the remedy replaces it by pykcm."""
    assert outcomes(doctor())["other KCM servers"] == "warning"
    machine.run("systemctl", "stop", machine.SERVICE)
    machine.run("systemctl", "start", _SSSD.name)
    checks = doctor()
    assert outcomes(checks)["other KCM servers"] == "failed"
    assert "not for pykcm.socket" in checks["socket"]["text"]
    mend(checks["other KCM servers"])
    checks = doctor()
    assert outcomes(checks)["other KCM servers"] == "ok"
    assert outcomes(checks)["socket"] == "ok"


def test_failed_service_is_reported(kdc: Kdc, pykcm: None) -> None:
    """An invalid configuration is reported, and so is the service that has failed because of it."""
    machine.configure("max_ccache = 1\n")
    # Each attempt takes this machine so long that there are never enough of them within a minute.
    machine.drop_in(machine.SERVICE, "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n")
    machine.attempt("systemctl", "start", machine.SERVICE)
    machine.wait_until(
        lambda: machine.property_of(machine.SERVICE, "ActiveState") == "failed", "the service gives up"
    )
    checks = doctor()
    assert "did you mean max_ccaches?" in checks["configuration"]["text"]
    assert outcomes(checks)["service unit"] == "failed"
    machine.configure("max_ccaches = 1\n")
    mend(checks["service unit"])
    assert outcomes(doctor())["round trip"] == "ok"
