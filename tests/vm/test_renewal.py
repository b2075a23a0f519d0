"""docs/renewal.md: pykcm-renew as a service in its domain, and a daemon that ends when it is idle."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import machine
from .clients import LabelledClient
from .readme import commands_of
from .test_policy import CONFINED, DAEMON, Asked, type_of_file

_DOCUMENT = Path(__file__).parents[2] / "docs" / "renewal.md"
_ENABLE = commands_of(_DOCUMENT, "Setting it up")[-1]

_SERVICE = "pykcm-renew.service"
_CONTROL = Path("/run/pykcm-renew/control.sock")
_RENEW = "system_u:system_r:pykcm_renew_t:s0"
_AS_RENEW = ("setpriv", "--reuid=pykcm-renew", "--regid=pykcm-renew", "--groups=pykcm")

ClientAs = Callable[..., LabelledClient]


@pytest.fixture
def enabled(pykcm: None) -> Iterator[None]:
    """The service is enabled by the document's command, and stopped at the end."""
    machine.shell(_ENABLE)
    yield
    print(machine.run("journalctl", "--no-pager", "-u", _SERVICE))  # noqa: T201
    machine.run("systemctl", "disable", "--now", _SERVICE)


def starttime_of(client: LabelledClient) -> str:
    """The first time of the first ticket, as klist prints it."""
    found = re.search(r"^(\d\d/\d\d/\d\d \d\d:\d\d:\d\d)  ", client.ok("klist"), re.MULTILINE)
    assert found is not None
    return found[1]


def label_of_process(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n")


def test_tgt_is_renewed_in_its_domain(enabled: None, client_as: ClientAs) -> None:
    """The service of its own user and domain renews a TGT, which the policy denies it nothing for."""
    user = client_as(1000)
    user.kinit("alice", "-l", "20s", "-r", "10m")
    before = starttime_of(user)
    machine.wait_until(lambda: starttime_of(user) != before, "a renewed TGT")
    pid = int(machine.property_of(_SERVICE, "MainPID"))
    assert label_of_process(pid) == _RENEW
    assert machine.property_of(_SERVICE, "User") == "pykcm-renew"
    assert machine.status_of(pid)["CapEff"] == ["0000000000000000"]
    assert user.kvno("host/server.pykcm.test")
    for comm in ("pykcmd", "pykcm-renew"):
        assert machine.denials("--comm", comm) == ""
    assert machine.denials("--subject", "pykcm_") == ""


def test_idle_daemon_is_started_when_a_tgt_is_due(enabled: None, client_as: ClientAs) -> None:
    """The daemon ends between renewals, and the service starts it when the next TGT is due."""
    machine.configure('responder_idle_timeout = "1s"\n')
    machine.run("systemctl", "restart", machine.SERVICE)
    user = client_as(1000)
    user.kinit("alice", "-l", "80s", "-r", "10m")
    before = starttime_of(user)
    machine.wait_until(lambda: not machine.main_pid(), "an end for idleness")
    # No client: only the service can start it.
    machine.wait_until(machine.main_pid, "a start for a TGT that is due")
    machine.wait_until(lambda: starttime_of(user) != before, "a renewed TGT")
    assert machine.denials("--comm", "pykcm-renew") == ""


def test_user_may_only_renew(enabled: None, client_as: ClientAs) -> None:
    """The daemon refuses the user's other requests at that socket."""
    client_as(1000).kinit("alice")
    assert _CONTROL.stat().st_mode & 0o777 == 0o660
    assert _CONTROL.parent.stat().st_mode & 0o777 == 0o750
    # pykcmctl itself would make some of these requests over the KCM socket, for the user's own ccaches.
    for request in ("list", "show", "export", "import", "destroy", "switch", "watch", "trace", "stats"):
        refusal = machine.refusal(str(_CONTROL), request, *_AS_RENEW)
        assert "permission: only root may make the request" in refusal


def test_exposure_of_the_service_is_low(enabled: None) -> None:
    """systemd-analyze gives the loaded unit a low exposure, although it has a network."""
    table = machine.run("systemd-analyze", "security", "--no-pager", _SERVICE)
    found = re.search(r"Overall exposure level for pykcm-renew\.service: (\d+\.\d)", table)
    assert found, table
    assert float(found[1]) <= 2.0, table


@pytest.mark.parametrize(
    "asked",
    [
        Asked(type_of_file("pykcm_renew_runtime_t"), "sock_file", "write", _RENEW),
        Asked(DAEMON, "unix_stream_socket", "connectto", _RENEW),
        Asked(type_of_file("pykcm_conf_t"), "file", "read", _RENEW),
        Asked(type_of_file("kerberos_port_t"), "tcp_socket", "name_connect", _RENEW),
        Asked(type_of_file("dns_port_t"), "tcp_socket", "name_connect", _RENEW),
        Asked(type_of_file("krb5_conf_t"), "file", "read", _RENEW),
        Asked(_RENEW, "udp_socket", "create connect read write", _RENEW),
        Asked(_RENEW, "process", "sigkill setrlimit", _RENEW),
    ],
)
def test_program_is_allowed_its_operations(asked: Asked) -> None:
    """The policy allows the domain what renewal needs."""
    assert asked.allowed() == asked.permissions.split()


@pytest.mark.parametrize(
    "asked",
    [
        Asked(type_of_file("pykcm_var_lib_t"), "file", "read write", _RENEW),
        Asked(type_of_file("pykcm_control_runtime_t"), "sock_file", "write", _RENEW),
        Asked(type_of_file("pykcm_metrics_runtime_t"), "sock_file", "write", _RENEW),
        Asked("user_u:object_r:user_tmp_t:s0", "file", "read write", _RENEW),
        Asked(type_of_file("krb5_keytab_t"), "file", "read", _RENEW),
        Asked(type_of_file("http_port_t"), "tcp_socket", "name_connect", _RENEW),
        Asked(type_of_file("bin_t"), "file", "execute_no_trans", _RENEW),
        Asked(DAEMON, "process", "ptrace signal sigkill", _RENEW),
        Asked(_RENEW, "capability", "dac_override setuid net_raw", _RENEW),
        Asked(_RENEW, "process", "ptrace execmem", _RENEW),
        Asked(type_of_file("pykcm_renew_runtime_t"), "sock_file", "write", CONFINED),
    ],
)
def test_other_access_of_the_program_is_denied(asked: Asked) -> None:
    """The domain reaches neither the daemon's files and other sockets nor ccaches, keytabs and programs."""
    assert asked.allowed() == []
