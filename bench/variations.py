"""The measured attacks: several variations of each kind of denial of service."""

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.build import build
from bench.workloads import FIRST_UID

# The attackers' UIDs begin after the victim's.
VICTIM_UID = FIRST_UID
FIRST_ATTACKER = FIRST_UID + 1

_ATTACKER = Path(__file__).with_name("attacker.py")
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Attack:
    """A program of `bench` and its options, started once for each of `uids` UIDs, or once as root.

    A program whose name ends in .py is a Python program. Every other one is a C program. Each prints a line:
    a Python program when it is prepared, and it attacks when it gets a line; a C program when it attacks.
    """

    program: str
    options: tuple[object, ...] = ()
    uids: int = 1
    as_root: bool = False

    @property
    def has_preparation(self) -> bool:
        return self.program.endswith(".py")

    def commands(self, socket_path: Path, first_uid: int, seconds: float) -> list[list[str]]:
        """Return one command for each UID."""
        return [
            [*self._program(seconds), *map(str, ("-u", uid, *self.options)), str(socket_path)]
            for uid in ([_ROOT] if self.as_root else range(first_uid, first_uid + self.uids))
        ]

    def _program(self, seconds: float) -> list[str]:
        if self.has_preparation:
            return [sys.executable, str(_ATTACKER.with_name(self.program))]
        return [str(build(self.program)), "-t", str(seconds)]


@dataclass(frozen=True, slots=True)
class Variation:
    """One run, with the limits that the daemon is started with.

    `administration`: pykcmctl commands that run again and again meanwhile; `{folder}` in them is a folder
    to write to. `configuration`: lines of the daemon's configuration file. `descriptors`: RLIMIT_NOFILE.
    `address_space` and `memory`: RLIMIT_AS and RLIMIT_DATA, in bytes.
    """

    kind: str
    name: str
    attacks: tuple[Attack, ...]
    administration: tuple[tuple[str, ...], ...] = ()
    configuration: str = ""
    descriptors: int | None = None
    address_space: int | None = None
    memory: int | None = None

    @property
    def uids(self) -> int:
        """The number of UIDs that attack."""
        return sum(attack.uids for attack in self.attacks if not attack.as_root)


_MIB = 1 << 20


def _flood(kinds: str, connections: int = 250, uids: int = 1) -> Attack:
    return Attack("flood", ("-k", kinds, "-c", connections), uids)


def _storm(kind: str, kept: int = 0, uids: int = 1) -> Attack:
    return Attack("storm", ("-k", kind, "-c", kept), uids)


def _costly(kind: str, uids: int = 1) -> Attack:
    return Attack("attacker.py", ("-k", kind), uids)


_FLOODS = "floods of requests"
_STORMS = "storms of connections"
_COSTLY = "costly requests"
_INCOMPLETE = "incomplete requests"
_LOGS = "log lines"
_COPIES = "backup and rekey"
_MIXED = "all kinds"

_ROOT_LISTS = Attack("attacker.py", ("-k", "list-all"), as_root=True)
_LIST = ("list", "--json")
_BACKUP = ("backup", "--force", "{folder}/backup")
_REKEY = ("rekey",)

_REAPING = "reap_interval = 1\nexpired_retention = 0\n"


# One attack of each kind, each from another UID.
_ALL_KINDS = (
    _costly("store-largest"),
    _costly("read-full"),
    _costly("write"),
    _costly("exceed"),
    _costly("expire"),
    _flood("h", 250),
    _flood("tuxnslh", 100),
    _storm("r", 100),
)

# Four UIDs with many requests in progress, and four at their quota of bytes.
_EIGHT_STORE = (_flood("s", 100, uids=4), _costly("write", 4))

VARIATIONS = (
    Variation("", "nobody attacks", ()),
    Variation(_FLOODS, "NOOPs of 8 bytes, 250 connections", (_flood("t"),)),
    Variation(_FLOODS, "unknown operations and invalid requests", (_flood("ux"),)),
    Variation(_FLOODS, "replies that are not read", (_flood("n"),)),
    Variation(_FLOODS, "all of these, and STOREs, from 4 UIDs", (_flood("tuxnslh", 100, uids=4),)),
    Variation(_FLOODS, "the same in 256 MiB", (_flood("tuxnslh", 100, uids=4),), address_space=256 * _MIB),
    Variation(_STORMS, "connections closed immediately", (_storm("b"),)),
    Variation(_STORMS, "connections full of requests", (_storm("r"),)),
    Variation(_STORMS, "connections full of requests, 1,000 kept open", (_storm("r", 1000),)),
    Variation(_STORMS, "connections closed immediately, 256 descriptors", (_storm("b"),), descriptors=256),
    Variation(
        _COSTLY,
        "8,192 minimal credentials of each of 16 UIDs, read again and again",
        (_costly("read-full", 16),),
    ),
    Variation(
        _COSTLY,
        "the same while root lists all ccaches",
        (_costly("read-full", 16), _ROOT_LISTS),
        administration=(_LIST,),
        configuration="root_lists_all = true\n",
    ),
    Variation(_COSTLY, "a STORE that evicts 2,047 tickets", (_costly("store-largest"),)),
    Variation(
        _COSTLY,
        "full ccaches moved, emptied, destroyed",
        (_costly("move"), _costly("remove"), _costly("initialize")),
    ),
    Variation(
        _COSTLY,
        "the same, and STOREs that evict, from 8 UIDs",
        (_costly("store-largest", 2), _costly("move", 2), _costly("remove", 2), _costly("initialize", 2)),
    ),
    Variation(_COSTLY, "largest principals written again and again, 4 UIDs", (_costly("set-offset", 4),)),
    Variation(
        _COSTLY,
        "full ccaches of 8 UIDs expire, reaped each second",
        (_costly("expire-many", 8),),
        configuration=_REAPING,
    ),
    Variation(_INCOMPLETE, "half requests on 250 connections", (_flood("h"),)),
    Variation(
        _INCOMPLETE, "half requests on 256 connections of each of 16 UIDs", (_flood("h", 256, uids=16),)
    ),
    Variation(_INCOMPLETE, "half requests, 1,000 open, always new ones", (_storm("h", 1000),)),
    Variation(
        _INCOMPLETE, "half requests of 8 UIDs, 256 descriptors", (_flood("h", 60, uids=8),), descriptors=256
    ),
    Variation(_LOGS, "expired ccaches stored at the quota", (_costly("expire"),)),
    Variation(_LOGS, "requests that quotas refuse", (_costly("exceed"),)),
    Variation(
        _LOGS,
        "both, unknown operations and invalid requests, from 8 UIDs",
        (_costly("expire", 3), _costly("exceed", 2), _flood("ux", 50, uids=2), _storm("h", 300)),
    ),
    Variation(_COPIES, "backup of 64 MiB while a UID stores", (_costly("keep", 4), _flood("s")), (_BACKUP,)),
    Variation(_COPIES, "rekey of 64 MiB while a UID stores", (_costly("keep", 4), _flood("s")), (_REKEY,)),
    Variation(_COPIES, "backup while 8 UIDs store", _EIGHT_STORE, (_BACKUP,)),
    Variation(_COPIES, "rekey while 8 UIDs store", _EIGHT_STORE, (_REKEY,)),
    Variation(_MIXED, "from 8 UIDs", _ALL_KINDS, (_LIST, _BACKUP, _REKEY)),
    Variation(_MIXED, "from 8 UIDs, 256 descriptors", _ALL_KINDS, (_LIST, _BACKUP, _REKEY), descriptors=256),
    Variation(_MIXED, "from 8 UIDs, in 256 MiB", _ALL_KINDS, (_LIST, _BACKUP, _REKEY), memory=256 * _MIB),
)
