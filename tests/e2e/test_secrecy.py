"""Keys and tickets are only in the daemon's memory and, encrypted, in its database."""

import base64
import contextlib
import errno
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from pykcm.protocol.tag import Match, Tag
from pykcm.store.clock_reading import CLOCK
from tests.builders import ALICE, credential_bytes, data, principal_bytes, service

from .conftest import USER, public_folder
from .daemon import ROOT, Pykcmd, effective_uid
from .database import key_file, open_database
from .raw import RawConnection
from .traces import files_below, forms_of, process_files, traces
from .waiting import wait_until

STORE, REPLACE, CC_FORMAT = 6, 13002, -1765328185
NAME = b"%d" % USER
BROKEN = b"%d:broken" % USER

# All kinds of bytes: quotes, a backslash, newlines, UTF-8, invalid UTF-8, and random ones.
AWKWARD = b"'\"\\\r\n\0\xc3\xa9\xff\x1b"

SECRETS = {
    name: name.encode() + AWKWARD + secrets.token_bytes(24)
    for name in ("key", "ticket", "second_ticket", "authdata")
}

# An operation with a bug, whose exception contains all of its arguments.
BUGGY = """
import msgspec
from pykcm.daemon import main
from pykcm.server import operations
from pykcm.protocol.opcodes import Opcode

found = operations.OPERATIONS[Opcode.SET_KDC_OFFSET]

def buggy(turn, name, *arguments):
    ccache = turn.readable(name)
    (credential, *others) = ccache.credentials
    tag = operations.Tag(second_ticket=credential.second_ticket, authdata=credential.authdata)
    frame = operations.Frame(6, credential.blob)
    values = [turn, ccache, credential, credential.equality, tag, ccache.credentials.packed, frame]
    assert not values, values
operations.Frame = __import__("pykcm.protocol.framing", fromlist=["Frame"]).Frame
operations.OPERATIONS[Opcode.SET_KDC_OFFSET] = msgspec.structs.replace(found, run=buggy)
raise SystemExit(main())
"""


def blob(server: int = 0) -> bytes:
    return credential_bytes(
        service(server),
        key=SECRETS["key"],
        ticket=SECRETS["ticket"],
        second_ticket=SECRETS["second_ticket"],
        authdata=[(1, SECRETS["authdata"])],
    )


@pytest.fixture(scope="module")
def private_tmp() -> Iterator[Path]:
    """The daemon's folder for temporary files."""
    with public_folder() as folder:
        yield folder


@pytest.fixture
def daemon(folder: Path, private_tmp: Path) -> Iterator[Pykcmd]:
    """A daemon that is not yet started, and may log any error."""
    daemon = Pykcmd(folder)
    daemon.configure("max_ccache_size = 64\n")
    yield daemon
    daemon.end()


def start(daemon: Pykcmd, private_tmp: Path) -> None:
    clock = daemon.state_dir / CLOCK
    clock.unlink(missing_ok=True)
    daemon.start(environment={"TMPDIR": str(private_tmp), "TMP": str(private_tmp), "TEMP": str(private_tmp)})
    # From here on no file disappears while the test reads all of them: the daemon has renamed its last one.
    wait_until(clock.exists)


@contextlib.contextmanager
def client(daemon: Pykcmd) -> Iterator[KcmClient]:
    with effective_uid(USER):
        kcm = KcmClient(daemon.socket_path)
    with kcm:
        yield kcm


def assert_no_traces(daemon: Pykcmd, private_tmp: Path) -> None:
    """Fail if anything readable contains a session key, a ticket or the database's key."""
    database_key = key_file(daemon.state_dir)
    places = files_below([daemon.folder, private_tmp])
    assert {str(daemon.log_path), str(daemon.state_dir / "pykcm.db")} <= places.keys()
    assert len(places.pop(str(database_key))) == 32
    if daemon.running:
        assert daemon.process is not None
        places |= process_files(daemon.process.pid)
    assert traces(places, {**SECRETS, "the database's key": database_key.read_bytes()}) == []
    assert list(private_tmp.iterdir()) == []


def refused(code: int) -> contextlib.AbstractContextManager[object]:
    @contextlib.contextmanager
    def check() -> Iterator[None]:
        with pytest.raises(KcmError) as caught:
            yield
        assert caught.value.code == code

    return check()


def test_normal_operations_leak_nothing(daemon: Pykcmd, private_tmp: Path) -> None:
    """While the daemon runs and afterwards."""
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        kcm.initialize(NAME, ALICE)
        kcm.store(NAME, blob())
        assert kcm.retrieve(NAME, Match.SECOND_TICKET, Tag(second_ticket=SECRETS["second_ticket"])) == blob()
        kcm.replace(BROKEN, 0, ALICE, [blob(number) for number in range(20)])
        assert len(kcm.get_cred_list(BROKEN)) == 20
        assert_no_traces(daemon, private_tmp)
        kcm.remove_cred(BROKEN, 0, Tag(server=service(3)))
        kcm.move_cache(BROKEN, NAME)
        assert_no_traces(daemon, private_tmp)
        daemon.kill()
        assert_no_traces(daemon, private_tmp)
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        assert len(kcm.get_cred_list(NAME)) == 19
        kcm.destroy(NAME)
    assert_no_traces(daemon, private_tmp)
    assert daemon.stop() == 0
    assert_no_traces(daemon, private_tmp)


def test_refused_requests_leak_nothing(daemon: Pykcmd, private_tmp: Path) -> None:
    """Truncated requests, wrong lengths, exceeded quotas and missing ccaches."""
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        kcm.initialize(NAME, ALICE)
        with refused(errno.EDQUOT):
            kcm.replace(NAME, 0, ALICE, [blob(number) for number in range(500)])
        with refused(-1765328189):  # FCC_NOFILE
            kcm.store(BROKEN, blob())
        with refused(-1765328243):  # CC_NOTFOUND
            kcm.retrieve(NAME, Match.SECOND_TICKET, Tag(second_ticket=SECRETS["second_ticket"]))
    whole = blob()
    with RawConnection(daemon.socket_path, USER) as raw:
        for at in range(0, len(whole), 7):
            assert raw.ask(STORE, NAME + b"\0" + whole[:at]) == CC_FORMAT
            liar = whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :]
            raw.ask(STORE, NAME + b"\0" + liar)
            several = b"\0\0\0\2" + data(whole) + data(whole[:at])
            begin = NAME + b"\0" + bytes(4) + principal_bytes(ALICE)
            assert raw.ask(REPLACE, begin + several) == CC_FORMAT
        # As a name, a principal, and an unknown operation.
        raw.ask(8, SECRETS["ticket"].replace(b"\0", b"") + b"\0")
        raw.ask(4, NAME + b"\0" + whole[-100:])
        raw.ask(999, whole)
        raw.send(whole)
        assert raw.is_closed()
    assert "connection closed" in daemon.log
    assert "max_ccache_size" in daemon.log
    # Names are logged: a name is not a secret, whatever a client puts into it.
    log = daemon.log_path
    log.write_text(
        "".join(line for line in log.read_text().splitlines(True) if " GET_PRINCIPAL " not in line)
    )
    assert_no_traces(daemon, private_tmp)


def test_internal_error_leaks_nothing(daemon: Pykcmd, private_tmp: Path) -> None:
    """The exception of an operation is logged with its traceback, without secrets."""
    daemon.command = (sys.executable, "-c", BUGGY)
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        kcm.initialize(NAME, ALICE)
        kcm.store(NAME, blob())
        with refused(errno.EIO):
            kcm.set_kdc_offset(NAME, 1)
    assert "AssertionError: [<" in daemon.log
    assert "Traceback" in daemon.log
    assert_no_traces(daemon, private_tmp)


def test_damaged_secrets_are_not_logged(daemon: Pykcmd, private_tmp: Path) -> None:
    """Unreadable secrets in the database are named in the log, but not shown."""
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        kcm.replace(NAME, 0, ALICE, [blob()])
        kcm.replace(BROKEN, 0, ALICE, [blob()])
    assert daemon.stop() == 0
    with open_database(daemon.state_dir) as database:
        credential = "length(name) = 32"
        database.execute(f"UPDATE secrets SET value = substr(value, 1, length(value) - 5) WHERE {credential}")
        document = json.dumps({"version": 1, "kdc_offset": base64.b64encode(blob()).decode()})
        database.execute("UPDATE secrets SET value = CAST(? AS BLOB) WHERE name LIKE '%:broken'", (document,))
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        with refused(errno.EIO):
            kcm.get_cred_list(NAME)
        with refused(errno.EIO):
            kcm.get_cred_list(BROKEN)
    assert daemon.log.count("cannot be read (") == 2
    assert_no_traces(daemon, private_tmp)


def test_failed_store_leaks_nothing(daemon: Pykcmd, private_tmp: Path) -> None:
    """A database that cannot grow is an error in the log, without the data."""
    # The kernel's limit for the size of files in bytes; a write beyond it fails.
    daemon.command = ("prlimit", "--fsize=100000", *daemon.command)
    daemon.configure("max_ccache_size = 1024\n")
    start(daemon, private_tmp)
    with client(daemon) as kcm:
        kcm.initialize(NAME, ALICE)
        kcm.store(NAME, blob())
        with pytest.raises(KcmError) as caught:
            kcm.replace(BROKEN, 0, ALICE, [blob(number) for number in range(400)])
    assert caught.value.code in {errno.ENOSPC, errno.EIO}
    assert "failed in the store" in daemon.log
    assert_no_traces(daemon, private_tmp)


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_found_in_any_form(name: str) -> None:
    """Without this, the other tests would prove nothing."""
    secret = SECRETS[name]
    line = b"pykcmd: debug: " + b"%s" + b" and more"
    written = [
        secret,
        secret.hex().encode(),
        repr(secret).encode(),
        repr({"key": [secret]}).encode(),
        *(base64.b64encode(b"x" * before + secret + b"yz") for before in range(3)),
        json.dumps(list(secret)).encode(),
    ]
    for text in written:
        assert traces({"log": line % text}, {name: secret}) == [f"{name} in log"]
    assert traces({"log": line}, {name: secret}) == []
    assert len(set(forms_of(secret))) > 10


def test_unit_forbids_core_dumps() -> None:
    """Under systemd there are no core dumps, and the daemon's memory is not swapped."""
    unit = (ROOT / "systemd" / "pykcm.service").read_text().splitlines()
    assert {"LimitCORE=0", "MemorySwapMax=0", "UMask=0077"} <= set(unit)
