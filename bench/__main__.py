"""The command line of the benchmark."""

import argparse
import contextlib
import dataclasses
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import peers
from bench.adversary import measure_adversary
from bench.clients import install_gssapi, measure_clients
from bench.fairness import measure_fairness
from bench.goals import GOALS, judge, table
from bench.growth import measure_growth
from bench.processes import BenchError, say
from bench.report import file_system, markdown_table, paragraph, write_section
from bench.rounds import FULL, QUICK, Effort, measure
from bench.slow_disk import measure_slow_disk

_PARTS = ("goals", "growth", "clients", "fairness", "slow-disk")

# Percentiles of so few rounds need longer ones.
_FAIRNESS = dataclasses.replace(FULL, rounds=5, seconds=2.0)


def main() -> int:
    """Run what is asked for; returns the exit status."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    try:
        if options.install:
            peers.install()
            install_gssapi()
            if not options.parts:
                return 0
        parts = _parts(options)
        with _folder(options.folder) as folder:
            for part in parts:
                own = folder / part
                own.mkdir(mode=0o755)
                _RUN[part](own, _effort(options, part))
    except BenchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure pykcm beside Heimdal's kcm, sssd-kcm and bare limits.",
        epilog="As root all is measured; as anybody else, pykcm and the bare limits, with one UID.",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="goals: the table of goals (default); growth: how costs grow with what is stored; "
        "clients: the time of real Kerberos clients; "
        "fairness: what one user waits while another one floods, or several attack (as root only); "
        "slow-disk: what readers wait while others store, and a sync takes 20 ms (as root only)",
    )
    parser.add_argument("--quick", action="store_true", help="a short run that shows whether all works")
    parser.add_argument(
        "--install",
        action="store_true",
        help="get the peers (from Debian's packages) and python-gssapi into .cache; alone, measure nothing",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"rounds (default: {FULL.rounds}; for fairness {_FAIRNESS.rounds})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"for each figure in each round (default: {FULL.seconds:g}; for fairness {_FAIRNESS.seconds:g})",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY",
        help=f"of the goals, only workloads whose key begins so: {', '.join(_keys())}",
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=list(peers.PROGRAMS), help="leave a peer out"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a folder of our own is made in it
        help="where the state of all servers lies, in a folder of its own (default: %(default)s)",
    )
    return parser


def _keys() -> list[str]:
    return list(dict.fromkeys(goal.workload for goal in GOALS))


def _parts(options: argparse.Namespace) -> list[str]:
    unknown = [part for part in options.parts if part not in _PARTS]
    if unknown:
        raise BenchError(f"{unknown[0]}: there are {', '.join(_PARTS)}")
    return options.parts or ["goals"]


def _effort(options: argparse.Namespace, part: str) -> Effort:
    base = QUICK if options.quick else _FAIRNESS if part == "fairness" else FULL
    return dataclasses.replace(
        base,
        rounds=options.rounds or base.rounds,
        seconds=options.seconds or base.seconds,
        only=tuple(options.only),
        without=tuple(options.without),
    )


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """A folder for everything that servers write, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="pykcm-bench-", dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Clients of other UIDs come here, too.
        folder.chmod(0o755)
        if file_system(folder) == "tmpfs":
            say(f"{parent} is a tmpfs: nothing there is durable, and the times of STORE say little")
        yield folder


def _goals(folder: Path, effort: Effort) -> None:
    notes: list[str] = []
    rows, figures = measure(folder, effort, notes)
    header, lines = table(rows, figures)
    text = markdown_table(header, lines)
    verdicts = [judge(goal, figures) for goal in GOALS if goal.workload in {row.key for row in rows}]
    met, missed = (sum(v.is_met is wanted for v in verdicts) for wanted in (True, False))
    notes.insert(
        0,
        f"{met} goals met, {missed} not met, {len(verdicts) - met - missed} not measured. "
        f"{effort.rounds} rounds of {effort.seconds:g} s; credentials of 1,200 bytes. "
        "With one connection, server and load share one CPU. "
        "`rounds` is the least and the greatest ratio of a round. "
        "The bare limit is a server that only echoes messages of the same sizes; "
        "for stores with full durability it is write and fdatasync of the credential's bytes at the end of a "
        "file.",
    )
    _finish(
        "Against the goals",
        text + "\n" + "\n\n".join(map(paragraph, notes)) + "\n",
        folder,
        effort,
        escape=text,
    )


def _growth(folder: Path, effort: Effort) -> None:
    text = measure_growth(folder, effort)
    _finish("How it grows", text, folder, effort, escape=text)


def _clients(folder: Path, effort: Effort) -> None:
    text = measure_clients(folder, effort)
    _finish("Real clients", text, folder, effort, escape=text)


def _fairness(folder: Path, effort: Effort) -> None:
    text = f"{measure_fairness(folder, effort)}\n### Under attack\n\n{measure_adversary(folder, effort)}"
    _finish("Fairness", text, folder, effort, escape=text)


def _slow_disk(folder: Path, effort: Effort) -> None:
    text = measure_slow_disk(folder, effort)
    _finish("Slow disk", text, folder, effort, escape=text)


def _finish(title: str, text: str, folder: Path, effort: Effort, *, escape: str) -> None:
    is_complete = not (effort.is_quick or effort.only)
    path = write_section(title, text, folder, is_complete=is_complete)
    sys.stdout.write(escape)
    say(f"written to {path}")


_RUN = {
    "goals": _goals,
    "growth": _growth,
    "clients": _clients,
    "fairness": _fairness,
    "slow-disk": _slow_disk,
}


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
