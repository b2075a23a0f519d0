"""The start of pykcmd with and without SELinux in the kernel."""

from pathlib import Path

import pytest

from .conftest import Daemon, end

# Starts pykcmd with `binding` as the module `selinux`.
WITH_SELINUX = """
import sys
from types import SimpleNamespace
import pykcm.daemon
from pykcm.peer.identity import Kernel
from tests.peer.binding import Binding
binding = {binding}
sys.modules["selinux"] = binding
pykcm.daemon.read_kernel = lambda: Kernel(has_selinux={has_selinux})
sys.exit(pykcm.daemon.main())
"""

# Without SELinux in the test machine's kernel a real peer has no label.
no_real_selinux = pytest.mark.skipif(
    Path("/sys/fs/selinux/enforce").exists(), reason="the kernel has SELinux"
)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("None", "install the distribution's binding of libselinux"),
        ("SimpleNamespace(is_selinux_enabled=lambda: 0)", "but not according to"),
        ("SimpleNamespace(is_selinux_enabled=lambda: 1)", "cannot be asked"),
        ("Binding(); binding.classes = {}", "no class file"),
    ],
)
def test_start_is_refused_without_access_to_the_policy(daemon: Daemon, binding: str, message: str) -> None:
    """If the kernel has SELinux but the policy cannot be queried, pykcmd does not start."""
    daemon.program = ["-c", WITH_SELINUX.format(binding=binding, has_selinux=True)]
    assert message in daemon.refusal()
    assert not daemon.state_dir.exists()
    assert not daemon.socket_path.exists()


@no_real_selinux
def test_clients_without_a_label_are_refused(daemon: Daemon) -> None:
    """If the kernel has SELinux, a client whose label cannot be read is not served."""
    daemon.program = ["-c", WITH_SELINUX.format(binding="Binding()", has_selinux=True)]
    # The last line of the start.
    process = daemon.start(until=lambda each: "separated by SELinux level" in each.log)
    assert not daemon.serves()
    assert "connection refused: its SELinux label" in daemon.log
    assert end(process) == 0


def test_kernel_without_selinux_needs_no_binding(daemon: Daemon) -> None:
    """If the kernel has no SELinux, pykcmd starts without libselinux's binding."""
    daemon.program = ["-c", WITH_SELINUX.format(binding="None", has_selinux=False)]
    process = daemon.start()
    assert "SELinux" not in daemon.log
    assert end(process) == 0
