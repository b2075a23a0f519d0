"""The command setup: what a distribution's package installs, for pykcm from pip."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import click

import pykcm
from pykcm.cli.installation import SAVED, SOCKETS, Run, Setup, is_changed, read
from pykcm.cli.output import print_line, print_text, shell_quote

_HINT = (
    "krb5.conf does not include the snippet: put `includedir /etc/krb5.conf.d/` at its top, or set "
    "KRB5CCNAME=KCM:"
)


class _NotPermittedError(click.ClickException):
    exit_code = 4  # as in pykcm.cli.main


def run_command(argv: Sequence[str]) -> bool:
    """Run a program whose output goes to the user; whether it has succeeded."""
    try:
        # is-enabled complains about a unit that does not exist, which is the usual case.
        error = subprocess.DEVNULL if "is-enabled" in argv else None
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stderr=error).returncode == 0  # noqa: S603
    except FileNotFoundError:
        return False


def apply(setup: Setup, run: Run) -> None:
    """Write the files and run the commands.

    Raises ClickException, before anything is changed or when a step fails.
    """
    _require_root(setup)
    refusals = list(setup.refusals())
    for reason in refusals:
        print_line(f"problem: {reason}", err=True)
    if refusals:
        raise click.ClickException("nothing has been changed: solve the problems above")
    try:
        _write_files(setup)
    except OSError as error:
        raise click.ClickException(
            f"{error.filename}: cannot be written: {error.strerror}. {_after_failure(setup)}"
        ) from None
    other = setup.other_server(run)
    for argv in setup.commands(other):
        if not _run(argv, run):
            raise click.ClickException(f"{_failed(argv)}. {_after_failure(setup)}")
    if other is not None:
        print_text(_notice(other), err=True)
    elif not setup.includes_snippet():
        print_line(_HINT, err=True)


def _require_root(setup: Setup) -> None:
    if setup.root == Path("/") and os.geteuid() != 0:
        raise _NotPermittedError("nothing has been changed: only root can do this: try sudo")


def _write_files(setup: Setup) -> None:
    files = setup.files()
    for path in setup.installed():
        if path not in files or is_changed(path):
            _put_away(path)
    for path, text in files.items():
        if path.exists() and read(path) == text:
            print_line(f"{path} is up to date")
            continue
        _make_folder(path.parent)
        _write(path, text)
        print_line(f"wrote {path}")
    for link in set(setup.made_links()) - set(setup.links()):
        link.unlink()
        print_line(f"removed {link}")
    for link, target in setup.missing_links().items():
        _make_folder(link.parent)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        print_line(f"linked {link}")


def undo(setup: Setup, run: Run) -> None:
    """Disable the units and remove the files that setup has written; tickets, key and users stay.

    A step that fails does not keep the others from being done; raises ClickException at the end.
    """
    _require_root(setup)
    present = setup.installed()
    failures = [_failed(argv) for argv in setup.undo_commands() if not _run(argv, run)]
    try:
        for path in present:
            _put_away(path)
        for link in setup.made_links():
            link.unlink()
            print_line(f"removed {link}")
    except OSError as error:
        failures.append(f"{error.filename}: cannot be removed: {error.strerror}")
    if present and setup.is_live() and not _run(("systemctl", "daemon-reload"), run):
        failures.append(_failed(("systemctl", "daemon-reload")))
    state = setup.root / "var/lib/pykcm"
    if state.exists():
        print_line("The tickets, their key and the users stay. To delete the tickets and the key:")
        print_line(f"    rm -r {shell_quote(str(state))}")
    if failures:
        raise click.ClickException("; ".join(failures))


def show(setup: Setup, run: Run) -> None:
    """Print what apply() would do."""
    refusals = list(setup.refusals())
    for reason in refusals:
        print_line(f"problem: {reason}", err=True)
    files = setup.files()
    for path in setup.installed():
        if path not in files or is_changed(path):
            print_line(f"would {'save' if is_changed(path) else 'remove'} {path}")
    for path, text in files.items():
        is_current = path.is_file() and read(path) == text
        print_line(f"{path} is up to date" if is_current else f"would write {path}")
    for link in setup.missing_links():
        print_line(f"would link {link}")
    other = setup.other_server(run)
    for argv in setup.commands(other):
        print_line(f"would run {' '.join(map(shell_quote, argv))}")
    if other is not None:
        print_text(_notice(other), err=True)
    elif not setup.includes_snippet():
        print_line(_HINT, err=True)
    remedy = "Solve the problems above, and run" if refusals else "To do it:"
    print_line(f"Nothing has been changed. {remedy} {_setup_command(setup)} --apply")


def _setup_command(setup: Setup) -> str:
    """The command without --apply or --undo."""
    words = [str(setup.prefix / "bin" / "pykcmctl"), "setup"]
    if setup.root != Path("/"):
        words.append(f"--root={setup.root}")
    return " ".join(map(shell_quote, words))


def _after_failure(setup: Setup, state: str = "Some steps are done") -> str:
    command = _setup_command(setup)
    return f"{state}: run `{command} --apply` again, or take them back with `{command} --undo`"


def _failed(argv: Sequence[str]) -> str:
    return f"`{' '.join(map(shell_quote, argv))}` has failed: see its message"


def _notice(other: str) -> str:
    return (
        f"another KCM server, {other}, goes on serving, and pykcm's sockets are not started. To use pykcm:\n"
        f"    systemctl disable --now {other}\n"
        f"    systemctl mask {other}\n"
        f"    systemctl enable --now {' '.join(SOCKETS)}"
    )


def _put_away(path: Path) -> None:
    """Remove a file of setup's. With changes of the user's it gets another name, which nothing reads."""
    if not is_changed(path):
        path.unlink()
        print_line(f"removed {path}")
        return
    saved = path.with_name(path.name + SAVED)
    number = 1
    while os.path.lexists(saved):
        number += 1
        saved = path.with_name(f"{path.name}{SAVED}{number}")
    path.rename(saved)
    print_line(f"{path} has been changed: kept as {saved}")


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, which everyone may read, whatever the umask."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            before = os.umask(0o022)
            try:
                folder.mkdir(0o755)
            finally:
                os.umask(before)


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole. A failure leaves no incomplete one."""
    new = path.with_name(f".{path.name}.new")
    file: TextIO
    try:
        with open(new, "w", encoding="utf-8", opener=_open_readable) as file:
            file.write(text)
        new.replace(path)
    except BaseException as error:
        with suppress(OSError):
            new.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _open_readable(path: str, flags: int) -> int:
    """Open a new file that everyone may read, whatever the umask."""
    descriptor = os.open(path, flags, 0o644)
    os.fchmod(descriptor, 0o644)
    return descriptor


def _run(argv: Sequence[str], run: Run) -> bool:
    if not run(argv):
        return False
    print_line(f"ran {' '.join(map(shell_quote, argv))}")
    return True


def _libraries() -> tuple[Path, ...]:
    """Python, every installed library of this environment, and pykcm, which may be a checkout."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    installed = sorted(path for folder in folders for path in Path(folder).iterdir())
    return (Path(sys.executable), Path(os.__file__), *installed, Path(pykcm.__file__).parent)


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
    setup = Setup(root.resolve(), Path(sysconfig.get_path("data")), () if wants_undo else _libraries())
    task = apply if wants_apply else undo if wants_undo else show
    try:
        task(setup, run_command)
    except (KeyboardInterrupt, SystemExit):
        if wants_apply or wants_undo:
            print_line(f"setup: interrupted. {_after_failure(setup, 'Some steps may be done')}", err=True)
        raise


COMMANDS = (setup_command,)
