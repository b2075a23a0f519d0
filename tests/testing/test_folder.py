"""The temporary folder: it never outlives its process, whenever that is killed."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from pykcm.testing import KcmServer, Realm
from pykcm.testing.folder import TemporaryFolder
from pykcm.testing.guarded import missing_programs
from pykcm.testing.realm import PROGRAMS
from tests.testing.nested import LIMIT, wait_until_gone

needs_kdc = pytest.mark.skipif(bool(missing_programs(PROGRAMS)), reason="no KDC here")

NEW_SERVER = """
import os, signal
from pykcm.testing import KcmServer
server = KcmServer()
print(server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

NEW_REALM = """
from pykcm.testing import Realm
realm = Realm()
print(realm.folder, flush=True)
realm.__enter__()
"""

# In the place of a program of the KDC: it kills the process that makes the realm, and goes on with its work.
KILLER = """#!/bin/sh
kill -KILL "$PPID"
while kill -0 "$PPID" 2>/dev/null && [ "$(cut -d ' ' -f 4 </proc/$$/stat)" = "$PPID" ]; do :; done
folder=$(dirname "$KRB5_CONFIG")
[ -d "$folder" ] && echo >"$folder/late"
"""


def folder_of_killed(program: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env=os.environ | variables,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == -9
    return done.stdout.strip()


def test_killed_before_the_start_leaves_nothing() -> None:
    """If the process is killed before the server starts, the folder is removed."""
    wait_until_gone(folder_of_killed(NEW_SERVER))


@needs_kdc
@pytest.mark.parametrize("name", ["kdb5_util", "kadmin.local"])
def test_killed_while_the_realm_is_made_leaves_nothing(tmp_path: Path, name: str) -> None:
    """If the process is killed while a program of the KDC works, the folder is removed after the program."""
    (tmp_path / name).write_text(KILLER)
    (tmp_path / name).chmod(0o755)
    wait_until_gone(folder_of_killed(NEW_REALM, PATH=f"{tmp_path}:{os.environ['PATH']}"))


def test_unused_folder_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is never started, or that has options of no type of TOML, leaves no folder."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        KcmServer()
        with pytest.raises(TypeError):
            KcmServer(max_uid_ccaches=object())  # type: ignore[arg-type]
        # The traceback of the exception has referred to the server.
        gc.collect()
        assert not list(Path(name).iterdir())


def test_fork_leaves_the_folder() -> None:
    """A fork of the process does not remove the folder at its end."""
    folder = TemporaryFolder()
    if (pid := os.fork()) == 0:
        folder.remove()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert folder.path.is_dir()
    folder.remove()
    assert not folder.path.exists()


def test_folder_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why."""
    # Nobody can make a folder there.
    monkeypatch.setattr(tempfile, "tempdir", "/proc/missing")
    with pytest.raises(OSError, match="No such file or directory"):
        TemporaryFolder()


@needs_kdc
@pytest.mark.usefixtures("libfaketime")
@pytest.mark.parametrize("is_killed", [False, True])
def test_other_clock_leaves_no_shared_memory(is_killed: bool) -> None:
    """The shared memory of libfaketime goes with the KDC, also if a signal ends it."""
    with Realm() as realm:
        realm.set_clock(-3600)
        pids = processes_below(realm.folder)
        (kdc,) = (pid for pid, name in pids.items() if name == "krb5kdc")
        if is_killed:
            os.kill(kdc, signal.SIGKILL)
    assert not [path for pid in pids for path in Path("/dev/shm").glob(f"*faketime_*_{pid}")]


def processes_below(folder: Path) -> dict[int, str]:
    """The names of processes, by PID, whose working directory is the folder."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "cwd").readlink() == folder:
                found[int(path.name)] = (path / "comm").read_text().strip()
    return found
