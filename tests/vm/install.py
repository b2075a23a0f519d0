"""Installs pykcm's packages in the virtual machine, as users do: with apt."""

import subprocess
from pathlib import Path

from . import machine

_PACKAGES = Path(__file__).parents[2] / "packages"
_SERVICES = ("pykcm.socket", "pykcm-control.socket", "pykcm-renew.service")

if __name__ == "__main__":
    # Everything that they depend on is there: the machine has no network.
    files = map(str, sorted(_PACKAGES.glob("*.deb")))
    # It may take longer than what a test waits for.
    subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *files], check=True)
    for unit in _SERVICES:
        for state in ("is-enabled", "is-active"):
            machine.run("systemctl", state, unit)
    # The tests of renewal start it.
    machine.run("systemctl", "disable", "--now", "pykcm-renew.service")
