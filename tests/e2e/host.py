"""A host of its own for pykcmd: accounts, krb5.conf and systemctl, and pykcmctl on a terminal."""

import os
import pty
import select
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from pykcm.client import KcmClient
from pykcm.protocol.principal import Principal
from tests.builders import credential_bytes

from .daemon import LIMIT, ROOT, Pykcmd, effective_uid

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


def tgt(user: str, lives: int) -> bytes:
    now = int(time.time())
    client, server = Principal(1, REALM, (user.encode(),)), Principal(2, REALM, (b"krbtgt", REALM))
    return credential_bytes(server, client, times=(now, now, now + lives, now + 7 * 86400))


def kinit(kcm: KcmClient, user: str, lives: int, name: str = "") -> None:
    """Store a TGT as kinit does, in the user's ccache of this name."""
    ccache = f"{USERS[user]}{name}".encode()
    kcm.replace(ccache, 0, Principal(1, REALM, (user.encode(),)), [tgt(user, lives)])


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
