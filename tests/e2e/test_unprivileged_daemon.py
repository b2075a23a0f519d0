"""The daemon as an ordinary user, as its unit runs it."""

import contextlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .clients import Listed, MitClient
from .conftest import OTHER, USER, started
from .control import Pykcmctl
from .daemon import ROOT, Pykcmd
from .kdc import REALM

DAEMON = 20003
TGT = f"krbtgt/{REALM}"
OWN = f"KCM:{USER}"

pytestmark = pytest.mark.usefixtures("several_uids")


def _interpreter_for(uid: int, python_path: str) -> str:
    """An interpreter that this user may run pykcm with; the tests' one may be in a home directory."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, system):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [interpreter, "-c", "import pykcm.daemon, pykcm.store.sqlcipher.store"],
                capture_output=True,
                check=False,
                env={"PYTHONPATH": python_path},
                user=uid,
                group=uid,
                extra_groups=[],
            )
            if tried.returncode == 0:
                return interpreter
    pytest.skip("there is no interpreter here that another user may run pykcm with")


@pytest.fixture
def unprivileged_pykcmd(folder: Path, stopped_pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A daemon that runs as an ordinary user, as in its unit."""
    python_path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    stopped_pykcmd.command = (_interpreter_for(DAEMON, python_path), "-m", "pykcm")
    stopped_pykcmd.python_path = python_path
    os.chown(folder, DAEMON, DAEMON)
    stopped_pykcmd.uid = DAEMON
    with started(stopped_pykcmd) as daemon:
        yield daemon


def test_own_user_cannot_read_its_memory(unprivileged_pykcmd: Pykcmd) -> None:
    """Other processes of the daemon's user cannot read its memory or environment."""
    assert unprivileged_pykcmd.process is not None
    pid = unprivileged_pykcmd.process.pid
    for name, said in (("environ", b"Permission denied"), ("mem", b"Permission denied"), ("status", b"")):
        looked = subprocess.run(
            ["dd", f"if=/proc/{pid}/{name}", "bs=1", "count=1", "status=none"],
            capture_output=True,
            check=False,
            user=DAEMON,
            group=DAEMON,
            extra_groups=[],
        )
        assert said in looked.stderr
        assert (looked.returncode == 0) == (not said)


def test_daemon_needs_no_privileges(unprivileged_pykcmd: Pykcmd, mit_as: Callable[[int], MitClient]) -> None:
    """It separates users, serves root, and keeps its files private."""
    mit, other, root = map(mit_as, (USER, OTHER, 0))
    mit.kinit("alice")
    other.kinit("bob")
    root.kinit("carol", ccache=f"{OWN}:work")
    unprivileged_pykcmd.restart()
    assert mit.klist_all() == [
        Listed(OWN, f"alice@{REALM}", [TGT]),
        Listed(f"{OWN}:work", f"carol@{REALM}", [TGT]),
    ]
    assert other.klist_all() == [Listed(f"KCM:{OTHER}", f"bob@{REALM}", [TGT])]
    assert root.klist(ccache=f"KCM:{OTHER}").principal == f"bob@{REALM}"
    assert other.run("klist", ccache=OWN)[1:] == (1, f"klist: Credentials cache '{OWN}' not found\n")
    assert unprivileged_pykcmd.socket_path.stat().st_uid == DAEMON
    # Killed, it leaves all files as they are: while it runs, it replaces one of them.
    unprivileged_pykcmd.kill()
    files = list(unprivileged_pykcmd.state_dir.iterdir())
    assert {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in files} == {(DAEMON, 0)}


def test_import_needs_daemon_user(unprivileged_pykcmd: Pykcmd, export: Path) -> None:
    """Only with --daemon-user does pykcmctl send tickets to the daemon of an unknown user."""
    ctl = Pykcmctl(unprivileged_pykcmd.control_path)
    said = ctl.run("import", str(export))
    assert (said.status, said.output) == (4, "")
    assert ctl.json("list") == []
    assert ctl.run("--daemon-user", str(DAEMON), "import", str(export)).status == 0
    assert ctl.run("import", str(export), environment={"PYKCM_DAEMON_USER": str(DAEMON)}).status == 0
    assert [each["uid"] for each in ctl.json("list")] == [USER]
