"""Fixtures: one KDC for the session; a folder, a daemon and clients for each test."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from pykcm.cli.archive import pack_archive
from tests.builders import ALICE, credential_bytes

from .clients import HeimdalClient, MitClient, why_no_heimdal, why_no_mount_namespace
from .control import Pykcmctl
from .daemon import Pykcmd
from .kdc import Kdc, missing_programs

Daemon = TypeVar("Daemon", bound=Pykcmd)

# UIDs without an account; the calling user's UID if that is not root.
USER = 20001 if os.geteuid() == 0 else os.geteuid()
OTHER = 20002


@pytest.fixture(scope="session")
def several_uids() -> None:
    """For tests that run clients as several UIDs."""
    if os.geteuid() != 0:
        pytest.skip("only root can run clients as several UIDs")


@pytest.fixture(scope="session")
def kdc() -> Iterator[Kdc]:
    """A KDC with three users and four services."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no KDC here: {', '.join(missing)} missing")
    with Kdc() as kdc:
        yield kdc


@pytest.fixture(scope="session")
def mount_namespaces() -> None:
    """For tests that give a process its own mounts."""
    reason = why_no_mount_namespace()
    if reason:
        pytest.skip(reason)


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every UID may enter, because clients run as several UIDs."""
    folder = Path(tempfile.mkdtemp(prefix="pykcm-e2e-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def watched(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, not yet started. At the end it is stopped, and its log is checked."""
    try:
        yield daemon
    finally:
        daemon.end()
        # pytest shows this if the test fails.
        print(f"--- {daemon.log_path}\n{daemon.log}")  # noqa: T201
    assert "Traceback" not in daemon.log, "a bug of the daemon's, answered as EIO"


@contextmanager
def started(daemon: Daemon) -> Iterator[Daemon]:
    """The running daemon; it must end with status 0, unless the test has ended it."""
    daemon.start()
    yield daemon
    if daemon.running:
        assert daemon.stop() == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one test."""
    with public_folder() as folder:
        yield folder


@pytest.fixture
def stopped_pykcmd(folder: Path) -> Iterator[Pykcmd]:
    """A daemon with the SQLCipher store that is not yet started."""
    with watched(Pykcmd(folder)) as daemon:
        yield daemon


@pytest.fixture
def pykcmd(stopped_pykcmd: Pykcmd) -> Iterator[Pykcmd]:
    """A running daemon with the SQLCipher store."""
    with started(stopped_pykcmd) as daemon:
        yield daemon


@pytest.fixture
def ctl(pykcmd: Pykcmd) -> Pykcmctl:
    """Root's pykcmctl of the running daemon."""
    return Pykcmctl(pykcmd.control_path)


@pytest.fixture
def mit_as(kdc: Kdc, folder: Path) -> Iterator[Callable[[int], MitClient]]:
    """MIT's clients as the given UID."""
    krb5_conf, trace = client_files(kdc, folder)
    yield lambda uid: MitClient(uid, folder / "kcm.sock", krb5_conf, kdc.keytab, trace)
    last = trace.read_text(errors="backslashreplace").splitlines()[-30:]
    print(f"--- the end of {trace}", *last, sep="\n")  # noqa: T201


@pytest.fixture
def mit(mit_as: Callable[[int], MitClient]) -> MitClient:
    """MIT's clients as an ordinary user."""
    return mit_as(USER)


@pytest.fixture(scope="session")
def _heimdal_works() -> None:
    reason = why_no_heimdal()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def heimdal_as(kdc: Kdc, folder: Path, _heimdal_works: None) -> Callable[[int], HeimdalClient]:
    """Heimdal's clients as the given UID."""
    krb5_conf, trace = client_files(kdc, folder)
    return lambda uid: HeimdalClient(uid, folder / "kcm.sock", krb5_conf, kdc.keytab, trace)


@pytest.fixture
def heimdal(heimdal_as: Callable[[int], HeimdalClient]) -> HeimdalClient:
    """Heimdal's clients as an ordinary user."""
    return heimdal_as(USER)


def client_files(kdc: Kdc, folder: Path, socket_path: Path | None = None) -> tuple[Path, Path]:
    """The clients' krb5.conf, and the file for their traces."""
    krb5_conf = folder / "krb5.conf"
    # Heimdal's clients ignore the first option, and MIT's clients the third.
    options = (
        f"kcm_socket = {socket_path or folder / 'kcm.sock'}",
        "default_ccache_name = KCM:",
        "default_cc_type = KCM",
    )
    krb5_conf.write_text(kdc.krb5_conf(*options))
    trace = folder / "krb5.trace"
    trace.touch()
    trace.chmod(0o666)
    return krb5_conf, trace


@pytest.fixture
def export(folder: Path) -> Path:
    """An unencrypted export."""
    principal = {"type": ALICE.name_type, "realm": ALICE.realm, "components": list(ALICE.components)}
    record = {"uid": USER, "principal": principal, "credentials": [credential_bytes()]}
    path = folder / "export"
    path.write_bytes(b"".join(pack_archive("host", 0, 1, [record])))
    return path
