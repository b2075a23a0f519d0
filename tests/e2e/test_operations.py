"""docs/operations.md: each command answers its question with the output that is printed there."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykcm.protocol.codes import KcmError

from .conftest import public_folder, watched
from .daemon import LIMIT, ROOT
from .host import USERS, Host, kinit, read
from .kdc import SYSTEM_PATH

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a host its own /etc and /run"),
    pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="the document's host has no SELinux"),
    pytest.mark.skipif(shutil.which("klist", path=SYSTEM_PATH) is None, reason="klist is missing"),
    pytest.mark.usefixtures("mount_namespaces"),
]

DOCUMENT = ROOT / "docs" / "operations.md"


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        host = Host(stack.enter_context(public_folder()))
        stack.enter_context(watched(host))
        yield host


def sessions() -> dict[str, str]:
    """The document's commands, each with the output below it."""
    found = {}
    for block in re.findall(r"((?:^ {4}.*\n|^\n)+)", DOCUMENT.read_text(), re.MULTILINE):
        first, _, output = block.strip("\n").partition("\n")
        if first.startswith("    # pykcmctl"):
            found[first.removeprefix("    # ")] = output
    return found


def same(text: str) -> str:
    """The text without what differs between two runs: numbers, line breaks, widths and styles."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return " ".join(re.sub(r"\d+(?:\.\d+)?", "0", plain).replace("µs", "ms").split())


def run(host: Host, command: str) -> tuple[int, str]:
    # The doctor's progress bar is on stderr.
    error = subprocess.DEVNULL if command == "pykcmctl doctor" else None
    process, terminal = host.pykcmctl(command.split()[1:], error)
    screen = read(terminal)
    os.close(terminal)
    return process.wait(LIMIT), screen


def check(host: Host, command: str, status: int = 0) -> None:
    assert command in sessions()
    found, screen = run(host, command)
    assert same(screen) == same(sessions()[command]), screen
    assert found == status


def test_who_has_tickets_that_end_within_the_hour(host: Host) -> None:
    host.begin("")
    for user, lives in (
        ("alice", 42 * 60 + 30),
        ("bob", 9 * 3600 + 1800),
        ("carol", 12 * 60 + 30),
        ("dave", 86400),
    ):
        with host.kcm(USERS[user]) as kcm:
            kinit(kcm, user, lives)
    check(host, "pykcmctl list --expiring 1h --sort expires")


def test_why_kinit_says_disk_quota_exceeded(host: Host) -> None:
    """The output names the quota that is reached, and kinit's request is refused by it."""
    host.begin("max_uid_ccaches = 3\n")
    with host.kcm(USERS["alice"]) as kcm:
        kinit(kcm, "alice", 9 * 3600 + 1800)
        kinit(kcm, "alice", 8 * 3600 + 1800, ":build")
        kinit(kcm, "alice", 3 * 3600 + 1800, ":backup")
        with pytest.raises(KcmError, match="EDQUOT"):
            kinit(kcm, "alice", 3600, ":another")
    check(host, "pykcmctl list --user alice")


def test_which_program_asks_for_what(host: Host) -> None:
    """While trace runs, the requests of a klist appear with its user and PID."""
    host.begin("")
    with host.kcm(USERS["alice"]) as kcm:
        kinit(kcm, "alice", 9 * 3600)
    command = "pykcmctl trace"
    expected = sessions()[command]
    process, terminal = host.pykcmctl(command.split()[1:])
    screen = read(terminal, "Ctrl-C.\r\n")
    uid = USERS["alice"]
    as_alice = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "klist"]
    subprocess.run(
        host.within(*as_alice),
        stdout=subprocess.DEVNULL,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
        check=True,
        timeout=LIMIT,
    )
    last = re.sub(r"=\d+", "=", expected.split()[-1])
    screen += read(terminal, last)
    os.killpg(process.pid, signal.SIGINT)
    screen += read(terminal)
    os.close(terminal)
    assert process.wait(LIMIT) == 0
    assert same(screen.replace("^C", "")) == same(expected), screen


def test_whether_everything_is_right_on_this_host(host: Host) -> None:
    """A user at a quota is a warning, everything else is fine."""
    host.begin("max_uid_ccaches = 2\n")
    for user in ("alice", "bob"):
        with host.kcm(USERS[user]) as kcm:
            kinit(kcm, user, 9 * 3600)
            if user == "alice":
                kinit(kcm, user, 9 * 3600, ":build")
    check(host, "pykcmctl doctor")
