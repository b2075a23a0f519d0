"""The command line of pykcmd."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pykcm import __version__
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_FILE

if TYPE_CHECKING:
    import argparse


class Options(msgspec.Struct):
    """The options of pykcmd; None: not given."""

    config: Path | None = None
    socket_path: Path | None = None
    control_socket_path: str | None = None
    state_dir: Path | None = None
    store: str | None = None
    log_level: str | None = None
    check: bool = False
    show_config: bool = False


def _path(text: str) -> Path:
    if not text:
        import argparse  # noqa: PLC0415 - only needed after a mistake

        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _path_or_none(text: str) -> str:
    return str(Path(text).absolute()) if text else ""


# Functions that read the values of options, and the valid values of options with few of them.
_READERS: dict[str, Callable[[str], Any]] = {
    "--config": _path,
    "--socket-path": _path,
    "--control-socket-path": _path_or_none,
    "--state-dir": _path,
    "--store": str,
    "--log-level": str,
}
_CHOICES = {
    "--store": ("sqlcipher", "memory", "postgresql"),
    "--log-level": ("debug", "info", "warning", "error"),
}


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; raises SystemExit after --help, --version and mistakes."""
    given = sys.argv[1:] if arguments is None else arguments
    return _ordinary_options(given) or parser().parse_args(given, Options())


def _ordinary_options(arguments: Sequence[str]) -> Options | None:
    """Read options that are written in full, each before its value; None: the parser has to read them.

    Services are started with no others. Without argparse and gettext a start has 6 % fewer instructions.
    """
    if len(arguments) % 2:
        return None
    options = Options()
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        is_plain = name in _READERS and value and not value.startswith("-")
        if not is_plain or value not in _CHOICES.get(name, (value,)):
            return None
        setattr(options, name.removeprefix("--").replace("-", "_"), _READERS[name](value))
    return options


def parser() -> "argparse.ArgumentParser":
    """Return the parser of pykcmd's options."""
    import argparse  # noqa: PLC0415 - most starts do without it

    made = argparse.ArgumentParser(
        prog="pykcmd",
        description="Serve the Kerberos credential caches of KRB5CCNAME=KCM: (a KCM server).",
        epilog="Runs in the foreground until SIGTERM. If systemd starts it, it uses systemd's sockets; "
        "otherwise it binds its own. To try it: pykcmd --socket-path /tmp/kcm.sock --store memory, and in "
        "krb5.conf, [libdefaults]: kcm_socket = /tmp/kcm.sock",
    )
    made.add_argument(
        "--config",
        type=_path,
        metavar="FILE",
        help=f"configuration (default: {DEFAULT_FILE}); conf.d/*.toml in its folder is read after it",
    )
    made.add_argument("--socket-path", type=_path, metavar="PATH", help="Unix socket to listen on")
    made.add_argument(
        "--control-socket-path",
        type=_path_or_none,
        metavar="PATH",
        help=f"Unix socket for pykcmctl (default: {DEFAULT_CONTROL_SOCKET}); '' for none",
    )
    made.add_argument("--state-dir", type=_path, metavar="DIR", help="folder of the database and its key")
    made.add_argument(
        "--store",
        choices=_CHOICES["--store"],
        help="an encrypted database, the daemon's memory, which ends with it, or a database that hosts share",
    )
    made.add_argument("--log-level", choices=_CHOICES["--log-level"], help="the lowest level that is logged")
    made.add_argument(
        "--check",
        action="store_true",
        help="print all mistakes of the configuration, and end with 1 if it has any",
    )
    made.add_argument(
        "--show-config",
        action="store_true",
        help="print each option's value and where it comes from, and end",
    )
    made.add_argument("--version", action="version", version=f"pykcmd {__version__}")
    return made
