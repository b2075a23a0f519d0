"""The files and commands that install a pykcm from pip as a distribution's package does."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

SOCKETS = ("pykcm.socket", "pykcm-control.socket")

# After an upgrade they have another version of the program.
_ENFORCE = "sys/fs/selinux/enforce"
_SERVICES = ("pykcm.service", "pykcm-metrics.service", "pykcm-renew.service")

# The first line of each file that setup writes. Other files of these names are left alone.
MARK = "# Written by `pykcmctl setup`, which overwrites and removes it.\n"
# The second line. By it, setup finds changes that the administrator has made since.
_HASH = "# SHA-256 of the lines below, as they were written: {}\n"

# The ending of a file with changes of the administrator's, which systemd and libkrb5 do not read.
SAVED = ".saved"

_UNITS = "etc/systemd/system"
_SNIPPET = "etc/krb5.conf.d/pykcm_default_ccache"
_FOLDERS = ("etc/sysusers.d", "etc/tmpfiles.d", "etc/krb5.conf.d", _UNITS)

# The files of an environment that have links below /usr/local, where shells and man look for them.
_LINKED_PROGRAM = "bin/pykcmctl"
_LINKED_PAGES = (
    "share/man/man*/pykcm*",
    "share/bash-completion/completions/pykcmctl",
    "share/zsh/site-functions/_pykcmctl",
    "share/fish/vendor_completions.d/pykcmctl.fish",
)

_PACKAGED_UNITS = ("usr/lib/systemd/system", "lib/systemd/system")
_OTHER_SERVERS = ("sssd-kcm.socket", "heimdal-kcm.service")
_PROGRAMS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles")

# The units have ProtectHome= and PrivateTmp=: their processes do not see what is there.
_HIDDEN_FOLDERS = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108

_ELSEWHERE = "install pykcm, and the Python that it uses, elsewhere, for example in /opt/pykcm"
_AGAIN = "install pykcm again with `umask 022`"

Run = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Setup:
    """The system at `root`, and the environment at `prefix` whose programs the units start.

    `prefix` is the path as this process sees it; the units have the path below `root`.
    """

    root: Path
    prefix: Path
    # Python and the libraries, which the daemon's user must be able to read as well.
    needed: tuple[Path, ...] = field(default=())

    @property
    def programs(self) -> Path:
        """The folder of the programs, in the system at `root`."""
        prefix = self.prefix
        if self.root != Path("/") and prefix.is_relative_to(self.root):
            prefix = Path("/") / prefix.relative_to(self.root)
        return prefix / "bin"

    @property
    def link(self) -> Path:
        """The link by which root finds pykcmctl."""
        return self.root / "usr/local" / _LINKED_PROGRAM

    def links(self) -> dict[Path, Path]:
        """Every link with its target: pykcmctl, the man pages and the completions."""
        pages = (path for pattern in _LINKED_PAGES for path in sorted(self.prefix.glob(pattern)))
        names = (Path(_LINKED_PROGRAM), *(path.relative_to(self.prefix) for path in pages))
        environment = self.programs.parent
        links = {self.root / "usr/local" / name: environment / name for name in names}
        # With pip's files in /usr/local, they need no links.
        return {} if self.root / environment.relative_to("/") == self.root / "usr/local" else links

    def made_links(self) -> list[Path]:
        """The links of this or another version of setup into this environment, in order."""
        local = self.root / "usr/local"
        # A glob without a wildcard finds no link to a missing file.
        patterns = (_LINKED_PROGRAM, *_LINKED_PAGES)
        found = (path for each in patterns for path in (sorted(local.glob(each)) or [local / each]))
        environment = self.programs.parent
        return [path for path in found if path.is_symlink() and path.readlink().is_relative_to(environment)]

    def missing_links(self) -> dict[Path, Path]:
        """The links that are to be made. Files of others at these paths are left alone."""
        return {
            link: target
            for link, target in self.links().items()
            if not os.path.lexists(link) or (self._is_replaceable(link) and link.readlink() != target)
        }

    def files(self) -> dict[Path, str]:
        """Every file with its content. Raises ClickException if the environment lacks one."""
        share = self.prefix / "share" / "pykcm"
        units = share / "systemd"
        made = {
            "etc/sysusers.d/pykcm.conf": units / "pykcm.sysusers",
            "etc/tmpfiles.d/pykcm.conf": units / "pykcm.tmpfiles",
            _SNIPPET: share / "krb5.conf.d" / "kcm_default_ccache",
        }
        for unit in sorted((*units.glob("*.socket"), *units.glob("*.service"))):
            made[f"{_UNITS}/{unit.name}"] = unit
        try:
            texts = {name: source.read_text(encoding="utf-8") for name, source in made.items()}
        except FileNotFoundError as error:
            raise click.ClickException(
                f"{error.filename}: is missing; install pykcm with pip in a virtual environment, and run the "
                "pykcmctl of that environment"
            ) from None
        return {self.root / name: _marked(self._with_programs(text)) for name, text in texts.items()}

    def _with_programs(self, unit: str) -> str:
        lines = unit.splitlines(keepends=True)
        return "".join(map(self._with_program, lines))

    def _with_program(self, line: str) -> str:
        packaged = "ExecStart=/usr/bin/"
        if not line.startswith(packaged):
            return line
        name, space, arguments = line.removeprefix(packaged).rstrip("\n").partition(" ")
        return f"ExecStart={_unit_quote(str(self.programs / name))}{space}{arguments}\n"

    def installed(self) -> list[Path]:
        """The files of this or another version of setup, in order."""
        found = (path for name in _FOLDERS for path in sorted((self.root / name).glob("pykcm*")))
        return [path for path in found if is_ours(path) and not path.suffix.startswith(SAVED)]

    def is_live(self) -> bool:
        """Whether systemd runs this system."""
        return (self.root / "run/systemd/system").is_dir() and self.root == Path("/")

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        return (name, *([] if self.root == Path("/") else [f"--root={self.root}"]), *arguments)

    def refusals(self) -> Iterator[str]:
        """Why the files cannot be installed."""
        missing = [name for name in _PROGRAMS if shutil.which(name) is None]
        if missing:
            yield f"{missing[0]} is missing: setup is for hosts with systemd"
        if any(os.path.lexists(self.root / units / "pykcm.socket") for units in _PACKAGED_UNITS):
            yield "pykcm's package is installed, which has users and units already: remove one of the two"
        for path in self.files():
            if os.path.lexists(path) and not is_ours(path):
                yield f"{path} exists, and is not from `pykcmctl setup`: move it away"
        link = self.link
        if link in self.links() and os.path.lexists(link) and not self._is_replaceable(link):
            yield f"{link} exists, and is another program: move it away"
        yield from self._why_unusable()

    def _why_unusable(self) -> Iterator[str]:
        """Why the units could not start the programs of the environment."""
        if not str(self.programs).isprintable():
            yield f"units cannot have the path {self.programs}: {_ELSEWHERE}"
        program = self.root / self.programs.relative_to("/") / "pykcmd"
        if not program.exists():
            yield f"{program} is missing: install pykcm in that system, at the same path"
        # The first one is enough: the others probably have the same problem.
        paths = (path.resolve() for path in (self.prefix, *self.needed))
        yield from next(filter(None, (list(self._why_unreadable(path)) for path in paths)), [])

    def _why_unreadable(self, path: Path) -> Iterator[str]:
        if not path.is_relative_to(self.root):
            return
        inside = Path("/") / path.relative_to(self.root)
        hidden = next((folder for folder in _HIDDEN_FOLDERS if inside.is_relative_to(folder)), None)
        if hidden is not None:
            yield f"{inside}: services do not see {hidden}: {_ELSEWHERE}"
            return
        for each in (*reversed(path.parents), path):
            mode = each.stat().st_mode
            remedy = _AGAIN if each != self.prefix and each.is_relative_to(self.prefix) else _ELSEWHERE
            if each.is_dir() and not mode & 0o001:
                yield f"users cannot enter {each}: {remedy}"
                return
        if not mode & 0o004:
            yield f"users cannot read {path}: {remedy}"

    def _is_replaceable(self, link: Path) -> bool:
        """Whether it is a link of setup's, into this environment or into one that is no longer there."""
        if not link.is_symlink():
            return False
        target = link.readlink()
        if target.is_relative_to(self.programs.parent):
            return True
        return target.name == link.name and not os.path.lexists(self.root / str(target).lstrip("/"))

    def other_server(self, run: Run) -> str | None:
        """The unit of another KCM server that is enabled or runs."""
        questions = ["is-enabled", *(["is-active"] if self.is_live() else [])]
        found = (
            unit
            for unit in _OTHER_SERVERS
            if any(run(self.command("systemctl", "--quiet", question, unit)) for question in questions)
        )
        return next(found, None)

    def commands(self, other: str | None) -> list[tuple[str, ...]]:
        """The commands that follow the files. With another server, the sockets are left out."""
        found = []
        if self.is_live() and (self.root / _ENFORCE).exists():
            # systemd's programs may not read files that have the label of the process that wrote them.
            found.append(("restorecon", *map(str, self.files())))
        found += [
            self.command("systemd-sysusers", "pykcm.conf"),
            self.command("systemd-tmpfiles", "--create", "pykcm.conf"),
        ]
        if self.is_live():
            found += [("systemctl", "daemon-reload"), ("systemctl", "try-restart", *_SERVICES)]
        if other is None:
            found.append(
                self.command("systemctl", "enable", *(["--now"] if self.is_live() else []), *SOCKETS)
            )
        return found

    def undo_commands(self) -> list[tuple[str, ...]]:
        """The commands that precede the removal of the files: no unit runs or is enabled afterwards."""
        units = [path for path in self.installed() if path.parent == self.root / _UNITS]
        enabled = [path.name for path in units if "[Install]" in read(path)]
        found = []
        if enabled:
            found.append(self.command("systemctl", "disable", *enabled))
        if units and self.is_live():
            # The sockets first: they would start the services again.
            names = sorted((path.name for path in units), key=lambda name: not name.endswith(".socket"))
            found.append(("systemctl", "stop", *names))
        return found

    def includes_snippet(self) -> bool:
        """Whether krb5.conf includes the folder of the snippet."""
        try:
            lines = read(self.root / "etc/krb5.conf").splitlines()
        except OSError:
            return False
        folder = f"/{Path(_SNIPPET).parent}"
        return any(line.split() in (["includedir", folder], ["includedir", f"{folder}/"]) for line in lines)


def _marked(text: str) -> str:
    return MARK + _HASH.format(_hash(text)) + text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unit_quote(path: str) -> str:
    """A path as a program in a unit's ExecStart=."""
    path = path.replace("%", "%%")
    if not set(path) & set(" \"'\\;"):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_ours(path: Path) -> bool:
    """Whether setup has written the file; the user may have changed it since."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline() == MARK


def is_changed(path: Path) -> bool:
    """Whether a file of setup's has been changed since."""
    text = read(path)
    return text != _marked(text.split("\n", 2)[-1])


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
