"""How hosts authenticate to the database: passwords, TLS, and Kerberos tickets in the daemon's memory."""

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pykcm.config import load_config
from pykcm.store.interface import StoreUnusableError
from pykcm.store.postgresql.credentials import admin_string, connection_string
from tests.e2e.clients import MitClient
from tests.e2e.conftest import USER, client_files, public_folder, watched
from tests.e2e.kdc import REALM, Kdc
from tests.e2e.waiting import wait_until

from .conftest import server_folder
from .hosts import KEY, Host
from .servers import DATABASE, ROLE, Server

SECRET = "the database's s3cret"
NAME = "server.pykcm.test"

# The administrator uses the Unix socket, hosts use TCP.
_ADMIN = "local all admin trust\n"


class SecureServer(Server):
    """A server whose TCP clients authenticate as this line of pg_hba.conf says."""

    def __init__(self, folder: Path, hba: str, *settings: str, ident: str = "") -> None:
        super().__init__(folder)
        (folder / "data/pg_hba.conf").write_text(f"{_ADMIN}{hba}\n")
        (folder / "data/pg_ident.conf").write_text(ident)
        self._configure("".join(f"{line}\n" for line in settings))

    def by_name(self, *more: str, name: str = NAME) -> str:
        """A host's connection string."""
        return " ".join(
            (f"host={name} hostaddr=127.0.0.1 port={self.port} user={ROLE} dbname={DATABASE}", *more)
        )


MakeServer = Callable[..., SecureServer]


@pytest.fixture
def make_server(stack: ExitStack) -> MakeServer:
    """Starts a server with the schema."""

    def make(hba: str, *settings: str, ident: str = "", certificate: str | None = None) -> SecureServer:
        server = SecureServer(stack.enter_context(server_folder()) / "server", hba, *settings, ident=ident)
        stack.callback(server.end)
        if certificate is not None:
            make_certificates(server.folder, certificate)
        server.start()
        server.make_database(KEY)
        server.query(f"ALTER ROLE {ROLE} PASSWORD '{SECRET.replace(chr(39), chr(39) * 2)}'")
        return server

    return make


def make_certificates(folder: Path, name: str) -> None:
    """Make `ca.pem`, and a certificate of it for a server with this name."""
    commands = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout server.key -out server.csr",
        "x509 -req -days 2 -CA ca.pem -CAkey ca.key -CAcreateserial -in server.csr -out server.pem",
    ]
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    owner = folder.stat()
    for file in ("server.key", "server.pem"):
        os.chown(folder / file, owner.st_uid, owner.st_gid)
    (folder / "ca.pem").chmod(0o644)


@pytest.fixture
def folder(stack: ExitStack) -> Path:
    """The folder of the hosts."""
    return stack.enter_context(public_folder())


def pgpass(folder: Path) -> Path:
    """A folder of systemd credentials with the password; the mode is systemd's with an ACL."""
    credentials = folder / "credentials"
    credentials.mkdir()
    escaped = SECRET.replace("\\", "\\\\").replace(":", "\\:")
    (credentials / "pykcm.pgpass").write_text(f"*:*:{DATABASE}:{ROLE}:{escaped}\n")
    (credentials / "pykcm.pgpass").chmod(0o440)
    return credentials


def kinit_works(host: Host, kdc: Kdc) -> None:
    """A client stores a ticket and sees it."""
    krb5_conf, trace = client_files(kdc, host.folder)
    client = MitClient(USER, host.socket_path, krb5_conf, kdc.keytab, trace)
    client.kinit("alice")
    assert f"alice@{REALM}" in client.klist()


def test_password_is_a_systemd_credential(
    make_server: MakeServer, folder: Path, stack: ExitStack, kdc: Kdc
) -> None:
    """The daemon authenticates with pykcm.pgpass; the password is in no log and in no argument."""
    server = make_server("host all all 127.0.0.1/32 scram-sha-256")
    host = stack.enter_context(watched(Host(folder / "host", server.by_name())))
    host.start("--log-level", "debug", environment={"CREDENTIALS_DIRECTORY": str(pgpass(folder))})
    kinit_works(host, kdc)
    for place in ("cmdline", "environ"):
        assert SECRET.encode() not in Path(f"/proc/{host.pid}/{place}").read_bytes()
    assert "away" not in host.log
    assert SECRET not in host.log
    assert host.stop() == 0


def test_wrong_password_is_an_error_without_it(make_server: MakeServer, folder: Path) -> None:
    """A password that the server refuses is named as such, and not shown."""
    server = make_server("host all all 127.0.0.1/32 scram-sha-256")
    host = Host(folder / "host", server.by_name("password=wr0ng"))
    status, said = host.check()
    assert status == 1
    assert "password authentication failed" in said
    assert "wr0ng" not in said


@pytest.mark.parametrize(
    "conninfo", [f"host=db password={SECRET}", "postgresql://u:s3cret@[/x", "password=s3cret s3cret=1"]
)
def test_unreadable_connection_string_is_not_shown(conninfo: str, tmp_path: Path) -> None:
    """Libpq's own message quotes parts of the string, of which one may be the password."""
    file = tmp_path / "pykcm.toml"
    file.write_text(f'store = "postgresql"\npostgresql = "{conninfo}"\n')
    with pytest.raises(StoreUnusableError) as refused:
        connection_string(load_config(file))
    assert "option postgresql: libpq cannot read" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_password_on_the_command_line_is_refused() -> None:
    """`--admin` takes no password, which `ps` would show."""
    with pytest.raises(StoreUnusableError, match="PGPASSWORD") as refused:
        admin_string("host=db user=postgres password=s3cret")
    assert "s3cret" not in str(refused.value)


def test_certificate_is_verified(make_server: MakeServer, folder: Path, stack: ExitStack, kdc: Kdc) -> None:
    """With sslmode=verify-full a server is used by the name of its certificate, and by no other one."""
    server = make_server(
        "hostssl all all 127.0.0.1/32 scram-sha-256",
        *("ssl = on", "ssl_cert_file = '../server.pem'", "ssl_key_file = '../server.key'"),
        certificate=NAME,
    )
    (folder / "ca.pem").write_bytes((server.folder / "ca.pem").read_bytes())
    tls = f"sslmode=verify-full sslrootcert={folder / 'ca.pem'}"
    environment = {"CREDENTIALS_DIRECTORY": str(pgpass(folder))}

    host = stack.enter_context(watched(Host(folder / "host", server.by_name(tls))))
    host.start(environment=environment)
    kinit_works(host, kdc)
    assert server.query(
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'pykcm'"
    ) == [(True,)]
    assert host.stop() == 0

    other = Host(folder / "other", server.by_name(tls, name="other.pykcm.test"))
    status, said = other.check()
    assert status == 1
    assert f'server certificate for "{NAME}" does not match host name "other.pykcm.test"' in said

    unknown = Host(folder / "unknown", server.by_name("sslmode=verify-full sslrootcert=system"))
    status, said = unknown.check()
    assert status == 1
    assert "certificate verify failed" in said


@pytest.fixture
def kerberized(make_server: MakeServer, kdc: Kdc) -> SecureServer:
    """A server that accepts Kerberos alone, and alice's tickets for the hosts' role."""
    return make_server(
        "host all all 127.0.0.1/32 gss include_realm=1 map=hosts",
        f"krb_server_keyfile = '{kdc.keytab}'",
        ident=f"hosts alice@{REALM} {ROLE}\n",
    )


def krb5_environment(kdc: Kdc, host: Host, *libdefaults: str) -> dict[str, str]:
    """As on a host whose users have KCM: as their default, which this daemon serves."""
    file = host.folder / "host-krb5.conf"
    file.write_text(
        kdc.krb5_conf("default_ccache_name = KCM:", f"kcm_socket = {host.socket_path}", *libdefaults)
    )
    return {"KRB5_CONFIG": str(file)}


def test_kerberos_tickets_are_of_the_client_keytab_and_in_memory(
    kerberized: SecureServer, folder: Path, stack: ExitStack, kdc: Kdc
) -> None:
    """The daemon gets its own tickets, stores them nowhere, and gets new ones when they have ended."""
    options = f'client_keytab = "{kdc.keytab}"'
    host = stack.enter_context(
        watched(Host(folder / "host", kerberized.by_name("krbsrvname=host"), options=options))
    )
    host.start(environment=krb5_environment(kdc, host, "ticket_lifetime = 2s"))
    kinit_works(host, kdc)
    rows = kerberized.query(
        "SELECT DISTINCT gss_authenticated, principal FROM pg_stat_gssapi JOIN pg_stat_activity USING (pid)"
        " WHERE usename = 'pykcm'"
    )
    assert rows == [(True, f"alice@{REALM}")]
    assert kerberized.query("SELECT count(DISTINCT uid) FROM pykcm.collections", DATABASE) == [(1,)]

    def requests() -> int:
        return (kdc.folder / "kdc.log").read_text().count("AS_REQ")

    before = requests()

    def new_ticket() -> bool:
        kerberized.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pykcm'")
        kinit_list(host, kdc)
        return requests() > before

    wait_until(new_ticket)
    assert host.stop() == 0


def kinit_list(host: Host, kdc: Kdc) -> None:
    """A client reads its ccaches from the database."""
    krb5_conf, trace = client_files(kdc, host.folder)
    client = MitClient(USER, host.socket_path, krb5_conf, kdc.keytab, trace)
    assert f"alice@{REALM}" in client.klist()


def test_daemon_never_asks_itself_for_tickets(
    make_server: MakeServer, folder: Path, stack: ExitStack, kdc: Kdc
) -> None:
    """Libpq looks for tickets before each connection over TCP: never in this daemon's own ccaches."""
    server = make_server("host all all 127.0.0.1/32 trust")
    host = stack.enter_context(watched(Host(folder / "host", server.by_name("gssencmode=prefer"))))
    host.start(environment=krb5_environment(kdc, host))
    kinit_works(host, kdc)
    assert host.stop() == 0


def test_missing_client_keytab_is_named(kerberized: SecureServer, folder: Path) -> None:
    """The daemon does not start without its keytab, and says which file it is."""
    options = f'client_keytab = "{folder}/none.keytab"'
    host = Host(folder / "host", kerberized.by_name("krbsrvname=host"), options=options)
    assert (
        f"option client_keytab: {folder}/none.keytab cannot be read: No such file" in host.refusal().message
    )
