"""docs/operations.md: each command answers its question with the output that is printed there."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.principal import Principal
from tests.builders import credential_bytes

from .conftest import public_folder, watched
from .daemon import LIMIT, ROOT, Pykcmd, effective_uid
from .kdc import SYSTEM_PATH

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a host its own /etc and /run"),
    pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="the document's host has no SELinux"),
    pytest.mark.skipif(shutil.which("klist", path=SYSTEM_PATH) is None, reason="klist is missing"),
    pytest.mark.usefixtures("mount_namespaces"),
]

DOCUMENT = ROOT / "docs" / "operations.md"
REALM = b"EXAMPLE.COM"
USERS = {"alice": 1000, "bob": 1001, "carol": 1002, "dave": 1003}
SOCKET, CONTROL = "/run/.heim_org.h5l.kcm-socket", "/run/pykcm/control.sock"

# Mounts that only this host has; then it runs the daemon. Programs that the doctor warns of are hidden.
_HOST = """
mount --bind "$1/etc" /etc
mount --bind "$1/run" /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -m 700 /var/lib/pykcm
for hidden in /usr/lib/jvm /usr/lib/*/samba /usr/lib64/samba /sys/kernel/security; do
    if [ -d "$hidden" ]; then mount -t tmpfs tmpfs "$hidden"; fi
done
shift
exec "$@"
"""

_RUNNING = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nNeedDaemonReload=no\n"
_SYSTEMCTL = f"""#!/bin/sh
cat <<end
Id=pykcm.socket
{_RUNNING}Listen={SOCKET} (Stream)

Id=pykcm-control.socket
{_RUNNING}Listen={CONTROL} (Stream)

Id=pykcm.service
{_RUNNING}User=root
end
"""

_KRB5_CONF = "[libdefaults]\n    default_realm = EXAMPLE.COM\n\nincludedir /etc/krb5.conf.d/\n"


class Host(Pykcmd):
    """A host of its own, with users, krb5.conf and systemctl, where pykcmd has its standard paths."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # The doctor names the process as administrators know it.
        self.command = (str(Path(sysconfig.get_path("scripts"), "pykcmd")),)
        self.socket_path = folder / SOCKET.lstrip("/")
        for name in ("run/systemd/system", "run/pykcm"):
            (folder / name).mkdir(parents=True)
        etc = folder / "etc"
        (etc / "pykcm").mkdir(parents=True)
        (etc / "krb5.conf.d").mkdir()
        accounts = {"root": 0, **USERS}
        lines = [f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in accounts.items()]
        (etc / "passwd").write_text("".join(lines))
        (etc / "krb5.conf").write_text(_KRB5_CONF)
        snippet = ROOT / "krb5.conf.d" / "kcm_default_ccache"
        (etc / "krb5.conf.d/kcm_default_ccache").write_bytes(snippet.read_bytes())
        for name in ("ld.so.cache", "localtime"):
            if Path("/etc", name).exists():
                (etc / name).write_bytes(Path("/etc", name).read_bytes())
        (folder / "systemctl").write_text(_SYSTEMCTL)
        (folder / "systemctl").chmod(0o755)

    @property
    def options(self) -> list[str]:
        return []

    @property
    def path(self) -> str:
        return f"{self.folder}:{os.environ['PATH']}"

    def begin(self, toml: str) -> None:
        """Start the daemon in the host's namespace, and wait until it answers."""
        (self.folder / "etc/pykcm/pykcm.toml").write_text(toml)
        wrapper = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            _HOST,
            "sh",
            str(self.folder),
        ]
        process = self.launch(wrapper=wrapper)
        deadline = time.monotonic() + LIMIT
        while not self.answers():
            assert process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log

    def within(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", *command]

    def kcm(self, uid: int) -> KcmClient:
        with effective_uid(uid):
            return KcmClient(self.socket_path)

    def pykcmctl(self, arguments: list[str], error: int | None = None) -> tuple[subprocess.Popen[bytes], int]:
        """Start pykcmctl on a terminal of 80 columns, which is returned as well."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            self.within(sys.executable, "-m", "pykcm.cli.main", *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if error is None else error,
            env={
                "PATH": self.path,
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "80",
                "TERM": "xterm",
                "TZ": "UTC",
            },
            cwd="/",
            start_new_session=True,
        )
        os.close(theirs)
        return process, ours


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        host = Host(stack.enter_context(public_folder()))
        stack.enter_context(watched(host))
        yield host


def tgt(user: str, lives: int) -> bytes:
    now = int(time.time())
    client, server = Principal(1, REALM, (user.encode(),)), Principal(2, REALM, (b"krbtgt", REALM))
    return credential_bytes(server, client, times=(now, now, now + lives, now + 7 * 86400))


def kinit(kcm: KcmClient, user: str, lives: int, name: str = "") -> None:
    """Store a TGT as kinit does, in the user's ccache of this name."""
    ccache = f"{USERS[user]}{name}".encode()
    kcm.replace(ccache, 0, Principal(1, REALM, (user.encode(),)), [tgt(user, lives)])


def sessions() -> dict[str, str]:
    """The document's commands, each with the output below it."""
    found = {}
    for block in re.findall(r"((?:^ {4}.*\n|^\n)+)", DOCUMENT.read_text(), re.MULTILINE):
        first, _, output = block.strip("\n").partition("\n")
        if first.startswith("    # pykcmctl"):
            found[first.removeprefix("    # ")] = output
    return found


def same(text: str) -> str:
    """The text without what differs between two runs: numbers, line breaks, widths and styles."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return " ".join(re.sub(r"\d+(?:\.\d+)?", "0", plain).replace("µs", "ms").split())


def read(fd: int, until: str = "") -> str:
    """The output on the terminal up to this text, by default to the end; less if no more comes."""
    screen = b""
    while not until or until not in screen.decode(errors="replace"):
        if not select.select([fd], [], [], LIMIT)[0]:
            break
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        if not data:
            break
        screen += data
    return screen.decode()


def run(host: Host, command: str) -> tuple[int, str]:
    # The doctor's progress bar is on stderr.
    error = subprocess.DEVNULL if command == "pykcmctl doctor" else None
    process, terminal = host.pykcmctl(command.split()[1:], error)
    screen = read(terminal)
    os.close(terminal)
    return process.wait(LIMIT), screen


def check(host: Host, command: str, status: int = 0) -> None:
    assert command in sessions()
    found, screen = run(host, command)
    assert same(screen) == same(sessions()[command]), screen
    assert found == status


def test_who_has_tickets_that_end_within_the_hour(host: Host) -> None:
    host.begin("")
    for user, lives in (
        ("alice", 42 * 60 + 30),
        ("bob", 9 * 3600 + 1800),
        ("carol", 12 * 60 + 30),
        ("dave", 86400),
    ):
        with host.kcm(USERS[user]) as kcm:
            kinit(kcm, user, lives)
    check(host, "pykcmctl list --expiring 1h --sort expires")


def test_why_kinit_says_disk_quota_exceeded(host: Host) -> None:
    """The output names the quota that is reached, and kinit's request is refused by it."""
    host.begin("max_uid_ccaches = 3\n")
    with host.kcm(USERS["alice"]) as kcm:
        kinit(kcm, "alice", 9 * 3600 + 1800)
        kinit(kcm, "alice", 8 * 3600 + 1800, ":build")
        kinit(kcm, "alice", 3 * 3600 + 1800, ":backup")
        with pytest.raises(KcmError, match="EDQUOT"):
            kinit(kcm, "alice", 3600, ":another")
    check(host, "pykcmctl list --user alice")


def test_which_program_asks_for_what(host: Host) -> None:
    """While trace runs, the requests of a klist appear with its user and PID."""
    host.begin("")
    with host.kcm(USERS["alice"]) as kcm:
        kinit(kcm, "alice", 9 * 3600)
    command = "pykcmctl trace"
    expected = sessions()[command]
    process, terminal = host.pykcmctl(command.split()[1:])
    screen = read(terminal, "Ctrl-C.\r\n")
    uid = USERS["alice"]
    as_alice = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "klist"]
    subprocess.run(
        host.within(*as_alice),
        stdout=subprocess.DEVNULL,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
        check=True,
        timeout=LIMIT,
    )
    last = re.sub(r"=\d+", "=", expected.split()[-1])
    screen += read(terminal, last)
    os.killpg(process.pid, signal.SIGINT)
    screen += read(terminal)
    os.close(terminal)
    assert process.wait(LIMIT) == 0
    assert same(screen.replace("^C", "")) == same(expected), screen


def test_whether_everything_is_right_on_this_host(host: Host) -> None:
    """A user at a quota is a warning, everything else is fine."""
    host.begin("max_uid_ccaches = 2\n")
    for user in ("alice", "bob"):
        with host.kcm(USERS[user]) as kcm:
            kinit(kcm, user, 9 * 3600)
            if user == "alice":
                kinit(kcm, user, 9 * 3600, ":build")
    check(host, "pykcmctl doctor")
