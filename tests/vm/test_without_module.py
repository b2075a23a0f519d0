"""A policy that changes, and then loses pykcm's module. The tests of this file do not undo this."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

from . import machine
from .clients import LabelledClient

# Prints the number of its ccaches for each input line.
_COUNTING = """
import sys
from pykcm.client import KcmClient
for _ in sys.stdin:
    with KcmClient(sys.argv[1]) as client:
        print(len(client.get_cache_uuid_list()), flush=True)
"""


def test_changed_policy_applies_immediately(client_as: Callable[..., LabelledClient], tmp_path: Path) -> None:
    """A new policy takes access from the clients of a running daemon immediately."""
    user = client_as(1000)
    keytab = str(user.keytab)
    user.ok("runcon", "--range=s0:c1,c2", "--", "kinit", "-k", "-t", keytab, "alice")
    daemon = machine.main_pid()
    own_type = Path("/proc/self/attr/current").read_text().split(":")[2]
    command = ["runcon", "--range=s0:c5", "--", sys.executable, "-c", _COUNTING, str(machine.SOCKET)]
    # A process that runs already: under the new policy this one could not start it.
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, user=1000, group=1000) as client:
        stdin, stdout = client.stdin, client.stdout
        assert stdin is not None
        assert stdout is not None

        def count() -> int:
            print(file=stdin, flush=True)
            return int(stdout.readline())

        assert count() == 1, "nothing constrains the type yet"
        policy = tmp_path / "pykcm_test.cil"
        policy.write_text(f"(typeattributeset mcs_constrained_type ({own_type}))")
        machine.run("semodule", "--install", str(policy))
        assert count() == 0
        stdin.close()
    assert machine.main_pid() == daemon


def test_daemon_works_without_the_module(client_as: Callable[..., LabelledClient]) -> None:
    """Without the module the daemon runs in a domain of the distribution, and nothing is denied to it."""
    user = client_as(1000)
    user.kinit("alice")
    listed = user.klist()
    before = machine.denials("--comm", "pykcmd")
    machine.run("apt-get", "remove", "--yes", "pykcm-selinux")
    assert user.klist() == listed
    assert user.kvno("host/server.pykcm.test")
    domain = Path(f"/proc/{machine.main_pid()}/attr/current").read_text()
    assert domain.startswith("system_u:system_r:initrc_t:s0")
    assert machine.denials("--comm", "pykcmd") == before
    check = machine.doctor()["SELinux"]
    assert check["outcome"] == "warning"
    assert "policy module is not installed" in check["text"]
