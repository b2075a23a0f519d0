"""A host whose clock differs from the KDC's: every command works as with a ccache file.

The clients get the KDC offset from the ccache. The tests compare the results with those for a file.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import Code, KcmError
from pykcm.protocol.tag import Tag

from .clients import HeimdalClient, Listed, MitClient
from .conftest import USER, started
from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd, effective_uid
from .kdc import REALM, SYSTEM_PATH, Kdc, find_libfaketime, missing_programs

TGT = f"krbtgt/{REALM}"
ALICE = f"alice@{REALM}"
SERVICE = "host/server.pykcm.test"
OTHER_SERVICE = "HTTP/www.pykcm.test"
OWN = f"KCM:{USER}"
NAME = b"%d" % USER

HOUR, DAY = 3600, 86400
# In seconds: the largest difference between two times measured in one test.
ABOUT = 120

PYTHON = "/usr/bin/python3"


@pytest.fixture(
    scope="module", params=[3 * HOUR, -3 * HOUR, 40 * DAY], ids=["KDC +3h", "KDC -3h", "KDC +40d"]
)
def offset(request: pytest.FixtureRequest) -> int:
    """The number of seconds by which the KDC's clock is ahead."""
    ahead: int = request.param
    return ahead


@pytest.fixture(scope="module")
def kdc(offset: int) -> Iterator[Kdc]:
    """A KDC with another clock, in place of the session's."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no KDC here: {', '.join(missing)} missing")
    if find_libfaketime() is None:
        pytest.skip("libfaketime is missing")
    with Kdc(offset) as kdc:
        yield kdc


@pytest.fixture
def gss_context(folder: Path) -> Path:
    """The program, in a place where every user can read it."""
    if shutil.which(PYTHON) is None:
        pytest.skip(f"no {PYTHON}: others than root cannot run the one in use")
    return Path(shutil.copy(Path(__file__).with_name("gss_context.py"), folder))


def _own_folder(folder: Path) -> Path:
    """A folder that belongs to the user of the clients."""
    user_folder = folder / "user"
    user_folder.mkdir()
    os.chown(user_folder, USER, USER)
    return user_folder


def _context(mit: MitClient, kdc: Kdc, program: Path, ccache: str) -> str:
    """The client of a context that a service with the KDC's clock has accepted."""
    token = mit.ok(PYTHON, str(program), "initiate", "host@server.pykcm.test", ccache=ccache)
    accepted = subprocess.run(
        [PYTHON, str(program), "accept", token.strip()],
        env={
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "KRB5_CONFIG": str(mit.krb5_conf),
            "KRB5_KTNAME": str(mit.keytab),
            "KRB5RCACHENAME": "none:",
            **kdc.clock,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    return accepted.stdout + accepted.stderr


def _without_times(klist: str) -> list[str]:
    """The tickets and flags that `klist` prints, in order."""
    lines = [line for line in klist.splitlines() if line.endswith("@" + REALM) or "Flags" in line]
    words = [line.split() for line in lines]
    return [" ".join(word for word in line if not word[0].isdigit()) for line in words]


def _session(mit: MitClient, kdc: Kdc, program: Path, ccache: str) -> list[object]:
    """The output of a user's commands, all of which must succeed."""
    said: list[object] = []
    mit.kinit("alice", "-r", "3d", ccache=ccache)
    said += [mit.run("klist", "-s", ccache=ccache).code, mit.kvno(SERVICE, ccache=ccache)]
    said.append(_context(mit, kdc, program, ccache))
    said.append(mit.kvno("--cached-only", SERVICE, ccache=ccache))
    said.append(mit.run("kvno", "--cached-only", OTHER_SERVICE, ccache=ccache).code)
    said += [mit.ok("kinit", "-R", ccache=ccache), mit.kvno(OTHER_SERVICE, ccache=ccache)]
    said.append(_context(mit, kdc, program, ccache))
    return [*said, _without_times(mit.ok("klist", "-f", ccache=ccache))]


def test_commands_work_as_with_file(
    pykcmd: Pykcmd, mit: MitClient, kdc: Kdc, folder: Path, gss_context: Path, offset: int
) -> None:
    """kinit, klist -s, kvno, contexts and `kinit -R` do the same with KCM: as with FILE:."""
    with_file = _session(mit, kdc, gss_context, f"FILE:{_own_folder(folder)}/ccache")
    said = _session(mit, kdc, gss_context, "KCM:")
    assert said == with_file
    assert f"{ALICE}\n" in said
    with effective_uid(USER), KcmClient(pykcmd.socket_path) as kcm:
        assert abs(kcm.get_kdc_offset(NAME) - offset) < ABOUT
        with pytest.raises(KcmError) as caught:
            kcm.retrieve(NAME, 0, Tag())
    assert caught.value.code == Code.CC_NOSUPP


def test_ccache_is_used_after_restart(pykcmd: Pykcmd, mit: MitClient, kdc: Kdc, gss_context: Path) -> None:
    mit.kinit("alice", "-r", "3d")
    mit.kvno(SERVICE)
    pykcmd.restart()
    assert mit.kvno("--cached-only", SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    assert _context(mit, kdc, gss_context, "KCM:") == f"{ALICE}\n"
    assert mit.ok("kinit", "-R") == ""
    assert mit.kvno(OTHER_SERVICE) == [f"{OTHER_SERVICE}@{REALM}: kvno = 1"]


def test_import_keeps_the_offset(pykcmd: Pykcmd, mit: MitClient, folder: Path) -> None:
    """After an import from a file, or an export and import, the tickets work at once."""
    path = _own_folder(folder) / "ccache"
    mit.kinit("alice", "-r", "3d", ccache=f"FILE:{path}")
    control = Pykcmctl(pykcmd.control_path)
    control.ok("import", f"FILE:{path}")
    export = folder / "export"
    for _ in range(2):
        assert mit.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
        assert mit.ok("kinit", "-R") == ""
        control.ok("export", "--plain", "--force", str(export))
        assert mit.ok("kdestroy") == ""
        control.ok("import", str(export))


def test_valid_ccache_is_listed_and_kept(stopped_pykcmd: Pykcmd, mit: MitClient) -> None:
    """Its end is shown by this machine's clock, and it is neither expired nor reaped."""
    stopped_pykcmd.configure("expired_retention = 0\n")
    with started(stopped_pykcmd):
        mit.kinit("alice", "-l", "10h", "-r", "3d")
        control = Pykcmctl(stopped_pykcmd.control_path)
        (row,) = control.json("list")
        now = time.time()
        assert row["tgt_expires"] == pytest.approx(now + 10 * HOUR, abs=ABOUT)
        assert row["renew_till"] == pytest.approx(now + 3 * DAY, abs=ABOUT)
        assert control.json("list", "--expired") == []
        assert control.json("reap") == {"ccaches": 0}
        assert mit.kvno(SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]


def test_heimdals_clients_work_with_an_offset(
    pykcmd: Pykcmd, heimdal: HeimdalClient, mit: MitClient, offset: int
) -> None:
    """Heimdal's clients get service tickets, and MIT's clients use and renew the TGT of Heimdal's kinit.

    Heimdal's `kinit --renew` is not tested, because it does not ask a KCM server for the offset.
    """
    heimdal.ok("kinit", "--renewable", "--renewable-life=3d", "-k", "-t", str(heimdal.keytab), "alice")
    assert heimdal.run("klist", "--test").code == 0
    assert heimdal.ok("kgetcred", SERVICE) == ""
    assert heimdal.ok("kgetcred", SERVICE) == ""
    assert heimdal.ok("kgetcred", OTHER_SERVICE) == ""
    ccache = heimdal.klist().ccache
    assert heimdal.klist() == Listed(ccache, ALICE, [TGT, SERVICE, OTHER_SERVICE])
    assert mit.kvno("--cached-only", SERVICE) == [f"{SERVICE}@{REALM}: kvno = 1"]
    # Heimdal's kinit requests a renewable lifetime that ends in 3 days by its own clock.
    if offset < 3 * DAY:
        assert mit.ok("kinit", "-R") == ""
    assert heimdal.ok("kgetcred", SERVICE) == ""
    assert pykcmd.running
