"""The policy module: the daemon's own domain, and clients of every domain."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import selinux
from tests.e2e.kdc import PASSWORDS

from . import machine
from .clients import LabelledClient

USER = 1000
DAEMON = "system_u:system_r:pykcm_t:s0"
# The domain of pykcm-audit.
AUDIT = "system_u:system_r:pykcm_audit_t:s0"
CONFINED = "user_u:user_r:user_t:s0"
TGT = "krbtgt/PYKCM.TEST"
SERVICE = "host/server.pykcm.test"

CONFIG = Path("/etc/pykcm/pykcm.toml")
PROGRAM = Path("/usr/bin/pykcmd")
CREDENTIAL = Path("/etc/credstore.encrypted/pykcm.key")

ClientAs = Callable[..., LabelledClient]


class Asked(NamedTuple):
    """A query of the policy: the permissions of a domain, by default the daemon's, on an object."""

    target: str
    kind: str
    permissions: str
    source: str = DAEMON

    def is_allowed(self, permission: str) -> bool:
        number = selinux.string_to_security_class(self.kind)
        bit = selinux.string_to_av_perm(number, permission)
        assert number, self
        assert bit, (self, permission)
        decision = selinux.av_decision()
        assert selinux.security_compute_av_raw(self.source, self.target, number, bit, decision) == 0
        return bool(decision.allowed & bit)

    def allowed(self) -> list[str]:
        return [permission for permission in self.permissions.split() if self.is_allowed(permission)]


def type_of_file(name: str) -> str:
    return f"system_u:object_r:{name}:s0"


def label_of(path: Path) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).decode().rstrip("\0")


def label_of_daemon() -> str:
    return Path(f"/proc/{machine.main_pid()}/attr/current").read_text().rstrip("\0\n")


def test_daemon_and_its_files_have_their_labels(client_as: ClientAs) -> None:
    """The daemon that the socket starts runs in its domain, and all of its files have their labels."""
    CONFIG.parent.mkdir()
    CONFIG.write_text("max_ccaches = 0\n")
    client_as(USER).kinit("alice")
    assert label_of_daemon() == DAEMON
    assert label_of(PROGRAM) == type_of_file("pykcm_exec_t")
    assert label_of(machine.SOCKET) == type_of_file("pykcm_runtime_t")
    assert {label_of(path) for path in (CONFIG.parent, CONFIG)} == {type_of_file("pykcm_conf_t")}
    stored = [machine.STATE, *machine.STATE.iterdir()]
    assert {"key", "lock", "pykcm.db"} < {path.name for path in stored}
    assert {label_of(path) for path in stored} == {type_of_file("pykcm_var_lib_t")}


@pytest.fixture
def cron_shell() -> Iterator[Path]:
    """A shell in cron's domain, which may start confined users' programs."""
    shell = Path("/usr/local/sbin/pykcm-test-cron")
    shutil.copy("/bin/bash", shell)
    machine.run("chcon", "--type=crond_exec_t", str(shell))
    yield shell
    shell.unlink()


def test_confined_user_gets_tickets(client_as: ClientAs, cron_shell: Path) -> None:
    """The programs of a confined user, started as by cron, get tickets, use and destroy them."""
    output = Path("/tmp/pykcm-test-output")
    job = f"""
        exec >{output} 2>&1
        unset KRB5_TRACE
        cat /proc/self/attr/current
        echo {shlex.quote(PASSWORDS["alice"])} | kinit alice
        kvno {SERVICE}
        klist
        kdestroy
        klist
    """
    user = client_as(USER)
    try:
        start = 'exec runcon "$0" /bin/bash -c "$1"'
        assert user.run(str(cron_shell), "-c", start, CONFINED, job).code == 1, "the last klist finds nothing"
        said = output.read_text()
    finally:
        output.unlink(missing_ok=True)
    assert CONFINED in said
    assert "Ticket cache: KCM:1000\nDefault principal: alice@PYKCM.TEST\n" in said
    assert f"{SERVICE}@PYKCM.TEST: kvno = 1\n" in said
    assert said.count(f"{TGT}@PYKCM.TEST") == 1
    assert said.endswith("not found\n")


@pytest.mark.parametrize(
    "source",
    [
        CONFINED,
        "staff_u:staff_r:staff_t:s0",
        "system_u:system_r:crond_t:s0-s0:c0.c1023",
        "system_u:system_r:sshd_t:s0-s0:c0.c1023",
        "system_u:system_r:httpd_t:s0",
        "system_u:system_r:sssd_t:s0",
        "system_u:system_r:container_t:s0",
        "system_u:system_r:container_t:s0:c1,c2",
    ],
)
def test_every_domain_may_connect(source: str) -> None:
    """Users, services and containers at any level can connect, at both paths of the socket."""
    for asked in (
        Asked(type_of_file("var_run_t"), "dir", "search", source),
        Asked(type_of_file("var_run_t"), "lnk_file", "read", source),
        Asked(type_of_file("pykcm_runtime_t"), "dir", "search", source),
        Asked(type_of_file("pykcm_runtime_t"), "sock_file", "write", source),
        Asked(DAEMON, "unix_stream_socket", "connectto", source),
    ):
        assert asked.allowed() == asked.permissions.split(), asked


@pytest.mark.parametrize(
    "asked",
    [
        Asked(type_of_file("pykcm_var_lib_t"), "file", "create read write map lock rename unlink"),
        Asked(type_of_file("pykcm_conf_t"), "file", "read"),
        Asked(type_of_file("ramfs_t"), "file", "read"),
        Asked(type_of_file("tmpfs_t"), "file", "read"),
        Asked(DAEMON, "unix_stream_socket", "accept listen read write"),
        Asked("system_u:object_r:security_t:s0", "security", "compute_av check_context"),
        Asked(type_of_file("pykcm_audit_runtime_t"), "sock_file", "write"),
        Asked(AUDIT, "unix_dgram_socket", "sendto"),
        Asked(AUDIT, "capability", "audit_write", AUDIT),
        Asked(AUDIT, "netlink_audit_socket", "create bind read write nlmsg_relay", AUDIT),
    ],
)
def test_daemon_is_allowed_its_operations(asked: Asked) -> None:
    """The policy allows the daemon's domain everything that the service needs."""
    assert asked.allowed() == asked.permissions.split()


@pytest.mark.parametrize(
    "asked",
    [
        Asked(type_of_file("shadow_t"), "file", "read write"),
        Asked("user_u:object_r:user_home_t:s0", "file", "read write"),
        Asked("user_u:object_r:user_tmp_t:s0", "file", "read write"),
        Asked(type_of_file("krb5_keytab_t"), "file", "read"),
        Asked(type_of_file("etc_t"), "file", "write"),
        Asked(type_of_file("pykcm_conf_t"), "file", "create write unlink"),
        Asked(type_of_file("pykcm_exec_t"), "file", "write execute_no_trans"),
        Asked(type_of_file("pykcm_var_lib_t"), "file", "execute execute_no_trans"),
        Asked(type_of_file("bin_t"), "file", "write execute_no_trans"),
        Asked(type_of_file("shell_exec_t"), "file", "execute execute_no_trans"),
        Asked(DAEMON, "process", "ptrace execmem setexec setcap dyntransition"),
        Asked(
            DAEMON,
            "capability",
            "audit_write chown dac_override dac_read_search kill setgid setuid sys_admin",
        ),
        Asked(DAEMON, "netlink_audit_socket", "create"),
        Asked(DAEMON, "tcp_socket", "create"),
        Asked(DAEMON, "udp_socket", "create"),
        Asked(DAEMON, "rawip_socket", "create"),
        Asked(DAEMON, "packet_socket", "create"),
        Asked(CONFINED, "process", "ptrace signal sigkill"),
        Asked("system_u:object_r:security_t:s0", "security", "setenforce load_policy setbool"),
        # Other domains have no access to its files.
        Asked(type_of_file("pykcm_var_lib_t"), "file", "read write", CONFINED),
        Asked(type_of_file("pykcm_conf_t"), "file", "read", CONFINED),
        Asked(DAEMON, "process", "ptrace signal sigkill", CONFINED),
        Asked(type_of_file("pykcm_var_lib_t"), "file", "read write", "system_u:system_r:httpd_t:s0"),
        Asked(type_of_file("pykcm_var_lib_t"), "file", "read write", AUDIT),
        Asked(type_of_file("pykcm_control_runtime_t"), "sock_file", "write", CONFINED),
        Asked(type_of_file("pykcm_control_runtime_t"), "sock_file", "write", "system_u:system_r:httpd_t:s0"),
        Asked(type_of_file("pykcm_metrics_runtime_t"), "sock_file", "write", CONFINED),
        Asked(type_of_file("pykcm_audit_runtime_t"), "sock_file", "write", CONFINED),
        Asked(AUDIT, "capability", "dac_override setuid sys_admin", AUDIT),
    ],
)
def test_other_access_is_denied(asked: Asked) -> None:
    """The daemon has no access to other files, the network, programs or privileges; nor have others to it."""
    assert asked.allowed() == []


def test_operation_meets_no_denials(client_as: ClientAs) -> None:
    """The first start, further starts, serving, an idle exit and a stop meet no denial."""
    one, two = client_as(USER, "s0:c1,c2"), client_as(USER, "s0:c3,c4")
    one.kinit("alice")
    two.kinit("bob")
    two.kvno(SERVICE)
    one.ok("kdestroy")
    machine.run("systemctl", "restart", machine.SERVICE)
    assert two.klist().tickets == [TGT, SERVICE]

    CONFIG.parent.mkdir()
    CONFIG.write_text('log_level = "debug"\nresponder_idle_timeout = "1s"\n')
    machine.run("systemctl", "restart", machine.SERVICE)
    machine.wait_until(lambda: not machine.main_pid(), "an end for idleness")
    assert two.klist().tickets == [TGT, SERVICE]
    assert label_of_daemon() == DAEMON

    machine.start_afresh()
    CREDENTIAL.parent.mkdir(mode=0o700, exist_ok=True)
    machine.shell(f"head -c 32 /dev/urandom | systemd-creds encrypt --name=pykcm.key - {CREDENTIAL}")
    one.kinit("alice")
    assert "key" not in {path.name for path in machine.STATE.iterdir()}
    assert label_of_daemon() == DAEMON
    machine.run("systemctl", "stop", machine.SOCKET_UNIT, machine.SERVICE)

    # The audit log has denials, this one for example.
    secret = machine.STATE.with_name("pykcm-test-secret")
    secret.touch()
    machine.run("chcon", "--range=s0:c3", str(secret))
    assert one.run("cat", str(secret)).code == 1
    machine.wait_until(lambda: "{ read }" in machine.denials("--comm", "cat"), "a denial in the audit log")
    secret.unlink()
    assert machine.denials("--comm", "pykcmd") == ""
    assert machine.denials("--subject", "pykcm_") == ""
    assert machine.denials("--object", "pykcm_") == ""
