"""Denials of the SELinux policy, in the journal and in the audit log, from a daemon without capabilities."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.e2e.kdc import REALM

from . import machine
from .clients import LabelledClient

UNIT = "pykcm-audit.service"
AUDIT_SOCKET = Path("/run/pykcm-audit.sock")

USER = 1000
# Levels that no other test uses.
OWNER, OTHER = "s0:c501,c502", "s0:c503,c504"

CAP_AUDIT_WRITE = 1 << 29
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def records(level: str, is_permissive: bool) -> list[str]:
    """Return the audit records of read access that the policy denied to this level, by the mode."""
    # ausearch finds the program in a record; of a label it reads no further than to a comma.
    found = machine.shell("ausearch --input-logs -m USER_AVC -x pykcm-audit || true")
    parts = (
        "avc:  denied  { read } for ",
        f" scontext=system_u:system_r:container_t:{level} ",
        f" permissive={int(is_permissive)} ",
    )
    return [line for line in found.splitlines() if all(part in line for part in parts)]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("is_permissive", [False, True], ids=["enforcing", "permissive"])
def test_denial_is_in_the_journal_and_the_audit_log(
    client_as: Callable[..., LabelledClient], is_permissive: bool
) -> None:
    """A denial is logged in both with the mode; in permissive mode, the access is allowed."""
    client_as(USER, OWNER).kinit("alice")
    with machine.permissive() if is_permissive else nullcontext():
        listed = client_as(USER, OTHER).klist_all()
    assert [each.principal for each in listed] == [f"alice@{REALM}"] * is_permissive
    machine.wait_until(lambda: records(OTHER, is_permissive), "the record")
    record = records(OTHER, is_permissive)[0]
    assert f" tcontext=system_u:system_r:container_t:{OWNER} tclass=file " in record
    assert [line for line in machine.journal("KCM_AVC=denied").splitlines() if line in record]


def test_only_pykcm_audit_has_a_capability(client_as: Callable[..., LabelledClient]) -> None:
    """The daemon has no capability and is not root; pykcm-audit has one capability, and ends."""
    client_as(USER, OWNER).kinit("alice")
    daemon = status_of(machine.main_pid())
    assert [int(daemon[name], 16) for name in CAPABILITIES] == [0] * len(CAPABILITIES)
    assert "0" not in daemon["Uid"].split()

    assert client_as(USER, OTHER).klist_all() == []
    machine.wait_until(lambda: machine.is_active(UNIT), f"the start of {UNIT}")
    relay = status_of(int(machine.property_of(UNIT, "MainPID")))
    assert [int(relay[name], 16) for name in CAPABILITIES] == [CAP_AUDIT_WRITE] * len(CAPABILITIES)
    assert "0" not in relay["Uid"].split()
    assert set(relay["Uid"].split()).isdisjoint(daemon["Uid"].split())
    machine.wait_until(lambda: machine.property_of(UNIT, "ActiveState") != "active", f"the end of {UNIT}")
    assert machine.property_of(UNIT, "Result") == "success"


def test_other_users_cannot_send_to_the_audit_socket(client_as: Callable[..., LabelledClient]) -> None:
    """Only the daemon may send messages for the audit log."""
    client_as(USER, OWNER).kinit("alice")
    status = AUDIT_SOCKET.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_uid == int(status_of(machine.main_pid())["Uid"].split()[0])
    assert status.st_uid != os.getuid()


def test_daemon_works_without_the_audit_socket(client_as: Callable[..., LabelledClient]) -> None:
    """Without the socket the daemon works, and its log says that denials are missing in the audit log."""
    client_as(USER, OWNER).kinit("alice")
    machine.run("systemctl", "stop", "pykcm-audit.socket")
    assert client_as(USER, OTHER).klist_all() == []
    assert machine.journal("KCM_AVC=denied")
    assert f"do not reach the audit log: {AUDIT_SOCKET}: No such file" in machine.journal()
