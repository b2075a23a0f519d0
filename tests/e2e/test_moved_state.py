"""The state folder or the database is moved away under the running daemon: no acknowledged change is lost."""

import errno
import os
from collections.abc import Callable

import pytest

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from tests.builders import ALICE

from .clients import MitClient
from .conftest import OTHER, USER
from .control import Pykcmctl
from .daemon import LIMIT, Pykcmd, effective_uid


def unlink(daemon: Pykcmd) -> None:
    for file in daemon.state_dir.glob("pykcm.db*"):
        file.unlink()


def move_folder(daemon: Pykcmd) -> None:
    daemon.state_dir.rename(daemon.folder / "elsewhere")


def acknowledged_until_refused(daemon: Pykcmd) -> KcmError:
    """Create ccaches until one is refused."""
    with effective_uid(OTHER), KcmClient(daemon.socket_path, LIMIT) as kcm:
        while True:
            try:
                kcm.initialize(b"%d" % OTHER, ALICE)
            except KcmError as error:
                return error


@pytest.mark.parametrize("happens", [unlink, move_folder])
def test_changes_are_refused_and_logged(
    pykcmd: Pykcmd, mit: MitClient, happens: Callable[[Pykcmd], None]
) -> None:
    """Within a second changes fail with EIO, the log says what to do, and klist and export work."""
    mit.kinit("alice")
    happens(pykcmd)
    assert acknowledged_until_refused(pykcmd).code == errno.EIO
    assert mit.klist().principal
    database = pykcmd.state_dir / "pykcm.db"
    assert f"pykcmd: critical: {database}: was removed or moved away" in pykcmd.log
    if os.geteuid() == 0:
        saved = pykcmd.folder / "saved"
        Pykcmctl(pykcmd.control_path).ok("export", "--plain", str(saved))
        assert saved.stat().st_size
    assert pykcmd.stop() == 0
    pykcmd.start()
    if happens is unlink:
        assert f"pykcmd: warning: {database}: there was no database, and a new, empty one" in pykcmd.log


def test_write_ahead_log_without_database_is_kept(pykcmd: Pykcmd, mit: MitClient) -> None:
    """If only the database was removed, the next start is refused: the log may contain tickets."""
    mit.kinit("alice")
    (pykcmd.state_dir / "pykcm.db").unlink()
    assert acknowledged_until_refused(pykcmd).code == errno.EIO
    assert pykcmd.stop() == 0
    refusal = pykcmd.refusal()
    assert f"{pykcmd.state_dir}/pykcm.db: missing, beside a write-ahead log that is not" in refusal.message


def test_restored_folder_is_used_again(pykcmd: Pykcmd, mit: MitClient) -> None:
    """The daemon continues, and after a restart everything is there."""
    mit.kinit("alice")
    move_folder(pykcmd)
    assert acknowledged_until_refused(pykcmd).code == errno.EIO
    (pykcmd.folder / "elsewhere").rename(pykcmd.state_dir)
    with effective_uid(USER), KcmClient(pykcmd.socket_path, LIMIT) as kcm:
        while True:
            try:
                kcm.initialize(b"%d:other" % USER, ALICE)
                break
            except KcmError as error:
                assert error.code == errno.EIO  # noqa: PT017 - until the daemon checks again
    pykcmd.restart()
    assert mit.klist().principal
    assert len(mit.klist_all()) == 2
