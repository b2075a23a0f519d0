"""pykcmctl as an ordinary user: their own ccaches over the KCM socket, and nothing else."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pykcm.client import KcmClient
from tests.builders import ALICE, BOB, TGS, credential_bytes, file_bytes

from .conftest import OTHER, USER, started, watched
from .control import Pykcmctl, Said
from .daemon import LIMIT, ROOT, Pykcmd, effective_uid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run pykcmctl as several UIDs")

# Not every UID may read the interpreter's folders: all modules are imported before the UID changes.
_AS_USER = """
import asyncio, contextlib, importlib, os, pkgutil, sys
import pykcm.cli, pykcm.control, pykcm.cli.doctor
for package in (pykcm.cli, pykcm.cli.doctor, pykcm.control):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from pykcm.cli.main import main
uid = int(sys.argv.pop(1))
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
main()
"""

_DAEMON_AS_USER = """
import argparse, concurrent.futures.thread, ctypes, encodings.ascii, importlib, os, pkgutil, pwd
import sys, tomllib, traceback
import pykcm, pykcm.daemon
for module in pkgutil.walk_packages(pykcm.__path__, "pykcm."):
    if module.name.split(".")[1] in {"control", "engine", "peer", "server", "sockets", "store"}:
        if "postgresql" not in module.name:
            importlib.import_module(module.name)
from pykcm.daemon import main
uid = int(sys.argv.pop(1))
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
sys.exit(main())
"""

NOW = int(time.time())
TIMES = (NOW, NOW, NOW + 36_000, NOW + 86_400)


class UserCtl(Pykcmctl):
    """`pykcmctl` of an ordinary user, whose krb5.conf names the KCM socket."""

    def __init__(self, pykcmd: Pykcmd, uid: int = USER) -> None:
        super().__init__(pykcmd.control_path)
        self.uid = uid
        self.krb5_conf = pykcmd.folder / "user-krb5.conf"
        self.krb5_conf.write_text(f"[libdefaults]\n    kcm_socket = {pykcmd.socket_path}\n")

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", _AS_USER, str(self.uid), "--socket", str(self.control_path), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {"KRB5_CONFIG": str(self.krb5_conf)}

    def run(self, *arguments: str, stdin: str = "", **_: Any) -> Said:
        return super().run(*arguments, stdin=stdin, environment=self.environment)


@pytest.fixture
def user_ctl(pykcmd: Pykcmd) -> UserCtl:
    return UserCtl(pykcmd)


def kcm_as(pykcmd: Pykcmd, uid: int) -> KcmClient:
    with effective_uid(uid):
        return KcmClient(pykcmd.socket_path)


def tgt(endtime: int = TIMES[2]) -> bytes:
    return credential_bytes(TGS, times=(NOW, NOW, endtime, TIMES[3]))


def fill(pykcmd: Pykcmd) -> None:
    """Two ccaches of USER, whose default is the second one, and one of OTHER."""
    with kcm_as(pykcmd, USER) as kcm:
        kcm.replace(b"%d" % USER, 0, ALICE, [tgt()])
        kcm.replace(b"%d:second" % USER, 7, BOB, [tgt()])
        kcm.set_default_cache(b"%d:second" % USER)
    with kcm_as(pykcmd, OTHER) as kcm:
        kcm.replace(b"%d" % OTHER, 0, BOB, [tgt()])


def test_list_shows_a_users_own_ccaches_as_root_sees_them(
    pykcmd: Pykcmd, ctl: Pykcmctl, user_ctl: UserCtl
) -> None:
    """The rows are those of root's list for this user, except for what KCM does not tell."""
    fill(pykcmd)
    rows = user_ctl.json("list")
    assert [(each["name"], each["default"]) for each in rows] == [
        (f"KCM:{USER}", False),
        (f"KCM:{USER}:second", True),
    ]
    assert rows == ctl.json("list", "--uid", str(USER))
    said = user_ctl.run("list")
    assert said.status == 0
    assert f"KCM:{OTHER}" not in said.output


def test_show_prints_a_users_own_ccache(pykcmd: Pykcmd, ctl: Pykcmctl, user_ctl: UserCtl) -> None:
    fill(pykcmd)
    name = f"KCM:{USER}:second"
    assert user_ctl.json("show", name) == ctl.json("show", name)
    assert user_ctl.ok("show", name) == ctl.ok("show", name)
    assert user_ctl.json("show", name, "--with-secrets") == ctl.json("show", name, "--with-secrets")


def test_other_users_ccaches_are_refused(pykcmd: Pykcmd, user_ctl: UserCtl, folder: Path) -> None:
    """No command reaches them, and each error names the object and the owner."""
    fill(pykcmd)
    name = f"KCM:{OTHER}"
    for command in (
        ["list", "--uid", str(OTHER)],
        ["show", name],
        ["show", "0"],
        ["destroy", name, "--yes"],
        ["destroy", "--uid", str(OTHER), "--yes"],
        ["switch", name],
        ["switch", "--uid", str(OTHER), name],
        ["switch", "--uid", str(USER), name],
        ["export", "--plain", "--uid", str(OTHER), "-"],
        ["watch", "--uid", str(OTHER)],
    ):
        said = user_ctl.run(*command)
        assert said.status == 4, (command, said)
        assert said.output == ""
        assert "only root may see and change other users' ccaches" in said.errors
    with kcm_as(pykcmd, OTHER) as kcm:
        assert kcm.get_principal(b"%d" % OTHER) == BOB


def test_name_that_belongs_to_no_user_does_not_exist(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    """Only root has ccaches of such names: whether there is one, other users do not learn."""
    with KcmClient(pykcmd.socket_path) as root:
        root.replace(b"backup", 0, ALICE, [tgt()])
    for name in ("backup", "nothing"):
        said = user_ctl.run("show", name)
        assert (said.status, said.output) == (5, "")
        assert f"KCM:{name}: no such ccache" in said.errors


def test_requests_about_the_daemon_stay_with_root(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    for command in (["stats"], ["trace"], ["reap"], ["backup", "/tmp/pykcm-user-backup"]):
        said = user_ctl.run(*command)
        assert said.status == 4, (command, said)
        assert "only root may use the control socket" in said.errors


def test_destroy_and_switch_change_a_users_own_ccaches(
    pykcmd: Pykcmd, ctl: Pykcmctl, user_ctl: UserCtl
) -> None:
    fill(pykcmd)
    assert user_ctl.run("switch", f"KCM:{USER}").status == 0
    assert [each["default"] for each in ctl.json("list", "--uid", str(USER))] == [True, False]
    missing = f"KCM:{USER}:missing"
    for command in (["switch", missing], ["destroy", missing, "--yes"], ["show", missing]):
        assert user_ctl.run(*command).status == 5
    assert user_ctl.json("destroy", f"KCM:{USER}", "--yes") == [{"uid": USER, "name": f"KCM:{USER}"}]
    assert [each["name"] for each in user_ctl.json("list")] == [f"KCM:{USER}:second"]
    assert len(user_ctl.json("destroy", "--uid", str(USER), "--yes")) == 1
    assert [each["uid"] for each in ctl.json("list")] == [OTHER]


def test_destroy_expired_keeps_valid_ccaches(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    fill(pykcmd)
    with kcm_as(pykcmd, USER) as kcm:
        kcm.replace(b"%d:old" % USER, 0, ALICE, [tgt(NOW - 60)])
    assert [each["name"] for each in user_ctl.json("destroy", "--expired", "--yes")] == [f"KCM:{USER}:old"]
    assert len(user_ctl.json("list")) == 2


def ccache_file(folder: Path, uid: int, endtime: int = TIMES[2]) -> Path:
    """A file as sshd leaves it: the user's, in a folder where everybody may create files."""
    tmp = folder / "tmp"
    tmp.mkdir(exist_ok=True)
    tmp.chmod(0o1777)
    path = tmp / f"krb5cc_{uid}_x"
    # With fs.protected_regular, root may not write to another user's file in such a folder.
    path.unlink(missing_ok=True)
    path.write_bytes(file_bytes(tgt(endtime), principal=ALICE))
    path.chmod(0o600)
    os.chown(path, uid, uid)
    return path


def test_import_brings_a_file_into_the_collection(pykcmd: Pykcmd, user_ctl: UserCtl, folder: Path) -> None:
    """The first import stores it, the second one changes nothing, and a newer file replaces it."""
    path = ccache_file(folder, USER)
    for arguments, result, count in (
        (["--dry-run"], "imported", 0),
        ([], "imported", 1),
        ([], "unchanged", 1),
    ):
        [imported] = user_ctl.json("import", f"FILE:{path}", *arguments)
        assert (imported["result"], imported["name"]) == (result, f"KCM:{USER}")
        assert len(user_ctl.json("list")) == count
    ccache_file(folder, USER, TIMES[2] + 60)
    [imported] = user_ctl.json("import", f"FILE:{path}")
    assert imported["result"] == "replaced"
    with kcm_as(pykcmd, USER) as kcm:
        assert kcm.get_cred_list(b"%d" % USER) == [tgt(TIMES[2] + 60)]
    ccache_file(folder, USER)
    [imported] = user_ctl.json("import", f"FILE:{path}")
    assert imported["result"] == "skipped"


def test_import_refuses_another_users_ccaches(
    pykcmd: Pykcmd, ctl: Pykcmctl, user_ctl: UserCtl, folder: Path
) -> None:
    """Neither a readable file of another user nor an export of everybody's ccaches gives them to a user."""
    path = ccache_file(folder, OTHER)
    path.chmod(0o644)
    said = user_ctl.run("import", f"FILE:{path}")
    assert said.status == 1
    fill(pykcmd)
    export = folder / "all.export"
    ctl.ok("export", "--plain", str(export))
    export.chmod(0o644)
    user_ctl.run("destroy", "--uid", str(USER), "--yes")
    said = user_ctl.run("import", "--json", str(export))
    assert said.status == 1
    results = {each["name"]: each["result"] for each in json.loads(said.output)}
    assert results == {
        f"KCM:{USER}": "imported",
        f"KCM:{USER}:second": "imported",
        f"KCM:{OTHER}": "refused",
    }
    assert [each["default"] for each in user_ctl.json("list")] == [False, True]


def test_export_holds_a_users_own_ccaches(
    pykcmd: Pykcmd, ctl: Pykcmctl, user_ctl: UserCtl, folder: Path
) -> None:
    """Root can import the export, and it has the same ccaches."""
    fill(pykcmd)
    before = ctl.json("list", "--uid", str(USER))
    export = folder / "tmp" / "own.export"
    export.parent.mkdir()
    export.parent.chmod(0o1777)
    assert user_ctl.json("export", "--plain", str(export))["exported"] == 2
    ctl.ok("destroy", "--uid", str(USER), "--yes")
    ctl.ok("import", str(export))
    after = ctl.json("list", "--uid", str(USER))
    assert [each | {"uuid": ""} for each in after] == [each | {"uuid": ""} for each in before]


def test_watch_shows_a_users_own_events(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    """Each change of the user's own ccaches is printed, and none of others'."""
    fill(pykcmd)
    with subprocess.Popen(
        user_ctl.argv("watch", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            **user_ctl.environment,
        },
        cwd="/",
    ) as process:
        try:
            assert process.stdout is not None
            # The collection has been read for the first time.
            wait_for(lambda: "GET_DEFAULT_CACHE" in pykcmd.log)
            with kcm_as(pykcmd, OTHER) as kcm:
                kcm.destroy(b"%d" % OTHER)
            with kcm_as(pykcmd, USER) as kcm:
                kcm.destroy(b"%d" % USER)
                kcm.replace(b"%d:new" % USER, 0, ALICE, [tgt()])
            events = [json.loads(process.stdout.readline()) for _ in range(2)]
        finally:
            process.kill()
    assert {(each["event"], each["uid"], each["ccache"]) for each in events} == {
        ("destroyed", USER, f"KCM:{USER}"),
        ("created", USER, f"KCM:{USER}:new"),
    }


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_completion_offers_a_users_own_ccaches(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    """Tab after `pykcmctl show` finds them over the KCM socket."""
    fill(pykcmd)
    completed = subprocess.run(
        user_ctl.argv(),
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            "_PYKCMCTL_COMPLETE": "bash_complete",
            "COMP_LINE": f"pykcmctl --socket {user_ctl.control_path} show KCM:",
            **user_ctl.environment,
        },
        cwd="/",
    )
    assert completed.stdout.splitlines() == [f"plain,KCM:{USER}", f"plain,KCM:{USER}:second"]


def test_missing_kcm_server_has_its_exit_status(pykcmd: Pykcmd, user_ctl: UserCtl) -> None:
    """The message names the KCM socket."""
    user_ctl.krb5_conf.write_text("[libdefaults]\n    kcm_socket = /nonexistent/kcm\n")
    said = user_ctl.run("list")
    assert said.status == 3
    assert "/nonexistent/kcm: no KCM server answers" in said.errors
    said = user_ctl.run("--kcm-socket", "/etc/passwd", "list")
    assert said.status == 3
    assert said.errors.startswith("pykcmctl: /etc/passwd: is not a socket; set kcm_socket")
    assert user_ctl.run("--kcm-socket", str(pykcmd.socket_path), "list").status == 0


def test_doctor_runs_for_every_user(user_ctl: UserCtl) -> None:
    said = user_ctl.run("doctor", "--json")
    assert said.status in {0, 1}, said
    assert json.loads(said.output)


@pytest.fixture
def users_pykcmd(folder: Path) -> Iterator[Pykcmd]:
    """A running daemon that USER started, in USER's folder."""
    home = folder / "home"
    home.mkdir()
    daemon = Pykcmd(home)
    daemon.command = (sys.executable, "-c", _DAEMON_AS_USER, str(USER))
    for path in (home, daemon.config_path, daemon.log_path):
        os.chown(path, USER, USER)
    with watched(daemon), started(daemon):
        yield daemon


def test_a_users_own_daemon_accepts_their_control_commands(users_pykcmd: Pykcmd) -> None:
    """That user may make every request; other users may not, and see what KCM shows to them."""
    ctl = UserCtl(users_pykcmd)
    with kcm_as(users_pykcmd, OTHER) as kcm:
        kcm.replace(b"%d" % OTHER, 0, BOB, [tgt()])
    assert [each["uid"] for each in ctl.json("list")] == [OTHER]
    assert ctl.run("stats").status == 0
    assert ctl.run("reap").status == 0
    assert [each["uid"] for each in UserCtl(users_pykcmd, OTHER).json("list")] == [OTHER]
    assert UserCtl(users_pykcmd, OTHER).run("stats").status == 4
    assert ctl.json("destroy", f"KCM:{OTHER}", "--yes") == [{"uid": OTHER, "name": f"KCM:{OTHER}"}]
