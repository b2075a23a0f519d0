"""What a loss of power may leave of a folder whose file operations are known.

What was synced is there. Of what was not, anything may be: of each sector of 512 bytes any of the states that
it went through, any size that a file had, and any of the names that came and went.
"""

import random
from collections.abc import Callable
from pathlib import Path

from tests.disk.record import (
    FOLDER,
    Closed,
    Event,
    Opened,
    Renamed,
    Synced,
    Truncated,
    Unlinked,
    Written,
)

SECTOR = 512

# Picks which of so many states, from the oldest to the newest, is left.
Choice = Callable[[int], int]


def oldest(states: int) -> int:
    """Nothing is left that was not synced."""
    return 0


def newest(states: int) -> int:
    """Everything is left, as if it had been synced."""
    return states - 1


def torn(seed: int) -> Choice:
    """Any state of each sector, size and name, in no order."""
    return random.Random(seed).randrange


class DiskFile:
    """A file: each sector's states since the last sync, the sizes it had, and what it is now."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.sectors: dict[int, list[bytes]] = {}
        self.sizes = [0]

    @property
    def is_synced(self) -> bool:
        return not self.sectors and len(self.sizes) == 1

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        touched = range(offset // SECTOR, -(-end // SECTOR))
        for sector in touched:
            self.sectors.setdefault(sector, [self._sector(sector)])
        if end > len(self.now):
            self.now.extend(bytes(end - len(self.now)))
            self.sizes.append(end)
        self.now[offset:end] = data
        for sector in touched:
            self.sectors[sector].append(self._sector(sector))

    def truncate(self, size: int) -> None:
        if size == len(self.now):
            return
        cut = range(min(size, len(self.now)) // SECTOR, -(-max(size, len(self.now)) // SECTOR))
        for sector in cut:
            self.sectors.setdefault(sector, [self._sector(sector)])
        del self.now[size:]
        self.now.extend(bytes(size - len(self.now)))
        self.sizes.append(size)
        for sector in cut:
            self.sectors[sector].append(self._sector(sector))

    def sync(self) -> None:
        self.sectors.clear()
        self.sizes = [len(self.now)]

    def left(self, choose: Choice) -> bytes:
        size = self.sizes[choose(len(self.sizes))]
        content = bytearray(self.now[:size].ljust(size, b"\0"))
        for sector, states in self.sectors.items():
            begin = sector * SECTOR
            state = states[choose(len(states))].ljust(SECTOR, b"\0")
            content[begin : begin + SECTOR] = state[: max(0, size - begin)]
        return bytes(content[:size])

    def _sector(self, sector: int) -> bytes:
        return bytes(self.now[sector * SECTOR : (sector + 1) * SECTOR])


class DiskFolder:
    """A folder that was empty, and is changed by the events of a record."""

    def __init__(self) -> None:
        self.names: dict[str, DiskFile] = {}
        # For each name that has changed since the folder was synced, what it stood for, oldest first.
        self._names_before: dict[str, list[DiskFile | None]] = {}
        self._open: dict[int, DiskFile | None] = {}

    def is_durable(self, name: str) -> bool:
        """Whether a loss of power leaves the file as it is now."""
        return name in self.names and name not in self._names_before and self.names[name].is_synced

    def is_being_written(self, name: str) -> bool:
        """Whether the file has something that is not synced."""
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
            case Synced(fd):
                file = self._open[fd]
                if file is None:
                    self._names_before.clear()
                else:
                    file.sync()
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
        """The files that a loss of power may leave."""
        kept: dict[str, DiskFile | None] = dict(self.names)
        for name, files in self._names_before.items():
            kept[name] = files[choose(len(files))]
        return {name: file.left(choose) for name, file in kept.items() if file is not None}

    def write_left(self, folder: Path, choose: Choice) -> None:
        """Make a folder of them."""
        folder.mkdir(mode=0o700)
        for name, content in self.left(choose).items():
            path = folder / name
            path.touch(0o600)
            path.write_bytes(content)
