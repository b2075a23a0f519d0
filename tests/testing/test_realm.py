"""A realm for tests: principals, keytabs, lives, the clock, trusts and outages, as clients see them."""

import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pykcm.testing import KcmServer, Realm, RealmError, activate, environment_of
from pykcm.testing.guarded import missing_programs
from pykcm.testing.realm import PROGRAMS
from pykcm.testing.realm_files import free_address, quoted

pytestmark = pytest.mark.skipif(bool(missing_programs(PROGRAMS)), reason="no KDC here")

ROOT = Path(__file__).parents[2]
TGT = "krbtgt/EXAMPLE.TEST@EXAMPLE.TEST"


def run(*command: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | (environment or {}),
    )


def output_of(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    done = run(*command, environment=environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def keys_in(keytab: Path) -> set[str]:
    lines = output_of("klist", "-k", keytab).splitlines()[3:]
    return {line.split()[1].partition("@")[0] for line in lines}


@pytest.fixture(scope="module")
def other_realm() -> Iterator[Realm]:
    with Realm("OTHER.TEST", users=["dora"], services=["HTTP/www.other.test"]) as realm:
        yield realm


def test_user_gets_a_ticket_by_password(krb5_realm: Realm, kcm_server: KcmServer) -> None:
    """Any program gets a ticket with the password, and the TGT is in the KCM server."""
    password = krb5_realm.password("alice")
    subprocess.run(["kinit", "alice"], input=f"{password}\n", text=True, check=True, capture_output=True)
    listed = output_of("klist")
    assert f"Ticket cache: {kcm_server.ccache()}\n" in listed
    assert TGT in listed


@pytest.mark.parametrize("password", ['with "quotes"', "ünïcode 🔑", "ends with \\", "a b  c", "-policy"])
def test_any_password_works(krb5_realm: Realm, password: str) -> None:
    """A password with quotes, spaces or letters beyond ASCII is the user's password."""
    krb5_realm.add_user("carol", password)
    krb5_realm.kinit("carol")
    assert krb5_realm.password("carol") == password


@pytest.mark.parametrize("text", ["two\nlines", "a\0b", "a\rb"])
def test_text_for_several_queries_is_refused(krb5_realm: Realm, text: str) -> None:
    """A line end in a name or password never becomes another query."""
    with pytest.raises(ValueError, match="one line"):
        krb5_realm.add_user("carol", text)
    with pytest.raises(ValueError, match="one line"):
        quoted(text)


def test_second_user_of_a_name_is_refused(krb5_realm: Realm) -> None:
    """A principal that exists is not changed, and the error has kadmin's words."""
    with pytest.raises(RealmError, match="already exists"):
        krb5_realm.add_user("alice", "another")
    krb5_realm.kinit("alice")


def test_keytab_has_the_named_principals_alone(krb5_realm: Realm, tmp_path: Path) -> None:
    """A keytab has the keys of its principals, and their passwords stay valid."""
    krb5_realm.add_service("HTTP/www.example.test")
    assert keys_in(krb5_realm.keytab) == {"HTTP/localhost", "host/localhost", "HTTP/www.example.test"}
    keytab = krb5_realm.write_keytab(tmp_path / "two keys", "alice", "HTTP/www.example.test")
    assert keys_in(keytab) == {"alice", "HTTP/www.example.test"}
    krb5_realm.kinit("alice", keytab=keytab)
    krb5_realm.kinit("alice")
    with pytest.raises(RealmError, match="no suitable keys"):
        krb5_realm.kinit("bob", keytab=keytab)
    with pytest.raises(RealmError, match="nobody"):
        krb5_realm.write_keytab(tmp_path / "none", "nobody")


def test_service_gets_a_ticket_with_its_key(krb5_realm: Realm) -> None:
    """For a service, kinit uses the realm's keytab."""
    krb5_realm.kinit("HTTP/localhost")
    assert "Default principal: HTTP/localhost@EXAMPLE.TEST" in output_of("klist")


def test_clients_find_keys_in_the_client_keytab(krb5_realm: Realm) -> None:
    """A program that gets tickets by itself finds the keys in `client_keytab`."""
    krb5_realm.write_keytab(krb5_realm.client_keytab, "bob")
    output_of("kinit", "-k", "-i", "bob")


@pytest.mark.parametrize("life", [60, 60.0, timedelta(minutes=1)])
def test_lives_of_tickets_are_adjustable(krb5_realm: Realm, life: float | timedelta) -> None:
    """TGTs that are issued afterwards have the new life, and can be renewed for the other one."""
    krb5_realm.set_lives(ticket=life, renewable=3600)
    krb5_realm.kinit("alice", "-r", "1d")
    printed = output_of(
        sys.executable, "-c", TIMES, environment={"PYTHONPATH": str(ROOT), **krb5_realm.variables}
    )
    lifetime, renewable = map(int, printed.split())
    assert lifetime == 60
    assert renewable == 3600


TIMES = """
import os
from pykcm.protocol.ccache_file import parse_ccache_file
path = os.environ["KRB5CCNAME"].removeprefix("FILE:")
ccache = parse_ccache_file(open(path, "rb").read())
from pykcm.protocol.credential import parse_credential
(times,) = [
    each.times for each in map(parse_credential, ccache.credentials) if each.server.components[0] == b"krbtgt"
]
print(times.endtime - times.authtime, times.renew_till - times.authtime)
"""


@pytest.mark.usefixtures("libfaketime")
@pytest.mark.parametrize("ccache", ["KCM:", "FILE:"])
def test_tickets_of_the_past_have_expired(
    krb5_realm: Realm, kcm_server: KcmServer, tmp_path: Path, ccache: str
) -> None:
    """A ticket that is got in the past has expired for this machine; a new one has not."""
    name = kcm_server.ccache("old") if ccache == "KCM:" else f"FILE:{tmp_path}/old"
    krb5_realm.set_clock(timedelta(days=-1))
    krb5_realm.kinit("alice", ccache=name)
    assert run("klist", "-s", "-c", name).returncode == 1
    assert "Ticket expired" in run("kvno", "-c", name, "HTTP/localhost").stdout
    krb5_realm.set_clock(0)
    krb5_realm.kinit("alice", ccache=name)
    output_of("kvno", "-c", name, "HTTP/localhost")


def test_stopped_kdc_cannot_be_reached(krb5_realm: Realm) -> None:
    """After stop() clients fail at once; after start() the same principals are there."""
    krb5_realm.kinit("alice")
    krb5_realm.stop()
    assert not krb5_realm.is_running
    assert "Cannot contact any KDC" in run("kvno", "HTTP/localhost").stdout
    krb5_realm.start()
    krb5_realm.start()
    output_of("kvno", "HTTP/localhost")


def test_realms_trust_each_other(krb5_realm: Realm, other_realm: Realm) -> None:
    """After trust(), users of each realm get tickets for services of the other one; then it is put back."""
    with other_realm.restored():
        krb5_realm.trust(other_realm)
        krb5_realm.kinit("alice")
        output_of("kvno", "HTTP/www.other.test@OTHER.TEST")
        other_realm.kinit("dora")
        output_of("kvno", "HTTP/localhost@EXAMPLE.TEST", environment=other_realm.environment | in_ccache())
    krb5_realm.kinit("alice")
    assert run("kvno", "HTTP/www.other.test@OTHER.TEST", environment=other_realm.environment).returncode == 1


def in_ccache() -> dict[str, str]:
    return {"KRB5CCNAME": os.environ["KRB5CCNAME"]}


def test_two_realms_without_trust(krb5_realm: Realm, other_realm: Realm, kcm_server: KcmServer) -> None:
    """Users of two realms have their tickets in one collection."""
    krb5_realm.kinit("alice")
    other_realm.kinit("dora")
    listed = output_of("klist", "-A")
    assert "alice@EXAMPLE.TEST" in listed
    assert "dora@OTHER.TEST" in listed


def test_default_realm_is_the_first(krb5_realm: Realm, other_realm: Realm) -> None:
    """A block with both realms has the first one as default, and puts the variables back."""
    before = dict(os.environ)
    with activate(other_realm, krb5_realm):
        subprocess.run(["kinit", "dora"], input=f"{other_realm.password('dora')}\n", text=True, check=True)
        krb5_realm.kinit("alice")
    assert dict(os.environ) == before


def test_variables_are_put_back_after_an_error(other_realm: Realm) -> None:
    """An exception in the block leaves no variable of the realm."""
    before = dict(os.environ)
    with pytest.raises(KeyError), activate(other_realm):
        raise KeyError(os.environ["KRB5_CONFIG"])
    assert dict(os.environ) == before


def test_child_gets_its_own_environment(other_realm: Realm) -> None:
    """`environment` is enough for one process, and this process keeps its variables."""
    before = dict(os.environ)
    other_realm.kinit("dora")
    assert "dora@OTHER.TEST" in output_of("klist", environment=other_realm.environment)
    assert dict(os.environ) == before


def test_kinit_without_a_block_leaves_the_developers_ccache(
    other_realm: Realm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Outside of fixtures and blocks, kinit writes to the realm's own ccache."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/developers")
    other_realm.kinit("dora")
    assert not (tmp_path / "developers").exists()


def test_taken_port_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process has taken the port, the realm gets another one."""
    with socket.socket() as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        first = free_address()
        host, _, port = first.partition(":")
        taken.bind((host, int(port)))
        taken.listen()
        datagram.bind((host, int(port)))
        addresses = [first, free_address()]
        monkeypatch.setattr("pykcm.testing.realm.free_address", lambda: addresses.pop(0))
        with Realm() as realm:
            realm.kinit("alice")
        assert addresses == []


def test_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A realm that cannot start says why, and removes its folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RealmError, match="Improper format"), Realm(libdefaults={"bad": "x\n[broken"}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_long_temporary_folder_is_avoided(monkeypatch: pytest.MonkeyPatch, long_path: Path) -> None:
    """With a TMPDIR that sockets and KRB5_CONFIG cannot have, everything is below /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", str(long_path))
    with Realm() as realm, KcmServer() as server, activate(realm, server):
        assert realm.folder.parent == server.folder.parent == Path("/tmp")
        realm.kinit("alice")
        output_of("klist", "-s")
    assert not realm.folder.exists()
    assert not server.folder.exists()


def test_libdefaults_are_in_krb5_conf(tmp_path: Path) -> None:
    """Further options of krb5.conf reach the clients."""
    with Realm(libdefaults={"default_ccache_name": f"FILE:{tmp_path}/chosen"}) as realm:
        environment = {**os.environ, **environment_of(realm)}
        del environment["KRB5CCNAME"]
        done = subprocess.run(["klist"], env=environment, capture_output=True, text=True, check=False)
        assert f"{tmp_path}/chosen" in done.stderr


async def test_child_processes_of_asyncio_use_the_realm(krb5_realm: Realm, kcm_server: KcmServer) -> None:
    """In an async test, child processes have the variables as well."""
    import asyncio

    await asyncio.to_thread(krb5_realm.kinit, "alice")
    process = await asyncio.create_subprocess_exec("kvno", "HTTP/localhost", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert b"kvno = " in output


WITHOUT_ROOT = """
import os, subprocess
from pykcm.testing import KcmServer, Realm, activate
with Realm() as realm, KcmServer() as server, activate(realm, server):
    assert realm.folder.stat().st_mode & 0o777 == 0o700
    realm.kinit("alice")
    subprocess.run(["kvno", "HTTP/localhost"], check=True)
    subprocess.run(["klist"], check=True)
    server.clear()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are without root already")
def test_root_is_not_needed(tmp_path: Path) -> None:
    """An ordinary user without an account gets a realm, a server and tickets."""
    interpreter = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(interpreter).exists():
        pytest.skip(f"no {interpreter}: others than root cannot run the one in use")
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [interpreter, "-c", WITHOUT_ROOT],
        user=20001,
        group=20001,
        extra_groups=[],
        cwd="/",
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "Ticket cache: KCM:20001\n" in done.stdout
