"""The program pykcm-renew: its command line, and its parts put together."""

if __name__ == "__main__":
    from pykcm.interrupts import end_by_interrupts

    end_by_interrupts()

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import closing
from pathlib import Path

from pykcm import __version__
from pykcm.config import DEFAULT_FILE, Config, ConfigError, load_config
from pykcm.logs import LINE_COUNTS, set_level, set_up_logging
from pykcm.processes import DumpsError, forbid_dumps, on_signals
from pykcm.protocol.text import printable
from pykcm.renew.pool import Pool
from pykcm.renew.session import Session
from pykcm.renew.workers import Spawner, SpawnerError, load_libkrb5
from pykcm.sockets.systemd import Notifier
from pykcm.streams import end_output, open_standard_streams

log = logging.getLogger(__name__)

# The socket that the daemon makes for this program.
DEFAULT_CONTROL_SOCKET = "/run/pykcm-renew/control.sock"

EXIT_FAILED = 1
EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of pykcm-renew's options."""
    made = argparse.ArgumentParser(
        prog="pykcm-renew",
        description="Renew the TGTs of the Kerberos credential caches that pykcmd keeps.",
        epilog="Runs in the foreground until SIGTERM. Usually systemd starts it: "
        "systemctl enable --now pykcm-renew",
    )
    made.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration (default: {DEFAULT_FILE}); conf.d/*.toml in its folder is read after it",
    )
    made.add_argument(
        "--control-socket",
        metavar="PATH",
        default=DEFAULT_CONTROL_SOCKET,
        help=f"control socket of pykcmd for this program (default: {DEFAULT_CONTROL_SOCKET})",
    )
    made.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], help="the lowest level that is logged"
    )
    made.add_argument("--version", action="version", version=f"pykcm-renew {__version__}")
    return made


def main() -> int:
    """Run pykcm-renew; returns its exit status."""
    open_standard_streams()
    try:
        options = parser().parse_args()
    finally:
        end_output("pykcm-renew")
    set_up_logging("pykcm-renew")
    try:
        config = load_config(options.config, {"log_level": options.log_level})
    except ConfigError as error:
        log.critical("%s", printable(str(error)))
        return EXIT_USAGE
    set_level(config.log_level)
    try:
        forbid_dumps()
        with closing(Spawner(config.krb5_auth_timeout, load_libkrb5)) as spawner:
            asyncio.run(_run(config, options.control_socket, spawner))
    except (DumpsError, SpawnerError) as error:
        log.critical("cannot renew TGTs: %s", printable(str(error)))
        return EXIT_FAILED
    return 0


async def _run(config: Config, control_path: str, spawner: Spawner) -> None:
    """Renew TGTs until a signal comes; raises SpawnerError."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop(why: str) -> None:
        if not stopped.done():
            log.info("stopping: %s", why)
            stopped.set_result(None)

    def fail() -> None:
        if not stopped.done():
            stopped.set_exception(SpawnerError("the process that forks workers has ended"))

    on_signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), stop)
    # The spawner sends no more: the socket is readable when it has ended.
    loop.add_reader(spawner.fileno(), fail)
    session = Session(
        control_path, config.socket_path, lambda most: Pool(spawner, config.krb5_auth_timeout, most)
    )
    notifier = Notifier()
    with LINE_COUNTS.scheduled(loop.call_later):
        running = asyncio.create_task(session.run())
        notifier.ready("Renewing TGTs that are due")
        done, _ = await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
        notifier.stopping()
        loop.remove_reader(spawner.fileno())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for each in done:
            each.result()


if __name__ == "__main__":
    sys.exit(main())
