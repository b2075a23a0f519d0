"""The command line of pykcmd."""

import argparse
import os
from functools import partial
from pathlib import Path

from pykcm import __version__
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_FILE


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _path_or_none(text: str) -> str:
    return str(Path(text).absolute()) if text else ""


def _columns() -> int:
    """The terminal's width. argparse would import shutil for it at each start: 4 ms and 0.4 MiB."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def parser() -> argparse.ArgumentParser:
    """Return the parser of pykcmd's options."""
    made = argparse.ArgumentParser(
        prog="pykcmd",
        description="Serve the Kerberos credential caches of KRB5CCNAME=KCM: (a KCM server).",
        epilog="Runs in the foreground until SIGTERM. If systemd starts it, it uses systemd's sockets; "
        "otherwise it binds its own. To try it: pykcmd --socket-path /tmp/kcm.sock --store memory, and in "
        "krb5.conf, [libdefaults]: kcm_socket = /tmp/kcm.sock",
        formatter_class=partial(argparse.HelpFormatter, width=_columns() - 2),
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
        choices=["sqlcipher", "memory", "postgresql"],
        help="an encrypted database, the daemon's memory, which ends with it, or a database that hosts share",
    )
    made.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], help="the lowest level that is logged"
    )
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
