"""pykcmd from its start to its end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from pykcm import __version__
from pykcm.ccaches.quotas import Quotas
from pykcm.client import KcmClient
from pykcm.config import Config
from pykcm.daemon import _start_reaping
from pykcm.engine.collection_cache import CollectionCache
from pykcm.engine.engine import Engine
from pykcm.engine.reaper import Reaper
from pykcm.protocol.codes import KcmError
from pykcm.store.memory import MemoryStore
from tests.builders import ALICE, ticket

from .conftest import ENVIRONMENT, LIMIT, Daemon, end


def test_start_by_hand(daemon: Daemon) -> None:
    """Pykcmd makes private state and a socket for everyone; its ccaches survive SIGTERM and SIGKILL."""
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


def test_new_database_with_an_old_key_is_a_warning(daemon: Daemon) -> None:
    """The first start logs that it makes a database; a start that finds only the key logs a warning."""
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


def test_sigterm_closes_connections_in_order(daemon: Daemon) -> None:
    """After SIGTERM, the next write of a connected client fails with EPIPE, and the exit status is 0."""
    process = daemon.start()
    with KcmClient(daemon.socket_path, LIMIT) as kcm:
        kcm.initialize(kcm.get_default_cache(), ALICE)
        assert end(process) == 0
        with pytest.raises(BrokenPipeError):
            kcm.noop()


def test_sigterm_while_the_start_writes_a_line(daemon: Daemon) -> None:
    """SIGTERM during the start ends the daemon in order, also in the middle of a line of its log."""
    daemon.program = [
        "-c",
        """
import io, os, signal, sys

class Interrupted(io.FileIO):
    is_first = True

    def write(self, data):
        size = super().write(data)
        if self.is_first:
            self.is_first = False
            os.kill(os.getpid(), signal.SIGTERM)
        return size

io.FileIO = Interrupted
from pykcm.programs import pykcmd
sys.exit(pykcmd())
""",
    ]
    done = daemon.run()
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stderr.endswith("pykcmd: info: stopping before the start is complete: SIGTERM\n")
    assert not daemon.socket_path.exists()


LISTENING = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("persistent", [True, False])
def test_start_by_systemd(daemon: Daemon, persistent: bool) -> None:
    """Pykcmd notifies systemd, serves its socket, does not remove it, and ends when idle."""
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
        # The client connects before the daemon runs, like the one for which systemd starts it.
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
            # With the memory store, the end of the daemon would lose the tickets.
            assert daemon.serves()
            process.terminate()
        assert process.wait(LIMIT) == 0
        assert notify.recv(1000).startswith(b"STOPPING=1\n")
    assert daemon.socket_path.exists()
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("store", ["sqlcipher", "memory"])
def test_sigterm_during_reaping_ends_in_order(daemon: Daemon, store: str) -> None:
    """With either store, SIGTERM ends the daemon in order, also while the reaper works."""
    with daemon.config.open("a") as config:
        config.write(f'store = "{store}"\nreap_interval = 0.001\nexpired_retention = 0\n')
    process = daemon.start()
    with KcmClient(daemon.socket_path) as kcm:
        name = b"%d" % os.geteuid()
        kcm.replace(name, 0, ALICE, [ticket().blob])
        deadline = time.monotonic() + LIMIT
        while f"expired ccache KCM:{os.geteuid()} removed" not in daemon.log:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert kcm.get_cache_uuid_list() == []
    assert end(process) == 0
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("interval", [0, 600])
async def test_reap_interval_0_starts_no_reaper(interval: int) -> None:
    """With reap_interval 0, no task looks for expired ccaches."""
    config, store = Config(reap_interval=interval), MemoryStore()
    engine = Engine(store, CollectionCache(store, Quotas()))
    task = _start_reaping(config, Reaper(engine, config.expired_retention))
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
    assert (task is not None) == (interval > 0)


def test_daemon_loads_no_unneeded_modules() -> None:
    """The daemon's start loads neither modules for administrators nor large modules for small purposes."""
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


def test_daemon_loads_neither_openssl_nor_typing_extensions() -> None:
    """The daemon is imported without ssl and typing_extensions; later imports of them still work."""
    program = """
import sys
from pykcm.programs import pykcmd
sys.argv[1:] = ["--version"]
try:
    pykcmd()
except SystemExit:
    print(*sys.modules)
import ssl
from importlib.util import find_spec
assert find_spec("typing_extensions") is None or __import__("typing_extensions")
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "asyncio" in loaded.split()
    assert not {"ssl", "_ssl", "_hashlib", "typing_extensions"} & set(loaded.split())


# Modules that a start must not need. Some are imported by a function of the daemon, others by the libraries.
NEEDED_LATER = {
    *("argparse", "ast", "asyncio.sslproto", "asyncio.staggered", "dataclasses", "dis", "gettext", "inspect"),
    *("ipaddress", "locale", "msgspec.inspect", "textwrap", "tokenize"),
    *("pykcm.control.calls", "pykcm.control.connection", "pykcm.control.messages", "pykcm.engine.renewals"),
    "pykcm.store.memory",
}

# Of pykcm alone. Each named tuple is compiled at the start, and takes as long as six msgspec.Structs.
MOST_MODULES = 100
MOST_NAMED_TUPLES = 16


def test_first_reply_needs_few_modules_and_named_tuples(daemon: Daemon) -> None:
    """A daemon that has read a user's ccaches and replied has not imported what is needed later."""
    program = """
import atexit, collections, sys
from pathlib import Path
made, namedtuple = [], collections.namedtuple

def counted(name, *arguments, module=None, **options):
    made.append(f"{module}.{name}")
    return namedtuple(name, *arguments, module=module, **options)

collections.namedtuple = counted
before = set(sys.modules)
atexit.register(lambda: Path("modules").write_text(" ".join(sys.modules.keys() - before)))
atexit.register(lambda: Path("tuples").write_text(" ".join(made)))
from pykcm.programs import pykcmd
sys.exit(pykcmd())
"""
    daemon.program = ["-c", program]
    process = daemon.start()
    with KcmClient(daemon.socket_path, LIMIT) as kcm:
        name = kcm.get_default_cache()
        with pytest.raises(KcmError):
            kcm.get_principal(name)
    assert end(process) == 0
    modules = set((daemon.folder / "modules").read_text().split())
    assert NEEDED_LATER & modules == set()
    assert len([each for each in modules if each.startswith("pykcm.")]) <= MOST_MODULES
    tuples = (daemon.folder / "tuples").read_text().split()
    assert len([each for each in tuples if each.startswith("pykcm.")]) <= MOST_NAMED_TUPLES


def test_modules_that_are_needed_later_are_imported_then() -> None:
    """Functions of the libraries work that need a module whose import a start puts off."""
    program = """
import sys
from pykcm.programs import pykcmd
sys.argv[1:] = ["--version"]
try:
    pykcmd()
except SystemExit:
    assert not {"inspect", "ipaddress", "msgspec.inspect"} & sys.modules.keys()
import asyncio, linecache, msgspec, pathlib, urllib.parse
assert asyncio.iscoroutinefunction(asyncio.sleep)
assert msgspec.inspect.type_info(int) == msgspec.inspect.IntType()
assert pathlib.PureWindowsPath("C:/a/b").name == "b"
assert urllib.parse.urlsplit("http://[::1]/").hostname == "::1"
assert linecache.getline(asyncio.__file__, 1)
import inspect
assert not inspect.signature(pykcmd).parameters
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_garbage_is_collected_once_the_daemon_serves(daemon: Daemon) -> None:
    """The garbage collector is disabled during the start, and enabled when the daemon serves."""
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
from pykcm.programs import pykcmd
sys.exit(pykcmd())
"""
    daemon.program = ["-c", program]
    daemon.start()
    assert (daemon.folder / "gc").read_text().split() == ["freeze", "False", "enable", "True"]
