"""pykcm-audit: the messages that it accepts, and the records in the kernel's audit log."""

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

# In seconds, for a loaded machine. A wait that reaches it has failed.
LIMIT = 60.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The daemon's socket, and the program's socket with a short timeout."""
    daemon, program = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with daemon, program:
        program.settimeout(0.01)
        yield daemon, program


def test_messages_are_written(ends: tuple[socket.socket, socket.socket]) -> None:
    """Each message is written unchanged and in order, until no more comes."""
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
def test_invalid_datagrams_are_dropped(
    ends: tuple[socket.socket, socket.socket], message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A datagram that is not a printable message of the policy is dropped; the log has the number of them."""
    daemon, program = ends
    written: list[bytes] = []
    for each in (message, message, DENIED):
        daemon.send(each)
    relay(program, written.append)
    assert written == [DENIED]
    line, summary = caplog.messages
    assert line == "dropped a datagram that is not a message of the SELinux policy"
    assert summary.startswith("1 further lines like it in the last ")


def test_refused_messages_are_logged_once(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """A message that the kernel refuses is lost and logged, once a minute; later messages are written."""
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
        == "a message of the SELinux policy is lost, because the kernel refused it: Operation not permitted"
    )
    assert summary.startswith("1 further lines like it in the last ")


# With the kernel

NETLINK_AUDIT = 9
USER_AVC = 1107
# AUDIT_NLGRP_READLOG of linux/audit.h: readers need CAP_AUDIT_READ.
READ_LOG = 1


@pytest.fixture
def audit_log() -> Iterator[socket.socket]:
    """The kernel's audit log: each recv() returns one new record with its header."""
    try:
        reader = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT)
    except OSError as error:
        pytest.skip(f"this kernel has no audit: {error.strerror}")
    with reader:
        try:
            reader.bind((0, READ_LOG))
        except PermissionError:
            pytest.skip("only root may read the audit log")
        reader.settimeout(LIMIT)
        yield reader


def next_record(audit_log: socket.socket, about: bytes) -> bytes:
    """Return the text of the next USER_AVC record that contains `about`."""
    while True:
        data = audit_log.recv(20_000)
        _, kind, _, _, _ = struct.unpack_from("=IHHII", data)
        if kind == USER_AVC and about in data:
            return data[16:].rstrip(b"\0\n")


def in_record(message: bytes, program: str) -> bytes:
    return b"msg='%s exe=\"%s\" hostname=? addr=? terminal=?'" % (message, program.encode())


@pytest.fixture
def message() -> bytes:
    """A unique message."""
    return DENIED.replace(b"u:r", b"u%d_%d:r" % (os.getpid(), time.monotonic_ns()))


def test_message_is_in_the_audit_log(audit_log: socket.socket, message: bytes) -> None:
    """Messages of any allowed length become USER_AVC records in the kernel's audit log."""
    longest = message.ljust(4096, b"x")
    for each in (message, longest):
        write_record(each, "/usr/bin/pykcm-audit")
        assert next_record(audit_log, each).endswith(in_record(each, "/usr/bin/pykcm-audit"))


# Run as the process that systemd starts: the socket becomes descriptor 3, and further ones if asked for.
ACTIVATED = """
import os, sys
passed = os.dup(int(sys.argv[1]))
end = 3 + int(sys.argv[2])
for fd in range(3, end):
    os.dup2(passed, fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2]}
os.closerange(end, 100)
import pykcm.audit
pykcm.audit._IDLE = 0.2
sys.argv = ["/usr/bin/pykcm-audit"]
sys.exit(pykcm.audit.main())
"""


def activated(
    passed: socket.socket, number: int = 1, wrapper: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end."""
    return subprocess.run(
        [*wrapper, sys.executable, "-c", ACTIVATED, str(passed.fileno()), str(number)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
        cwd=ROOT,
        pass_fds=[passed.fileno()],
    )


def without(*capabilities: str) -> tuple[str, ...]:
    """A wrapper that runs a program without these capabilities; those with a plus are kept."""
    kept = ",".join(each if each[0] == "+" else f"-{each}" for each in capabilities)
    return ("setpriv", "--inh-caps=-all", f"--bounding-set={kept}", "--")


@pytest.mark.parametrize("may", [True, False], ids=["with the capability alone", "without it"])
def test_program_needs_only_cap_audit_write(
    ends: tuple[socket.socket, socket.socket], audit_log: socket.socket, message: bytes, may: bool
) -> None:
    """With CAP_AUDIT_WRITE alone, the program writes the waiting message and ends.

    Without that capability, its log has the kernel's error.
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
        assert done.stderr.startswith("pykcm-audit: error: a message of the SELinux policy is lost")
        assert done.stderr.endswith(": Operation not permitted\n")


@pytest.mark.parametrize("wrong", ["stream", "internet", "number"])
def test_wrong_descriptors_are_refused(ends: tuple[socket.socket, socket.socket], wrong: str) -> None:
    """The program accepts exactly one Unix datagram socket."""
    with contextlib.ExitStack() as at_end:
        passed = ends[1]
        if wrong == "stream":
            passed = at_end.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        elif wrong == "internet":
            passed = at_end.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        done = activated(passed, 2 if wrong == "number" else 1)
    assert done.returncode == 1
    message = (
        "systemd passed 2 sockets and not one"
        if wrong == "number"
        else "descriptor 3 from LISTEN_FDS is not a Unix datagram socket"
    )
    assert message in done.stderr


def test_start_by_hand_is_refused() -> None:
    """Started by hand, the program says that systemd starts it."""
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
        "pykcm-audit: critical: cannot receive messages of the SELinux policy: "
        "systemd passed 0 sockets and not one; it starts this program through pykcm-audit.socket\n"
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_printed(option: str) -> None:
    """--help prints the usage, with status 0."""
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


def test_unknown_argument_is_a_usage_error() -> None:
    """Any other argument is a usage error, with status 2 and one line without control characters."""
    command = [sys.executable, "-m", "pykcm.audit", "--verbose\x1b[2J\n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pykcm-audit: unexpected arguments: --verbose\\x1b[2J\\x0a; see --help\n"
