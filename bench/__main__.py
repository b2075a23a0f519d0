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
from bench.renewal import measure_renewal
from bench.report import file_system, markdown_table, paragraph, write_section
from bench.rounds import FULL, QUICK, Effort, measure
from bench.shared import measure_shared
from bench.slow_disk import measure_slow_disk
from bench.testing import measure_testing

_PARTS = ("goals", "growth", "clients", "fairness", "slow-disk", "shared", "renewal", "testing")

# Fewer rounds than for the other parts: longer ones give the percentiles enough samples.
_FAIRNESS = dataclasses.replace(FULL, rounds=5, seconds=2.0)


def main() -> int:
    """Run the parts named on the command line; returns the exit status."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGHUP, _exit_on_signal)
    try:
        if options.install:
            peers.install()
            install_gssapi()
            if not options.parts:
                return 0
        parts = _parts(options)
        with _folder(options.folder) as folder:
            for part in parts:
                part_folder = folder / part
                part_folder.mkdir(mode=0o755)
                _RUN[part](part_folder, _effort(options, part))
    except BenchError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure pykcm, and compare it with Heimdal's kcm, sssd-kcm and bare limits.",
        epilog="Root measures everything. Other users measure pykcm and the bare limits, with one UID.",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help="goals: the table of goals (default); growth: the costs as the stored data grows; "
        "clients: the time of real Kerberos clients; "
        "fairness: the waits of one user while another floods the daemon, or several attack it (root only); "
        "slow-disk: the waits of readers while others store and each sync takes 20 ms (root only); "
        "shared: hosts that share a store on PostgreSQL (root only); "
        "renewal: 10,000 TGTs that are due at the same time (root only); "
        "testing: a test session with pykcm.testing",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short run that shows whether everything works"
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help="install the other servers (from Debian's packages) and python-gssapi into .cache; "
        "without a PART, measure nothing",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"number of rounds (default: {FULL.rounds}; for fairness {_FAIRNESS.rounds})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="seconds for each figure in each round "
        f"(default: {FULL.seconds:g}; for fairness {_FAIRNESS.seconds:g})",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY",
        help=f"measure only the goals whose workload begins with KEY: {', '.join(_keys())}",
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=list(peers.PROGRAMS), help="leave a server out"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - the benchmark makes a folder in it
        help="where the benchmark makes its folder for the state of all servers (default: %(default)s)",
    )
    return parser


def _keys() -> list[str]:
    return list(dict.fromkeys(goal.workload for goal in GOALS))


def _parts(options: argparse.Namespace) -> list[str]:
    unknown = [part for part in options.parts if part not in _PARTS]
    if unknown:
        raise BenchError(f"unknown part {unknown[0]}; the parts are {', '.join(_PARTS)}")
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
    """Make the folder for everything that servers write, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="pykcm-bench-", dir=parent, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Clients of other UIDs use it as well.
        folder.chmod(0o755)
        if file_system(folder) == "tmpfs":
            say(f"{parent} is a tmpfs: a sync takes no time there, and the times of STORE are too short")
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
        "With one connection, server and load generator share one CPU. "
        "`rounds` is the smallest and the largest ratio of a round. "
        "The bare limit is a server that only sends replies of the same sizes. "
        "For stores with full durability it is a write of the credential's bytes at the end of a file, "
        "and an fdatasync.",
    )
    _finish(
        "Against the goals",
        text + "\n" + "\n\n".join(map(paragraph, notes)) + "\n",
        folder,
        effort,
        printed=text,
    )


def _growth(folder: Path, effort: Effort) -> None:
    text = measure_growth(folder, effort)
    _finish("How it grows", text, folder, effort, printed=text)


def _clients(folder: Path, effort: Effort) -> None:
    text = measure_clients(folder, effort)
    _finish("Real clients", text, folder, effort, printed=text)


def _fairness(folder: Path, effort: Effort) -> None:
    text = f"{measure_fairness(folder, effort)}\n### Under attack\n\n{measure_adversary(folder, effort)}"
    _finish("Fairness", text, folder, effort, printed=text)


def _slow_disk(folder: Path, effort: Effort) -> None:
    text = measure_slow_disk(folder, effort)
    _finish("Slow disk", text, folder, effort, printed=text)


def _shared(folder: Path, effort: Effort) -> None:
    text = measure_shared(folder, effort)
    _finish("Shared store", text, folder, effort, printed=text)


def _renewal(folder: Path, effort: Effort) -> None:
    text = measure_renewal(folder, effort)
    _finish("Renewal", text, folder, effort, printed=text)


def _testing(folder: Path, effort: Effort) -> None:
    text = measure_testing(folder, effort)
    _finish("Test sessions", text, folder, effort, printed=text)


def _finish(title: str, text: str, folder: Path, effort: Effort, *, printed: str) -> None:
    is_complete = not (effort.is_quick or effort.only)
    path = write_section(title, text, folder, is_complete=is_complete)
    sys.stdout.write(printed)
    say(f"written to {path}")


_RUN = {
    "goals": _goals,
    "growth": _growth,
    "clients": _clients,
    "fairness": _fairness,
    "slow-disk": _slow_disk,
    "shared": _shared,
    "renewal": _renewal,
    "testing": _testing,
}


def _exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
