"""A realm for tests: an MIT KDC with a database of its own, on an address of this machine alone."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pykcm.testing.clock import faketime, remove_clock
from pykcm.testing.environment import environment_for, environment_of
from pykcm.testing.folder import SYSTEM_PATH
from pykcm.testing.guarded import (
    Guarded,
    NotStartedError,
    ThrowAway,
    find_program,
    missing_programs,
    report_missing,
)
from pykcm.testing.realm_files import free_address, kdc_conf, krb5_conf, quoted

PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
PACKAGES = "krb5-kdc, krb5-admin-server and krb5-user on Debian; krb5-server and krb5-workstation on Fedora"

# In seconds. A command of a loaded machine never takes so long.
_PATIENCE = 60.0

# The port of another process may be taken between the choice and the start.
_ATTEMPTS = 5

Seconds = float | timedelta


class RealmError(Exception):
    """A command of the realm failed; the message has its output."""


class Realm(ThrowAway):
    """A KDC for one realm, with principals and keytabs, without root.

    It begins with `users` (see `password`) and `services`, whose keys are in `keytab`. `ticket_life` and
    `renewable_life` are in seconds. `libdefaults` are further options of that section of krb5.conf.
    Raises KerberosMissingError, for which pytest and unittest skip a test, if this machine has no KDC.
    """

    takes_precedence = False

    def __init__(
        self,
        name: str = "EXAMPLE.TEST",
        *,
        users: Sequence[str] = ("alice", "bob"),
        services: Sequence[str] = ("HTTP/localhost", "host/localhost"),
        ticket_life: Seconds = 10 * 3600,
        renewable_life: Seconds = 7 * 86400,
        libdefaults: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        missing = missing_programs(PROGRAMS)
        if missing:
            report_missing(f"no Kerberos realm for tests: {', '.join(missing)} missing (install {PACKAGES})")
        self.name = name
        self.clock_offset = 0.0
        super().__init__("kdc.log")
        self.keytab = self.folder / "services.keytab"
        self.client_keytab = self.folder / "client.keytab"
        self._database = self.folder / "database"
        self._libdefaults = libdefaults
        self._others: list[Realm] = []
        self._passwords: dict[str, str] = {}
        self._users = users
        self._services = services
        self._lives = (ticket_life, renewable_life)
        self._is_changed = False
        self.address = free_address()

    def _enter(self) -> None:
        self._create()
        self._start_anywhere()

    def _create(self) -> None:
        self._database.mkdir()
        self._write_files()
        self._run("kdb5_util", "create", "-s", "-r", self.name, "-P", "master")
        self._passwords = {self.principal(user): f"password of {user}" for user in self._users}
        services = [self.principal(each) for each in self._services]
        # One run of kadmin.local: each takes 20 ms.
        added = [
            *(f"addprinc -pw {quoted(each)} {quoted(name)}" for name, each in self._passwords.items()),
            *(f"addprinc -randkey {quoted(name)}" for name in services),
        ]
        lives = self._query_for_lives(*self._lives)
        output = self.admin(*added, *self._queries_for_keytab(self.keytab, services), lives)
        self._check_added(output, added)
        self._check_exported(output, self.keytab, services)
        self._check_lives(output)

    def _write_files(self) -> None:
        realms = {each.name: each.address for each in (self, *self._others)}
        self.krb5_conf.write_text(krb5_conf(self.name, realms, self.folder, self._libdefaults))
        (self.folder / "kdc.conf").write_text(kdc_conf(self.name, self.address, self.folder))

    # For clients

    @property
    def variables(self) -> Mapping[str, str]:
        """Variables besides KRB5_CONFIG. They hide the developer's keytabs, ccaches and replay cache."""
        return {
            "KRB5CCNAME": f"FILE:{self.folder}/ccache",
            "KRB5_KTNAME": f"FILE:{self.keytab}",
            "KRB5_CLIENT_KTNAME": f"FILE:{self.client_keytab}",
            "KRB5RCACHENAME": "dfl:",
            "KRB5RCACHEDIR": str(self.folder),
            "GSS_USE_PROXY": "no",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a child process uses this realm, and a ccache in a file."""
        return environment_of(self)

    def principal(self, name: str) -> str:
        """Return the name with the realm: `alice@EXAMPLE.TEST` for `alice`."""
        return name if "@" in name else f"{name}@{self.name}"

    def password(self, user: str) -> str:
        """Return the password of a user of this realm."""
        try:
            return self._passwords[self.principal(user)]
        except KeyError:
            raise RealmError(f"{self.principal(user)} is no user that this realm has been given") from None

    # Principals

    def add_user(self, name: str, password: str | None = None, *options: str) -> str:
        """Add a principal with a password, and return its full name.

        `options` are those of kadmin's addprinc: `realm.add_user("carol", None, "-maxlife", "1 minute")`.
        """
        principal = self.principal(name)
        password = password or f"password of {name}"
        self._add([f"addprinc -pw {quoted(password)} {' '.join(map(quoted, options))} {quoted(principal)}"])
        self._passwords[principal] = password
        return principal

    def add_service(self, name: str, *options: str) -> str:
        """Add a principal with a random key, also to `keytab`, and return its full name.

        `name` is such as `HTTP/www.example.test`. The option `+ok_as_delegate` permits delegation to it.
        """
        principal = self.principal(name)
        self._add([f"addprinc -randkey {' '.join(map(quoted, options))} {quoted(principal)}"])
        self._export(self.keytab, [principal])
        return principal

    def write_keytab(self, path: str | os.PathLike[str], *principals: str) -> Path:
        """Write the keys of these principals alone to a keytab, and return its path.

        Their keys and passwords stay. In `client_keytab`, GSSAPI finds keys with which it gets tickets.
        """
        path = Path(path).absolute()
        self._export(path, principals)
        return path

    def admin(self, *queries: str) -> str:
        """Run queries of kadmin.local, and return their output: `realm.admin("modprinc +disallow_svr bob")`.

        kadmin.local goes on after a query that fails. One that would ask needs -force.
        """
        self._is_changed = True
        # Without a name for itself it would look into a ccache.
        command = ("kadmin.local", "-r", self.name, "-p", self.principal("admin"))
        output = self._run(*command, stdin="".join(f"{each}\n" for each in queries))
        return output.replace("kadmin.local: ", "")

    def _add(self, queries: Sequence[str]) -> None:
        self._check_added(self.admin(*queries), queries)

    def _check_added(self, output: str, queries: Sequence[str]) -> None:
        if output.count(" created.") != len(queries):
            raise RealmError(f"principals could not be added:\n{output}")

    def _export(self, path: Path, principals: Sequence[str]) -> None:
        names = [self.principal(each) for each in principals]
        self._check_exported(self.admin(*self._queries_for_keytab(path, names)), path, names)

    def _queries_for_keytab(self, path: Path, names: Sequence[str]) -> list[str]:
        return [f"ktadd -norandkey -k {quoted(str(path))} {quoted(each)}" for each in names]

    def _check_exported(self, output: str, path: Path, names: Sequence[str]) -> None:
        if missing := [each for each in names if f"Entry for principal {each} " not in output]:
            raise RealmError(f"no keys of {', '.join(missing)} could be written to {path}:\n{output}")

    # Tickets and time

    def kinit(
        self,
        user: str,
        *options: str,
        ccache: str | None = None,
        keytab: str | os.PathLike[str] | None = None,
    ) -> None:
        """Get a TGT with the user's password or a keytab, by the realm's clock.

        It goes to the ccache of KRB5CCNAME. `options` are those of kinit: `realm.kinit("alice", "-r", "1h")`.
        A service gets it with its key. Raises RealmError if kinit fails.
        """
        principal = self.principal(user)
        into = ["-c", ccache] if ccache is not None else []
        if keytab is None and principal not in self._passwords:
            keytab = self.keytab
        source = [] if keytab is None else ["-k", "-t", os.fspath(keytab)]
        stdin = "" if keytab is not None else f"{self.password(principal)}\n"
        environment = environment_for(self) | faketime(self.clock_offset)
        self._run("kinit", *into, *source, *options, principal, stdin=stdin, environment=environment)

    def set_clock(self, offset: Seconds) -> None:
        """Set the clock of the KDC and of `kinit`: so many seconds after this machine's clock, or before it.

        A ticket that `kinit` gets at -86400 has expired: applications have this machine's clock. This needs
        libfaketime (Debian's package faketime); without it the test is skipped.
        """
        seconds = _seconds(offset)
        faketime(seconds)
        self.stop()
        self.clock_offset = seconds
        self.start()

    def set_lives(self, ticket: Seconds, renewable: Seconds | None = None) -> None:
        """Set the longest life of TGTs that the KDC issues from now on, in seconds, and the renewable one."""
        self._check_lives(self.admin(self._query_for_lives(ticket, renewable)))

    def _query_for_lives(self, ticket: Seconds, renewable: Seconds | None) -> str:
        lives = {"-maxlife": ticket, "-maxrenewlife": renewable}
        seconds = {option: _seconds(life) for option, life in lives.items() if life is not None}
        options = " ".join(f'{option} "{each:.0f} seconds"' for option, each in seconds.items())
        return f"modprinc {options} {quoted(f'krbtgt/{self.name}')}"

    def _check_lives(self, output: str) -> None:
        if " modified." not in output:
            raise RealmError(f"the lives of tickets could not be set:\n{output}")

    def trust(self, other: "Realm") -> None:
        """Let the users of each realm use the services of the other one."""
        self.add_keys_shared_with(other)
        other.add_keys_shared_with(self)

    def add_keys_shared_with(self, other: "Realm") -> None:
        """Do this realm's half of `trust`."""
        names = (self.name, other.name)
        self._add(
            [
                f"addprinc -pw {quoted(f'trust of {issuer} in {user}')} {quoted(f'krbtgt/{issuer}@{user}')}"
                for issuer, user in (names, names[::-1])
            ]
        )
        self._others.append(other)
        self._write_files()

    # The KDC

    def _launched(self) -> Guarded:
        program = find_program("krb5kdc")
        assert program is not None
        output = self.folder / "krb5kdc.output"
        command = [program, "-n", "-r", self.name]
        clock = faketime(self.clock_offset)
        return Guarded(command, self.temporary_folder, output, self._environment, clock)

    def _serves(self) -> bool:
        # It prints this when its sockets are bound.
        return "starting" in self._output

    def _start_anywhere(self) -> None:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self.start()
            except NotStartedError:
                self.address = free_address()
                self._write_files()
        return self.start()

    @contextmanager
    def restored(self) -> Iterator[Self]:
        """Put principals, keys, lives, trusts and the clock back at the end, and start the KDC."""
        files = (self._database, self.keytab, self.krb5_conf)
        paths = [path for each in files for path in (each.iterdir() if each.is_dir() else [each])]
        kept = {path: path.read_bytes() for path in paths if path.exists()}
        passwords, others = dict(self._passwords), list(self._others)
        self._is_changed = False
        try:
            yield self
        finally:
            if self._is_changed or self.clock_offset or not self.is_running:
                self.stop()
                for path in self._database.iterdir():
                    path.unlink()
                self.keytab.unlink(missing_ok=True)
                for path, content in kept.items():
                    path.write_bytes(content)
                self._passwords, self._others, self.clock_offset = passwords, others, 0.0
                self.start()
            for name in ("ccache", "client.keytab"):
                (self.folder / name).unlink(missing_ok=True)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
            "KRB5CCNAME": f"FILE:{self.folder}/none",
        }

    def _run(
        self, name: str, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None
    ) -> str:
        program = find_program(name)
        assert program is not None
        process = subprocess.Popen(  # noqa: S603 - options are the test's
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            env={**(environment or self._environment), "LC_ALL": "C"},
            pass_fds=[self.temporary_folder.lease],
        )
        with process:
            try:
                output, _ = process.communicate(stdin, _PATIENCE)
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
                if process.returncode < 0:
                    remove_clock(process.pid)
        if process.returncode:
            raise RealmError(f"{name} {' '.join(arguments)} failed ({process.returncode}):\n{output}")
        return output


def _seconds(time: Seconds) -> float:
    return time.total_seconds() if isinstance(time, timedelta) else float(time)
