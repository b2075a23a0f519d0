"""The contents of a folder that a loss of power may leave, computed from its file operations.

Synced data are left. Of other data, each sector of 512 bytes has any of its states since the last sync, each
file any of its sizes, and each name any of its files.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.disk.record import (
    FOLDER,
    Closed,
    Event,
    Opened,
    Renamed,
    Synced,
    Syncing,
    Truncated,
    Unlinked,
    Written,
)

SECTOR = 512

# Returns the index of the state that is left; the argument is the number of states, oldest first.
Choice = Callable[[int], int]


def oldest(states: int) -> int:
    """Choose the oldest state: no unsynced data are left."""
    return 0


def newest(states: int) -> int:
    """Choose the newest state: all data are left, as after a sync."""
    return states - 1


def torn(seed: int) -> Choice:
    """Choose the state of each sector, size and name at random."""
    return random.Random(seed).randrange


K = TypeVar("K")
V = TypeVar("V")


class States(dict[K, list[V]]):
    """For each key that is not durable: its states since it was durable, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, dict[K, int]] = {}  # the number of states that each sync covers

    def begin_sync(self, thread: str) -> None:
        self._begun[thread] = {key: len(states) for key, states in self.items()}

    def end_sync(self, thread: str) -> None:
        """Make the last state that the sync covers durable, and forget those before it."""
        if thread not in self._begun:
            self.begin_sync(thread)
        for key, covered in self._begun.pop(thread).items():
            del self[key][: covered - 1]
            is_durable = len(self[key]) == 1
            if is_durable:
                del self[key]
            for other in self._begun.values():
                if is_durable:
                    other.pop(key, None)
                elif key in other:
                    other[key] = max(1, other[key] - covered + 1)


class DiskFile:
    """A file: its contents now, and its sectors' states and its sizes since the last sync."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.sectors = States[int, bytes]()
        self._sizes = States[None, int]()
        self.written = 0  # writes so far
        self.durable = 0  # writes that a sync has covered
        self._covered: dict[str, int] = {}  # writes that a running sync covers, by its thread

    @property
    def is_synced(self) -> bool:
        return not self.sectors and not self._sizes

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.written += 1
        touched = range(offset // SECTOR, -(-end // SECTOR))
        for sector in touched:
            self.sectors.setdefault(sector, [self._sector(sector)])
        if end > len(self.now):
            self._resize(end)
        self.now[offset:end] = data
        for sector in touched:
            self.sectors[sector].append(self._sector(sector))

    def truncate(self, size: int) -> None:
        if size == len(self.now):
            return
        cut = range(min(size, len(self.now)) // SECTOR, -(-max(size, len(self.now)) // SECTOR))
        for sector in cut:
            self.sectors.setdefault(sector, [self._sector(sector)])
        self._resize(size)
        for sector in cut:
            self.sectors[sector].append(self._sector(sector))

    def _resize(self, size: int) -> None:
        self._sizes.setdefault(None, [len(self.now)]).append(size)
        del self.now[size:]
        self.now.extend(bytes(size - len(self.now)))

    def begin_sync(self, thread: str) -> None:
        self.sectors.begin_sync(thread)
        self._sizes.begin_sync(thread)
        self._covered[thread] = self.written

    def end_sync(self, thread: str) -> None:
        self.sectors.end_sync(thread)
        self._sizes.end_sync(thread)
        self.durable = max(self.durable, self._covered.pop(thread, self.written))

    def left(self, choose: Choice) -> bytes:
        sizes = self._sizes.get(None, [len(self.now)])
        size = sizes[choose(len(sizes))]
        content = bytearray(self.now[:size].ljust(size, b"\0"))
        for sector, states in self.sectors.items():
            begin = sector * SECTOR
            state = states[choose(len(states))].ljust(SECTOR, b"\0")
            content[begin : begin + SECTOR] = state[: max(0, size - begin)]
        return bytes(content[:size])

    def _sector(self, sector: int) -> bytes:
        return bytes(self.now[sector * SECTOR : (sector + 1) * SECTOR])


class DiskFolder:
    """A folder that was empty at first, and is changed by the events of a record."""

    def __init__(self) -> None:
        self.names: dict[str, DiskFile] = {}
        # For each name that has changed since the last sync of the folder: its files, oldest first.
        self._names_before = States[str, DiskFile | None]()
        self._open: dict[int, DiskFile | None] = {}

    def is_durable(self, name: str) -> bool:
        """Whether a loss of power leaves the file unchanged."""
        return self.has_durable_name(name) and self.names[name].is_synced

    def has_durable_name(self, name: str) -> bool:
        return name in self.names and name not in self._names_before

    def is_being_written(self, name: str) -> bool:
        """Whether the file has unsynced data."""
        return name in self.names and not self.names[name].is_synced

    def apply(self, event: Event) -> None:
        match event:
            case Opened(fd, name, may_make):
                if name != FOLDER and name not in self.names and may_make:
                    self._name(name, DiskFile())
                self._open[fd] = None if name == FOLDER else self.names[name]
            case Written(fd, offset, data):
                self._file(fd).write(offset, data)
            case Truncated(fd, size):
                self._file(fd).truncate(size)
            case Syncing(fd, thread):
                (self._open[fd] or self._names_before).begin_sync(thread)
            case Synced(fd, thread):
                (self._open[fd] or self._names_before).end_sync(thread)
            case Closed(fd):
                self._open.pop(fd, None)
            case Unlinked(name):
                self._name(name, None)
            case Renamed(old, new):
                file = self.names[old]
                self._name(old, None)
                self._name(new, file)

    def _file(self, fd: int) -> DiskFile:
        file = self._open[fd]
        assert file is not None
        return file

    def _name(self, name: str, file: DiskFile | None) -> None:
        self._names_before.setdefault(name, [self.names.get(name)]).append(file)
        if file is None:
            del self.names[name]
        else:
            self.names[name] = file

    def left(self, choose: Choice) -> dict[str, bytes]:
        """Return the files that a loss of power may leave."""
        kept: dict[str, DiskFile | None] = dict(self.names)
        for name, files in self._names_before.items():
            kept[name] = files[choose(len(files))]
        return {name: file.left(choose) for name, file in kept.items() if file is not None}

    def write_left(self, folder: Path, choose: Choice) -> None:
        """Write these files to a new folder."""
        folder.mkdir(mode=0o700)
        for name, content in self.left(choose).items():
            path = folder / name
            path.touch(0o600)
            path.write_bytes(content)
