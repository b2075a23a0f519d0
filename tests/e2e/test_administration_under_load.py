"""Every command of pykcmctl with a daemon whose users change their ccaches as fast as they can."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.cli.main import cli
from pykcm.client import KcmClient
from tests.builders import ALICE
from tests.disk.faults import Faults

from .conftest import OTHER, USER
from .control import Pykcmctl
from .crashes import Crashes
from .daemon import Pykcmd, effective_uid
from .following import Followed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may use the control socket")

# Ccaches that change all the time, and one of a user who does nothing.
NAMES = {b"%d:written%d" % (owner, index): owner for index, owner in enumerate((USER, OTHER, 0))}
STILL = 20003
SEED = 20261121


@pytest.fixture
def loaded(stopped_pykcmd: Pykcmd, faults_library: Path) -> Iterator[Crashes]:
    """A busy daemon; at the end, its users must have had no error and lost nothing."""
    faults = Faults(faults_library, stopped_pykcmd.state_dir, stopped_pykcmd.folder / "faults")
    crashes = Crashes(stopped_pykcmd, faults, NAMES, random.Random(SEED))
    crashes.start()
    with effective_uid(STILL), KcmClient(stopped_pykcmd.socket_path) as kcm:
        for name in (b"%d" % STILL, b"%d:second" % STILL):
            kcm.initialize(name, ALICE)
    writers = crashes.write()
    yield crashes
    stopped_pykcmd.kill()
    crashes.end(writers)
    crashes.start()
    crashes.check()
    assert not crashes.refusals
    assert crashes.acknowledged > 100


def test_every_command_works_under_load(loaded: Crashes, folder: Path) -> None:
    """Each command is complete, and the users' clients get no error because of it."""
    ctl = Pykcmctl(loaded.daemon.control_path)
    done = set()

    def ok(command: str, *arguments: str) -> str:
        done.add(command)
        return ctl.ok(command, *arguments)

    for command in ("watch", "trace"):
        with Followed(ctl, command, "--json") as followed:
            assert "time" in followed.json()
            assert followed.interrupt() == 0
        done.add(command)
    still = f"KCM:{STILL}"
    assert [each["name"] for each in json.loads(ok("list", "--json", "--uid", str(STILL)))] == [
        still,
        f"{still}:second",
    ]
    assert ok("list").count(still) == 2
    assert "alice@" in ok("show", still)
    ok("switch", "--uid", str(STILL), f"{still}:second")
    export = str(folder / "export")
    ok("export", "--plain", export)
    assert ok("destroy", "--yes", "--uid", str(STILL)).count("destroyed") == 2
    assert ok("import", "--uid", str(STILL), export).count("imported") == 2
    assert ok("migrate", "--from", "files", "--uid", str(STILL), "--dry-run") == ""
    ok("reap")
    assert json.loads(ok("stats", "--json"))["operations"]
    assert ok("metrics").endswith("# EOF\n")
    ok("backup", str(folder / "backup"))
    ok("rekey")
    ok("completion", "bash")
    # Its results depend on the machine; it must only complete.
    assert json.loads(ctl.run("doctor", "--json").output)
    done.add("doctor")
    # `store` and `setup` ask no daemon, and `renew` asks a KDC.
    assert done == set(cli.commands) - {"store", "setup", "renew"}
