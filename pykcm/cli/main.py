"""pykcmctl: the command line, put together from its commands."""

import errno
import signal
import sys
from io import StringIO
from typing import NoReturn

import click

from pykcm import __version__
from pykcm.cli import ccaches, completion, exporting, importing, migration, statistics, watching
from pykcm.cli import maintenance as keeping
from pykcm.cli.client import ControlClient
from pykcm.cli.doctor import command as doctor
from pykcm.cli.names import UidType
from pykcm.cli.output import never_fail_to_encode, print_line, print_text
from pykcm.config import DEFAULT_CONTROL_SOCKET
from pykcm.control.messages import ControlError, ErrorCode
from pykcm.protocol.text import printable
from pykcm.streams import end_output, open_standard_streams, output_error

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_PERMISSION = 4
EXIT_NOT_FOUND = 5

_CODES = {ErrorCode.PERMISSION: EXIT_PERMISSION, ErrorCode.NOT_FOUND: EXIT_NOT_FOUND}


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done; 1 failed; 2 wrong usage; 3 no daemon; 4 not permitted; 5 no such ccache.",
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
    help="Whom the daemon runs as, if neither as root, pykcm nor you: it may be given tickets and keys.",
)
@click.version_option(__version__, message="pykcmctl %(version)s")
@click.pass_context
def cli(context: click.Context, path: str, daemon_uid: int | None) -> None:
    """Administer pykcm, the server that keeps Kerberos credential caches (KCM:). For root.

    Every command has --help, and those that show something have --json.
    """
    context.obj = ControlClient(path, _tell_of_silence, daemon_uid)


_SUBJECTS = (ccaches, exporting, importing, migration, keeping, statistics, watching, doctor, completion)

for command in (command for subject in _SUBJECTS for command in subject.COMMANDS):
    cli.add_command(command)


def main() -> NoReturn:
    """Run pykcmctl and end the process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What was begun is tidied up: an export that is not complete holds tickets all the same.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    open_standard_streams()
    never_fail_to_encode()
    try:
        # What a command leaves by ctx.exit() comes back, and so does the None of one that merely returns.
        status = cli.main(prog_name="pykcmctl", standalone_mode=False) or 0
    except click.ClickException as wrong:
        _show(wrong)
        status = wrong.exit_code
    except click.Abort:
        print_line("aborted", err=True)
        status = EXIT_FAILED
    except ControlError as error:
        print_text(f"pykcmctl: {error.message}", err=True)
        status = (
            _CODES.get(ErrorCode(error.code), EXIT_FAILED) if error.code in list(ErrorCode) else EXIT_FAILED
        )
    except OSError as error:
        # end_output() tells of an error of the output.
        status = EXIT_FAILED if error is output_error() else _no_daemon(error)
    except SystemExit:
        end_output("pykcmctl")
        raise
    if not end_output("pykcmctl"):
        status = status or EXIT_FAILED
    sys.exit(status)


def _tell_of_silence() -> None:
    print_line(
        "pykcmctl: the daemon does not answer yet; waiting for it. Ctrl-C gives up; "
        "`systemctl status pykcm.service` shows what it does",
        err=True,
    )


def _show(wrong: click.ClickException) -> None:
    """Print it as click does; its message may quote arguments, which a shell has made of file names."""
    text, message = StringIO(), wrong.format_message()
    wrong.show(text)
    # A message that is a command's help has lines of its own.
    is_help = isinstance(wrong, getattr(click.exceptions, "NoArgsIsHelpError", ()))
    escape = text.getvalue() if is_help else text.getvalue().replace(message, printable(message))
    print_text(escape.removesuffix("\n"), err=True)


def _end(number: int, _: object) -> NoReturn:
    # As a shell tells of what a signal has ended.
    sys.exit(128 + number)


def _no_daemon(error: OSError) -> int:
    if error.errno in {errno.ECONNRESET, None}:
        print_line(
            "pykcmctl: the connection broke off in the middle of the answer: what was done by then stays "
            "done (see `pykcmctl list` and `journalctl -u pykcm.service`); or no pykcmd listens there",
            err=True,
        )
        return EXIT_NO_DAEMON
    if error.errno in {errno.ENOENT, errno.ECONNREFUSED}:
        print_line(
            f"pykcmctl: no daemon answers ({error.strerror or error}): start it with `systemctl start "
            "pykcm-control.socket`, or name its control socket with --socket",
            err=True,
        )
        return EXIT_NO_DAEMON
    if error.errno in {errno.EACCES, errno.EPERM}:
        print_line("pykcmctl: only root may use the control socket: try sudo", err=True)
        return EXIT_PERMISSION
    where = f"{error.filename}: " if error.filename else ""
    print_line(f"pykcmctl: {where}{error.strerror or error}", err=True)
    return EXIT_FAILED


if __name__ == "__main__":
    main()
