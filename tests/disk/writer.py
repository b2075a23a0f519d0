"""A client in its own process that changes a ccache as fast as it can, until the server is gone.

It reports each request and each reply over a pipe.
"""

import fcntl
import os
import struct
import sys
import termios
import traceback
from collections.abc import Iterator
from pathlib import Path

from pykcm.client import KcmClient
from pykcm.protocol.codes import KcmError
from tests.disk.history import History
from tests.disk.numbered import Change

# A change, or a code and zeros.
_REPORT = struct.Struct("=Biii")
_ASKED, _ANSWERED = 0, 1


class Writer:
    """The process. It runs as the UID of the ccache's owner."""

    def __init__(self, socket_path: Path, name: bytes, owner: int, stream: Iterator[Change]) -> None:
        self._owner = owner
        self._reports, reports = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._reports)
                _become(owner)
                _write(socket_path, name, owner, stream, reports)
                status = 0
            except BaseException:  # noqa: BLE001 - a child must never go on as a second pytest
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(reports)

    @property
    def answers(self) -> int:
        """The number of replies that the client has reported so far."""
        unread = bytearray(4)
        fcntl.ioctl(self._reports, termios.FIONREAD, unread)
        return int.from_bytes(unread, sys.byteorder) // _REPORT.size // 2

    def end(self, history: History) -> tuple[int, set[int]]:
        """After the end of the server, add the reports to the history of the ccache.

        Returns the first unused number, and the codes of refused changes.
        """
        with os.fdopen(self._reports, "rb") as file:
            reports = file.read()
        _, status = os.waitpid(self._pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the writer failed"
        free = 0
        refusals = set()
        for kind, *fields in _REPORT.iter_unpack(reports):
            if kind == _ASKED:
                change = Change(*fields)
                history.ask(change.opcode, change.blobs(self._owner))
                free = change.first + change.size
            elif fields[0]:
                history.refuse()
                refusals.add(fields[0])
            else:
                history.acknowledge()
        return free, refusals


def _become(uid: int) -> None:
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def _write(socket_path: Path, name: bytes, owner: int, stream: Iterator[Change], reports: int) -> None:
    try:
        with KcmClient(socket_path) as kcm:
            for change in stream:
                os.write(reports, _REPORT.pack(_ASKED, *change))
                code = 0
                try:
                    change.send(kcm, name, owner)
                except KcmError as error:
                    code = error.code
                os.write(reports, _REPORT.pack(_ANSWERED, code, 0, 0))
    except OSError:
        return  # the server is gone
