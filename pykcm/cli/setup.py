"""The command setup: what a distribution's package installs, for pykcm from pip."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click

from pykcm.cli.output import print_line, print_text, shell_quote

SOCKETS = ("pykcm.socket", "pykcm-control.socket")

# An administrator may have enabled them.
_OPTIONAL_UNITS = ("pykcm-metrics.socket", "pykcm-renew.service")
_SERVICES = ("pykcm.service", "pykcm-metrics.service", "pykcm-renew.service")

# The first line of each file that setup writes. Other files of these names are left alone.
MARK = "# Written by `pykcmctl setup`, which overwrites and removes it.\n"

_PACKAGED_UNITS = ("usr/lib/systemd/system", "lib/systemd/system")
_OTHER_SERVERS = ("sssd-kcm.socket", "heimdal-kcm.service")

Run = Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Setup:
    """The system at `root`, and the environment at `prefix` whose programs the units start."""

    root: Path
    prefix: Path

    def files(self) -> dict[Path, str]:
        """Every file with its content. Raises ClickException if the environment lacks one."""
        share = self.prefix / "share" / "pykcm"
        units = share / "systemd"
        made = {
            "etc/sysusers.d/pykcm.conf": units / "pykcm.sysusers",
            "etc/tmpfiles.d/pykcm.conf": units / "pykcm.tmpfiles",
            "etc/krb5.conf.d/pykcm_default_ccache": share / "krb5.conf.d" / "kcm_default_ccache",
        }
        for unit in sorted((*units.glob("*.socket"), *units.glob("*.service"))):
            made[f"etc/systemd/system/{unit.name}"] = unit
        try:
            texts = {name: source.read_text(encoding="utf-8") for name, source in made.items()}
        except FileNotFoundError as error:
            raise click.ClickException(
                f"{error.filename} is missing: install pykcm with pip, and run that environment's pykcmctl"
            ) from None
        programs = self.prefix / "bin"
        return {
            self.root / name: MARK + text.replace("ExecStart=/usr/bin/", f"ExecStart={programs}/")
            for name, text in texts.items()
        }

    @property
    def link(self) -> Path:
        """The link by which root finds pykcmctl."""
        return self.root / "usr/local/bin/pykcmctl"

    def is_live(self) -> bool:
        """Whether systemd runs this system."""
        return (self.root / "run/systemd/system").is_dir() and self.root == Path("/")

    def command(self, name: str, *arguments: str) -> tuple[str, ...]:
        return (name, *([] if self.root == Path("/") else [f"--root={self.root}"]), *arguments)

    def refusals(self) -> Iterator[str]:
        """Why the files cannot be installed."""
        for units in _PACKAGED_UNITS:
            if (self.root / units / "pykcm.socket").exists():
                yield "pykcm's package is installed, which has users and units already: remove one of the two"
                break
        for path in self.files():
            if path.exists() and not is_ours(path):
                yield f"{path} exists, and is not from `pykcmctl setup`: move it away"
        if self.link.exists() and not self._is_our_link():
            yield f"{self.link} exists, and is another program: move it away"
        for folder in (self.prefix, *self.prefix.parents):
            if not folder.stat().st_mode & 0o001:
                yield f"users cannot enter {folder}: install pykcm elsewhere, for example in /opt/pykcm"

    def _is_our_link(self) -> bool:
        return self.link.is_symlink() and self.link.readlink() == self.prefix / "bin" / "pykcmctl"

    def other_server(self, run: Run) -> str | None:
        """The unit of another KCM server that is enabled."""
        enabled = (
            unit for unit in _OTHER_SERVERS if run(self.command("systemctl", "--quiet", "is-enabled", unit))
        )
        return next(enabled, None)

    def commands(self, other: str | None) -> list[tuple[str, ...]]:
        """The commands that follow the files. With another server, the sockets are left out."""
        found = [
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
        """The commands that precede the removal of the files."""
        now = ["--now"] if self.is_live() else []
        found = [self.command("systemctl", "disable", *now, *SOCKETS, *_OPTIONAL_UNITS)]
        if self.is_live():
            found.append(("systemctl", "stop", *_SERVICES, "pykcm-audit.socket", "pykcm-audit.service"))
        return found


def is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline() == MARK


def run_command(argv: Sequence[str]) -> bool:
    """Run a program whose output goes to the user; whether it has succeeded."""
    try:
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode == 0  # noqa: S603
    except FileNotFoundError:
        return False


def apply(setup: Setup, run: Run) -> None:
    """Write the files and run the commands.

    Raises ClickException, before anything is changed or when a command fails.
    """
    refusals = list(setup.refusals())
    if refusals:
        raise click.ClickException("nothing has been changed: " + "; ".join(refusals))
    for path, text in setup.files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, text)
        print_line(f"wrote {path}")
    if not setup.link.is_symlink():
        setup.link.parent.mkdir(parents=True, exist_ok=True)
        setup.link.symlink_to(setup.prefix / "bin" / "pykcmctl")
        print_line(f"linked {setup.link}")
    other = setup.other_server(run)
    for argv in setup.commands(other):
        _run(argv, run)
    if other is not None:
        print_text(_notice(other), err=True)


def undo(setup: Setup, run: Run) -> None:
    """Disable the units and remove the files that setup has written; tickets, key and users stay."""
    present = [path for path in setup.files() if path.exists() and is_ours(path)]
    if any(path.suffix == ".socket" for path in present):
        for argv in setup.undo_commands():
            _run(argv, run)
    for path in present:
        path.unlink()
        print_line(f"removed {path}")
    if setup.link.is_symlink() and setup.link.readlink() == setup.prefix / "bin" / "pykcmctl":
        setup.link.unlink()
        print_line(f"removed {setup.link}")
    if present and setup.is_live():
        _run(("systemctl", "daemon-reload"), run)
    print_line("The tickets and their key in /var/lib/pykcm stay, and so do the users.")


def show(setup: Setup, run: Run) -> None:
    """Print what apply() would do."""
    for reason in setup.refusals():
        print_line(f"problem: {reason}", err=True)
    for path, text in setup.files().items():
        is_current = path.exists() and path.read_text(encoding="utf-8", errors="replace") == text
        print_line(f"{path} is up to date" if is_current else f"would write {path}")
    if not setup.link.is_symlink():
        print_line(f"would link {setup.link} to {setup.prefix / 'bin' / 'pykcmctl'}")
    other = setup.other_server(run)
    for argv in setup.commands(other):
        print_line(f"would run {' '.join(map(shell_quote, argv))}")
    if other is not None:
        print_text(_notice(other), err=True)
    print_line("Nothing has been changed. To do it: pykcmctl setup --apply")


def _notice(other: str) -> str:
    return (
        f"another KCM server, {other}, goes on serving, and pykcm's sockets are not started. To use pykcm:\n"
        f"    systemctl disable --now {other}\n"
        f"    systemctl mask {other}\n"
        f"    systemctl enable --now {' '.join(SOCKETS)}"
    )


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    file: TextIO
    with open(new, "w", encoding="utf-8", opener=_open_readable) as file:
        file.write(text)
    new.replace(path)


def _open_readable(path: str, flags: int) -> int:
    """Open a new file that everyone may read, whatever the umask."""
    descriptor = os.open(path, flags, 0o644)
    os.fchmod(descriptor, 0o644)
    return descriptor


def _run(argv: Sequence[str], run: Run) -> None:
    text = " ".join(map(shell_quote, argv))
    if not run(argv):
        raise click.ClickException(f"`{text}` has failed: see its message, and run the command again")
    print_line(f"ran {text}")


@click.command("setup")
@click.option(
    "--apply", "wants_apply", is_flag=True, help="Do it: write the files, make the users, start the sockets."
)
@click.option(
    "--undo", "wants_undo", is_flag=True, help="Stop the daemon and remove the files; the tickets stay."
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/",
    help="The root folder of another system, for example of an image; nothing is started there.",
)
def setup_command(*, wants_apply: bool, wants_undo: bool, root: Path) -> None:
    """Install users, units and krb5.conf's snippet for a pykcm from pip.

    Without an option, print what would be done. A distribution's package needs no setup.
    """
    if wants_apply and wants_undo:
        raise click.UsageError("--apply and --undo exclude each other")
    setup = Setup(root.resolve(), Path(sys.prefix))
    task = apply if wants_apply else undo if wants_undo else show
    task(setup, run_command)


COMMANDS = (setup_command,)
