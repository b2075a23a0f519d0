"""The ways in which adversaries try to stop everybody else: each kind of trouble in several variations."""

from dataclasses import dataclass
from pathlib import Path

from bench.build import build
from bench.workloads import FIRST_UID

# UIDs of attackers begin here; the victim's is beside them.
VICTIM_UID = FIRST_UID
FIRST_ATTACKER = FIRST_UID + 1


@dataclass(frozen=True, slots=True)
class Attack:
    """A program of `bench` and its options, started once for each of so many UIDs."""

    program: str
    options: tuple[object, ...] = ()
    uids: int = 1

    def commands(self, socket_path: Path, first_uid: int, seconds: float) -> list[list[str]]:
        """One for each UID. A program prints a line when it has begun, and ends after these seconds."""
        return [
            [str(build(self.program)), *map(str, ("-t", seconds, "-u", uid, *self.options)), str(socket_path)]
            for uid in range(first_uid, first_uid + self.uids)
        ]


@dataclass(frozen=True, slots=True)
class Variation:
    """One run: `kind` is the trouble, and limits are those that the daemon is started with.

    `descriptors`: how many files it may have open. `address_space`: in bytes.
    """

    kind: str
    name: str
    attacks: tuple[Attack, ...]
    descriptors: int | None = None
    address_space: int | None = None


_MIB = 1 << 20


def _flood(kinds: str, connections: int = 250, uids: int = 1) -> Attack:
    return Attack("flood", ("-k", kinds, "-c", connections), uids)


def _storm(kind: str, kept: int = 0, uids: int = 1) -> Attack:
    return Attack("storm", ("-k", kind, "-c", kept), uids)


_READING = "reading is somebody's turn"
_CONNECTING = "accepting is fair"
_BEGUN = "requests that never end"

VARIATIONS = (
    Variation("", "nobody attacks", ()),
    Variation(_READING, "NOOPs of 8 bytes, 250 connections", (_flood("t"),)),
    Variation(_READING, "unknown operations and bytes that are no requests", (_flood("ux"),)),
    Variation(_READING, "replies that nobody reads", (_flood("n"),)),
    Variation(_READING, "all of it, and STOREs, from 4 UIDs", (_flood("tuxnslh", 100, uids=4),)),
    Variation(_READING, "the same in 256 MiB", (_flood("tuxnslh", 100, uids=4),), address_space=256 * _MIB),
    Variation(_CONNECTING, "connections closed at once", (_storm("b"),)),
    Variation(_CONNECTING, "connections full of requests", (_storm("r"),)),
    Variation(_CONNECTING, "connections full of requests, 1,000 kept", (_storm("r", 1000),)),
    Variation(_CONNECTING, "connections closed at once, 256 files", (_storm("b"),), descriptors=256),
    Variation(_BEGUN, "half requests on 250 connections", (_flood("h"),)),
    Variation(_BEGUN, "half requests on 256 connections each of 16 UIDs", (_flood("h", 256, uids=16),)),
    Variation(_BEGUN, "half requests, 1,000 at a time, new ones all the time", (_storm("h", 1000),)),
    Variation(_BEGUN, "half requests of 8 UIDs, 256 files", (_flood("h", 60, uids=8),), descriptors=256),
)
