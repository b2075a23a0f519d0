"""The daemon as its unit has it: an ordinary user of its own."""

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
    """An interpreter that this user may run pykcm with: the tests' own may be in somebody's home."""
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
    """A daemon that runs as an ordinary user of its own, as its unit has it."""
    python_path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    stopped_pykcmd.command = (_interpreter_for(DAEMON, python_path), "-m", "pykcm")
    stopped_pykcmd.python_path = python_path
    os.chown(folder, DAEMON, DAEMON)
    stopped_pykcmd.uid = DAEMON
    with started(stopped_pykcmd) as daemon:
        yield daemon


def test_its_user_does_not_look_into_it(unprivileged_pykcmd: Pykcmd) -> None:
    """What is in the daemon's memory and environment is not for other processes of its own user either."""
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


def test_an_unprivileged_daemon(unprivileged_pykcmd: Pykcmd, mit_as: Callable[[int], MitClient]) -> None:
    """The daemon needs no privilege to tell users apart, to serve root, and to keep its files to itself."""
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
    files = list(unprivileged_pykcmd.state_dir.iterdir())
    assert {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in files} == {(DAEMON, 0)}


def test_root_hands_tickets_to_it_when_told_to(unprivileged_pykcmd: Pykcmd, export: Path) -> None:
    """A daemon of a user that pykcmctl does not know gets no import, until the user is named."""
    ctl = Pykcmctl(unprivileged_pykcmd.control_path)
    said = ctl.run("import", str(export))
    assert (said.status, said.output) == (4, "")
    assert ctl.json("list") == []
    assert ctl.run("--daemon-user", str(DAEMON), "import", str(export)).status == 0
    assert ctl.run("import", str(export), environment={"PYKCM_DAEMON_USER": str(DAEMON)}).status == 0
    assert [each["uid"] for each in ctl.json("list")] == [USER]
