"""pykcmd: assembles the daemon from its parts, and runs it.

If a part fails that tickets do not need (the control socket), the daemon logs this and serves them without
it. If a part fails that protects the tickets, the daemon does not start.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pykcm import __version__
from pykcm.ccaches.quotas import Quotas
from pykcm.command_line import read_options
from pykcm.config import DEFAULT_CONTROL_SOCKET, DEFAULT_SOCKET, Config, ConfigError, load_config
from pykcm.control.administration import Administration, RenewalsOnDemand
from pykcm.control.control_socket import ControlSocket
from pykcm.engine.clock import ClockKeeper
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.engine.reaper import Reaper
from pykcm.logs import LINE_COUNTS, set_level, set_up_logging
from pykcm.peer.access import Access, RequestAccess
from pykcm.peer.identity import ROOT, Kernel, KernelUnreadableError, read_kernel
from pykcm.peer.selinux import Policy, PolicyUnusableError, load_policy
from pykcm.peer.selinux_messages import Reporter, take_messages
from pykcm.processes import DumpsError, forbid_dumps, on_signals
from pykcm.resources import allow_many_descriptors, limits_of
from pykcm.server.client_socket import Parts
from pykcm.server.connections import Connections
from pykcm.server.deadlines import Deadlines
from pykcm.server.dispatcher import Dispatcher
from pykcm.server.fair_queue import FairQueue
from pykcm.server.reception import ClientReception
from pykcm.sockets.acceptor import AcceptRates, Listener, TransportReception
from pykcm.sockets.bound_socket import BoundSocket
from pykcm.sockets.event_loop import EventLoop
from pykcm.sockets.passed import ListenError
from pykcm.sockets.systemd import Activated, Notifier, activated_sockets
from pykcm.store.copies import Copies
from pykcm.store.interface import Store, StoreUnusableError
from pykcm.stores import open_store
from pykcm.streams import end_output, open_standard_streams

log = logging.getLogger(__name__)

KIB = 1024
MIB = 1024 * KIB

# Seconds that the daemon's end waits for clients to read their replies.
_PATIENCE_AT_END = 10.0

# Seconds from the first byte of a request until it must be complete.
_PATIENCE_WITH_A_REQUEST = 30.0

# Connections of a UID that are accepted in a tenth of a second, however many clients wait.
_LEAST_RATE = 256

# The control sockets of other users, in folders of pykcm.service, by the services that use them.
_FOLDERS_OF_OTHERS = {"pykcm-metrics": "pykcm-metrics.service", "pykcm-renew": "pykcm-renew.service"}
_SOCKET_OF_OTHERS = "control.sock"

# In seconds. Python's default is ten times as long.
_SWITCH_INTERVAL = 0.0005

EXIT_UNUSABLE = 1

# The kernel sends SIGHUP to a daemon that was started by hand when its terminal is closed.
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """Run pykcmd; returns its exit status."""
    open_standard_streams()
    try:
        options = read_options(arguments)
    except SystemExit as end:
        # After --help, --version or a usage error.
        if end_output("pykcmd"):
            raise
        return int(end.code or 0) or EXIT_UNUSABLE
    os.umask(0o077)
    set_up_logging()
    try:
        forbid_dumps()
        overrides = {
            "socket_path": options.socket_path and str(options.socket_path.absolute()),
            "control_socket_path": options.control_socket_path,
            "state_dir": options.state_dir and str(options.state_dir.absolute()),
            "store": options.store,
            "log_level": options.log_level,
        }
        if options.check or options.show_config:
            from pykcm.config_report import report  # noqa: PLC0415 - a start does not need it

            printed = report(options.config, overrides, shows=options.show_config)
            return printed if end_output("pykcmd") else EXIT_UNUSABLE
        config = load_config(options.config, overrides)
        set_level(config.log_level)
        return _run(config)
    except _StopDuringStart as stop:
        log.info("stopping before the start is complete: %s", stop.signal.name)
        return 0
    except (
        DumpsError,
        ConfigError,
        KernelUnreadableError,
        ListenError,
        PolicyUnusableError,
        StoreUnusableError,
    ) as error:
        log.critical("%s", error)
        return EXIT_UNUSABLE


def _run(config: Config) -> int:
    # Before the event loop handles these signals, they end the start in order.
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop_during_start)
    allow_many_descriptors()
    # A thread that has waited for the disk gets the interpreter from the event loop after this time.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    kernel = read_kernel()
    access = Access(root_lists_all=config.root_lists_all, policy=_load_policy(config, kernel))
    with ExitStack() as at_end:
        notifier = Notifier()
        sockets = activated_sockets()
        activated = bool(sockets.kcm)
        if not activated:
            bound = BoundSocket(Path(config.socket_path))
            at_end.callback(bound.close)
            sockets.kcm.append(bound.socket)
            if not sockets.control:
                sockets.control.extend(_control_sockets(config, at_end))
        sockets.control.extend(_sockets_of_others(at_end))
        store, copies, clock_keeper = open_store(config, at_end)
        with (
            asyncio.Runner(loop_factory=EventLoop) as runner,
            LINE_COUNTS.scheduled(runner.get_loop().call_later),
        ):
            runner.run(
                _serve(
                    *(config, kernel, access, store, copies, clock_keeper, sockets, notifier),
                    activated=activated,
                )
            )
    return 0


def _control_sockets(config: Config, at_end: ExitStack) -> list[socket.socket]:
    """Bind the socket for pykcmctl; logs an error and returns no socket if that fails."""
    path = config.control_socket_path
    is_configured = path is not None
    if path is None:
        # A second daemon, next to the system's, must not take the path where pykcmctl finds the system's.
        path = DEFAULT_CONTROL_SOCKET if config.socket_path == DEFAULT_SOCKET else ""
    if not path:
        return []
    try:
        if not is_configured:
            _make_folder(Path(path).parent)
        bound = BoundSocket(Path(path), 0o600)
    except ListenError as error:
        level = logging.ERROR if is_configured else logging.WARNING
        log.log(level, "pykcmctl cannot reach this daemon: no control socket: %s", error)
        return []
    at_end.callback(bound.close)
    return [bound.socket]


def _sockets_of_others(at_end: ExitStack) -> list[socket.socket]:
    """Bind the control sockets for pykcm-metrics.service and pykcm-renew.service.

    Their users are in the daemon's group. The sockets are in folders made by RuntimeDirectory= of the unit.
    systemd does not listen there, because these services must not start the daemon.
    """
    sockets = []
    for folder in map(Path, os.environ.get("RUNTIME_DIRECTORY", "").split(":")):
        service = _FOLDERS_OF_OTHERS.get(folder.name)
        if service is None:
            continue
        try:
            bound = BoundSocket(folder / _SOCKET_OF_OTHERS, 0o660)
        except ListenError as error:
            log.warning("%s cannot reach this daemon: %s", service, error)
            continue
        at_end.callback(bound.close)
        sockets.append(bound.socket)
    return sockets


def _administrators(*, activated: bool) -> set[int]:
    """The UIDs that may make every request: root, and a user who started the daemon, whose files it has.

    The system's systemd starts it as a user of its own, who did not. Only users' own instances of systemd set
    MANAGERPID.
    """
    is_users = not activated or "MANAGERPID" in os.environ
    return {ROOT, os.geteuid()} if is_users else {ROOT}


def _make_folder(folder: Path) -> None:
    """Make the folder with mode 0755 for any umask, if it does not exist and can be made."""
    with suppress(OSError):
        folder.mkdir()
        folder.chmod(0o755)


def _load_policy(config: Config, kernel: Kernel) -> Policy | None:
    if not kernel.has_selinux:
        return None
    reporter = Reporter(config.audit_socket_path)
    take_messages(reporter.report)
    return load_policy(reporter.report)


class _StopDuringStart(SystemExit):
    """A signal ends the start."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.signal = signal.Signals(number)


def _stop_during_start(number: int, frame: FrameType | None) -> NoReturn:
    # It does not log: the signal may have come while a line is written, and the stream takes no second one.
    raise _StopDuringStart(number)


async def _serve(
    config: Config,
    kernel: Kernel,
    access: Access,
    store: Store,
    copies: Copies | None,
    clock_keeper: ClockKeeper,
    sockets: Activated,
    notifier: Notifier,
    *,
    activated: bool,
) -> None:
    stop = asyncio.Event()
    received = ""

    def stop_on_signal(stop_signal: str) -> None:
        nonlocal received
        received = received or stop_signal
        stop.set()

    def end_if_idle() -> None:
        if renewals.are_needed:
            connections.start_timer()
            return
        if clock_keeper.clock.is_believed():
            stop.set()
            return
        # If each run of the daemon were short, the clock would never be believed again.
        log.debug("idle, but the clock is in doubt: the daemon stops only when the clock is believed again")
        connections.start_timer()

    on_signals(_STOP_SIGNALS, stop_on_signal)
    engine = Engine(store, _collection_cache(config, store, clock_keeper))
    dispatcher = Dispatcher(engine, access)
    # Without socket activation nothing would start the daemon again. Without a persistent store its tickets
    # would be lost.
    idle_timeout = config.responder_idle_timeout if activated and store.persistent else 0
    limits = limits_of(config)
    connections = Connections(idle_timeout, end_if_idle, limits)
    fair_queue = FairQueue()
    parts = Parts(
        asyncio.get_running_loop(),
        dispatcher,
        connections,
        fair_queue,
        Deadlines(_PATIENCE_WITH_A_REQUEST),
        config.max_request_size * KIB,
    )
    clients = ClientReception(parts, kernel, AcceptRates(max(_LEAST_RATE, limits.uid_connections)))
    reaper = Reaper(engine, config.expired_retention, clock_keeper.clock.removal_time)
    renewals = RenewalsOnDemand(engine, config)
    administration = Administration(
        *(config, engine, dispatcher, store, copies, access, reaper, connections, fair_queue, clock_keeper),
        renewals=renewals,
    )
    control_socket = ControlSocket(
        administration, kernel, RequestAccess(_administrators(activated=activated))
    )
    listener = Listener(
        [
            *((sock, clients) for sock in sockets.kcm),
            *((sock, TransportReception(control_socket.connection)) for sock in sockets.control),
        ]
    )
    control_socket.warn_of_others(sock.getsockname() for sock in sockets.control)
    listener.begin()
    connections.start_timer()
    tasks = [_start_reaping(config, reaper), asyncio.create_task(clock_keeper.run())]
    _announce(config, kernel, sockets.kcm, notifier)
    # All objects made so far stay until the end: the garbage collector need not visit them.
    gc.freeze()
    # Cycles are rare here, and visiting thousands of live credentials takes long.
    gc.set_threshold(20_000, 50, 100)
    gc.enable()

    await stop.wait()
    await listener.stop()
    while not connections.are_idle and not received:
        # A client connected while the idle daemon was about to stop, and must be served.
        stop.clear()
        listener.begin()
        await stop.wait()
        await listener.stop()
    listener.close()
    log.info("stopping: %s", received or f"idle for {idle_timeout:g} s (responder_idle_timeout)")
    notifier.stopping()
    await _cancel(tasks)
    await control_socket.finish()
    late = await connections.finish(_PATIENCE_AT_END)
    if late:
        log.warning(
            "closed connections whose clients did not read their replies within %g s: %d",
            *(_PATIENCE_AT_END, late),
        )


def _start_reaping(config: Config, reaper: Reaper) -> asyncio.Task[NoReturn] | None:
    return asyncio.create_task(reaper.run(config.reap_interval)) if config.reap_interval else None


async def _cancel(tasks: list[asyncio.Task[NoReturn] | None]) -> None:
    await asyncio.wait([task for task in tasks if task is not None and task.cancel()])


def _announce(config: Config, kernel: Kernel, sockets: list[socket.socket], notifier: Notifier) -> None:
    where = ", ".join(str(each.getsockname()) for each in sockets)
    places = {"memory": "memory", "postgresql": "the database that hosts share"}
    kept = f"in {places.get(config.store, config.state_dir)}"
    status = f"Serving credential caches on {where}, kept {kept}"
    log.info("%s %s: %s", "pykcmd", __version__, status)
    if kernel.has_selinux:
        log.info("ccaches are separated by SELinux level as well")
    if kernel.hides_selinux:
        log.warning("the SELinux file system is hidden from the daemon: ccaches are separated by UID only")
    if kernel.overflow_uid is not None:
        log.info("the daemon is in a user namespace: clients whose UID has no mapping in it are refused")
    notifier.ready(status)


def _collection_cache(config: Config, store: Store, clock_keeper: ClockKeeper) -> CollectionCache:
    quotas = Quotas(
        max_ccaches=config.max_ccaches,
        max_uid_ccaches=config.max_uid_ccaches,
        max_ccache_size=config.max_ccache_size * KIB,
        max_uid_size=config.max_uid_size * KIB,
        max_ccache_credentials=config.max_ccache_credentials,
        max_uid_credentials=config.max_uid_credentials,
    )
    size = config.collection_cache_size * MIB
    return CollectionCache(store, quotas, size, removal_clock=clock_keeper.clock.removal_time)


if __name__ == "__main__":
    sys.exit(main())
