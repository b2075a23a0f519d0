"""Images for podman without a registry: the machine's own /usr, in configured root folders."""

import io
import shutil
import tarfile
from pathlib import Path

from . import machine

DAEMON_UID = 998

_TAR = Path("/var/tmp/image.tar")

_PROGRAM = "/usr/bin/pykcmd"
# The same without the label that it has on the host: no image's file has that.
_UNLABELLED_PROGRAM = "/usr/local/bin/pykcmd"

# The KDC is on the machine's loopback. What podman keeps account of takes most of its time.
_CONTAINERS_CONF = f"""\
[containers]
netns = "host"
log_driver = "k8s-file"
volumes = ["/usr:/usr:ro", "{_UNLABELLED_PROGRAM}:{_PROGRAM}:ro"]
[engine]
events_logger = "none"
cgroup_manager = "cgroupfs"
"""

# With their modes and owners.
_FOLDERS = (("tmp", 0o1777, 0), ("run/kcm", 0o755, DAEMON_UID), ("var/lib/pykcm", 0o700, DAEMON_UID))


def make_images(krb5_conf: str, keytab: Path) -> None:
    """Make the images `localhost/app` and `localhost/pykcm` of docs/containers.md."""
    shutil.copy(_PROGRAM, _UNLABELLED_PROGRAM)
    machine.run("chcon", "--type=bin_t", _UNLABELLED_PROGRAM)
    Path("/etc/containers/containers.conf").write_text(_CONTAINERS_CONF)
    _make("localhost/app", {"etc/krb5.conf": krb5_conf.encode(), "etc/krb5.keytab": keytab.read_bytes()})
    _make(
        "localhost/pykcm",
        {
            "etc/passwd": f"pykcm:x:{DAEMON_UID}:{DAEMON_UID}::/:/bin/sh\n".encode(),
            "etc/selinux/config": Path("/etc/selinux/config").read_bytes(),
        },
        'CMD ["/usr/bin/pykcmd","--socket-path=/run/kcm/kcm.sock"]',
        "USER pykcm",
    )


def _make(name: str, files: dict[str, bytes], *instructions: str) -> None:
    with tarfile.open(_TAR, "w") as tar:
        for link in ("bin", "lib", "lib64", "sbin"):
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{link}"
            tar.addfile(info)
        for folder, mode, uid in _FOLDERS:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, uid, uid
            tar.addfile(info)
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    changes = [f"--change={each}" for each in instructions]
    machine.run("podman", "import", "--quiet", *changes, str(_TAR), name)
    _TAR.unlink()
