"""Messages of libselinux: in the log, and those of the policy in the audit log."""

import contextlib
import ctypes
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.logs import LINE_COUNTS
from pykcm.peer.selinux_messages import Reporter, take_messages

ROOT = Path(__file__).parents[2]

ERROR, WARNING, INFO, AVC, POLICYLOAD, SETENFORCE = range(6)

SOURCE, TARGET = "u:r:t:s0:c1,c2", "u:r:t:s0:c3,c4"
CONTEXTS = f"scontext={SOURCE} tcontext={TARGET} tclass=file"
DENIED = f"avc:  denied  {{ read }} for  {CONTEXTS} permissive=0"
GRANTED = f"avc:  granted  {{ read }} for  {CONTEXTS}"

# Of what the daemon logs about a record that it could not hand on.
LOST = "do not reach the audit log"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that the reporter sends to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "audit.sock"))
        listener.setblocking(False)
        yield listener


@pytest.fixture
def reporter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Reporter:
    caplog.set_level(logging.INFO)
    return Reporter(str(tmp_path / "audit.sock"))


def is_silent(listener: socket.socket) -> bool:
    try:
        listener.recv(1)
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize(
    ("message", "result", "level"), [(DENIED, "denied", logging.WARNING), (GRANTED, "granted", logging.INFO)]
)
def test_audited_decisions_are_logged_and_sent(
    reporter: Reporter,
    listener: socket.socket,
    caplog: pytest.LogCaptureFixture,
    message: str,
    result: str,
    level: int,
) -> None:
    """An audited denial is a line of the log with fields, and a datagram with the message alone."""
    reporter.report(AVC, f"{message}\n".encode())
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (level, message)
    fields = {"KCM_AVC": result, "KCM_SCONTEXT": SOURCE, "KCM_TCONTEXT": TARGET}
    assert fields.items() <= vars(record).items()
    assert listener.recv(10_000) == message.encode()


def test_denials_of_one_context_are_limited(
    reporter: Reporter, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A context that is always denied floods neither the log nor the audit log; others are reported."""
    other = DENIED.replace(SOURCE, "u:r:t:s0:c9")
    received = []
    for message in [DENIED] * 500 + [other]:
        reporter.report(AVC, message.encode())
        # At once: its queue is short.
        with contextlib.suppress(BlockingIOError):
            received.append(listener.recv(10_000))
    assert received.count(DENIED.encode()) == 60
    assert received.count(other.encode()) == 1
    assert len(caplog.records) == 61
    LINE_COUNTS.summarize()
    assert caplog.messages[-1].startswith(f"{SOURCE}: 440 further lines like it")


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (ERROR, logging.ERROR),
        (WARNING, logging.WARNING),
        (INFO, logging.INFO),
        (POLICYLOAD, logging.INFO),
        (SETENFORCE, logging.INFO),
        (99, logging.WARNING),
    ],
)
def test_other_messages_are_only_logged(
    reporter: Reporter, listener: socket.socket, caplog: pytest.LogCaptureFixture, kind: int, level: int
) -> None:
    """Other messages of libselinux are logged with its name, and not sent."""
    reporter.report(kind, b"avc:  op=setenforce lsm=selinux enforcing=0 res=1\n")
    (record,) = caplog.records
    text = "libselinux: avc:  op=setenforce lsm=selinux enforcing=0 res=1"
    assert (record.levelno, record.getMessage()) == (level, text)
    assert is_silent(listener)


def test_message_of_unknown_form_is_logged_escaped(
    reporter: Reporter, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A message of an unknown form is logged as well, without fields, and escaped."""
    reporter.report(AVC, b"avc: \x1b[2J\xff")
    (record,) = caplog.records
    assert record.getMessage() == r"avc: \x1b[2J\xff"
    assert not hasattr(record, "KCM_AVC")
    assert listener.recv(100) == b"avc: \x1b[2J\xff"


def test_denials_are_logged_without_a_listener(
    reporter: Reporter, tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """Without a listener denials are only in the log, which says once why they go no further.

    They are sent as soon as there is a listener.
    """
    for _ in range(3):
        reporter.report(AVC, DENIED.encode())
    assert caplog.messages.count(DENIED) == 3
    (lost,) = [message for message in caplog.messages if LOST in message]
    assert f"{tmp_path}/audit.sock: No such file or directory" in lost
    listener: socket.socket = request.getfixturevalue("listener")
    reporter.report(AVC, DENIED.encode())
    assert listener.recv(1000) == DENIED.encode()


def test_slow_listener_is_not_waited_for(
    reporter: Reporter, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener that does not read is not waited for; after it has read, denials reach it again."""
    sent = 0
    while not any(LOST in message for message in caplog.messages):
        reporter.report(AVC, DENIED.encode())
        sent += 1
        assert sent < 100_000
    # The last one is lost.
    for _ in range(sent - 1):
        assert listener.recv(1000) == DENIED.encode()
    assert is_silent(listener)
    reporter.report(AVC, DENIED.encode())
    assert listener.recv(1000) == DENIED.encode()


def test_lost_messages_are_logged_once_a_minute(
    reporter: Reporter, listener: socket.socket, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """However often the listener is restarted, the log says once a minute that messages were lost."""
    path = tmp_path / "audit.sock"
    for _ in range(3):
        reporter.report(AVC, DENIED.encode())
        path.rename(tmp_path / "away")
        reporter.report(AVC, DENIED.encode())
        (tmp_path / "away").rename(path)
    assert sum(LOST in message for message in caplog.messages) == 1


# libselinux itself

TAKEN = """
import ctypes, errno, logging, os, sys
from pykcm.logs import LINE_COUNTS
from pykcm.peer.selinux_messages import take_messages

logging.basicConfig(stream=sys.stdout, format="log: %(levelname)s %(message)s")
library = ctypes.CDLL("libselinux.so.1", use_errno=True)

def report(kind, message):
    ctypes.CDLL(None).close(-1)
    if message == b"break":
        raise ValueError("as a test wants it")
    print(kind, message, flush=True)

take_messages(report)
"""

SAID_BY_THE_LIBRARY = """
class Mapping(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("permissions", ctypes.c_char_p * 33)]

library.selinux_set_mapping((Mapping * 2)(Mapping(b"no_such_class")))
"""

SAID_BY_A_CALLER = """
library.selinux_get_callback.restype = ctypes.c_void_p
say = ctypes.CFUNCTYPE(ctypes.c_int, use_errno=True)(library.selinux_get_callback(0))

def text(value):
    return ctypes.c_char_p(value)

for arguments in (
    (3, text(b"%s"), text(b"avc:  denied")),
    (5, text(b"%s:  op=setenforce lsm=selinux enforcing=%d res=1"), text(b"avc"), 7),
    (1, text(b"%s: no page: %d (%m)"), text(b"avc"), -5),
    (0, text(b"%s %s %s %s %s"), *[text(b"x")] * 5),
    (2, text(b"plain")),
    (2, text(b"%s"), text(b"x" * 10_000)),
    (3, text(b"break")),
):
    ctypes.set_errno(errno.EACCES)
    assert say(*arguments) == 0
    assert ctypes.get_errno() == errno.EACCES
"""


@pytest.fixture
def has_libselinux() -> None:
    """For tests of what only libselinux can do, whether the kernel has SELinux or not."""
    try:
        ctypes.CDLL("libselinux.so.1")
    except OSError as error:
        pytest.skip(f"there is no libselinux: {error}")


def said(script: str) -> list[str]:
    """The output of a process that takes libselinux's messages; its standard error has none."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.usefixtures("has_libselinux")
def test_libselinux_reports_to_the_reporter() -> None:
    """The messages of libselinux reach the reporter, and not standard error."""
    line = r"2 b'SELinux: Class no_such_class not defined in policy.\n'"
    assert said(SAID_BY_THE_LIBRARY)[0] == line


@pytest.mark.usefixtures("has_libselinux")
def test_message_is_formatted_with_its_arguments() -> None:
    """Strings, numbers and errno are put into a message, and more than is needed is not touched.

    errno is for the caller as it was; what goes wrong with a message is told, and not the caller's concern.
    """
    lines = said(SAID_BY_A_CALLER)
    assert lines[:6] == [
        "3 b'avc:  denied'",
        "5 b'avc:  op=setenforce lsm=selinux enforcing=7 res=1'",
        "1 b'avc: no page: -5 (Permission denied)'",
        "0 b'%s %s %s %s %s'",
        "2 b'plain'",
        f"2 b'{'x' * 4095}'",
    ]
    assert lines[6] == "log: ERROR a message of libselinux was lost"
    assert lines[-1] == "ValueError: as a test wants it"


@pytest.mark.parametrize("missing", ["library", "callbacks"])
def test_failure_to_redirect_messages_is_logged(
    missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If libselinux's messages cannot be redirected, the log says so, and nothing fails."""

    def fail(*_: object, **__: object) -> None:
        raise (OSError if missing == "library" else MemoryError)("as a test wants it")

    monkeypatch.setattr(ctypes, "CDLL" if missing == "library" else "CFUNCTYPE", fail)
    take_messages(Reporter("/nowhere").report)
    (message,) = caplog.messages
    assert "standard error, not to the audit log: as a test wants it" in message
