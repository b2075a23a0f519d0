"""The identity of a peer, and the kernel's settings for it."""

import errno
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from pykcm.peer.identity import Kernel, KernelUnreadableError, Peer, PeerRefusedError, identify, read_kernel

OVERFLOW_UID = 65534
SELINUX = Kernel(has_selinux=True)
SO_PEERSEC = 31

IDENTITY_MAP = "         0          0 4294967295\n"


class FakeSocket:
    """A socket whose peer and label are as the test wants them; an errno instead is raised."""

    def __init__(self, uid: int | OSError = 1000, label: bytes | OSError = b"") -> None:
        self.uid = uid
        self.label = label

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert level == socket.SOL_SOCKET
        assert 0 < size <= 1024, "a real one refuses to be asked for more"
        answer = self.label if option == SO_PEERSEC else self.uid
        if isinstance(answer, OSError):
            raise answer
        packed = answer if isinstance(answer, bytes) else struct.pack("iII", 4711, answer, 100)
        assert len(packed) <= size
        return packed


def identify_fake(kernel: Kernel, uid: int | OSError = 1000, label: bytes | OSError = b"") -> Peer:
    return identify(cast("socket.socket", FakeSocket(uid, label)), kernel)


def refusal(kernel: Kernel, uid: int | OSError = 1000, label: bytes | OSError = b"") -> str:
    """Why the peer is refused."""
    with pytest.raises(PeerRefusedError) as caught:
        identify_fake(kernel, uid, label)
    return str(caught.value)


def listening() -> socket.socket:
    """A listening socket in the abstract namespace, which every UID may connect to."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    return listener


def connect_as(uid: int, gid: int, client: socket.socket, listener: socket.socket) -> None:
    """Be another UID for the moment of connecting."""
    os.setegid(gid)
    os.seteuid(uid)
    try:
        client.connect(listener.getsockname())
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_identity_of_a_real_peer() -> None:
    """The UID, GID and PID of a real peer are the kernel's; without SELinux there is no label."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert identify(ours, Kernel()) == Peer(os.geteuid(), os.getegid(), os.getpid(), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another UID")
def test_identity_is_that_of_connect() -> None:
    """The identity is that of connect(), even if the client changes its UID later."""
    with listening() as listener, socket.socket(socket.AF_UNIX) as client:
        connect_as(20001, 20002, client, listener)
        accepted, _ = listener.accept()
        with accepted:
            assert identify(accepted, Kernel()) == Peer(20001, 20002, os.getpid(), None)


def test_fields_of_the_credentials() -> None:
    """Each field is read from its place, and UIDs are unsigned."""
    assert identify_fake(Kernel(), 2**32 - 2) == Peer(2**32 - 2, 100, 4711, None)


def test_peer_without_readable_credentials_is_refused() -> None:
    """A peer whose credentials cannot be read is refused."""
    assert "Not a socket" in refusal(Kernel(), OSError(errno.ENOTSOCK, "Not a socket"))


def test_label_of_a_real_peer() -> None:
    """The label of a real peer is read; where it has none, the peer is refused with the kernel's reason."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            assert identify(ours, SELINUX).label
        except PeerRefusedError as error:
            assert any(why in str(error) for why in ("not available", "empty"))  # noqa: PT017 - either is right


@pytest.mark.parametrize("packed", [b"u:r:t:s0:c1,c2\0", b"u:r:t:s0:c1,c2"])
def test_label_with_or_without_a_nul(packed: bytes) -> None:
    """With SELinux the peer's label is read, with or without a NUL at its end."""
    assert identify_fake(SELINUX, label=packed).label == "u:r:t:s0:c1,c2"


def test_no_label_is_read_without_selinux() -> None:
    """Without SELinux no label is read: another module's would not be an SELinux label."""
    assert identify_fake(Kernel(), label=b"apparmor-profile").label is None


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (OSError(errno.ENOPROTOOPT, "Protocol not available"), "Protocol not available"),
        (b"", "empty"),
        (b"\0", "empty"),
        (b"u:r:\xff:s0\0", "no text"),
        (b"unconfined\0", "not an SELinux context"),
        (b"u:r:t:\0", "not an SELinux context"),
        (b"u:r:t:s0\0:c1\0", "not an SELinux context"),
    ],
)
def test_peer_without_a_readable_label_is_refused(label: bytes | OSError, why: str) -> None:
    """With SELinux a peer whose label cannot be read is refused: access never fails open."""
    message = refusal(SELINUX, label=label)
    assert "label" in message
    assert why in message


def test_overflow_uid_is_refused() -> None:
    """In a user namespace the overflow UID has no known identity and is refused; others are not."""
    kernel = Kernel(overflow_uid=OVERFLOW_UID)
    assert str(OVERFLOW_UID) in refusal(kernel, OVERFLOW_UID)
    assert identify_fake(kernel, 1000).uid == 1000


def test_overflow_uid_is_a_user_outside_of_namespaces() -> None:
    """Where every UID is mapped, the overflow UID is an ordinary user (`nobody`)."""
    assert identify_fake(Kernel(), OVERFLOW_UID).uid == OVERFLOW_UID


# What the kernel tells


def fake_kernel(
    folder: Path,
    *,
    uid_map: str | None = IDENTITY_MAP,
    overflow: str = "65534\n",
    selinux: bool = False,
    knows_selinux: bool = False,
) -> Kernel:
    """The overflow UID that such a /proc and /sys have."""
    proc, sys = folder / "proc", folder / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "sys/kernel").mkdir(parents=True)
    (sys / "fs").mkdir(parents=True)
    (proc / "self/status").write_text("Name:\tpykcmd\n")
    (proc / "filesystems").write_text("nodev\tproc\n\text4\n" + "nodev\tselinuxfs\n" * knows_selinux)
    if uid_map is not None:
        (proc / "self/uid_map").write_text(uid_map)
    (proc / "sys/kernel/overflowuid").write_text(overflow)
    if selinux:
        (sys / "fs/selinux").mkdir()
        (sys / "fs/selinux/enforce").write_text("0")
    return read_kernel(proc, sys)


def test_initial_namespace_has_no_overflow_uid(tmp_path: Path) -> None:
    """Where all UIDs are mapped onto themselves, there is no overflow UID."""
    assert fake_kernel(tmp_path) == Kernel(has_selinux=False, overflow_uid=None)


@pytest.mark.parametrize(
    "uid_map",
    [
        "         0     100000      65536\n",
        "         0       1000          1\n",
        "         0          0      65536\n",
        "         0          0       1000\n      1000     100000      64536\n",
        "",
    ],
    ids=["container", "unshare", "cut off", "two ranges", "not yet mapped"],
)
def test_user_namespace_has_an_overflow_uid(tmp_path: Path, uid_map: str) -> None:
    """Where some UIDs are not mapped, the overflow UID stands for them, whatever its number is."""
    assert fake_kernel(tmp_path, uid_map=uid_map, overflow="4242\n").overflow_uid == 4242


def test_kernel_without_user_namespaces(tmp_path: Path) -> None:
    """A kernel built without user namespaces has no map, and no overflow UID."""
    assert fake_kernel(tmp_path, uid_map=None).overflow_uid is None


def test_selinux_is_found_in_any_mode(tmp_path: Path) -> None:
    """SELinux is found if the kernel has it, also in permissive mode."""
    assert fake_kernel(tmp_path, selinux=True).has_selinux


def test_hidden_selinux_is_noticed(tmp_path: Path) -> None:
    """A kernel with SELinux whose file system is not mounted hides it; other kernels do not."""
    assert fake_kernel(tmp_path / "1", knows_selinux=True).hides_selinux
    assert not fake_kernel(tmp_path / "2", knows_selinux=True, selinux=True).hides_selinux
    assert not fake_kernel(tmp_path / "3").hides_selinux


@pytest.mark.parametrize("missing", ["proc", "proc/self", "proc/filesystems", "proc/sys"])
def test_incomplete_proc_is_an_error(tmp_path: Path, missing: str) -> None:
    """Without /proc, or a needed file in it, peers cannot be identified."""
    fake_kernel(tmp_path, uid_map="0 100000 65536\n")
    shutil.rmtree(tmp_path / missing) if (tmp_path / missing).is_dir() else (tmp_path / missing).unlink()
    with pytest.raises(KernelUnreadableError, match=missing):
        read_kernel(tmp_path / "proc", tmp_path / "sys")


def test_this_kernel_can_be_read() -> None:
    """The kernel that runs the tests can be read."""
    assert read_kernel().has_selinux == Path("/sys/fs/selinux/enforce").exists()


UNSHARE = ("unshare", "--user", "--map-root-user")


def in_user_namespace(program: str, *sockets: socket.socket) -> "subprocess.CompletedProcess[str]":
    """Run Python code as root of a user namespace where no other UID has a meaning."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("user namespaces are not to be had here")
    fds = [each.fileno() for each in sockets]
    return subprocess.run(
        [*UNSHARE, sys.executable, "-c", program, *map(str, fds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
        pass_fds=fds,
    )


def test_overflow_uid_in_a_real_user_namespace() -> None:
    """In a user namespace of one UID, read_kernel finds the overflow UID of this kernel."""
    done = in_user_namespace("from pykcm.peer.identity import read_kernel; print(read_kernel())")
    overflow = Path("/proc/sys/kernel/overflowuid").read_text().strip()
    assert re.search(rf"overflow_uid={overflow}\b", done.stdout), done.stderr


STRANGER = """
import socket, sys
from pykcm.peer.identity import PeerRefusedError, identify, read_kernel
listener = socket.socket(fileno=int(sys.argv[1]))
for _ in range(2):
    accepted, _ = listener.accept()
    try:
        print(identify(accepted, read_kernel()).uid)
    except PeerRefusedError as error:
        print("refused:", error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another UID")
def test_unmapped_uid_is_refused() -> None:
    """In a user namespace a mapped UID is served, and an unmapped one is refused."""
    with (
        listening() as listener,
        socket.socket(socket.AF_UNIX) as known,
        socket.socket(socket.AF_UNIX) as stranger,
    ):
        connect_as(0, 0, known, listener)
        connect_as(20001, 20001, stranger, listener)
        done = in_user_namespace(STRANGER, listener)
    first, second = done.stdout.splitlines()
    assert first == "0"
    assert second.startswith("refused: ")
    assert "overflow" in second
