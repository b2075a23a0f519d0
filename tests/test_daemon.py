"""The command `pykcmd`: its options, its exit status, and that it starts, serves and ends."""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pykcm import __version__
from pykcm.ccaches.quotas import Quotas
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.daemon import _start_reaping
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.engine.reaper import Reaper
from pykcm.logs import set_level, set_up_logging
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE, ticket

ROOT = Path(__file__).parents[1]

# Long enough for a loaded machine; nothing ever waits this long when all is right.
LIMIT = 20.0

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Daemon:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_path = folder / "kcm.sock"
        self.state_dir = folder / "state"
        self.config = folder / "pykcm.toml"
        self.log_path = folder / "log"
        self.program = ["-m", "pykcm"]
        self.running: list[subprocess.Popen[bytes]] = []
        self.config.write_text(
            f'socket_path = "{self.socket_path}"\nstate_dir = "{self.state_dir}"\nlog_level = "debug"\n'
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.program, "--config", str(self.config)]

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def run(self, *options: str, configured: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end."""
        command = self.command if configured else self.command[:3]
        return subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
            cwd=self.folder,
            env=ENVIRONMENT,
        )

    def refusal(self, *options: str) -> str:
        """What the command says when it refuses to start: one line, and exit status 1."""
        done = self.run(*options)
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("pykcmd: critical: ")
        return line

    def start(
        self, *options: str, until: Callable[["Daemon"], bool] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start the command and wait until it serves, or for another sign that it has started."""
        has_started = Daemon.serves if until is None else until
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*self.command, *options], stdout=log, stderr=log, cwd=self.folder, env=ENVIRONMENT
            )
        self.running.append(process)
        deadline = time.monotonic() + LIMIT
        while not has_started(self):
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"it ended with {process.wait(0.01)}:\n{self.log}")
            assert time.monotonic() < deadline, self.log
        return process

    def serves(self) -> bool:
        try:
            with KcmClient(self.socket_path, LIMIT) as kcm:
                kcm.noop()
        except OSError:
            return False
        return True


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """The command, configured for the test's folder; none of its processes is left."""
    daemon = Daemon(tmp_path)
    yield daemon
    for process in daemon.running:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT)


def end(process: "subprocess.Popen[bytes]", number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(LIMIT)


# The command line


def test_version(daemon: Daemon) -> None:
    """--version tells the version and does nothing else."""
    done = daemon.run("--version", configured=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pykcmd {__version__}\n", "")


def test_help(daemon: Daemon) -> None:
    """--help tells every option."""
    done = daemon.run("--help", configured=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = {"--config", "--socket-path", "--state-dir", "--store", "--log-level", "--version"}
    assert options <= set(re.findall(r"--[a-z-]+", done.stdout))


@pytest.mark.parametrize(
    "options",
    [
        ["--nonsense"],
        ["--store", "postgresql"],
        ["--log-level", "verbose"],
        ["--socket-path"],
        ["start"],
        ["--config"],
    ],
    ids=" ".join,
)
def test_wrong_options(daemon: Daemon, options: list[str]) -> None:
    """Options that make no sense end with status 2 and the usage, and start nothing."""
    done = daemon.run(*options)
    assert done.returncode == 2
    assert "usage: pykcmd" in done.stderr
    assert done.stdout == ""
    assert not daemon.state_dir.exists()


# What cannot be started


def test_wrong_configuration(daemon: Daemon) -> None:
    """A mistake in the configuration is status 1 and one line that names file and option."""
    daemon.config.write_text("max_uid_ccache = 1\n")
    line = daemon.refusal()
    assert str(daemon.config) in line
    assert "max_uid_ccaches" in line


def test_missing_configuration(daemon: Daemon) -> None:
    """A configuration that was asked for by name must be there."""
    assert "nowhere.toml" in daemon.refusal("--config", "nowhere.toml")


def test_a_socket_that_is_in_use(daemon: Daemon) -> None:
    """A live server's socket is status 1, and that server goes on."""
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(daemon.socket_path))
        live.listen()
        assert str(daemon.socket_path) in daemon.refusal()
        assert daemon.socket_path.exists()
    assert not daemon.state_dir.exists()


def test_a_state_folder_in_use(daemon: Daemon) -> None:
    """A second daemon with another socket is told which process has the folder; the first goes on."""
    process = daemon.start()
    line = daemon.refusal("--socket-path", "other.sock")
    assert str(daemon.state_dir) in line
    assert str(process.pid) in line
    assert not (daemon.folder / "other.sock").exists()
    assert daemon.serves()
    assert end(process) == 0


@pytest.mark.parametrize("spoilt", ["wrong key", "missing key", "readable key", "open folder", "damaged"])
def test_an_unusable_store(daemon: Daemon, spoilt: str) -> None:
    """An unusable store is status 1 and one line that names the file; no socket is left, no file changed."""
    assert end(daemon.start()) == 0
    key, database = daemon.state_dir / "key", daemon.state_dir / "pykcm.db"
    named = {"missing key": key, "readable key": key, "open folder": daemon.state_dir}.get(spoilt, database)
    match spoilt:
        case "wrong key":
            key.write_bytes(bytes(32))
        case "missing key":
            key.unlink()
        case "readable key":
            key.chmod(0o644)
        case "open folder":
            daemon.state_dir.chmod(0o755)
        case "damaged":
            database.write_bytes(database.read_bytes()[:-1])

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in daemon.state_dir.iterdir() if path.name != "lock"}

    before = files()
    assert str(named) in daemon.refusal()
    assert files() == before
    assert not daemon.socket_path.exists()


# The log


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The log as the daemon sets it up, put back at the end."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing)
    yield
    root.handlers[:], root.level, logging.logThreads, logging.logMultiprocessing = before


class FakeJournalHandler(logging.Handler):
    """systemd-python's handler, as far as it is used."""

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self.fields = fields


def this_stderr() -> str:
    """What JOURNAL_STREAM has to be for stderr to be the journal."""
    status = os.fstat(sys.stderr.fileno())
    return f"{status.st_dev}:{status.st_ino}"


@pytest.mark.usefixtures("own_logging", "capfd")
def test_log_to_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where stderr is the journal the log goes there with its fields, under the command's name."""
    journal = SimpleNamespace(JournalHandler=FakeJournalHandler)
    monkeypatch.setitem(sys.modules, "systemd", SimpleNamespace(journal=journal))
    monkeypatch.setenv("JOURNAL_STREAM", this_stderr())
    set_up_logging()
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, FakeJournalHandler)
    assert handler.fields == {"SYSLOG_IDENTIFIER": "pykcmd"}


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("why", ["no library", "another stream", "no stream"])
def test_log_to_stderr(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Otherwise, or without systemd-python, the log is plain lines on stderr, from the level that was set."""
    match why:
        case "no library":
            monkeypatch.setitem(sys.modules, "systemd", None)
            monkeypatch.setenv("JOURNAL_STREAM", this_stderr())
        case "another stream":
            monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        case "no stream":
            monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    set_up_logging()
    logging.getLogger("pykcm").debug("not shown")
    logging.getLogger("pykcm").info("shown")
    set_level("error")
    logging.getLogger("pykcm").warning("not shown any more")
    assert capfd.readouterr().err == "pykcmd: info: shown\n"


# SELinux

# What of SELinux the command finds: `binding` is what `import selinux` gives it.
WITH_SELINUX = """
import sys
from types import SimpleNamespace
import pykcm.daemon
from pykcm.peer.identity import Kernel
from tests.peer.test_selinux import Binding
binding = {binding}
sys.modules["selinux"] = binding
pykcm.daemon.read_kernel = lambda: Kernel(has_selinux={has_selinux})
sys.exit(pykcm.daemon.main())
"""

# Without SELinux in the test machine's kernel a real peer has no label.
no_real_selinux = pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="there are labels here")


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("None", "install the distribution's binding of libselinux"),
        ("SimpleNamespace(is_selinux_enabled=lambda: 0)", "but not according to"),
        ("SimpleNamespace(is_selinux_enabled=lambda: 1)", "cannot be asked"),
        ("Binding(); binding.classes = {}", "no class file"),
    ],
)
def test_selinux_that_cannot_be_asked(daemon: Daemon, binding: str, message: str) -> None:
    """Where the kernel has SELinux and the policy cannot be asked, it refuses to start and leaves nothing."""
    daemon.program = ["-c", WITH_SELINUX.format(binding=binding, has_selinux=True)]
    assert message in daemon.refusal()
    assert not daemon.state_dir.exists()
    assert not daemon.socket_path.exists()


@no_real_selinux
def test_peers_without_a_label(daemon: Daemon) -> None:
    """Where the kernel has SELinux, a peer whose label cannot be read is not served."""
    daemon.program = ["-c", WITH_SELINUX.format(binding="Binding()", has_selinux=True)]
    process = daemon.start(until=lambda each: "Serving" in each.log)
    assert "separated by SELinux level" in daemon.log
    assert not daemon.serves()
    assert "connection refused: its SELinux label" in daemon.log
    assert end(process) == 0


def test_without_selinux_nothing_of_it_is_loaded(daemon: Daemon) -> None:
    """Where the kernel has no SELinux, the binding need not be there."""
    daemon.program = ["-c", WITH_SELINUX.format(binding="None", has_selinux=False)]
    process = daemon.start()
    assert "SELinux" not in daemon.log
    assert end(process) == 0


# From start to end


def test_started_by_hand(daemon: Daemon) -> None:
    """It makes private state and a socket for everyone, says that it serves, and what it stored survives."""
    process = daemon.start()
    assert daemon.socket_path.stat().st_mode & 0o777 == 0o666
    assert daemon.state_dir.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in daemon.state_dir.iterdir()}
    assert {"key", "lock", "pykcm.db"} <= set(files)
    assert set(files.values()) == {0o600}
    with KcmClient(daemon.socket_path, LIMIT) as kcm:
        name = kcm.get_default_cache()
        kcm.initialize(name, ALICE)
    assert end(process) == 0
    assert not daemon.socket_path.exists()
    assert f"pykcmd {__version__}" in daemon.log
    assert "stopping" in daemon.log

    assert end(daemon.start(), signal.SIGKILL) == -signal.SIGKILL
    assert daemon.socket_path.exists()
    process = daemon.start()
    with KcmClient(daemon.socket_path, LIMIT) as kcm:
        assert kcm.get_principal(name) == ALICE
    assert end(process, signal.SIGINT) == 0
    assert "Traceback" not in daemon.log


def test_a_new_database_beside_an_old_key_is_a_warning(daemon: Daemon) -> None:
    """A first start says that it makes a database; one that finds only the key warns."""
    database = daemon.state_dir / "pykcm.db"
    assert end(daemon.start()) == 0
    assert f"pykcmd: info: {database}: a new, empty database was created, with a new key" in daemon.log
    assert "pykcmd: warning: " not in daemon.log
    assert end(daemon.start()) == 0
    assert daemon.log.count("new, empty") == 1
    database.unlink()
    assert end(daemon.start()) == 0
    (line,) = [line for line in daemon.log.splitlines() if line.startswith("pykcmd: warning: ")]
    assert f"{database}: there was no database, and a new, empty one was created, although its key, " in line
    assert f"{daemon.state_dir / 'key'}, is older" in line


def test_options_go_before_configuration(daemon: Daemon) -> None:
    """Options of the command line have precedence; relative paths are under the current folder."""
    daemon.socket_path = daemon.folder / "other.sock"
    process = daemon.start("--socket-path", "other.sock", "--store", "memory", "--log-level", "warning")
    assert not daemon.state_dir.exists()
    assert end(process) == 0
    assert daemon.log == ""


def test_state_dir_and_key_file(daemon: Daemon) -> None:
    """The state folder may be given, and the key may lie elsewhere."""
    key = daemon.folder / "the.key"
    with daemon.config.open("a") as config:
        config.write(f'key_file = "{key}"\n')
    process = daemon.start("--state-dir", "elsewhere")
    assert sorted(
        path.name for path in (daemon.folder / "elsewhere").iterdir() if path.suffix != ".db-wal"
    ) == [
        "lock",
        "pykcm.db",
    ]
    assert key.stat().st_size == 32
    assert end(process) == 0


def test_what_has_begun_is_finished(daemon: Daemon) -> None:
    """On SIGTERM an open connection ends in order: its client's next write is EPIPE; status 0."""
    process = daemon.start()
    with KcmClient(daemon.socket_path, LIMIT) as kcm:
        kcm.initialize(kcm.get_default_cache(), ALICE)
        assert end(process) == 0
        with pytest.raises(BrokenPipeError):
            kcm.noop()


LISTENING = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("persistent", [True, False])
def test_started_by_systemd(daemon: Daemon, persistent: bool) -> None:
    """With systemd's socket it says when it is ready, serves there, leaves the socket, and ends when idle."""
    with daemon.config.open("a") as config:
        config.write(f'responder_idle_timeout = 0.01\nstore = "{"sqlcipher" if persistent else "memory"}"\n')
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.bind(str(daemon.socket_path))
        listener.listen()
        notify.bind(str(daemon.folder / "notify"))
        notify.settimeout(LIMIT)
        # Connected before the daemon is there, as the client is that systemd starts it for.
        client.connect(str(daemon.socket_path))
        fd = listener.fileno()
        with daemon.log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    "bash",
                    "-c",
                    f'exec "$@" 3<&{fd}',
                    "bash",
                    sys.executable,
                    "-c",
                    LISTENING,
                    *daemon.command,
                ],
                stdout=log,
                stderr=log,
                cwd=daemon.folder,
                env={**ENVIRONMENT, "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(daemon.folder / "notify")},
                pass_fds=[fd],
            )
        daemon.running.append(process)
        assert notify.recv(1000).startswith(b"READY=1\n")
        client.settimeout(LIMIT)
        client.send(b"\0\0\0\4\2\0\0\0")
        assert client.recv(100) == b"\0\0\0\4" + bytes(8)
        client.close()
        if not persistent:
            # The memory store's end would be that of the tickets.
            assert daemon.serves()
            process.terminate()
        assert process.wait(LIMIT) == 0
        assert notify.recv(1000).startswith(b"STOPPING=1\n")
    assert daemon.socket_path.exists()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("store", ["sqlcipher", "memory"])
def test_ends_in_order_while_it_reaps(daemon: Daemon, store: str) -> None:
    """With either store, a daemon that is ended between or in the reaper's rounds ends in order."""
    with daemon.config.open("a") as config:
        config.write(f'store = "{store}"\nreap_interval = 0.001\nexpired_retention = 0\n')
    process = daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        name = b"%d" % os.geteuid()
        kcm.replace(name, 0, ALICE, [ticket().blob])
        deadline = time.monotonic() + LIMIT
        while f"expired ccache {os.geteuid()} removed" not in daemon.log:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert kcm.get_cache_uuid_list() == []
    assert end(process) == 0
    assert "Traceback" not in daemon.log


def test_without_a_reaper() -> None:
    """With reap_interval 0 nothing is begun that would look for expired ccaches."""

    async def begun(config: Config) -> bool:
        store = MemoryStore()
        engine = Engine(store, CollectionCache(store, Quotas()))
        task = _start_reaping(config, Reaper(engine, config.expired_retention))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        return task is not None

    assert asyncio.run(begun(Config()))
    assert not asyncio.run(begun(Config(reap_interval=0)))


def test_what_is_not_loaded() -> None:
    """A start loads nothing that only administrators need, and no module that is large for what it gives."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import pykcm.daemon, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "pykcm.server.dispatcher" in loaded
    assert not {"cbor2", "click", "rich", "pyrage", "pykcm.control.listing", "selinux"} & set(loaded)
    # hashlib and the modules that import it load OpenSSL's libcrypto.
    assert not {"hashlib", "secrets", "random", "tempfile", "shutil"} & set(loaded)


def test_daemon_loads_no_openssl() -> None:
    """The daemon is imported without ssl, whose libraries would be 4 MiB of 32; it can be imported later."""
    program = """
import sys
from pykcm.__main__ import main
sys.argv[1:] = ["--version"]
try:
    main()
except SystemExit:
    print(*sys.modules)
import ssl
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "asyncio" in loaded.split()
    assert not {"ssl", "_ssl", "_hashlib"} & set(loaded.split())


def test_garbage_is_collected_once_the_daemon_serves(daemon: Daemon) -> None:
    """The start makes no garbage and does not look for it; a daemon that serves does."""
    program = """
import gc, sys
from pathlib import Path
freeze, enable = gc.freeze, gc.enable

def noted(name, call):
    call()
    with Path("gc").open("a") as file:
        print(name, gc.isenabled(), file=file)

gc.freeze = lambda: noted("freeze", freeze)
gc.enable = lambda: noted("enable", enable)
from pykcm.__main__ import main
sys.exit(main())
"""
    daemon.program = ["-c", program]
    daemon.start()
    assert (daemon.folder / "gc").read_text().split() == ["freeze", "False", "enable", "True"]
