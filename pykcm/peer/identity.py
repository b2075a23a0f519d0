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


class PeerRefusedError(Exception):
    """The peer cannot be served; the message says why and is for the log."""


class Peer(NamedTuple):
    """Who is at the other end; `label` is the SELinux context, None where the kernel has no SELinux."""

    uid: int
    gid: int
    pid: int
    label: str | None


class Kernel(NamedTuple):
    """What the kernel tells once about all peers to come.

    `stranger_uid` stands for every UID that has no meaning in the daemon's user namespace (the overflow
    UID); None where all have one, and that UID is an ordinary user.
    """

    has_selinux: bool = False
    stranger_uid: int | None = None


def read_kernel(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Kernel:
    stranger = None
    try:
        uid_map = (proc / "self/uid_map").read_text(encoding="ascii")
    except FileNotFoundError:
        pass  # a kernel without user namespaces
    else:
        if tuple(uid_map.split()) != _ALL_UIDS:
            stranger = int((proc / "sys/kernel/overflowuid").read_text(encoding="ascii"))
    return Kernel(has_selinux=(sys / "fs/selinux/enforce").exists(), stranger_uid=stranger)


def identify(sock: socket.socket, kernel: Kernel) -> Peer:
    """The peer of a connected Unix socket; raises PeerRefusedError where it cannot be known for certain."""
    try:
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError as error:
        raise PeerRefusedError(f"its credentials cannot be read: {error}") from error
    if uid == kernel.stranger_uid:
        raise PeerRefusedError(
            f"UID {uid} is the kernel's overflow UID: its real one has no mapping in this user namespace"
        )
    return Peer(uid, gid, pid, _label(sock) if kernel.has_selinux else None)


def _label(sock: socket.socket) -> str:
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_MAX)
    except OSError as error:
        raise PeerRefusedError(f"its SELinux label cannot be read: {error}") from error
    try:
        label = packed.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerRefusedError("its SELinux label is no text") from error
    if not label:
        raise PeerRefusedError("its SELinux label is empty")
    try:
        parse_label(label)
    except LabelError as error:
        raise PeerRefusedError(f"its SELinux label is {error}") from error
    return label
