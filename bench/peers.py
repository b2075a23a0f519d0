"""The C servers: Heimdal's kcm and sssd-kcm.

They are found or unpacked, and run without changing those installed on the machine. Each runs in its own
mount namespace. There, the folders that it writes to are folders below the benchmark's: their state is on
the same file system as that of the other servers.
"""

import os
import shutil
from pathlib import Path

from bench.paths import CACHE
from bench.processes import PATH, BenchError, Server, environment, finish, output_of, say

UNPACKED = CACHE / "peers"
_VERSIONS = UNPACKED / "versions"

PROGRAMS = {"heimdal": "usr/sbin/kcm", "sssd": "usr/libexec/sssd/sssd_kcm"}
PACKAGES = {"heimdal": "heimdal-kcm", "sssd": "sssd-kcm"}
TITLES = {"heimdal": "Heimdal's kcm", "sssd": "sssd-kcm"}

# $1 is the peer's folder, $2 is empty or the folder of the unpacked packages. The overlays over /usr, /etc
# and /var/lib hide only files of the same names.
_ENTER = """
set -e
folder=$1 unpacked=$2
shift 2
if [ "$unpacked" ]; then
    mount -t overlay overlay -o "lowerdir=$unpacked/usr:/usr" /usr
fi
mount -t overlay overlay -o "lowerdir=$folder/etc${unpacked:+:$unpacked/etc}:/etc" /etc
mount -t overlay overlay -o "lowerdir=$folder/lib:/var/lib" /var/lib
mount --bind "$folder/sss" /var/lib/sss
mount --bind "$folder/run" /run
exec "$@"
"""

_SSSD_CONF = """\
[sssd]
config_file_version = 2

[kcm]
socket_path = {socket}
responder_idle_timeout = 0
max_ccaches = 0
max_uid_ccaches = 1000000
max_ccache_size = 1000000
"""


class Peer(Server):
    """A C server in its own mount namespace."""

    def __init__(self, name: str, folder: Path, socket_path: Path) -> None:
        for part in ("", "etc/sssd", "lib/sss", "run", "sss"):
            (folder / part).mkdir(mode=0o755, parents=True, exist_ok=True)
        super().__init__(name, folder, socket_path)

    def command(self) -> list[str]:
        unpacked = "" if _is_installed(self.name) else str(UNPACKED)
        return ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.folder), unpacked, *self.program()]

    def program(self) -> list[str]:
        """The command to run in the namespace."""
        raise NotImplementedError


class Heimdal(Peer):
    """Heimdal's kcm. It keeps everything in memory, and the path of its socket is compiled in."""

    def __init__(self, folder: Path) -> None:
        super().__init__("heimdal", folder, folder / "run" / ".heim_org.h5l.kcm-socket")

    def program(self) -> list[str]:
        return [f"/{PROGRAMS[self.name]}", "--disallow-getting-krbtgt"]


class Sssd(Peer):
    """sssd-kcm. Its database is below /var/lib/sss."""

    def __init__(self, folder: Path) -> None:
        super().__init__("sssd", folder, folder / "kcm.sock")
        for part in (
            "db",
            "mc",
            "pipes/private",
            "secrets",
            "keytabs",
            "deskprofile",
            "gpo_cache",
            "pubconf",
        ):
            (folder / "sss" / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = folder / "etc" / "sssd" / "sssd.conf"
        configuration.write_text(_SSSD_CONF.format(socket=self.socket_path))
        configuration.chmod(0o600)

    def program(self) -> list[str]:
        serve = f"sssd --genconf-section=kcm && exec /{PROGRAMS[self.name]} --uid 0 --gid 0 --logger=stderr"
        return ["sh", "-c", serve]


def make(name: str, folder: Path) -> Peer:
    """Return the server of that name, with its state below the folder."""
    return Heimdal(folder) if name == "heimdal" else Sssd(folder)


def is_available(name: str) -> bool:
    """Whether the peer is installed or unpacked."""
    return _is_installed(name) or (UNPACKED / PROGRAMS[name]).exists()


def obstacle(name: str) -> str | None:
    """Return the reason why this peer cannot run here; None if it can."""
    if not is_available(name):
        return f"it is not installed; `scripts/bench --install` unpacks Debian's {PACKAGES[name]}"
    if os.geteuid() != 0:
        return "it runs in a mount namespace, which only root can make"
    tried = finish(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/var/lib"])
    return f"a mount namespace cannot be made: {tried.stderr.strip()}" if tried.returncode else None


def version(name: str) -> str:
    """Return the package's version, or "unknown"."""
    package = PACKAGES[name]
    if not _is_installed(name):
        versions = dict(line.split() for line in _VERSIONS.read_text().splitlines())
        return versions.get(package, "unknown")
    try:
        asked = finish(["dpkg-query", "--show", "--showformat=${Version}", package])
    except FileNotFoundError:
        return "unknown"
    return asked.stdout or "unknown"


def _is_installed(name: str) -> bool:
    return Path("/", PROGRAMS[name]).exists()


# Unpacking


def install() -> None:
    """Unpack the peers' packages and their dependencies into the cache; installs nothing."""
    wanted = [PACKAGES[name] for name in PROGRAMS if not _is_installed(name)]
    if not wanted:
        say("the peers are installed already")
        return
    if not shutil.which("apt-get", path=PATH) or not shutil.which("dpkg-deb", path=PATH):
        raise BenchError(
            f"apt-get and dpkg-deb are missing; install the equivalents of Debian's {' and '.join(wanted)}"
        )
    packages = _with_dependencies(wanted)
    say(f"unpacking {' '.join(packages)}")
    unfinished = UNPACKED.with_name("peers.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    downloads = unfinished / "downloads"
    downloads.mkdir(parents=True)
    # Without this option, apt downloads as a user who cannot write to the folder.
    output_of(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages], cwd=downloads)
    for package in sorted(downloads.iterdir()):
        output_of(["dpkg-deb", "--extract", package, unfinished])
    _merge_usr(unfinished)
    versions = [
        output_of(["dpkg-deb", "--show", "--showformat=${Package} ${Version}\n", file])
        for file in sorted(downloads.iterdir())
    ]
    (unfinished / "versions").write_text("".join(versions))
    shutil.rmtree(downloads)
    shutil.rmtree(UNPACKED, ignore_errors=True)
    unfinished.rename(UNPACKED)


def _with_dependencies(wanted: list[str]) -> list[str]:
    """Return all packages that apt would install."""
    simulate = ["apt-get", "--simulate", "--no-install-recommends", "install", *wanted]
    try:
        output = output_of(simulate)
    except BenchError:
        if os.geteuid() == 0:
            finish(["apt-get", "-qq", "update"], env=environment(DEBIAN_FRONTEND="noninteractive"))
        output = output_of(simulate)
    return [line.split()[1] for line in output.splitlines() if line.startswith("Inst ")]


def _merge_usr(folder: Path) -> None:
    """Move /lib, /bin and so on below /usr, as on a system with a merged /usr."""
    for name in ("lib", "bin", "sbin", "lib64"):
        top = folder / name
        if top.is_dir():
            shutil.copytree(top, folder / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(top)
