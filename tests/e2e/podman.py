"""podman with a storage of its own, in a mount namespace of its own."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from .waiting import wait_until

# A machine may have version 1 of cgroups, and podman's containers need version 2. They are not limited by it.
_ENTER = """
if [ "$(stat --file-system --format=%T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount --recursive --lazy /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
fi
echo ready && read -r end
"""

# podman's own limits may be higher than those of the tests, which they may not raise.
_CONF = """\
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""

# The time limit for a command, in seconds: loading an image takes a while on a slow machine.
_PATIENCE = 100


class Podman:
    """An engine whose storage is below `folder`. Its containers end with close()."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _ENTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"no mounts for podman: exit code {self._process.wait(_PATIENCE)}")
        conf = folder / "containers.conf"
        conf.write_text(_CONF)
        # Commands of documents find this podman first.
        program = folder / "bin" / "podman"
        program.parent.mkdir()
        program.write_text(
            # Health checks run when the tests ask for it, and not by timers of systemd.
            f'#!/bin/sh\nexport CONTAINERS_CONF="{conf}" DISABLE_HC_SYSTEMD=true\n'
            f"exec nsenter --target={self._process.pid} --mount {shutil.which('podman')} "
            f'--root="{folder}/storage" --runroot="{folder}/run" --tmpdir="{folder}/tmp" "$@"\n'
        )
        program.chmod(0o755)

    def shell(self, commands: str) -> str:
        """Run commands of a document, which must succeed; returns their output."""
        done = self.attempt(commands)
        assert done.returncode == 0, f"{commands}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def run(self, *arguments: str) -> str:
        return self.shell(shlex.join(["podman", *arguments]))

    def attempt(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run commands that may fail."""
        return subprocess.run(
            ["sh", "-e", "-c", commands],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_PATIENCE,
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder)},
        )

    def remove_containers(self) -> None:
        """Kill and remove all containers. podman's own cleanup of an ended one may run at the same time."""
        wait_until(lambda: self.attempt("podman rm --all --force --time=0").returncode == 0)

    def close(self) -> None:
        try:
            self.remove_containers()
        finally:
            self._process.kill()
            self._process.communicate()


def why_no_podman() -> str | None:
    """Why podman runs no containers here; None if it can."""
    if os.geteuid() != 0:
        return "only root can run containers of several UIDs"
    missing = [name for name in ("podman", "nsenter", "unshare") if shutil.which(name) is None]
    return f"{missing[0]} is missing" if missing else None
