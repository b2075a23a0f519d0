"""A temporary MIT KDC with one realm, in one folder, on a free port of 127.0.0.1.

k5test is not used, because it takes a fixed range of ports, the machine's host name, and one kadmin.local
for each principal. Debian's KDC has only the db2 backend: it issues S4U2Self and user-to-user tickets, but
no S4U2Proxy tickets.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pykcm.testing.clock import find_libfaketime
from pykcm.testing.folder import SYSTEM_PATH
from pykcm.testing.guarded import missing_programs as programs_missing
from tests.ports import free_port

__all__ = ["SYSTEM_PATH", "find_libfaketime"]

REALM = "PYKCM.TEST"
PASSWORDS = {"alice": "alice's password", "bob": "bob's password", "carol": "carol's password"}
SERVICES = ("host/server.pykcm.test", "HTTP/www.pykcm.test", "nfs/files.pykcm.test")
# It may request tickets for other users (S4U2Self), and its tickets are forwardable.
DELEGATE = "HTTP/gateway.pykcm.test"

TICKET_LIFETIME = "10h"
RENEWABLE_LIFETIME = "7d"

_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    ignore_acceptor_hostname = true
    forwardable = true
    {libdefaults}

[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}

[domain_realm]
    .pykcm.test = {realm}
"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = 127.0.0.1:{port}
    kdc_tcp_listen = 127.0.0.1:{port}

[realms]
    {realm} = {{
        database_module = db
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
        max_life = 24h
        max_renewable_life = 14d
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
        default_principal_flags = +preauth
    }}

[dbmodules]
    db = {{
        db_library = db2
        database_name = {folder}/principal
        disable_last_success = true
        disable_lockout = true
    }}

[logging]
    kdc = FILE:{folder}/kdc.log
    default = FILE:{folder}/kdc.log
"""


class Kdc:
    """The running KDC; every UID can read `folder`, and `keytab` has the keys of all principals.

    `clock_offset`: seconds by which its clock is ahead of this machine's; this needs libfaketime.
    """

    def __init__(self, clock_offset: int = 0, port: int | None = None) -> None:
        self.set_clock(clock_offset)
        # Other users may not enter the folder that TMPDIR names.
        self.folder = Path(tempfile.mkdtemp(prefix="pykcm-kdc-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.keytab = self.folder / "all.keytab"
        self.port = port or free_port()
        self._environment = {
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "KRB5_CONFIG": str(self.folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._create()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def stop(self) -> None:
        """Stop the KDC; start() starts it again with its principals."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def set_clock(self, offset: int) -> None:
        """Set the clock for the next start."""
        self.clock = other_clock(offset) if offset else {}

    def krb5_conf(self, *libdefaults: str, port: int | None = None) -> str:
        """A client's krb5.conf for this realm; `libdefaults` are further lines of that section.

        `port`: of a proxy of the KDC, instead of its own.
        """
        return _KRB5_CONF.format(realm=REALM, port=port or self.port, libdefaults="\n    ".join(libdefaults))

    def _create(self) -> None:
        (self.folder / "krb5.conf").write_text(self.krb5_conf())
        (self.folder / "kdc.conf").write_text(
            _KDC_CONF.format(realm=REALM, port=self.port, folder=self.folder)
        )
        self._run(["kdb5_util", "create", "-s", "-r", REALM, "-P", "master"])
        principals = [*PASSWORDS, *SERVICES, DELEGATE]
        queries = [
            f"modprinc -maxrenewlife {RENEWABLE_LIFETIME} krbtgt/{REALM}",
            *(f'addprinc -pw "{password}" {user}' for user, password in PASSWORDS.items()),
            *(f"addprinc -randkey {service}" for service in SERVICES),
            f"addprinc -randkey +requires_preauth +ok_to_auth_as_delegate +ok_as_delegate {DELEGATE}",
            # Not random, so that the keytab and the password give the same key.
            *(f"ktadd -norandkey -k {self.keytab} {principal}" for principal in principals),
        ]
        output = self.admin(*queries)
        if not self.keytab.exists():
            raise RuntimeError(f"the KDC's principals could not be made:\n{output}")
        self.keytab.chmod(0o644)

    def start(self) -> None:
        """Start the KDC, and wait until it listens."""
        process = subprocess.Popen(
            ["krb5kdc", "-n", "-r", REALM],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment | self.clock,
        )
        self._process = process
        assert process.stdout is not None
        said = []
        # It prints this when its sockets are bound; if the output ends before, the program has failed.
        for line in process.stdout:
            said.append(line)
            if "starting" in line:
                return
        raise RuntimeError(f"krb5kdc did not start (exit code {process.wait()}):\n{''.join(said)}")

    def admin(self, *queries: str) -> str:
        """Run queries of kadmin on the database; returns their output."""
        return self._run(["kadmin.local", "-r", REALM, "-p", f"admin@{REALM}"], "\n".join(queries) + "\n")

    def _run(self, command: Sequence[str], stdin: str = "") -> str:
        done = subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout


def other_clock(offset: int) -> dict[str, str]:
    """The environment of a process whose clock is this many seconds ahead; needs libfaketime."""
    library = find_libfaketime()
    assert library is not None
    return {"LD_PRELOAD": library, "FAKETIME": f"{offset:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def missing_programs() -> list[str]:
    """The programs of a KDC that are missing on this machine."""
    return programs_missing(("krb5kdc", "kdb5_util", "kadmin.local"))
