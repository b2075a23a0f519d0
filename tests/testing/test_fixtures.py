"""The fixtures, in projects of their own: what they set, put back and cost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pykcm.testing.guarded import missing_programs
from pykcm.testing.realm import PROGRAMS
from tests.testing.nested import run_pytest, wait_until_gone

needs_kdc = pytest.mark.skipif(bool(missing_programs(PROGRAMS)), reason="no KDC here")

# In seconds of CPU time: from the first fixture until both servers have answered.
_SESSION = 1.0

ENVIRONMENT = """
import os

NAMES = ("KRB5_CONFIG", "KRB5CCNAME", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME", "KRB5RCACHENAME", "KRB5RCACHEDIR")
BEFORE = {name: os.environ.get(name) for name in NAMES}

def own(krb5_realm):
    assert os.environ["KRB5CCNAME"] == f"FILE:{krb5_realm.folder}/ccache"

def test_realm_first(krb5_realm, kcm_server):
    assert os.environ["KRB5CCNAME"] == "KCM:"
    paths = f"{kcm_server.krb5_conf}:{krb5_realm.krb5_conf}"
    assert os.environ["KRB5_CONFIG"] == paths
    assert os.environ["KRB5_KTNAME"] == f"FILE:{krb5_realm.keytab}"

def test_server_first(kcm_server, request):
    assert os.environ["KRB5_CONFIG"] == str(kcm_server.krb5_conf)
    realm = request.getfixturevalue("krb5_realm")
    assert os.environ["KRB5_CONFIG"] == f"{kcm_server.krb5_conf}:{realm.krb5_conf}"
    assert os.environ["KRB5CCNAME"] == "KCM:"

def test_monkeypatch_first(monkeypatch, krb5_realm, kcm_server):
    monkeypatch.setenv("KRB5CCNAME", "MEMORY:x")
    monkeypatch.delenv("KRB5_KTNAME")

def test_monkeypatch_last(krb5_realm, monkeypatch):
    own(krb5_realm)
    monkeypatch.setenv("KRB5CCNAME", "MEMORY:x")

def test_realm_alone(krb5_realm):
    own(krb5_realm)

def test_nothing_is_left():
    assert {name: os.environ.get(name) for name in NAMES} == BEFORE
"""


@needs_kdc
@pytest.mark.parametrize("ccache", [None, "FILE:/nonexistent/of-the-developer"])
def test_variables_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ccache: str | None) -> None:
    """In any order of the fixtures, a test has their variables, and the next test has none of them."""
    if ccache is None:
        monkeypatch.delenv("KRB5CCNAME", raising=False)
    else:
        monkeypatch.setenv("KRB5CCNAME", ccache)
    outcome = run_pytest(tmp_path, ENVIRONMENT)
    assert (outcome.status, outcome.passed) == (0, 6), outcome.output


CHANGES = """
import subprocess
import pytest
from pykcm.testing import RealmError

def outcome(*command):
    return subprocess.run(command, capture_output=True, text=True)

def test_changes(krb5_realm, kcm_server):
    krb5_realm.add_user("carol")
    krb5_realm.add_service("HTTP/www.example.test")
    krb5_realm.write_keytab(krb5_realm.client_keytab, "carol")
    krb5_realm.admin("delprinc -force bob", "cpw -pw changed alice")
    krb5_realm.set_lives(60)
    krb5_realm.kinit("carol")
    with pytest.raises(RealmError):
        krb5_realm.kinit("alice")
    krb5_realm.stop()
    kcm_server.stop()

def test_put_back(krb5_realm, kcm_server):
    assert outcome("klist", "-A").stdout == ""
    assert "carol" not in krb5_realm.admin("listprincs")
    assert "HTTP/www" not in outcome("klist", "-k", krb5_realm.keytab).stdout
    assert not krb5_realm.client_keytab.exists()
    with pytest.raises(RealmError):
        krb5_realm.password("carol")
    krb5_realm.kinit("bob")
    krb5_realm.kinit("alice")
    assert "\\nMaximum ticket life: 0 days 10:00:00\\n" in krb5_realm.admin("getprinc krbtgt/EXAMPLE.TEST")
    outcome("kswitch", "-p", "bob")
    assert outcome("kvno", "HTTP/localhost").returncode == 0

def test_default_ccache_is_put_back(krb5_realm, kcm_server):
    krb5_realm.kinit("alice")
    assert f"Ticket cache: {kcm_server.ccache()}\\n" in outcome("klist").stdout

def test_ccache_in_a_file_is_put_back(krb5_realm):
    assert outcome("klist", "-s").returncode == 1
    krb5_realm.kinit("alice")

def test_again(krb5_realm):
    assert outcome("klist", "-s").returncode == 1
"""


@needs_kdc
def test_changes_are_put_back(tmp_path: Path) -> None:
    """The next test has none of the principals, passwords, keys, lives and ccaches, and both servers run."""
    outcome = run_pytest(tmp_path, CHANGES, "-p", "no:randomly")
    assert (outcome.status, outcome.passed) == (0, 5), outcome.output


PARALLEL = """
import os, subprocess
import pytest

@pytest.mark.parametrize("number", range(12))
def test_own_realm(krb5_realm, kcm_server, number):
    krb5_realm.add_user(f"user{number}")
    krb5_realm.kinit(f"user{number}")
    listed = subprocess.run(["klist", "-A"], capture_output=True, text=True).stdout
    assert listed.count("Ticket cache") == 1
    subprocess.run(["kvno", "HTTP/localhost"], check=True)
"""


@needs_kdc
def test_parallel_runs_do_not_meet(tmp_path: Path) -> None:
    """Under pytest-xdist, each process has a realm and a server of its own."""
    outcome = run_pytest(tmp_path, PARALLEL, "-n", "3", PYKCM_TESTING_REQUIRED="1")
    assert (outcome.status, outcome.passed) == (0, 12), outcome.output


ABSENT = """
import pytest
from pykcm.testing import guarded, Realm

@pytest.fixture(scope="session", autouse=True)
def no_kdc():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarded, "SYSTEM_PATH", "/nonexistent")
        patch.setenv("PATH", "/nonexistent")
        yield

def test_one(krb5_realm):
    raise AssertionError

def test_two(krb5_realm):
    raise AssertionError

def test_second_realm():
    with Realm("OTHER.TEST"):
        raise AssertionError

def test_server_needs_no_kdc(kcm_server):
    assert kcm_server.is_running
"""


def test_missing_kdc_skips_with_a_reason(tmp_path: Path) -> None:
    """Without a KDC the tests that need one are skipped, and the reason says what to install."""
    outcome = run_pytest(tmp_path, ABSENT)
    assert (outcome.status, outcome.passed, outcome.skipped) == (0, 1, 3), outcome.output
    assert "krb5kdc, kdb5_util, kadmin.local, kinit missing (install krb5-kdc," in outcome.output


def test_missing_kdc_fails_where_it_is_required(tmp_path: Path) -> None:
    """With PYKCM_TESTING_REQUIRED no test is skipped."""
    outcome = run_pytest(tmp_path, ABSENT, PYKCM_TESTING_REQUIRED="1")
    assert (outcome.status, outcome.passed, outcome.skipped) == (1, 1, 0), outcome.output
    assert "PYKCM_TESTING_REQUIRED is set" in outcome.output


MODULES = """
import sys

def test_modules():
    found = sorted(name for name in sys.modules if name.partition(".")[0] == "pykcm")
    assert found == ["pykcm", "pykcm.testing", "pykcm.testing.plugin"]
    assert not {"msgspec", "cbor2", "sqlcipher3", "click"} & sys.modules.keys()
"""


def test_plugin_imports_nothing_for_others(tmp_path: Path) -> None:
    """A project that uses no fixture has three small modules loaded, and can switch them off."""
    outcome = run_pytest(tmp_path, MODULES)
    assert (outcome.status, outcome.passed) == (0, 1), outcome.output
    off = run_pytest(tmp_path, "def test_off(krb5_realm): ...", "-p", "no:pykcm")
    assert "fixture 'krb5_realm' not found" in off.output


def test_fixtures_have_texts(tmp_path: Path) -> None:
    """`pytest --fixtures` teaches each fixture, with examples."""
    output = run_pytest(tmp_path, "", "--fixtures", "-v").output
    for text in (
        "krb5_realm -- ",
        'krb5_realm.kinit("alice")',
        "kcm_server -- ",
        "krb5_session_realm [session scope]",
        "kcm_session_server [session scope]",
        "PYKCM_TESTING_REQUIRED=1",
    ):
        assert text in output


FAILING = """
def test_fails(krb5_realm, kcm_server):
    krb5_realm.kinit("alice")
    assert False
"""


@needs_kdc
def test_failed_test_shows_the_logs(tmp_path: Path) -> None:
    """A failed test is shown with the KDC's requests and pykcmd's lines; other tests are not."""
    output = run_pytest(tmp_path, FAILING).output
    assert "the KDC's log" in output
    assert "alice@EXAMPLE.TEST for krbtgt/EXAMPLE.TEST@EXAMPLE.TEST" in output
    assert "AS_REQ" not in run_pytest(tmp_path, FAILING.replace("assert False", "")).output


KILLED = """
import os, pathlib, signal

def test_killed(krb5_realm, kcm_server):
    krb5_realm.kinit("alice")
    folders = f"{krb5_realm.folder}\\n{kcm_server.folder}\\n"
    pathlib.Path("folders").write_text(folders)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_kdc
def test_servers_end_with_a_killed_pytest(tmp_path: Path) -> None:
    """If pytest gets SIGKILL, the KDC and pykcmd end, and their folders with all keys are removed."""
    outcome = run_pytest(tmp_path, KILLED)
    assert outcome.status == -9, outcome.output
    folders = (tmp_path / "folders").read_text().split()
    assert len(folders) == 2
    for folder in folders:
        wait_until_gone(folder)


TIMED = """
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

def cpu_time():
    return sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))

BEGIN = cpu_time()

def test_session(krb5_realm, kcm_server):
    krb5_realm.kinit("alice")
    krb5_realm.stop()
    kcm_server.stop()
    with open("seconds", "w") as file:
        file.write(str(cpu_time() - BEGIN))
"""


@needs_kdc
def test_session_takes_less_than_a_second(tmp_path: Path) -> None:
    """A KDC with its principals, a pykcmd and a TGT take less than a second of CPU time together.

    They wait for nothing else. Other processes of the machine do not count in this way.
    """
    outcome = run_pytest(tmp_path, TIMED)
    assert outcome.status == 0, outcome.output
    assert float((tmp_path / "seconds").read_text()) < _SESSION


@needs_kdc
def test_unittest_can_use_the_fixtures(tmp_path: Path) -> None:
    """A TestCase gets them by usefixtures."""
    source = """
import os, unittest
import pytest

@pytest.mark.usefixtures("krb5_realm", "kcm_server")
class Test(unittest.TestCase):
    def test_variables(self):
        self.assertEqual(os.environ["KRB5CCNAME"], "KCM:")
"""
    outcome = run_pytest(tmp_path, source)
    assert (outcome.status, outcome.passed) == (0, 1), outcome.output


def test_unittest_skips_without_kdc(tmp_path: Path) -> None:
    """Without pytest, a missing KDC is a skip of unittest."""
    (tmp_path / "test_unit.py").write_text("""
import unittest
from unittest import mock
from pykcm.testing import Realm, guarded

class Test(unittest.TestCase):
    def test_realm(self):
        with mock.patch.object(guarded, "find_program", return_value=None), Realm():
            self.fail()
""")
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v"],
        cwd=tmp_path,
        env=os.environ | {"PYKCM_TESTING_REQUIRED": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "OK (skipped=1)" in done.stderr) == (0, True), done.stderr
