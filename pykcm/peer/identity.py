"""A peer's identity, read once from its connected socket: UID, GID, PID and label as of connect()."""

import pwd
import socket
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec

from pykcm.peer.labels import LabelError, parse_label

ROOT = 0

_UCRED = Struct("iII")
# The longest option that Python reads. Contexts are far shorter; a longer one is an error.
_LABEL_MAX = 1024
# SO_PEERSEC from asm-generic/socket.h; Python's socket module does not have it.
_SO_PEERSEC = 31

# /proc/self/uid_map in a user namespace in which every UID is mapped.
_ALL_UIDS = ("0", "0", "4294967295")

# Stands for the UID of a peer whose UID cannot be read; no user has it.
_NO_UID = 0xFFFFFFFF


class PeerRefusedError(Exception):
    """The peer cannot be identified; the message, for the log, says why. `uid`: as the kernel reports it."""

    def __init__(self, reason: str, uid: int) -> None:
        super().__init__(reason)
        self.uid = uid


class KernelUnreadableError(Exception):
    """The kernel's settings that concern peers cannot be read; the message says why."""


class Peer(NamedTuple):
    """The process at the other end; `label`: its SELinux context, None if the kernel has no SELinux."""

    uid: int
    gid: int
    pid: int
    label: str | None


class Kernel(msgspec.Struct, frozen=True):
    """The kernel's settings that concern all peers.

    `overflow_uid`: stands for every UID that is not mapped in the daemon's user namespace. None: all UIDs are
    mapped, and that UID is an ordinary user. `hides_selinux`: the kernel has SELinux, but a container engine
    hides the policy.
    """

    has_selinux: bool = False
    overflow_uid: int | None = None
    hides_selinux: bool = False


def read_kernel(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Kernel:
    """Raises KernelUnreadableError."""
    has_selinux = (sys / "fs/selinux/enforce").exists()
    try:
        knows_selinux = "selinuxfs" in (proc / "filesystems").read_text(encoding="utf-8").split()
        return Kernel(has_selinux, _overflow_uid(proc), knows_selinux and not has_selinux)
    except OSError as error:
        raise KernelUnreadableError(f"peers cannot be identified: {error}") from error


def _overflow_uid(proc: Path) -> int | None:
    try:
        uid_map = (proc / "self/uid_map").read_text(encoding="utf-8")
    except FileNotFoundError:
        # The kernel has no user namespaces. A missing status means that this is not a /proc of ours.
        (proc / "self/status").stat()
        return None
    if tuple(uid_map.split()) == _ALL_UIDS:
        return None
    return int((proc / "sys/kernel/overflowuid").read_text(encoding="utf-8"))


def identify(sock: socket.socket, kernel: Kernel) -> Peer:
    """The peer of a connected Unix socket; raises PeerRefusedError if it cannot be identified for certain."""
    try:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError as error:
        raise PeerRefusedError(f"its credentials cannot be read: {error}", _NO_UID) from error
    if uid == kernel.overflow_uid:
        raise PeerRefusedError(
            f"UID {uid} is the kernel's overflow UID: its real one has no mapping in this user namespace", uid
        )
    return Peer(uid, gid, pid, _label(sock, uid) if kernel.has_selinux else None)


def uid_of(user: str) -> int | None:
    """Return the UID of the user of this name, or None where there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def listener_of(sock: socket.socket) -> tuple[int, int]:
    """PID and UID of the process that called listen() at the other end; PID 0 if it cannot be seen."""
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
