"""The systemd units, as they are installed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNITS = sorted(path for path in (ROOT / "systemd").iterdir() if path.is_file())


def test_document_has_a_drop_in_for_each_program() -> None:
    """docs/install.md has a drop-in for each unit, for programs in a virtual environment."""
    document = (ROOT / "docs/install.md").read_text()
    for unit in UNITS:
        for program in re.findall(r"^ExecStart=/usr/bin/(.*)$", unit.read_text(), re.MULTILINE):
            assert f"ExecStart=/opt/pykcm/bin/{program}\\n' >{unit.name}.d/program.conf" in document


def test_every_user_of_a_unit_is_created() -> None:
    """Each user of a unit is in pykcm.sysusers, unless systemd makes it for the unit."""
    created = set(re.findall(r"^u +(\S+)", (ROOT / "systemd" / "pykcm.sysusers").read_text(), re.MULTILINE))
    for unit in UNITS:
        text = unit.read_text()
        used = re.findall(r"^(?:User|Group|SupplementaryGroups|SocketUser)=(.*)$", text, re.MULTILINE)
        assert set(used) <= created, unit
        if unit.suffix == ".service":
            assert ("DynamicUser=yes" in text.splitlines()) != bool(used)


def test_exposure_of_renewal_is_low() -> None:
    """systemd-analyze gives the unit with a network an exposure of at most 2."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    unit = ROOT / "systemd/pykcm-renew.service"
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if "unrecognized option" in done.stdout:
        pytest.skip("systemd-analyze is too old")
    assert done.returncode == 0, done.stdout


def test_drop_in_opens_no_more_than_the_network() -> None:
    """The drop-in for the shared store adds IP sockets to the unit, and keeps addresses denied by default."""
    text = (ROOT / "systemd/pykcm.service.d/postgresql.conf").read_text()
    settings = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    assert {line.partition("=")[0] for line in settings} == {
        *("Wants", "After", "PrivateNetwork", "RestrictAddressFamilies", "IPAddressAllow"),
        "LoadCredentialEncrypted",
    }
    assert "RestrictAddressFamilies=AF_INET AF_INET6" in settings
    assert "IPAddressAllow=localhost" in settings
