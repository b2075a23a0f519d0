"""Run the commands of MIT's and Heimdal's clients as one UID, and parse the output of klist."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .daemon import LIMIT
from .kdc import PASSWORDS, REALM, SYSTEM_PATH

# Heimdal's clients have one compiled-in socket path. They run in a mount namespace whose /run contains only
# this name, so that the machine's /run is not touched.
_IN_OWN_RUN = (
    'mount -t tmpfs tmpfs /var/run && ln -s "$1" /var/run/.heim_org.h5l.kcm-socket && shift && exec "$@"'
)

# Debian's packages of the two clients cannot be installed together, so Heimdal's may be unpacked here.
_HEIMDAL_FOLDER = Path(sys.prefix, "heimdal", "usr", "bin")

_TICKET_LINE = {
    "mit": re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d  \d\d/\d\d/\d\d \d\d:\d\d:\d\d  (\S+)$"),
    "heimdal": re.compile(r"\w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}  .{20}  (\S+)$"),
}


class Ran(NamedTuple):
    """The result of a command; `output` is stdout and stderr together."""

    command: str
    code: int
    output: str


class Listed(NamedTuple):
    """A ccache as klist prints it: `tickets` are the servers in order, without this test's realm."""

    ccache: str
    principal: str
    tickets: list[str]


@dataclass(frozen=True)
class Client:
    """Runs commands as `uid` with one krb5.conf, by default on the collection `KCM:`."""

    uid: int
    socket_path: Path
    krb5_conf: Path
    keytab: Path
    trace: Path

    flavour = "mit"
    # The exit code of `klist -A` and `klist -l` for an empty collection.
    nothing_listed = 1
    # Whether the commands are started as `uid`; otherwise the prefix from argv() changes the UID.
    switches_user = True

    def argv(self, command: tuple[str, ...]) -> list[str]:
        return list(command)

    def with_socket(self, program: list[str]) -> list[str]:
        """The command line for a program that is to find the test's socket; the caller's UID is kept."""
        return program

    @property
    def environment(self) -> dict[str, str | bytes]:
        return {
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C",
            "TZ": "UTC",
            "HOME": "/nonexistent",
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_TRACE": str(self.trace),
        }

    def run(self, *command: str, ccache: str | bytes | None = None, stdin: str = "") -> Ran:
        environment = self.environment
        if ccache is not None:
            environment["KRB5CCNAME"] = ccache
        done = self._start(self.argv(command), environment, stdin)
        return Ran(" ".join(command), done.returncode, done.stdout.decode(errors="backslashreplace"))

    def _start(
        self, argv: list[str], environment: dict[str, str | bytes], stdin: str
    ) -> subprocess.CompletedProcess[bytes]:
        other = self.switches_user and self.uid != os.geteuid()
        return subprocess.run(
            argv,
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            check=False,
            timeout=LIMIT,
            user=self.uid if other else None,
            group=self.uid if other else None,
            extra_groups=[] if other else None,
        )

    def ok(self, *command: str, ccache: str | bytes | None = None, stdin: str = "") -> str:
        """The output of a command that must succeed."""
        ran = self.run(*command, ccache=ccache, stdin=stdin)
        assert ran.code == 0, f"{ran.command}: exit code {ran.code}\n{ran.output}"
        return ran.output

    def kinit(self, principal: str, *options: str, ccache: str | bytes | None = None) -> None:
        """Get a TGT with the keytab; kinit must print nothing."""
        output = self.ok("kinit", *options, "-k", "-t", str(self.keytab), principal, ccache=ccache)
        assert output == ""

    def klist(self, *options: str, ccache: str | bytes | None = None) -> Listed:
        """The given ccache, or the default one."""
        (listed,) = self._parse(self.ok("klist", *options, ccache=ccache))
        return listed

    def klist_all(self, ccache: str | bytes | None = None) -> list[Listed]:
        """All ccaches of the collection, in the order of klist."""
        ran = self.run("klist", "-A", ccache=ccache)
        listed = self._parse(ran.output)
        assert ran.code == (0 if listed else self.nothing_listed), ran
        assert listed or ran.output == "", ran
        return listed

    def _parse(self, output: str) -> list[Listed]:
        listed: list[Listed] = []
        ccache = ""
        for line in output.splitlines():
            key, _, value = line.strip().partition(": ")
            if key in {"Ticket cache", "Credentials cache"}:
                ccache = value
            elif key in {"Default principal", "Principal"}:
                listed.append(Listed(ccache, value, []))
            elif ticket := _TICKET_LINE[self.flavour].match(line):
                listed[-1].tickets.append(ticket[1].removesuffix("@" + REALM))
        return listed


class MitClient(Client):
    """MIT's krb5-user."""

    def kinit_with_password(self, user: str) -> str:
        return self.ok("kinit", user, stdin=PASSWORDS[user] + "\n")

    def kvno(self, *arguments: str, ccache: str | None = None) -> list[str]:
        """Get service tickets; returns kvno's line for each."""
        return self.ok("kvno", *arguments, ccache=ccache).splitlines()

    def klist_l(self, ccache: str | bytes | None = None) -> list[tuple[str, str]]:
        """`klist -l`: principal and name of each ccache, the default first."""
        ran = self.run("klist", "-l", ccache=ccache)
        header, dashes, *lines = ran.output.splitlines()
        assert header.split() == ["Principal", "name", "Cache", "name"]
        assert set(dashes) == {"-", " "}
        assert ran.code == (0 if lines else self.nothing_listed)
        return [(line[:30].strip(), line[31:]) for line in lines]


class HeimdalClient(Client):
    """Heimdal's clients. Only root can give them the /run that they need."""

    flavour = "heimdal"
    nothing_listed = 0
    switches_user = False

    def argv(self, command: tuple[str, ...]) -> list[str]:
        program, *arguments = command
        as_user = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]
        return self.with_socket([*as_user, *heimdal_program(program), *arguments])

    def with_socket(self, program: list[str]) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", _IN_OWN_RUN, "sh", str(self.socket_path), *program]

    def klist_l(self) -> list[tuple[str, str, str]]:
        """`klist -l`: the default's mark or a space, principal and ccache of each."""
        header, *lines = self.ok("klist", "-l").splitlines()
        assert header.split() == ["Name", "Cache", "name", "Expires"]
        marks_and_words = [(line[0], line[2:].split()) for line in lines]
        return [(mark, principal, ccache) for mark, (principal, ccache, *_) in marks_and_words]


def heimdal_program(name: str) -> list[str]:
    """The command line of Heimdal's `kinit`, `klist` …; klist and kswitch belong to one program."""
    if name in {"klist", "kswitch"}:
        return [_find_heimdal("heimtools"), name]
    return [_find_heimdal("kgetcred" if name == "kgetcred" else f"{name}.heimdal")]


def _find_heimdal(program: str) -> str:
    path = os.pathsep.join([os.environ["PATH"], SYSTEM_PATH, str(_HEIMDAL_FOLDER)])
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(f"{program} is neither in PATH nor in {_HEIMDAL_FOLDER}")
    return found


def why_no_heimdal() -> str | None:
    """Why Heimdal's clients cannot run here; None if they can."""
    if os.geteuid() != 0:
        return "only root can give Heimdal's clients the test's socket"
    try:
        heimdal_program("kinit"), heimdal_program("klist"), heimdal_program("kgetcred")
    except FileNotFoundError as missing:
        return str(missing)
    return why_no_mount_namespace()


def why_no_mount_namespace() -> str | None:
    """Why a process cannot get a mount namespace here; None if it can."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/var/run"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    return f"no mount namespace can be had: {tried.stderr.strip()}" if tried.returncode else None
