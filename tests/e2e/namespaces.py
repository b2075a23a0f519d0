"""Containers without an engine: processes in their own user, mount, PID, IPC and UTS namespaces.

They see the machine's /usr, /dev and /proc, their own files, and the folders that are mounted. The network
is the machine's, because the KDC is there.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .clients import HeimdalClient, MitClient, heimdal_program
from .conftest import client_files
from .daemon import LIMIT, ROOT, Pykcmd, effective_uid
from .kdc import Kdc

RANGE = 65536

# The UID on the host of root in a container, where nothing else is said.
BASE = 100000

SOCKET_INSIDE = Path("/run/kcm/kcm.sock")
# In the order of a client's arguments: socket, krb5.conf, keytab and trace.
PATHS_INSIDE = (SOCKET_INSIDE, Path("/etc/krb5.conf"), Path("/etc/krb5.keytab"), Path("/etc/krb5.trace"))

# The mounts are made before the user namespace, because its root could not reach every source.
_ENTER = """
set -e
root=$1
shift
mount --bind "$root" "$root"
while [ $# -gt 0 ]; do
    mount --rbind "$1" "$root$2"
    shift 2
done
cd "$root"
pivot_root . old
umount --lazy /old
exec unshare --user --mount --pid --ipc --uts --fork --kill-child sh -c 'echo ready && read -r end'
"""


class Container:
    """A container whose UIDs and GIDs from 0 to 65535 are mapped to `base` and the following ones.

    Its own files are in `root`, a new folder; `folders` are mounted into it, by their names inside.
    """

    def __init__(self, root: Path, base: int, folders: dict[str, Path]) -> None:
        self.root = root
        self.base = base
        folders = {name: Path(name) for name in ("/usr", "/dev", "/proc")} | folders
        for name in ("/etc", "/tmp", "/run", "/var", "/old", *folders):
            self.path(name).mkdir(parents=True, exist_ok=True)
        self.path("/tmp").chmod(0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "var/run").symlink_to("/run")
        binds = [str(each) for name, source in folders.items() for each in (source, name)]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(root), *binds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._init = self._first_process()
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{self._init}/{name}").write_text(f"0 {base} {RANGE}\n")
        except BaseException:
            self.close()
            raise

    def _first_process(self) -> int:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"a container could not be made: exit code {self._process.wait(LIMIT)}")
        return _only_child(self._process.pid)

    def path(self, name: str) -> Path:
        """The path outside of a file that is `name` inside, except in the folders that were mounted."""
        return self.root / name.removeprefix("/")

    def inside(self, uid: int) -> list[str]:
        """A prefix that runs a command in the container, as this UID of the container."""
        namespaces = ("--user", "--mount", "--pid", "--ipc", "--uts")
        identity = (f"--setuid={uid}", f"--setgid={uid}")
        return ["nsenter", f"--target={self._init}", *namespaces, *identity, "--"]

    def close(self) -> None:
        """Kill the first process, and with it all others."""
        self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class MitInside(MitClient):
    """MIT's clients in a container; `uid` and the paths are those inside."""

    container: Container

    switches_user = False

    def argv(self, command: tuple[str, ...]) -> list[str]:
        return [*self.container.inside(self.uid), *command]


@dataclass(frozen=True)
class HeimdalInside(HeimdalClient):
    """Heimdal's clients in a container, at the paths that they have compiled in."""

    container: Container

    def argv(self, command: tuple[str, ...]) -> list[str]:
        program, *arguments = command
        return [*self.container.inside(self.uid), *heimdal_program(program), *arguments]


class Containers:
    """Makes containers with a configured Kerberos, and the folder of the socket at /run/kcm."""

    def __init__(self, kdc: Kdc, folder: Path, socket_folder: Path, at_end: contextlib.ExitStack) -> None:
        self._kdc = kdc
        self._folder = folder
        self._socket_folder = socket_folder
        self._at_end = at_end
        self._count = 0

    def new(self, base: int = BASE, folders: dict[str, Path] | None = None) -> Container:
        self._count += 1
        root = self._folder / f"container{self._count}"
        container = Container(root, base, {str(SOCKET_INSIDE.parent): self._socket_folder} | (folders or {}))
        self._at_end.callback(container.close)
        client_files(self._kdc, container.path("/etc"), SOCKET_INSIDE)
        shutil.copy(self._kdc.keytab, container.path("/etc/krb5.keytab"))
        # The only path that Heimdal's clients know.
        container.path("/run/.heim_org.h5l.kcm-socket").symlink_to(SOCKET_INSIDE)
        return container

    def mit(self, uid: int = 0, base: int = BASE) -> MitInside:
        """MIT's clients in a new container."""
        return mit_in(self.new(base), uid)


def mit_in(container: Container, uid: int = 0) -> MitInside:
    """MIT's clients as this UID of the container."""
    return MitInside(uid, *PATHS_INSIDE, container)


class PykcmdInside(Pykcmd):
    """A daemon in a container with `folder` and the interpreter mounted, as this UID of the container."""

    def __init__(self, folder: Path, container: Container, uid: int, socket_path_inside: Path) -> None:
        super().__init__(folder)
        self._socket_path_inside = socket_path_inside
        self.container = container
        self.command = (*container.inside(uid), *self.command)

    @property
    def options(self) -> list[str]:
        return [*super().options, "--socket-path", str(self._socket_path_inside)]

    def answers(self) -> bool:
        with effective_uid(self.container.base):
            return super().answers()

    def _signal(self, number: signal.Signals) -> None:
        # The started process is the daemon's parent, which would not forward the signal.
        assert self.process is not None
        os.kill(_only_child(self.process.pid), number)

    def stop(self) -> int:
        self._signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.wait()


def interpreter_folders() -> dict[str, Path]:
    """The folders that this Python and the tested code need in a container."""
    folders = {ROOT, Path(sys.base_prefix), Path(sys.prefix)}
    return {str(path): path for path in sorted(folders) if not path.is_relative_to("/usr")}


def why_no_containers() -> str | None:
    """Why such containers are impossible here; None if they are possible."""
    if os.geteuid() != 0:
        return "only root can map a range of UIDs"
    try:
        tried = subprocess.run(
            ["unshare", "--user", "--mount", "--pid", "--ipc", "--uts", "--fork", "true"],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )
    except FileNotFoundError as missing:
        return str(missing)
    return f"no namespaces can be had: {tried.stderr.strip()}" if tried.returncode else None


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
