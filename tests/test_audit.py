"""pykcm-audit: what it takes, what it writes, and the record that the kernel makes of it."""

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.audit import relay, write_record

ROOT = Path(__file__).parents[1]

DENIED = b"avc:  denied  { read } for  scontext=u:r:t:s0:c1 tcontext=u:r:t:s0:c2 tclass=file permissive=0"

# Long enough for a loaded machine; nothing ever waits this long when all is right.
LIMIT = 20.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The daemon's end and the program's, which waits for a message no longer than a moment."""
    daemon, program = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with daemon, program:
        program.settimeout(0.01)
        yield daemon, program


def test_messages_are_written(ends: tuple[socket.socket, socket.socket]) -> None:
    """Each message is written, in order and as it is, until no more comes."""
    daemon, program = ends
    longest = DENIED.ljust(4096, b"x")
    written: list[bytes] = []
    for message in (DENIED, longest, b"avc: ~"):
        daemon.send(message)
    relay(program, written.append)
    assert written == [DENIED, longest, b"avc: ~"]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"avc:",
        b"denied",
        b" " + DENIED,
        DENIED.upper(),
        DENIED + b"\n",
        DENIED + b"\0",
        DENIED + b"' type=USER_LOGIN",
        DENIED + b"\x1b[2J",
        DENIED + b"\x7f",
        DENIED + "ä".encode(),
        DENIED.ljust(4097, b"x"),
        DENIED.ljust(100_000, b"x"),
    ],
)
def test_anything_else_is_dropped(
    ends: tuple[socket.socket, socket.socket], message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A datagram that is no printable line of the policy is not written; the log says so, and how often."""
    daemon, program = ends
    written: list[bytes] = []
    for each in (message, message, DENIED):
        daemon.send(each)
    relay(program, written.append)
    assert written == [DENIED]
    line, summary = caplog.messages
    assert line == "dropped: what came is no message of the SELinux policy"
    assert summary.startswith("1 further lines like it in the last ")


def test_what_cannot_be_written(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """What the kernel refuses is lost, which the log says once; what comes after it is written."""
    daemon, program = ends
    tried: list[bytes] = []

    def write(message: bytes) -> None:
        tried.append(message)
        if len(tried) < 3:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    for _ in range(3):
        daemon.send(DENIED)
    relay(program, write)
    assert tried == [DENIED] * 3
    line, summary = caplog.messages
    assert (
        line
        == "the kernel takes no record, and a message of the SELinux policy is lost: Operation not permitted"
    )
    assert summary.startswith("1 further lines like it in the last ")


# With the kernel

NETLINK_AUDIT = 9
USER_AVC = 1107
# linux/audit.h: whoever has CAP_AUDIT_READ may read along.
READ_ALONG = 1


@pytest.fixture
def audit_log() -> Iterator[socket.socket]:
    """The kernel's audit log as it is written, a record with its header for each recv()."""
    try:
        reader = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT)
    except OSError as error:
        pytest.skip(f"this kernel has no audit: {error.strerror}")
    with reader:
        try:
            reader.bind((0, READ_ALONG))
        except PermissionError:
            pytest.skip("only root may read the audit log")
        reader.settimeout(LIMIT)
        yield reader


def next_record(audit_log: socket.socket, about: bytes) -> bytes:
    """The text of the next USER_AVC record with `about` in it."""
    while True:
        data = audit_log.recv(20_000)
        _, kind, _, _, _ = struct.unpack_from("=IHHII", data)
        if kind == USER_AVC and about in data:
            return data[16:].rstrip(b"\0\n")


def in_record(message: bytes, program: str) -> bytes:
    return b"msg='%s exe=\"%s\" hostname=? addr=? terminal=?'" % (message, program.encode())


@pytest.fixture
def message() -> bytes:
    """A message that is in no other record."""
    return DENIED.replace(b"u:r", b"u%d_%d:r" % (os.getpid(), time.monotonic_ns()))


def test_a_record(audit_log: socket.socket, message: bytes) -> None:
    """The kernel makes a USER_AVC record of a message, of the longest as well."""
    longest = message.ljust(4096, b"x")
    for each in (message, longest):
        write_record(each, "/usr/bin/pykcm-audit")
        assert next_record(audit_log, each).endswith(in_record(each, "/usr/bin/pykcm-audit"))


# Run as the process that systemd starts: the socket becomes descriptor 3.
ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
os.closerange(4, 100)
import pykcm.audit
pykcm.audit._IDLE = 0.2
sys.argv = ["/usr/bin/pykcm-audit"]
sys.exit(pykcm.audit.main())
"""


def activated(
    imported: socket.socket, number: int = 1, wrapper: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """The program from its start to its end."""
    return subprocess.run(
        [*wrapper, sys.executable, "-c", ACTIVATED, str(imported.fileno()), str(number)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        cwd=ROOT,
        pass_fds=[imported.fileno()],
    )


def without(*capabilities: str) -> tuple[str, ...]:
    """A wrapper that runs a program without these capabilities; `all` but those with a plus."""
    kept = ",".join(each if each[0] == "+" else f"-{each}" for each in capabilities)
    return ("setpriv", "--inh-caps=-all", f"--bounding-set={kept}", "--")


@pytest.mark.parametrize("may", [True, False], ids=["with the capability alone", "without it"])
def test_the_program(
    ends: tuple[socket.socket, socket.socket], audit_log: socket.socket, message: bytes, may: bool
) -> None:
    """What waits when it is started gets to the audit log with CAP_AUDIT_WRITE alone, and it ends by itself.

    Without that capability its log says what the kernel says.
    """
    daemon, program = ends
    daemon.send(message)
    done = activated(program, wrapper=without("all", "+audit_write") if may else without("audit_write"))
    assert done.returncode == 0, done.stderr
    if may:
        assert done.stderr == ""
        record = next_record(audit_log, message)
        assert record.endswith(in_record(message, "/usr/bin/pykcm-audit"))
    else:
        assert done.stderr.startswith("pykcm-audit: error: the kernel takes no record")
        assert done.stderr.endswith(": Operation not permitted\n")


@pytest.mark.parametrize("wrong", ["stream", "internet", "number"])
def test_wrong_descriptors(ends: tuple[socket.socket, socket.socket], wrong: str) -> None:
    """Anything but one Unix datagram socket is refused."""
    with contextlib.ExitStack() as at_end:
        imported = ends[1]
        if wrong == "stream":
            imported = at_end.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        elif wrong == "internet":
            imported = at_end.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        done = activated(imported, 2 if wrong == "number" else 1)
    assert done.returncode == 1
    message = (
        "systemd starts this program" if wrong == "number" else "descriptor 3 is not a Unix datagram socket"
    )
    assert message in done.stderr


def test_started_by_hand() -> None:
    """Started by hand it says by whom it is started."""
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.audit"],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "pykcm-audit: critical: cannot take messages of the SELinux policy: "
        "systemd starts this program, by pykcm-audit.socket\n"
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed(option: str) -> None:
    """--help explains the program, with status 0."""
    done = subprocess.run(
        [sys.executable, "-m", "pykcm.audit", option],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: pykcm-audit")
    assert "pykcm-audit.socket" in done.stdout


def test_unknown_argument_is_wrong_usage() -> None:
    """Any other argument is wrong usage, with status 2 and one line that is safe for a terminal."""
    command = [sys.executable, "-m", "pykcm.audit", "--verbose\x1b[2J\n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pykcm-audit: it takes no arguments: --verbose\\x1b[2J\\x0a\n"
