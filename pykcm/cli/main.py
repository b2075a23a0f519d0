"""pykcmctl: the command line, its exit statuses and errors."""

if __name__ == "__main__":
    from pykcm.interrupts import end_by_interrupts

    end_by_interrupts()

import errno
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from pykcm import __version__, interrupts
from pykcm.cli import (
    ccaches,
    completion,
    exporting,
    importing,
    listing,
    maintenance,
    migration,
    renewing,
    setup,
    showing,
    statistics,
    store,
    watching,
)
from pykcm.cli.advice import how_to_start, log_of_daemon, state_of_daemon
from pykcm.cli.client import NoKcmServerError
from pykcm.cli.doctor import command as doctor
from pykcm.cli.either_socket import EitherSocketClient
from pykcm.cli.examples import help_text
from pykcm.cli.files import reason_of
from pykcm.cli.output import never_fail_to_encode, print_line, print_text, show_cursor
from pykcm.cli.parameters import UidType
from pykcm.config import DEFAULT_CONTROL_SOCKET
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.streams import end_output, open_standard_streams, output_error

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_PERMISSION = 4
EXIT_NOT_FOUND = 5
# As the shell reports a program that SIGINT has ended.
EXIT_INTERRUPTED = 128 + signal.SIGINT

# A message that begins with one of these begins with a name, which keeps its case.
_OPTION_OR_NAME = ("-", "KCM", "FILE", "DIR", "%")

# The name is quoted as repr() does it.
_UNKNOWN_COMMAND = re.compile(r"""No such command ('[^']*'|"[^"]*")""")

# Commands that only show something: if the reader of a pipe has seen enough, they have done their work.
_SHOWING = {"list", "show", "stats", "metrics", "watch", "trace", "doctor", "completion", "store check", ""}

_CODES = {ErrorCode.PERMISSION: EXIT_PERMISSION, ErrorCode.NOT_FOUND: EXIT_NOT_FOUND}


class _Run:
    """The command that runs in this process, the one that was named, and the path of the control socket."""

    command = ""
    named = ""
    path = DEFAULT_CONTROL_SOCKET


_run = _Run()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{help_text('')}\n\n"
    "Exit status: 0 done; 1 failed; 2 wrong usage; 3 no daemon; 4 not permitted; 5 no such ccache.",
)
@click.option(
    "--socket",
    "path",
    default=DEFAULT_CONTROL_SOCKET,
    show_default=True,
    metavar="PATH",
    envvar="PYKCM_CONTROL_SOCKET",
    help="The daemon's control socket (its option control_socket_path).",
)
@click.option(
    "--daemon-user",
    "daemon_uid",
    type=UidType(),
    envvar="PYKCM_DAEMON_USER",
    help="The user that the daemon runs as, if not root, pykcm or you; it may get tickets and keys.",
)
@click.option(
    "--kcm-socket",
    "kcm_path",
    metavar="PATH",
    envvar="PYKCM_KCM_SOCKET",
    help="The KCM socket, for users other than root.  [default: as in krb5.conf]",
)
@click.version_option(__version__, message="pykcmctl %(version)s")
@click.pass_context
def cli(context: click.Context, path: str, daemon_uid: int | None, kcm_path: str | None) -> None:
    """Administer pykcm, the server for Kerberos ccaches (KCM:).

    Root sees and changes everything. Other users see and change their own ccaches, with list, show, switch,
    destroy, renew, import, export and watch. Every command has --help. Commands that show something have
    --json.
    """
    _run.named = context.invoked_subcommand or ""
    _run.path = path
    context.obj = EitherSocketClient(path, _report_silence, daemon_uid, kcm_path=kcm_path)


_MODULES = (
    listing,
    showing,
    ccaches,
    renewing,
    exporting,
    importing,
    migration,
    maintenance,
    store,
    statistics,
    watching,
    doctor,
    setup,
    completion,
)


def _complete(command: click.Command, name: str) -> None:
    """Note that the command runs; add its examples, and its whole summary to the list of commands.

    Click cuts the summary on narrow terminals.
    """
    command.callback = _noting(name, command.callback)
    command.epilog = help_text(name)
    command.short_help = command.get_short_help_str(limit=1000)
    if isinstance(command, click.Group):
        for member_name, member in command.commands.items():
            _complete(member, f"{name} {member_name}")


def _noting(name: str, callback: Callable[..., Any] | None) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        _run.command = name
        try:
            with interrupts.command:
                return callback(*arguments, **options) if callback else None
        except BaseException:
            if interrupts.command.raised is not None:
                show_cursor()
            raise

    return run


for module in _MODULES:
    for command in module.COMMANDS:
        _complete(command, command.name or "")
        cli.add_command(command)


def main() -> NoReturn:
    """Run pykcmctl and end the process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Clean up: an unfinished export already holds tickets.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupts.exit_by_signal)
    open_standard_streams()
    never_fail_to_encode()
    try:
        # Without standalone mode, click returns the status of ctx.exit(), or None from a command.
        status = cli.main(prog_name="pykcmctl", standalone_mode=False) or 0
    except click.ClickException as error:
        _show(error)
        status = error.exit_code
    except click.Abort:
        print_line("aborted", err=True)
        # Otherwise a prompt found the end of stdin.
        status = EXIT_FAILED if interrupts.command.raised is None else EXIT_INTERRUPTED
    except ControlError as error:
        is_refusal = error.code == ErrorCode.PERMISSION and ": " not in error.message
        # The daemon refuses the caller, and not for one object.
        text = f"{_run.path}: {error.message}; try sudo" if is_refusal else error.message
        print_text(f"pykcmctl: {text}", err=True)
        status = (
            _CODES.get(ErrorCode(error.code), EXIT_FAILED) if error.code in list(ErrorCode) else EXIT_FAILED
        )
    except OSError as error:
        # end_output() reports an error of stdout.
        status = _output_status() if error is output_error() else _report_os_error(error)
    except SystemExit:
        # click ends the program after an EPIPE.
        if end_output("pykcmctl"):
            raise
        sys.exit(_output_status())
    if not end_output("pykcmctl"):
        status = status or _output_status()
    sys.exit(status)


def _output_status() -> int:
    """The exit status after an error of stdout: 0 if its reader has seen enough."""
    error = output_error()
    has_seen_enough = error is not None and error.errno == errno.EPIPE and _run.command in _SHOWING
    return 0 if has_seen_enough else EXIT_FAILED


def _report_silence() -> None:
    print_line(
        "pykcmctl: the daemon has not answered yet; still waiting. Give up with Ctrl-C, and see "
        f"{state_of_daemon()}",
        err=True,
    )


def _show(error: click.ClickException) -> None:
    """Print an error in one line, and the usage only if the usage was wrong."""
    # A message that is a command's help has several lines.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        print_text(error.format_message(), err=True)
        return
    if not isinstance(error, click.UsageError):
        print_line(f"pykcmctl: {error.format_message()}", err=True)
        return
    context = error.ctx
    # The parser raises errors of options without a context.
    path = f"pykcmctl {_run.named}".rstrip() if context is None else context.command_path
    command = f"{path.removeprefix('pykcmctl ')}: " if " " in path else ""
    is_bad_value = isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)
    if is_bad_value and isinstance(error, click.BadParameter) and error.param is not None:
        names = [opt for opt in error.param.opts if opt.startswith("-")]
        text = f"{names[0] if names else error.param.human_readable_name}: {_as_part(error.message)}"
    else:
        text = _unknown_word(error) or _as_part(error.format_message())
    print_line(f"pykcmctl: {command}{text}", err=True)
    if context is not None and not is_bad_value:
        print_text(f"{context.get_usage()}\nExamples and options: {path} --help", err=True)


def _unknown_word(error: click.UsageError) -> str:
    """Name an unknown command or option, and similar ones; empty for other errors.

    The texts of click's versions differ, and click 8.1, which Debian has, suggests no command.
    """
    import difflib  # noqa: PLC0415 - only needed after a mistake

    command = _UNKNOWN_COMMAND.match(error.message)
    if isinstance(error, click.NoSuchOption):
        text = f"no such option '{error.option_name}'"
        similar = sorted(error.possibilities or ())
    elif command is not None and error.ctx is not None and isinstance(error.ctx.command, click.Group):
        text = f"no such command {command[1]}"
        similar = difflib.get_close_matches(command[1][1:-1], error.ctx.command.list_commands(error.ctx))
    else:
        return ""
    names = ", ".join(f"'{each}'" for each in similar)
    return f"{text}; did you mean {names}?" if names else text


def _as_part(message: str) -> str:
    """A message of click as the second part of one of ours."""
    message = " ".join(message.split("\n")).replace("\t", "")
    message = re.sub(r"^Got unexpected extra arguments? \((.*)\)$", r"unexpected argument '\1'", message)
    message = message.replace(". Choose from", "; choose from")
    if not message.startswith(_OPTION_OR_NAME):
        message = message[:1].lower() + message[1:]
    return message.removesuffix(".")


def _report_os_error(error: OSError) -> int:
    """Explain an error, usually of the connection to the daemon; return the exit status."""
    if isinstance(error, NoKcmServerError):
        print_text(f"pykcmctl: {error}", err=True)
        return EXIT_NO_DAEMON
    if error.filename:
        print_line(f"pykcmctl: {error.filename}: cannot be used: {reason_of(error)}", err=True)
        return EXIT_FAILED
    if isinstance(error, ConnectionError) and error.errno in {errno.ECONNRESET, None}:
        print_line(
            f"pykcmctl: {_run.path}: the connection ended before the end of the reply; changes made until "
            f"then remain: see `pykcmctl list` and {log_of_daemon()}. Or the process that "
            "listens is not pykcmd",
            err=True,
        )
        return EXIT_NO_DAEMON
    if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
        is_other = error.errno == errno.ECONNREFUSED and not Path(_run.path).is_socket()
        print_line(
            f"pykcmctl: {_run.path}: is not a socket; name the daemon's control socket with --socket"
            if is_other
            else f"pykcmctl: {_run.path}: no daemon answers: {error.strerror or error}; "
            f"{how_to_start('pykcm-control.socket')}, or name its control socket with --socket",
            err=True,
        )
        return EXIT_NO_DAEMON
    if error.errno in {errno.EACCES, errno.EPERM}:
        print_line(f"pykcmctl: {_run.path}: only root may use the control socket; try sudo", err=True)
        return EXIT_PERMISSION
    print_line(
        f"pykcmctl: {_run.path}: cannot be used as the control socket: {error.strerror or error}; check "
        "--socket and PYKCM_CONTROL_SOCKET, and see `pykcmctl doctor`",
        err=True,
    )
    return EXIT_FAILED


if __name__ == "__main__":
    main()
