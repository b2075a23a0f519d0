"""The commands of docs/shared-store.md lead from an empty PostgreSQL to two hosts."""

import os
import re
import subprocess
import sysconfig
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.clients import MitClient
from tests.e2e.conftest import USER, client_files, public_folder, started, watched
from tests.e2e.daemon import Pykcmd
from tests.e2e.kdc import REALM, Kdc
from tests.store.postgresql.server import bin_folder
from tests.vm.readme import commands_of

from .conftest import server_folder
from .test_authentication import SecureServer, make_certificates

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "shared-store.md"
DATABASE_SERVER = "db.example.com"

# Programs for other machines. Those of the database's server run in its folder.
_STAND_INS = {
    "ssh": 'shift; exec "$@"',
    "scp": 'exec cp -pr "$FIRST_HOST/etc/pykcm" "$3"',
    # The user pykcm does not exist here, and systemd does not run.
    "chown": 'test "$1" = pykcm: && shift && exec stat "$@"',
    "systemctl": "",
}


class Machine:
    """A host whose /etc is in a folder of its own."""

    def __init__(self, folder: Path, server: SecureServer) -> None:
        folder.mkdir(mode=0o755)
        self.folder = folder
        (folder / "etc/pykcm").mkdir(parents=True)
        self.config = folder / "etc/pykcm/pykcm.toml"
        self._server = server

    def run(self, line: str, programs: Path, first: "Machine") -> None:
        """Run a line of the document."""
        line = line.replace("/usr/share/doc/pykcm-postgresql/examples/", f"{ROOT}/systemd/pykcm.service.d/")
        line = re.sub(r"(?<=[ :>=\"])/etc\b", f"{self.folder}/etc", line)
        line = re.sub(
            rf"host={re.escape(DATABASE_SERVER)}",
            f"host={DATABASE_SERVER} hostaddr=127.0.0.1 port={self._server.port}",
            line,
        )
        line = re.sub(r"(pykcmctl store \w+)", rf"\1 --config {self.config}", line)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            env={
                "PATH": f"{programs}:{sysconfig.get_path('scripts')}:{bin_folder()}:{os.environ['PATH']}",
                "PGHOST": str(self._server.folder),
                "PGPORT": str(self._server.port),
                "PGUSER": "admin",
                "FIRST_HOST": str(first.folder),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"


def test_two_hosts_in_fifteen_lines(stack: ExitStack, kdc: Kdc) -> None:
    """The document's lines are run as they are; then a kinit on one host is seen on the other."""
    blocks = [block.splitlines() for block in commands_of(DOCUMENT, "Setting it up")]
    for_database, for_first, for_second, for_both = ([*filter(None, block)] for block in blocks)
    assert sum(map(len, (for_database, for_first, for_second, for_both))) == 15

    server = SecureServer(
        stack.enter_context(server_folder()) / "server",
        "local all pykcm reject",
        *("ssl = on", "ssl_cert_file = '../server.pem'", "ssl_key_file = '../server.key'"),
    )
    stack.callback(server.end)
    make_certificates(server.folder, DATABASE_SERVER)
    server.start()
    server.query("CREATE DATABASE admin")

    folder = stack.enter_context(public_folder())
    programs = folder / "programs"
    programs.mkdir()
    for name, script in _STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    first, second = (Machine(folder / name, server) for name in ("first", "second"))
    first.config.touch()
    (first.folder / "etc/pykcm/ca.pem").write_bytes((server.folder / "ca.pem").read_bytes())

    for line in [*for_database, *for_first]:
        first.run(line, programs, first)
    for line in for_second:
        second.run(line, programs, first)
    clients = []
    for machine in (first, second):
        for line in for_both:
            machine.run(line, programs, first)
        assert (machine.folder / "etc/systemd/system/pykcm.service.d/postgresql.conf").exists()
        daemon_folder = machine.folder / "daemon"
        daemon_folder.mkdir(mode=0o755)
        daemon = Pykcmd(daemon_folder, store="postgresql")
        daemon.config_path = machine.config
        stack.enter_context(started(stack.enter_context(watched(daemon))))
        krb5_conf, trace = client_files(kdc, daemon_folder)
        clients.append(MitClient(USER, daemon.socket_path, krb5_conf, kdc.keytab, trace))
    here, there = clients
    here.kinit("alice")
    assert f"alice@{REALM}" in there.klist()
