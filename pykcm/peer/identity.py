"""A peer's identity, read once from its connected socket: credentials and label as of connect()."""

import socket
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from pykcm.peer.labels import LabelError, parse_label

ROOT = 0

_UCRED = Struct("iII")
# The most that Python asks the kernel for; contexts are far shorter, and a longer one is an error.
_LABEL_MAX = 1024
# SO_PEERSEC from asm-generic/socket.h; Python's socket module does not have it.
_SO_PEERSEC = 31

# What /proc/self/uid_map says where every UID of the kernel has a meaning.
_ALL_UIDS = ("0", "0", "4294967295")


# No user has it: for peers whose UID cannot be read.
_NO_UID = 0xFFFFFFFF


class PeerRefusedError(Exception):
    """The peer cannot be served; the message says why and is for the log. `uid` is the UID as seen."""

    def __init__(self, why: str, uid: int) -> None:
        super().__init__(why)
        self.uid = uid


class KernelUnreadableError(Exception):
    """What is to be known about peers cannot be read; the message says why."""


class Peer(NamedTuple):
    """Who is at the other end; `label` is the SELinux context, None where the kernel has no SELinux."""

    uid: int
    gid: int
    pid: int
    label: str | None


class Kernel(NamedTuple):
    """What the kernel tells once about all peers to come.

    `stranger_uid` stands for every UID that has no meaning in the daemon's user namespace (the overflow
    UID); None where all have one, and that UID is an ordinary user. `hides_selinux` where the kernel has
    SELinux, but no policy can be asked: container engines hide it.
    """

    has_selinux: bool = False
    stranger_uid: int | None = None
    hides_selinux: bool = False


def read_kernel(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Kernel:
    """Raises KernelUnreadableError."""
    has_selinux = (sys / "fs/selinux/enforce").exists()
    try:
        knows_selinux = "selinuxfs" in (proc / "filesystems").read_text(encoding="ascii").split()
        return Kernel(has_selinux, _stranger_uid(proc), knows_selinux and not has_selinux)
    except OSError as error:
        raise KernelUnreadableError(f"peers cannot be identified: {error}") from error


def _stranger_uid(proc: Path) -> int | None:
    try:
        uid_map = (proc / "self/uid_map").read_text(encoding="ascii")
    except FileNotFoundError:
        # A kernel without user namespaces, or a /proc of others.
        (proc / "self/status").stat()
        return None
    if tuple(uid_map.split()) == _ALL_UIDS:
        return None
    return int((proc / "sys/kernel/overflowuid").read_text(encoding="ascii"))


def identify(sock: socket.socket, kernel: Kernel) -> Peer:
    """The peer of a connected Unix socket; raises PeerRefusedError where it cannot be known for certain."""
    try:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError as error:
        raise PeerRefusedError(f"its credentials cannot be read: {error}", _NO_UID) from error
    if uid == kernel.stranger_uid:
        raise PeerRefusedError(
            f"UID {uid} is the kernel's overflow UID: its real one has no mapping in this user namespace", uid
        )
    return Peer(uid, gid, pid, _label(sock, uid) if kernel.has_selinux else None)


def listener_of(sock: socket.socket) -> tuple[int, int]:
    """PID and UID of the process that began to listen at the other end; 0 for a PID that cannot be seen."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def _label(sock: socket.socket, uid: int) -> str:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_MAX)
    except OSError as error:
        raise PeerRefusedError(f"its SELinux label cannot be read: {error}", uid) from error
    try:
        label = packed.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerRefusedError("its SELinux label is no text", uid) from error
    if not label:
        raise PeerRefusedError("its SELinux label is empty", uid)
    try:
        parse_label(label)
    except LabelError as error:
        raise PeerRefusedError(f"its SELinux label is {error}", uid) from error
    return label
