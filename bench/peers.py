"""The C servers, Heimdal's kcm and sssd-kcm: found, unpacked, and run without touching the machine's own.

Each runs in a mount namespace of its own, where the folders that it writes to are ones below the
benchmark's folder: on the same file system as the state of everything else that is measured.
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

# $1 is the peer's folder, $2 that of the unpacked packages or empty. What is laid over /usr, /etc and
# /var/lib hides nothing but what has the same name.
_ENTER = """
set -e
own=$1 unpacked=$2
shift 2
if [ "$unpacked" ]; then
    mount -t overlay overlay -o "lowerdir=$unpacked/usr:/usr" /usr
fi
mount -t overlay overlay -o "lowerdir=$own/etc${unpacked:+:$unpacked/etc}:/etc" /etc
mount -t overlay overlay -o "lowerdir=$own/lib:/var/lib" /var/lib
mount --bind "$own/sss" /var/lib/sss
mount --bind "$own/run" /run
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
        return ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.folder), unpacked, *self.inside()]

    def inside(self) -> list[str]:
        """What to start in the namespace."""
        raise NotImplementedError


class Heimdal(Peer):
    """Heimdal's kcm: it keeps everything in memory, and its socket's path is compiled in."""

    def __init__(self, folder: Path) -> None:
        super().__init__("heimdal", folder, folder / "run" / ".heim_org.h5l.kcm-socket")

    def inside(self) -> list[str]:
        return [f"/{PROGRAMS[self.name]}", "--disallow-getting-krbtgt"]


class Sssd(Peer):
    """sssd-kcm: its database is below /var/lib/sss."""

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

    def inside(self) -> list[str]:
        serve = f"sssd --genconf-section=kcm && exec /{PROGRAMS[self.name]} --uid 0 --gid 0 --logger=stderr"
        return ["sh", "-c", serve]


def make(name: str, folder: Path) -> Peer:
    return Heimdal(folder) if name == "heimdal" else Sssd(folder)


def is_here(name: str) -> bool:
    """Whether the peer is installed or unpacked."""
    return _is_installed(name) or (UNPACKED / PROGRAMS[name]).exists()


def why_not(name: str) -> str | None:
    """Why this peer cannot be run here; None if it can."""
    if not is_here(name):
        return f"not installed; `scripts/bench --install` unpacks Debian's {PACKAGES[name]}"
    if os.geteuid() != 0:
        return "only root can give it folders of its own (a mount namespace)"
    tried = finish(["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/var/lib"])
    return f"no mount namespace can be had: {tried.stderr.strip()}" if tried.returncode else None


def version(name: str) -> str:
    """The package's version, as far as it is known."""
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
    """Unpack the peers' packages, and what they need of others, into the cache. Nothing is installed."""
    wanted = [PACKAGES[name] for name in PROGRAMS if not _is_installed(name)]
    if not wanted:
        say("the peers are installed already")
        return
    if not shutil.which("apt-get", path=PATH) or not shutil.which("dpkg-deb", path=PATH):
        raise BenchError(f"no apt here: install the likes of Debian's {' and '.join(wanted)} by hand")
    packages = _with_dependencies(wanted)
    say(f"unpacking {' '.join(packages)}")
    unfinished = UNPACKED.with_name("peers.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    downloads = unfinished / "downloads"
    downloads.mkdir(parents=True)
    # apt would drop to a user who cannot write there.
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
    """All packages that apt would install."""
    simulate = ["apt-get", "--simulate", "--no-install-recommends", "install", *wanted]
    try:
        said = output_of(simulate)
    except BenchError:
        if os.geteuid() == 0:
            finish(["apt-get", "-qq", "update"], env=environment(DEBIAN_FRONTEND="noninteractive"))
        said = output_of(simulate)
    return [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]


def _merge_usr(folder: Path) -> None:
    """Move /lib and the like below /usr, where a merged system has them."""
    for name in ("lib", "bin", "sbin", "lib64"):
        top = folder / name
        if top.is_dir():
            shutil.copytree(top, folder / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(top)
