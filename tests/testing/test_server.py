"""A private KCM server: its options, restarts, and what clear() leaves."""

import errno
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.testing import KcmServer, NotStartedError
from pykcm.testing.guarded import Guarded
from tests.builders import ALICE, BOB, credential_bytes, refused
from tests.e2e.daemon import effective_uid
from tests.testing.nested import processes_in

NAME = b"%d" % os.geteuid()


def fill(server: KcmServer, *names: bytes) -> None:
    with KcmClient(server.socket_path) as kcm:
        for name in names:
            kcm.initialize(name, ALICE)
            kcm.store(name, credential_bytes())
        kcm.set_default_cache(names[-1])


def names_in(server: KcmServer) -> tuple[list[bytes], bytes]:
    """The names of the ccaches, and the default one."""
    with KcmClient(server.socket_path) as kcm:
        names = [kcm.get_cache_by_uuid(uuid) for uuid in kcm.get_cache_uuid_list()]
        return names, kcm.get_default_cache()


@pytest.mark.parametrize("restarts", [False, True])
def test_clear_leaves_nothing(kcm_server: KcmServer, restarts: bool) -> None:
    """After clear() the server is as a new one: without ccaches, and with the usual default ccache."""
    assert names_in(kcm_server) == ([], NAME)
    fill(kcm_server, NAME, NAME + b":a", NAME + b":b")
    assert names_in(kcm_server) == ([NAME, NAME + b":a", NAME + b":b"], NAME + b":b")
    if restarts:
        kcm_server.stop()
        assert not kcm_server.is_running
    kcm_server.clear()
    assert names_in(kcm_server) == ([], NAME)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
@pytest.mark.parametrize("store", ["memory", "sqlcipher"])
def test_clear_destroys_other_users_ccaches(store: str) -> None:
    """For root, clear() also destroys the ccaches of programs that tests started as other users."""
    with KcmServer(store=store) as server:
        with effective_uid(20001), KcmClient(server.socket_path) as kcm:
            kcm.initialize(b"20001:x", BOB)
            kcm.set_default_cache(b"20001:x")
        server.clear()
        with effective_uid(20001), KcmClient(server.socket_path) as kcm:
            assert kcm.get_cache_uuid_list() == []
            assert kcm.get_default_cache() == b"20001"


def test_options_are_those_of_the_configuration() -> None:
    """Options of pykcm.toml take effect, and a mistake is named."""
    with KcmServer(max_uid_ccaches=2, expired_retention="1h", tgt_renewal=False) as server:
        fill(server, NAME, NAME + b":a")
        with KcmClient(server.socket_path) as kcm, refused(errno.EDQUOT):
            kcm.initialize(NAME + b":b", ALICE)
    with pytest.raises(NotStartedError, match="max_ccache: unknown"), KcmServer(max_ccache=1):
        pass


@pytest.mark.parametrize(("store", "kept"), [("memory", []), ("sqlcipher", [NAME])])
def test_restart_keeps_what_the_store_keeps(store: str, kept: list[bytes]) -> None:
    """A restart loses the ccaches in memory, and keeps those in a database."""
    with KcmServer(store=store) as server:
        fill(server, NAME)
        server.stop()
        with pytest.raises(FileNotFoundError):
            KcmClient(server.socket_path)
        server.start()
        assert names_in(server)[0] == kept


def test_crashed_server_is_started_again(kcm_server: KcmServer) -> None:
    """After a crash, clear() gives the next test a running server."""
    (pid,) = (
        int(path.parent.name)
        for path in processes_in([f"--config\0{kcm_server.folder / 'pykcm.toml'}\0"])
        if path.with_name("comm").read_text() != "sh\n"
    )
    os.kill(pid, signal.SIGKILL)
    assert kcm_server._process is not None
    kcm_server._process._process.wait(60)
    assert not kcm_server.is_running
    kcm_server.clear()
    assert names_in(kcm_server) == ([], NAME)


def test_names_of_ccaches(kcm_server: KcmServer) -> None:
    """`ccache` gives names for KRB5CCNAME, under the user's own UID."""
    uid = os.geteuid()
    assert kcm_server.ccache() == f"KCM:{uid}"
    assert kcm_server.ccache("work") == f"KCM:{uid}:work"
    assert kcm_server.ccache("work", uid=1000) == "KCM:1000:work"


def test_server_knows_no_realm(kcm_server: KcmServer) -> None:
    """Without krb5_realm, the machine's krb5.conf does not count, and nothing asks a KDC."""
    assert os.environ["KRB5_CONFIG"] == str(kcm_server.krb5_conf)
    done = subprocess.run(["klist"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Credentials cache 'KCM:{os.geteuid()}' not found" in done.stderr


def test_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that cannot start removes its folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(NotStartedError), KcmServer(log_level="loud"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_services_variables_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a service of systemd, the server takes none of the service's sockets and credentials."""
    for name, value in (
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("NOTIFY_SOCKET", str(tmp_path / "notify")),
        ("CREDENTIALS_DIRECTORY", str(tmp_path)),
        ("RUNTIME_DIRECTORY", str(tmp_path / "pykcm-renew")),
        ("PYTHONHOME", "/nonexistent"),
    ):
        monkeypatch.setenv(name, value)
    with KcmServer() as server:
        assert names_in(server) == ([], NAME)
        assert "warning" not in server.log


def test_interrupted_start_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the tests wait for the daemon: it ends before its folder is removed."""
    launched: list[Guarded] = []

    def interrupt(process: Guarded, _: object) -> None:
        launched.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(Guarded, "wait_until", interrupt)
    server = KcmServer()
    with pytest.raises(KeyboardInterrupt):
        server.__enter__()
    assert not launched[0].is_running
    assert not server.folder.exists()
