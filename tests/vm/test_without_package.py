"""Without the package: pykcm in a virtual environment. This test runs last, and does not undo this."""

import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of

_PAYLOAD = Path(__file__).parents[2]
_PREFIX = "/opt/pykcm"


# pip and systemd take minutes in an emulated processor.
@pytest.mark.timeout(1500)
def test_environment_replaces_the_package(client_as: Callable[..., LabelledClient]) -> None:
    """After a purge no unit is left; `pykcmctl setup` installs what the package did, and removes it."""
    user = client_as(1000)
    user.kinit("alice")
    uid = pwd.getpwnam("pykcm").pw_uid
    machine.shell("apt-get purge --yes 'pykcm*'")
    assert not machine.STATE.exists()
    assert not machine.SOCKET.exists()
    assert machine.property_of(machine.SERVICE, "LoadState") == "not-found"
    # Its UID is not given to another.
    assert pwd.getpwnam("pykcm").pw_uid == uid

    # The wheel is of the checkout. The environment has its dependencies: the machine has no network.
    (wheel,) = _PAYLOAD.glob("wheel/*.whl")
    (commands, *_) = commands_of(_PAYLOAD / "docs" / "install.md", "A virtual environment")
    offline = commands.replace("pip install .", f"pip install --no-index {wheel}")
    assert offline != commands
    machine.shell(offline)
    machine.shell(commands_of(_PAYLOAD / "docs" / "selinux.md", "Without a package")[0])
    user.kinit("alice")
    assert f"{_PREFIX}/bin/pykcmd" in Path(f"/proc/{machine.main_pid()}/cmdline").read_text()
    assert (
        Path(f"/proc/{machine.main_pid()}/attr/current")
        .read_text()
        .startswith("system_u:system_r:pykcm_t:s0")
    )
    checks = machine.doctor()
    assert [name for name, each in checks.items() if each["outcome"] == "failed"] == []

    machine.shell(commands_of(_PAYLOAD / "docs" / "selinux.md", "Without a package")[1])
    assert user.klist().principal.startswith("alice@")
    machine.run("pykcmctl", "setup", "--undo")
    assert not machine.SOCKET.exists()
    assert machine.property_of(machine.SERVICE, "LoadState") == "not-found"
    assert not Path("/usr/local/bin/pykcmctl").is_symlink()
    assert (machine.STATE / "pykcm.db").exists()
