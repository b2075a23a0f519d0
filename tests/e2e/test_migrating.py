"""migrate and import KCM: from other KCM servers."""

import json
from collections.abc import Callable, Iterator

import pytest

from bench import peers
from pykcm.cli.migration import _uids_in_sssd

from .clients import MitClient
from .conftest import OTHER, USER, public_folder
from .control import Pykcmctl
from .daemon import Pykcmd
from .kdc import REALM

TGT = f"krbtgt/{REALM}"
HOST = "host/server.pykcm.test"

pytestmark = pytest.mark.usefixtures("several_uids")


@pytest.fixture(params=["heimdal", "sssd"])
def peer(request: pytest.FixtureRequest) -> Iterator[peers.Peer]:
    """Another KCM server, running."""
    if (reason := peers.obstacle(request.param)) is not None:
        pytest.skip(reason)
    with public_folder() as folder:
        server = peers.make(request.param, folder / "peer")
        with server.running():
            # Other users must be able to enter its folder in /run.
            server.socket_path.chmod(0o666)
            yield server


@pytest.fixture
def at_peer(
    peer: peers.Peer, pykcmd: Pykcmd, mit_as: Callable[[int], MitClient]
) -> Callable[[int], MitClient]:
    """MIT's clients of the other server."""

    def client_as(uid: int) -> MitClient:
        host_client = mit_as(uid)
        conf = peer.folder / "krb5.conf"
        conf.write_text(
            host_client.krb5_conf.read_text().replace(str(pykcmd.socket_path), str(peer.socket_path))
        )
        return MitClient(uid, peer.socket_path, conf, host_client.keytab, host_client.trace)

    return client_as


@pytest.fixture
def filled(peer: peers.Peer, at_peer: Callable[[int], MitClient]) -> peers.Peer:
    """USER has alice's and bob's ccaches, and bob's is the default; OTHER has carol's."""
    for user in ("alice", "bob"):
        at_peer(USER).kinit(user)
    at_peer(OTHER).kinit("carol")
    if peer.name == "sssd":  # Heimdal's server refuses what MIT's kvno stores
        at_peer(OTHER).kvno(HOST)
    assert at_peer(USER).klist().principal == f"bob@{REALM}"
    return peer


def test_migrate_imports_all_users(
    filled: peers.Peer,
    ctl: Pykcmctl,
    mit_as: Callable[[int], MitClient],
    at_peer: Callable[[int], MitClient],
) -> None:
    """Names, tickets and defaults are imported, and the tickets work; a second run changes nothing."""
    uids = () if filled.name == "heimdal" else ("--uid", str(USER), "--uid", str(OTHER), "--uid", "0")
    arguments = ("migrate", "--from", filled.name, *uids, "--source-socket", str(filled.socket_path))
    dry = json.loads(ctl.ok(*arguments, "--json", "--dry-run"))
    assert [each["result"] for each in dry] == ["imported"] * 3
    assert mit_as(USER).klist_all() == []
    done = json.loads(ctl.ok(*arguments, "--json"))
    assert sorted((each["result"], each["uid"], each["principal"]) for each in done) == [
        ("imported", USER, f"alice@{REALM}"),
        ("imported", USER, f"bob@{REALM}"),
        ("imported", OTHER, f"carol@{REALM}"),
    ]
    for uid in (USER, OTHER):
        assert mit_as(uid).klist() == at_peer(uid).klist()
        assert sorted(mit_as(uid).klist_all()) == sorted(at_peer(uid).klist_all())
    assert mit_as(OTHER).klist().tickets == ([TGT, HOST] if filled.name == "sssd" else [TGT])
    mit_as(USER).kvno(HOST)
    ctl.ok("destroy", "--yes", "--uid", str(USER))
    again = json.loads(ctl.ok(*arguments, "--json"))
    assert sorted(each["result"] for each in again) == ["imported", "imported", "unchanged"]


def test_import_of_one_user(filled: peers.Peer, ctl: Pykcmctl, mit_as: Callable[[int], MitClient]) -> None:
    """With --uid, KCM: imports only that user's ccaches."""
    ctl.ok("import", "--uid", str(OTHER), f"KCM:{filled.socket_path}")
    assert mit_as(OTHER).klist().principal == f"carol@{REALM}"
    assert mit_as(USER).klist_all() == []


@pytest.mark.parametrize("peer", ["sssd"], indirect=True)
def test_users_are_found_in_sssd_database(filled: peers.Peer) -> None:
    """Users with ccaches in sssd need no account on this host."""
    database = filled.folder / "sss" / "secrets" / "secrets.ldb"
    assert {USER, OTHER} <= _uids_in_sssd(str(database))


def test_missing_server_is_reported(ctl: Pykcmctl) -> None:
    """Nothing is imported."""
    for origin in ("sssd", "heimdal"):
        said = ctl.run("migrate", "--from", origin, "--source-socket", "/nonexistent")
        assert said.status == 1, said
        assert said.output == ""
        assert "No such file" in said.errors
        assert "--source-socket" in said.errors
