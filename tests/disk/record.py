"""A record of a daemon's file operations and of its clients' requests and replies, made by strace."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.daemon import LIMIT

_CALLS = (
    "openat,open,creat,close,dup,dup2,dup3,accept,accept4,read,recvfrom,recvmsg,write,writev,sendto,sendmsg,"
    "pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,msync,"
    "link,linkat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,copy_file_range,sendfile"
)

_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", re.DOTALL)
# strace writes a call in two parts if calls of other threads interrupt it.
_BEGUN = re.compile(r"^(\d+ .*) <unfinished \.\.\.>$", re.DOTALL)
_SYNC = re.compile(r"^\d+ +(?:fsync|fdatasync)\((\d+)")
_CLOSE = re.compile(r"^\d+ +close\((\d+)")
_RESUMED = re.compile(r"^\d+ +<\.\.\. \w+ resumed>(.*)", re.DOTALL)
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Opened(NamedTuple):
    """A file of the folder was opened; with `may_make`, a missing one was created."""

    fd: int
    name: str
    may_make: bool


class Written(NamedTuple):
    fd: int
    offset: int
    data: bytes


class Truncated(NamedTuple):
    fd: int
    size: int


class Syncing(NamedTuple):
    """A sync of a file, or of the folder itself, has begun; other threads may write before it ends."""

    fd: int
    thread: str


class Synced(NamedTuple):
    """A sync has ended. It covers the writes before its begin; later ones are uncertain."""

    fd: int
    thread: str


class Closed(NamedTuple):
    fd: int


class Unlinked(NamedTuple):
    name: str


class Renamed(NamedTuple):
    old: str
    new: str


class Accepted(NamedTuple):
    fd: int


class Received(NamedTuple):
    """Bytes from a client."""

    fd: int
    data: bytes


class Sent(NamedTuple):
    """Bytes to a client."""

    fd: int
    data: bytes


Event = (
    Opened | Written | Truncated | Syncing | Synced | Closed | Unlinked | Renamed | Accepted | Received | Sent
)  # fmt: skip

FOLDER = ""


def strace(record: Path) -> list[str]:
    """A wrapper for the daemon's command. The daemon stays a child of the process that starts it."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    if subprocess.run(
        [program, "-qq", "-o", "/dev/null", "true"], check=False, capture_output=True
    ).returncode:
        pytest.skip("strace may not trace here")
    # All data, and every string in hexadecimal.
    return [program, "-D", "-f", "-q", "-xx", "-s", "1000000000", "-e", f"trace={_CALLS}", "-o",
            str(record)]  # fmt: skip


def wait_for(record: Path) -> None:
    """Wait until the record is complete, after the daemon has ended."""
    deadline = time.monotonic() + LIMIT
    while True:
        with record.open("rb") as file:
            file.seek(max(0, record.stat().st_size - 200))
            if b"+++ exited" in (end := file.read()) or b"+++ killed" in end:
                return
        assert time.monotonic() < deadline


def read_record(record: Path, folder: Path) -> Iterator[Event]:
    """Yield the successful calls on connections and on files of `folder`, in the order of their ends.

    A sync that other calls interrupt also has an event for its begin. A close counts from its begin: another
    thread may get the descriptor before it ends.
    """
    reader = _Reader(folder)
    begun: dict[str, str] = {}  # by thread
    with record.open() as lines:
        for line in lines:
            thread = line.partition(" ")[0]
            if first_part := _BEGUN.match(line):
                begun[thread] = first_part[1]
                if (fd := reader.file_of_sync(first_part[1])) is not None:
                    yield Syncing(fd, thread)
                if (close := _CLOSE.match(first_part[1])) and (event := reader.read("close", close[1], 0)):
                    yield event
                continue
            rest = _RESUMED.match(line)
            if rest is not None and _CLOSE.match(begun[thread]):
                del begun[thread]
                continue
            match = _LINE.match(line if rest is None else begun.pop(thread) + rest[1])
            if match is None or int(match[3]) < 0:
                continue
            event = reader.read(match[1], match[2], int(match[3]))
            if event is not None:
                yield event._replace(thread=thread) if isinstance(event, Synced) else event


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connections: set[int] = set()
        self._offsets: dict[int, int] = {}  # of the folder's files, for writes without an offset

    def file_of_sync(self, begun: str) -> int | None:
        """Return the descriptor if this begins a sync of the folder or of one of its files."""
        match = _SYNC.match(begun)
        return int(match[1]) if match is not None and int(match[1]) in self._offsets else None

    def read(self, call: str, arguments: str, result: int) -> Event | None:
        first = arguments.partition(",")[0]
        fd = int(first) if first.isdecimal() else -1
        if fd in self._connections:
            return self._read_connection(call, fd, arguments, result)
        if fd in self._offsets:
            return self._read_file(call, fd, arguments, result)
        return self._read_names(call, arguments, result)

    def _read_connection(self, call: str, fd: int, arguments: str, result: int) -> Event | None:
        if call == "close":
            self._connections.remove(fd)
            return Closed(fd)
        data = b"".join(_strings(arguments))
        return Received(fd, data) if call in {"read", "recvfrom", "recvmsg"} else Sent(fd, data[:result])

    def _read_file(self, call: str, fd: int, arguments: str, result: int) -> Event | None:
        match call:
            case "pwrite64":
                return Written(fd, _last_number(arguments), _strings(arguments)[0][:result])
            case "write":
                offset = self._offsets[fd]
                self._offsets[fd] += result
                return Written(fd, offset, _strings(arguments)[0][:result])
            case "ftruncate":
                return Truncated(fd, _last_number(arguments))
            case "fsync" | "fdatasync":
                return Synced(fd, "")
            case "close":
                del self._offsets[fd]
                return Closed(fd)
        assert call == "read", f"{call} is not understood"
        return None

    def _read_names(self, call: str, arguments: str, result: int) -> Event | None:
        if call in {"accept", "accept4"}:
            self._connections.add(result)
            return Accepted(result)
        names = [name for path in _strings(arguments) if (name := self._name(path)) is not None]
        if not names or call in {"read", "write"}:
            return None
        match call:
            case "open" | "openat":
                self._offsets[result] = 0
                return Opened(result, names[0], "O_CREAT" in arguments)
            case "unlink" | "unlinkat":
                return Unlinked(*names)
            case "rename" | "renameat" | "renameat2":
                return Renamed(*names)
        assert call == "mkdir", f"{call} is not understood"
        return None

    def _name(self, path: bytes) -> str | None:
        """A file's name in the folder; FOLDER for the folder, None for any other path."""
        whole = Path(os.fsdecode(path))
        if whole == self._folder:
            return FOLDER
        return whole.name if whole.parent == self._folder else None


def _last_number(arguments: str) -> int:
    return int(arguments.rpartition(", ")[2])


def _strings(arguments: str) -> list[bytes]:
    return [bytes.fromhex(text.replace("\\x", "")) for text in _BYTES.findall(arguments)]
